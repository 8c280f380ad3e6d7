//! Connections that the pod opens: what they speak, and where they go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_api::alpn;
use weft_ir::Protocol;

use super::l4::{self, ConnectionRecorder, UpstreamConnection};
use super::{ConnectionError, DETECT_TIMEOUT, Listener, SERVER_FIRST_DELAY};
use crate::control::store::Lookup;
use crate::http::exchange::Downstream;
use crate::http::forward::Outbound;
use crate::http::routes::RouteSource;
use crate::http::runtime::Runtime;
use crate::http::serve::{ServerConfig, serve};
use crate::lease::Owner;
use crate::net::detect::{Detected, Prefixed, is_for_forward_proxy, is_server_preface};
use crate::routing::destination::{Resolved, ResolvedRouting, WatchedDestination};
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::{ConnectionTls, Direction, PassthroughReason};
use crate::upstream::Transport;

const NAME: &str = "outbound";

/// Serves the listener until the drain begins.
pub async fn listen(runtime: Arc<Runtime>, listener: Listener) {
    super::accept::accept(&runtime, &listener, NAME, |stream, client, original| {
        let task = runtime.clone();
        runtime.shutdown.spawn(async move {
            if let Err(error) = connection(&task, stream, client, original).await {
                error.report(&task, NAME, client);
            }
        });
    })
    .await;
}

async fn connection(
    runtime: &Arc<Runtime>,
    stream: TcpStream,
    client: SocketAddr,
    original: SocketAddr,
) -> Result<(), ConnectionError> {
    if runtime.upstream.is_own(original.ip()) {
        return pass_through(
            runtime,
            stream,
            client,
            original,
            PassthroughReason::OwnAddress,
        )
        .await;
    }
    let watched = match runtime.store.lookup(original).await {
        Lookup::Found(watched) => watched,
        Lookup::Unreachable
            if runtime.permissive() && runtime.outbound.allows_unresolved(original.ip()) =>
        {
            return pass_through(
                runtime,
                stream,
                client,
                original,
                PassthroughReason::ControllerUnreachable,
            )
            .await;
        }
        Lookup::Unreachable => {
            let words = format!(
                "the controller cannot say what is at {original}, and plain text is not allowed"
            );
            return Err(ConnectionError::refused(
                ErrorType::ControllerUnreachable,
                words,
            ));
        }
    };
    let declared = match &**watched.load() {
        Resolved::Unknown if !runtime.outbound.allows_unknown(original.ip()) => {
            let words = format!(
                "nothing is known at {original}, which is an address of the cluster, and plain text is not allowed"
            );
            return Err(ConnectionError::refused(
                ErrorType::UnknownDestination,
                words,
            ));
        }
        Resolved::Unknown => {
            return pass_through(
                runtime,
                stream,
                client,
                original,
                PassthroughReason::UnknownDestination,
            )
            .await;
        }
        Resolved::Pod(_) => Protocol::Detect,
        Resolved::Service(service) => match service.routing {
            // Detected later, if at all.
            ResolvedRouting::Tcp(_) | ResolvedRouting::Tls(_) => Protocol::Tcp,
            _ => service.protocol,
        },
    };
    let mut stream = Prefixed::new(stream);
    let detected = tokio::select! {
        detected = detect_declared(runtime, &mut stream, &watched, client, declared) => detected,
        () = runtime.shutdown.draining() => return Ok(()),
    };
    let (protocol, opened) = detected?;
    let protocol = match protocol {
        Detected::Http1 if is_forward_proxy(&watched) && is_for_forward_proxy(stream.peeked()) => {
            Detected::Opaque
        }
        protocol => protocol,
    };
    match protocol {
        Detected::Http1 => http(runtime, stream, client, watched, false).await,
        Detected::Http2 => http(runtime, stream, client, watched, true).await,
        // Opened and closed again, with a protocol in which no server speaks first.
        _ if stream.peeked().is_empty() && is_http(declared) => Ok(()),
        Detected::Tls | Detected::Opaque | Detected::Incomplete => {
            let tls = protocol == Detected::Tls;
            l4::serve(runtime, stream, client, &watched, tls, opened).await
        }
    }
}

/// Returns true if a forward proxy may be at the destination: one without HTTP declared and without
/// routes gets requests for a forward proxy unchanged.
fn is_forward_proxy(watched: &WatchedDestination) -> bool {
    match &**watched.load() {
        Resolved::Pod(_) => true,
        Resolved::Service(service) => {
            service.protocol == Protocol::Detect
                && matches!(service.routing, ResolvedRouting::Direct(_))
        }
        Resolved::Unknown => false,
    }
}

fn is_http(declared: Protocol) -> bool {
    matches!(declared, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc)
}

/// Detects what the connection speaks, by what its port declares.
async fn detect_declared(
    runtime: &Runtime,
    stream: &mut Prefixed<TcpStream>,
    watched: &WatchedDestination,
    client: SocketAddr,
    declared: Protocol,
) -> Result<(Detected, Option<UpstreamConnection>), ConnectionError> {
    match declared {
        Protocol::Tcp | Protocol::Tls => Ok((Detected::Opaque, None)),
        Protocol::Detect => detect(runtime, stream, watched, client).await,
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => Ok((stream.detect().await?, None)),
    }
}

async fn detect(
    runtime: &Runtime,
    stream: &mut Prefixed<TcpStream>,
    watched: &WatchedDestination,
    client: SocketAddr,
) -> Result<(Detected, Option<UpstreamConnection>), ConnectionError> {
    let open = l4::connect_early(runtime, watched, client);
    who_speaks_first(stream, SERVER_FIRST_DELAY, open, |opened| {
        &mut opened.stream
    })
    .await
}

/// Waits for whichever side speaks first: after `silence` the upstream is opened as bytes, and
/// dropped again if it is the client that speaks. `bytes`: the stream of the upstream.
pub(super) async fn who_speaks_first<T>(
    stream: &mut Prefixed<TcpStream>,
    silence: Duration,
    open: impl Future<Output = Result<T, ConnectionError>>,
    bytes: impl Fn(&mut T) -> &mut Prefixed<Transport>,
) -> Result<(Detected, Option<T>), ConnectionError> {
    if let Ok(protocol) = timeout(silence, stream.detect()).await {
        return Ok((protocol?, None));
    }
    if !stream.peeked().is_empty() {
        return Ok((detect_rest(stream).await?, None));
    }
    let speaks_first = async {
        if let Ok(mut opened) = open.await
            && bytes(&mut opened).peek().await.is_ok()
            && !is_server_preface(bytes(&mut opened).peeked())
        {
            return opened;
        }
        // The failure is reported once the client speaks.
        std::future::pending().await
    };
    tokio::select! {
        seen = stream.peek() => seen?,
        opened = speaks_first => return Ok((Detected::Opaque, Some(opened))),
    };
    Ok((detect_rest(stream).await?, None))
}

/// Detects the rest of a beginning; one of HTTP or TLS that does not go on is forwarded as bytes.
async fn detect_rest(stream: &mut Prefixed<TcpStream>) -> Result<Detected, ConnectionError> {
    match timeout(DETECT_TIMEOUT, stream.detect()).await {
        Ok(protocol) => Ok(protocol?),
        Err(_) => Ok(Detected::Opaque),
    }
}

async fn http(
    runtime: &Arc<Runtime>,
    stream: Prefixed<TcpStream>,
    client: SocketAddr,
    watched: Arc<WatchedDestination>,
    http2: bool,
) -> Result<(), ConnectionError> {
    let _open = runtime
        .metrics
        .connection(Direction::Outbound, ConnectionTls::None);
    let downstream = Owner::new(Downstream {
        runtime: runtime.clone(),
        direction: Direction::Outbound,
        address: client,
        identity: Some(runtime.identity.clone()),
        closing: runtime.shutdown.watch(),
        client: None,
    });
    let source = RouteSource::Destination(watched);
    let handler = Arc::new(Outbound { downstream, source });
    let config = ServerConfig {
        http2,
        header_timeout: None,
        idle: None,
        linger: None,
        error_details: true,
        half_close: runtime.half_close,
        answer_idle: None,
        external: false,
        certificate_lifetime: None,
    };
    Ok(serve(stream, config, handler, &runtime.shutdown.watch()).await?)
}

/// Forwards bytes to where the connection was going, unchanged.
async fn pass_through<S>(
    runtime: &Runtime,
    stream: S,
    client: SocketAddr,
    original: SocketAddr,
    reason: PassthroughReason,
) -> Result<(), ConnectionError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    runtime.metrics.passed_through(reason);
    let mut recorder = ConnectionRecorder::outbound(runtime, client, false);
    recorder.metrics = Some(runtime.metrics.outbound_unknown.clone());
    recorder.endpoint = Some(original);
    let endpoint = runtime.upstream.plaintext(original);
    let result = match runtime.upstream.connect(&endpoint, alpn::TCP).await {
        Ok(upstream) => {
            let _open = runtime
                .metrics
                .connection(Direction::Outbound, ConnectionTls::None);
            recorder.pass(stream, upstream).await
        }
        Err(error) => Err(error.into()),
    };
    recorder.finish(result)
}
