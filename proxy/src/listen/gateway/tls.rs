//! TLS connections of a gateway's clients: the server name selects the listener, which passes the
//! TLS through or terminates it. Until then the ClientHello is peeked at, and not consumed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_ir::bare_host;

use super::super::l4::{ClientHello, peek_client_hello, read_client_hello, rule_by_server_name};
use super::{
    ChosenCluster, ClientConnection, ConnectionError, ConnectionRecorder, DrainWatch,
    GatewayConnection, PendingConnection, l4, policies, while_pending,
};
use crate::authorization::Permit;
use crate::http::runtime::Runtime;
use crate::net::cork::BufferedReads;
use crate::net::detect::Prefixed;
use crate::routing::destination::TlsRoutes;
use crate::routing::gateway_port::{
    ResolvedPort, ResolvedServing, ResolvedTlsListener, ResolvedTlsServing, WatchedPort,
};
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::{ConnectionTls, Direction};
use crate::tls::termination::Termination;
use crate::tls::{HandshakeError, handshake_result};

/// Time for the handshake, after the ClientHello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A fatal alert, `unrecognized_name` (RFC 6066, 3; RFC 8446, 6).
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];

pub(super) async fn serve(
    runtime: &Arc<Runtime>,
    mut stream: Prefixed<TcpStream>,
    client: SocketAddr,
    pending: PendingConnection,
    local: SocketAddr,
    watched: Arc<WatchedPort>,
    closing: DrainWatch,
) -> Result<(), ConnectionError> {
    let whole = while_pending(&pending, &closing, read_client_hello(&mut stream)).await?;
    if !whole.transpose()?.unwrap_or(false) {
        return Ok(());
    }
    let Some(ClientHello::Names(name)) = peek_client_hello(stream.peeked()) else {
        return Err(ConnectionError::refused(
            ErrorType::NotTls,
            "this is not TLS",
        ));
    };
    // Loaded only now, for the newest certificates.
    let config = arc_swap::Guard::into_inner(watched.load());
    let Some(listener) = find(&config, name.as_deref()) else {
        runtime
            .metrics
            .handshake(Direction::Gateway, Err(HandshakeError::UnknownName));
        if is_https(&config) {
            stream.write_all(&UNRECOGNIZED_NAME).await?;
        }
        stream.shutdown().await?;
        let named = name.unwrap_or_else(|| "no server".to_owned());
        let words = format!(
            "no listener of port {} has the name: {named}",
            watched.number
        );
        return Err(ConnectionError::refused(ErrorType::NoListener, words));
    };
    let closing = runtime.watch_with(&listener.closing);
    let termination = match &listener.serving {
        ResolvedTlsServing::Passthrough(routes) => {
            let _open = pending.into_active_client();
            let mut recorder = ConnectionRecorder::gateway(runtime, client, true, closing);
            recorder.passthrough = true;
            let permit = policies(runtime, client, watched.number).listener_bytes(&listener.name);
            let chosen = choose(routes, name, &listener.name, permit, &mut recorder);
            // Forwarded connections may last: they hold no configuration.
            drop(config);
            return l4::forward_to(runtime, stream, chosen, recorder).await;
        }
        ResolvedTlsServing::Terminate(termination, _)
        | ResolvedTlsServing::Http(termination, _) => termination,
    };
    let accepted =
        while_pending(&pending, &closing, handshake(runtime, termination, stream)).await?;
    let Some(stream) = accepted.transpose()? else {
        return Ok(());
    };
    let (ResolvedTlsServing::Terminate(_, routes) | ResolvedTlsServing::Passthrough(routes)) =
        &listener.serving
    else {
        let listener = Some(listener.closing.clone());
        drop(config);
        let connection = GatewayConnection {
            policies: policies(runtime, client, watched.number),
            port: watched,
            local,
            listener,
        };
        return http(
            runtime,
            stream,
            client,
            pending.into_client(),
            connection,
            closing,
        )
        .await;
    };
    let _open = pending.into_active_client();
    let mut recorder = ConnectionRecorder::gateway(runtime, client, true, closing);
    let permit = policies(runtime, client, watched.number).listener_bytes(&listener.name);
    let chosen = choose(routes, name, &listener.name, permit, &mut recorder);
    drop(config);
    l4::forward_to(runtime, stream, chosen, recorder).await
}

/// Serves HTTPS, in the negotiated version.
async fn http(
    runtime: &Arc<Runtime>,
    stream: TlsStream<BufferedReads<Prefixed<TcpStream>>>,
    client: SocketAddr,
    place: ClientConnection,
    connection: GatewayConnection,
    closing: DrainWatch,
) -> Result<(), ConnectionError> {
    let _open = runtime
        .metrics
        .connection(Direction::Gateway, ConnectionTls::Terminated);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    super::http(runtime, stream, client, place, connection, http2, closing).await
}

async fn handshake(
    runtime: &Runtime,
    termination: &Termination,
    stream: Prefixed<TcpStream>,
) -> Result<TlsStream<BufferedReads<Prefixed<TcpStream>>>, ConnectionError> {
    let Some(config) = termination.config() else {
        runtime
            .metrics
            .handshake(Direction::Gateway, Err(HandshakeError::NoServerCertificate));
        let words = "the listener has no certificate that can be shown";
        return Err(ConnectionError::refused(ErrorType::NoCertificate, words));
    };
    let acceptor = TlsAcceptor::from(config);
    // Boxed, as in a sidecar.
    let accept = Box::pin(acceptor.accept(BufferedReads::new(stream)));
    let accepted = timeout(HANDSHAKE_TIMEOUT, accept).await;
    let Ok(accepted) = accepted else {
        runtime
            .metrics
            .handshake(Direction::Gateway, Err(HandshakeError::Timeout));
        return Err(ConnectionError::refused(
            ErrorType::TlsHandshake,
            "no handshake within 10 s",
        ));
    };
    let result = handshake_result(&accepted);
    runtime.metrics.handshake(Direction::Gateway, result);
    accepted
        .map_err(|error| ConnectionError::refused(ErrorType::TlsHandshake, format!("TLS: {error}")))
}

/// Picks the cluster of the connection by the routes of its listener, if it is permitted.
fn choose(
    routes: &TlsRoutes,
    name: Option<String>,
    listener: &str,
    permit: Permit,
    recorder: &mut ConnectionRecorder<'_>,
) -> Result<ChosenCluster, ConnectionError> {
    recorder.metrics = Some(routes.unmatched.clone());
    recorder.set_permit(permit)?;
    let rule = rule_by_server_name(routes, name, &format_args!("listener {listener}"), recorder)?;
    l4::pick_cluster(rule, recorder)
}

/// Returns true if all listeners serve HTTPS. If one serves TLSRoutes, a connection with an unknown
/// name is closed without an alert, which could be taken for the backend's (the conformance suite
/// of v1.6.3 takes it so).
fn is_https(config: &ResolvedPort) -> bool {
    let ResolvedServing::Tls(listeners) = &config.serving else {
        return false;
    };
    listeners
        .values()
        .all(|of| matches!(of.serving, ResolvedTlsServing::Http(..)))
}

/// Returns the most specific listener for the server name.
fn find<'a>(config: &'a ResolvedPort, name: Option<&str>) -> Option<&'a ResolvedTlsListener> {
    let ResolvedServing::Tls(listeners) = &config.serving else {
        return None;
    };
    let name = name.map(|name| bare_host(name).to_ascii_lowercase());
    listeners.fitting(name.as_deref()).next()
}
