//! Connections of other proxies: mutual TLS, and what is agreed on in it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use weft_accept::Place;
use weft_api::alpn;

use super::super::ConnectionError;
use super::super::l4::ConnectionRecorder;
use super::super::plaintext_policy::PlaintextPolicy;
use super::{Accepted, Framing, HANDSHAKE_TIMEOUT, forward_bytes, http};
use crate::http::runtime::Runtime;
use crate::net::cork::BufferedReads;
use crate::net::detect::{Prefixed, alpn_protocols};
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::{ConnectionTls, Direction};
use crate::tls::{HandshakeError, handshake_result, peer_identity, valid_for};

/// Returns true if the ClientHello is a proxy's; any other is for the application.
pub(super) async fn is_mesh(stream: &mut Prefixed<TcpStream>) -> Result<bool, ConnectionError> {
    let complete = async {
        loop {
            match alpn_protocols(stream.peeked()) {
                Ok(Some(names)) => {
                    return Ok(names
                        .iter()
                        .any(|name| alpn::ALL.contains(&name.as_slice())));
                }
                // What is no ClientHello is left to the application to refuse.
                Err(_) => return Ok(false),
                Ok(None) if stream.peek().await? == 0 => return Ok(false),
                Ok(None) => {}
            }
        }
    };
    timeout(HANDSHAKE_TIMEOUT, complete)
        .await
        .unwrap_or(Err(ConnectionError::refused(
            ErrorType::DetectTimeout,
            "the ClientHello did not end within 10 s",
        )))
}

/// Serves a connection of another proxy.
pub(super) async fn serve(
    runtime: &Arc<Runtime>,
    stream: Prefixed<TcpStream>,
    client: SocketAddr,
    app: SocketAddr,
    place: Place,
) -> Result<(), ConnectionError> {
    let acceptor = TlsAcceptor::from(runtime.tls.server_config());
    // Boxed, so that the handshake's state is freed once it is done, as in
    // `EndpointRegistry::connect`.
    let accept = Box::pin(acceptor.accept(BufferedReads::new(stream)));
    let accepted = place
        .token()
        .run_until_cancelled(timeout(HANDSHAKE_TIMEOUT, accept));
    let Some(accepted) = accepted.await else {
        return Ok(());
    };
    drop(place);
    let Ok(accepted) = accepted else {
        runtime
            .metrics
            .handshake(Direction::Inbound, Err(HandshakeError::Timeout));
        return Err(ConnectionError::refused(
            ErrorType::TlsHandshake,
            "no handshake within 10 s",
        ));
    };
    let result = handshake_result(&accepted);
    runtime.metrics.handshake(Direction::Inbound, result);
    let refused =
        |error| ConnectionError::refused(ErrorType::TlsHandshake, format!("mutual TLS: {error}"));
    // Boxed, too, so that it does not grow every future that it is handed to.
    let stream = Box::new(accepted.map_err(refused)?);
    let session = stream.get_ref().1;
    let identity = peer_identity(session.peer_certificates())
        .map_err(|error| ConnectionError::refused(ErrorType::PeerIdentity, error.to_string()))?;
    let valid = valid_for(session.peer_certificates());
    let framing = match session.alpn_protocol() {
        Some(alpn::H2) => Some(Framing::plain(true)),
        Some(alpn::H1) => Some(Framing::plain(false)),
        Some(alpn::H2_FOR_H1) => Some(Framing {
            http2: true,
            app_http2: false,
        }),
        Some(alpn::TCP) => None,
        _ => {
            return Err(ConnectionError::refused(
                ErrorType::NoCommonProtocol,
                "no protocol of the mesh was agreed on",
            ));
        }
    };
    let _open = runtime
        .metrics
        .connection(Direction::Inbound, ConnectionTls::Mesh);
    match framing {
        Some(framing) => {
            let accepted = Accepted {
                client,
                app,
                proven: Some((identity, valid)),
                framing,
                plaintext_policy: PlaintextPolicy::All,
                probes: Vec::new(),
            };
            http(runtime, stream, accepted).await
        }
        None => {
            let mut recorder = ConnectionRecorder::inbound(runtime, client, false);
            recorder.client_id = Some(Arc::new(identity));
            forward_bytes(runtime, stream, app, None, recorder).await
        }
    }
}
