//! The gRPC server: TLS 1.3 on one port, the Mesh and the CertificateAuthority services behind it.
//!
//! `server/accept.rs` accepts connections and authenticates their clients; the limits of HTTP/2 are
//! set here. The services authorize each call.

mod accept;
mod calls;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use weft_accept::Port;
use weft_api::proto::certificate_authority_server::{
    CertificateAuthority, CertificateAuthorityServer,
};
use weft_api::proto::mesh_server::{Mesh, MeshServer};

use self::calls::CountCalls;
use crate::identity::{ClientVerifier, ServerIdentity, Serving, SignError};

/// The interval and the timeout of HTTP/2 pings: a peer that hangs is disconnected within 20
/// seconds.
const PING: Duration = Duration::from_secs(10);
/// How long open streams may take to end after shutdown has begun.
const GRACE: Duration = Duration::from_secs(5);
/// The maximum number of streams of a connection: a proxy needs one for Mesh and one for Sign.
const STREAMS: u32 = 32;
/// The `Hello` of a proxy that holds the maximum (8,000 addresses with their endpoints, with the
/// longest names) has 1.9 MB; other messages are small.
const MAX_PROXY_MESSAGE: usize = 2 * 1024 * 1024;
/// More than the limits of a CSR and a token together.
const MAX_SIGN_REQUEST: usize = 32 * 1024;

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("issuing the serving certificate: {0}")]
    Certificate(#[from] SignError),
    #[error("configuring TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("serving gRPC: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Serves the listener until `shutdown`; then no connection is accepted any more, and open ones
/// have five seconds to end.
pub async fn serve(
    listener: TcpListener,
    port: &Port,
    tls: ServerIdentity,
    mesh: impl Mesh,
    ca: impl CertificateAuthority,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let serving = Arc::new(Serving::new(&tls, OffsetDateTime::now_utc())?);
    let config = tls_config(&tls, serving.clone())?;
    let stopped = shutdown.child_token();
    let _stop_tasks = stopped.clone().drop_guard();

    tokio::spawn({
        let (tls, stopped) = (tls.clone(), stopped.clone());
        async move { serving.keep_renewed(&tls, stopped).await }
    });
    let accepted = accept::start(listener, port, config, &tls, stopped);
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(16 * 1024)
        .http2_max_pending_accept_reset_streams(Some(STREAMS as usize))
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .layer(CountCalls)
        .add_service(
            CertificateAuthorityServer::new(ca).max_decoding_message_size(MAX_SIGN_REQUEST),
        )
        .add_service(MeshServer::new(mesh).max_decoding_message_size(MAX_PROXY_MESSAGE))
        .serve_with_incoming_shutdown(
            ReceiverStream::new(accepted).map(Ok::<_, io::Error>),
            shutdown.clone().cancelled_owned(),
        );
    tokio::select! {
        served = server => Ok(served?),
        () = async { shutdown.cancelled().await; tokio::time::sleep(GRACE).await } => {
            tracing::warn!("connections were still open {} s after shutdown began: closing them", GRACE.as_secs());
            Ok(())
        }
    }
}

/// TLS 1.3 only, with post-quantum key exchange preferred, and without resumption, so that every
/// connection's certificate is verified.
fn tls_config(
    tls: &ServerIdentity,
    serving: Arc<Serving>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = ClientVerifier::new(tls.trust.clone(), tls.identity.trust_domain().clone());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(serving);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}
