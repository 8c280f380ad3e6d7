//! The two gRPC services.

use std::pin::Pin;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use weft_api::proto;
use weft_api::proto::certificate_authority_server::CertificateAuthority;
use weft_api::proto::mesh_server::Mesh;
use weft_api::proto::proxy_message::Kind;
use weft_ir::Identity;

use super::listener::PeerCertificate;
use super::session::Session;
use super::{Event, Shared};

#[derive(Clone)]
pub(super) struct Services(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl CertificateAuthority for Services {
    async fn sign(
        &self,
        request: Request<proto::SignRequest>,
    ) -> Result<Response<proto::SignResponse>, Status> {
        let request = request.into_inner();
        self.0.record(Event::Sign);
        let pki = self.0.pki();
        let state = self.0.state();
        if let Some(message) = &state.refuse_sign {
            return Err(Status::unavailable(message.clone()));
        }
        if request.token.trim() != state.token {
            return Err(Status::unauthenticated("the token is not the one expected"));
        }
        let leaf = pki
            .sign(&request.csr, &state.account, state.lifetime)
            .map_err(|error| Status::permission_denied(format!("{error:#}")))?;
        let mut roots = vec![pki.root().to_vec().into()];
        roots.extend(state.extra_roots.iter().map(|root| root.to_vec().into()));
        Ok(Response::new(proto::SignResponse {
            chain: vec![leaf.to_vec().into()],
            roots,
        }))
    }
}

#[tonic::async_trait]
impl Mesh for Services {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<proto::Update, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<proto::ProxyMessage>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let certificate = request.extensions().get::<PeerCertificate>();
        let peer = certificate
            .and_then(|certificate| identity(certificate.0.as_ref()?))
            .ok_or_else(|| Status::unauthenticated("a certificate of the mesh is required"))?;
        let mut messages = request.into_inner();
        let first = messages.next().await.transpose()?.and_then(|m| m.kind);
        let Some(Kind::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message is Hello"));
        };
        if hello.namespace != peer.namespace() {
            return Err(Status::permission_denied("Hello names another namespace"));
        }
        let (updates, receiver) = mpsc::unbounded_channel();
        let session = Session::new(self.0.clone(), updates, &hello.held);
        self.0.record(Event::Hello { peer, hello });
        tokio::spawn(session.run(messages));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            receiver,
        ))))
    }
}

/// Returns the only URI name of the leaf, whose chain was verified by TLS.
fn identity(leaf: &CertificateDer<'_>) -> Option<Identity> {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let names = leaf.subject_alternative_name().ok()??;
    let mut uris = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return None;
    };
    uri.parse().ok()
}
