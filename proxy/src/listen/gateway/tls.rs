//! TLS connections of a gateway's clients: the server's name says which listener takes one, and that whether it is passed
//! on as it is or ends here. The ClientHello is looked at, never consumed, before that is known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_ir::bare_host;

use super::super::opaque::{Hello, by_name, hello, whole_hello};
use super::{
    Account, Arrival, Chosen, Client, Closed, Closing, Context, GatewayConnection, opaque, within,
};
use crate::batch::Gathered;
use crate::config::ports::{
    LivePort, ResolvedPort, ResolvedServing, ResolvedTlsListener, ResolvedTlsServing,
};
use crate::config::resolved::TlsRoutes;
use crate::detect::Prefixed;
use crate::telemetry::metrics::ConnectionTls;
use crate::telemetry::requests::Direction;
use crate::tls::handshake_failure;
use crate::tls::termination::Termination;

/// Time for the handshake, after the ClientHello.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A fatal alert, `unrecognized_name` (RFC 6066, 3; RFC 8446, 6).
const UNRECOGNIZED_NAME: [u8; 7] = [0x15, 3, 3, 0, 2, 2, 112];

pub(super) async fn serve(
    context: &Arc<Context>,
    mut stream: Prefixed<TcpStream>,
    client: SocketAddr,
    arrival: Arrival,
    local: SocketAddr,
    live: Arc<LivePort>,
    closing: Closing,
) -> Result<(), Closed> {
    let whole = within(&arrival, &closing, whole_hello(&mut stream)).await?;
    if !whole.transpose()?.unwrap_or(false) {
        return Ok(());
    }
    let Some(Hello::Names(name)) = hello(stream.seen()) else {
        return Err(Closed::refused("not_tls", "this is not TLS"));
    };
    // Only now: the newest certificates are those to show.
    let config = arc_swap::Guard::into_inner(live.load());
    let Some(listener) = find(&config, name.as_deref()) else {
        context
            .metrics
            .handshake(Direction::Gateway, "unknown_name");
        if is_https(&config) {
            stream.write_all(&UNRECOGNIZED_NAME).await?;
        }
        stream.shutdown().await?;
        let named = name.unwrap_or_else(|| "no server".to_owned());
        let words = format!("no listener of port {} has the name: {named}", live.number);
        return Err(Closed::refused("no_listener", words));
    };
    let closing = context.closing_with(&listener.closing);
    let termination = match &listener.serving {
        ResolvedTlsServing::Passthrough(routes) => {
            let _open = arrival.passed_on();
            let mut account = Account::gateway(context, client, true, closing);
            account.passthrough = true;
            let chosen = choose(routes, name, &listener.name, &mut account);
            // What is passed on may last: it holds no configuration.
            drop(config);
            return opaque::go(context, stream, chosen, account).await;
        }
        ResolvedTlsServing::Terminate(termination, _)
        | ResolvedTlsServing::Http(termination, _) => termination,
    };
    let shaken = within(&arrival, &closing, shake(context, termination, stream)).await?;
    let Some(stream) = shaken.transpose()? else {
        return Ok(());
    };
    let (ResolvedTlsServing::Terminate(_, routes) | ResolvedTlsServing::Passthrough(routes)) =
        &listener.serving
    else {
        let listener = Some(listener.closing.clone());
        drop(config);
        let connection = GatewayConnection {
            port: live,
            local,
            listener,
        };
        return http(
            context,
            stream,
            client,
            arrival.established(),
            connection,
            closing,
        )
        .await;
    };
    let _open = arrival.passed_on();
    let mut account = Account::gateway(context, client, true, closing);
    let chosen = choose(routes, name, &listener.name, &mut account);
    drop(config);
    opaque::go(context, stream, chosen, account).await
}

/// HTTPS, of the version that was agreed on.
async fn http(
    context: &Arc<Context>,
    stream: TlsStream<Gathered<Prefixed<TcpStream>>>,
    client: SocketAddr,
    place: Client,
    connection: GatewayConnection,
    closing: Closing,
) -> Result<(), Closed> {
    let _open = context
        .metrics
        .connection(Direction::Gateway, ConnectionTls::Terminated);
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    super::http(context, stream, client, place, connection, http2, closing).await
}

async fn shake(
    context: &Context,
    termination: &Termination,
    stream: Prefixed<TcpStream>,
) -> Result<TlsStream<Gathered<Prefixed<TcpStream>>>, Closed> {
    let Some(config) = termination.config() else {
        context
            .metrics
            .handshake(Direction::Gateway, "no_certificate");
        let words = "the listener has no certificate that can be shown";
        return Err(Closed::refused("no_certificate", words));
    };
    let acceptor = TlsAcceptor::from(config);
    // In a box, as a sidecar's.
    let accept = Box::pin(acceptor.accept(Gathered::new(stream)));
    let accepted = timeout(HANDSHAKE, accept).await;
    let Ok(accepted) = accepted else {
        context.metrics.handshake(Direction::Gateway, "timeout");
        return Err(Closed::refused("handshake", "no handshake within 10 s"));
    };
    let result = accepted.as_ref().map_or_else(handshake_failure, |_| "ok");
    context.metrics.handshake(Direction::Gateway, result);
    accepted.map_err(|error| Closed::refused("handshake", format!("TLS: {error}")))
}

/// Where the connection goes, by the rules of its listener.
fn choose(
    routes: &TlsRoutes,
    name: Option<String>,
    listener: &str,
    account: &mut Account<'_>,
) -> Result<Chosen, Closed> {
    let rule = by_name(routes, name, &format_args!("listener {listener}"), account)?;
    opaque::backend(rule, account)
}

/// Whether no listener takes TLS for TLSRoutes. Where one does, a name that nobody has is met by a closed connection: an
/// alert could be taken for the backend's (the conformance suite of v1.6.3 takes it so).
fn is_https(config: &ResolvedPort) -> bool {
    let ResolvedServing::Tls(listeners) = &config.serving else {
        return false;
    };
    listeners
        .values()
        .all(|of| matches!(of.serving, ResolvedTlsServing::Http(..)))
}

/// The listener for the server's name, the most specific one.
fn find<'a>(config: &'a ResolvedPort, name: Option<&str>) -> Option<&'a ResolvedTlsListener> {
    let ResolvedServing::Tls(listeners) = &config.serving else {
        return None;
    };
    let name = name.map(|name| bare_host(name).to_ascii_lowercase());
    listeners.fitting(name.as_deref()).next()
}
