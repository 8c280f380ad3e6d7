//! Connections that the pod opens: what they speak, and where they go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_api::alpn;
use weft_ir::Protocol;

use super::opaque::{self, Account, Opened};
use super::{BEGINNING, Closed, Context, Listener, SILENCE};
use crate::config::resolved::{Live, Resolved, ResolvedRouting};
use crate::config::store::Lookup;
use crate::detect::{Guess, Prefixed, is_for_forward_proxy, is_server_preface};
use crate::http::exchange::Downstream;
use crate::http::forward::Outbound;
use crate::http::routes::RouteSource;
use crate::http::serve::{ServerConfig, serve};
use crate::telemetry::metrics::ConnectionTls;
use crate::telemetry::requests::Direction;
use crate::upstream::Transport;

const NAME: &str = "outbound";

/// Serves the listener until the drain begins.
pub async fn listen(context: Arc<Context>, listener: Listener) {
    super::accept(&context, &listener, NAME, |stream, client, original| {
        let task = context.clone();
        context.shutdown.spawn(async move {
            if let Err(closed) = connection(&task, stream, client, original).await {
                closed.report(&task, NAME, client);
            }
        });
    })
    .await;
}

async fn connection(
    context: &Arc<Context>,
    stream: TcpStream,
    client: SocketAddr,
    original: SocketAddr,
) -> Result<(), Closed> {
    if context.upstream.is_own(original.ip()) {
        return pass_through(context, stream, client, original, "own_address").await;
    }
    let live = match context.store.lookup(original).await {
        Lookup::Live(live) => live,
        Lookup::Unreachable
            if context.permissive() && context.outbound.passes_unasked(original.ip()) =>
        {
            return pass_through(context, stream, client, original, "controller_unreachable").await;
        }
        Lookup::Unreachable => {
            let words = format!(
                "the controller cannot say what is at {original}, and plain text is not allowed"
            );
            return Err(Closed::refused("controller_unreachable", words));
        }
    };
    let declared = match &**live.load() {
        Resolved::Unknown if !context.outbound.passes_unknown(original.ip()) => {
            let words = format!(
                "nothing is known at {original}, which is an address of the cluster, and plain text is not allowed"
            );
            return Err(Closed::refused("unknown_destination", words));
        }
        Resolved::Unknown => {
            return pass_through(context, stream, client, original, "unknown_destination").await;
        }
        Resolved::Pod(_) => Protocol::Detect,
        Resolved::Service(service) => match service.routing {
            // Told apart later, if at all.
            ResolvedRouting::Tcp(_) | ResolvedRouting::Tls(_) => Protocol::Tcp,
            _ => service.protocol,
        },
    };
    let mut stream = Prefixed::new(stream);
    let detected = tokio::select! {
        detected = begin(context, &mut stream, &live, client, declared) => detected,
        () = context.shutdown.draining() => return Ok(()),
    };
    let (told, opened) = detected?;
    let told = match told {
        Guess::Http1 if is_forward_proxy(&live) && is_for_forward_proxy(stream.seen()) => {
            Guess::Opaque
        }
        told => told,
    };
    match told {
        Guess::Http1 => http(context, stream, client, live, false).await,
        Guess::Http2 => http(context, stream, client, live, true).await,
        // Opened and closed again, where no server speaks first.
        _ if stream.seen().is_empty() && is_http(declared) => Ok(()),
        Guess::Tls | Guess::Opaque | Guess::More => {
            let tls = told == Guess::Tls;
            opaque::serve(context, stream, client, &live, tls, opened).await
        }
    }
}

/// Whether a forward proxy may be there: what neither is declared as HTTP nor has routes gets the requests for one as they are.
fn is_forward_proxy(live: &Live) -> bool {
    match &**live.load() {
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

/// What the connection speaks.
async fn begin(
    context: &Context,
    stream: &mut Prefixed<TcpStream>,
    live: &Live,
    client: SocketAddr,
    declared: Protocol,
) -> Result<(Guess, Option<Opened>), Closed> {
    match declared {
        Protocol::Tcp | Protocol::Tls => Ok((Guess::Opaque, None)),
        Protocol::Detect => detect(context, stream, live, client).await,
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => Ok((stream.detect().await?, None)),
    }
}

async fn detect(
    context: &Context,
    stream: &mut Prefixed<TcpStream>,
    live: &Live,
    client: SocketAddr,
) -> Result<(Guess, Option<Opened>), Closed> {
    let open = opaque::open_early(context, live, client);
    who_speaks_first(stream, SILENCE, open, |opened| &mut opened.stream).await
}

/// Whoever speaks first decides: after `silence` the far side is opened as bytes, and let go again when it is
/// the client that speaks. `bytes`: what the far side says.
pub(super) async fn who_speaks_first<T>(
    stream: &mut Prefixed<TcpStream>,
    silence: Duration,
    open: impl Future<Output = Result<T, Closed>>,
    bytes: impl Fn(&mut T) -> &mut Prefixed<Transport>,
) -> Result<(Guess, Option<T>), Closed> {
    if let Ok(told) = timeout(silence, stream.detect()).await {
        return Ok((told?, None));
    }
    if !stream.seen().is_empty() {
        return Ok((beginning(stream).await?, None));
    }
    let speaks_first = async {
        if let Ok(mut opened) = open.await
            && bytes(&mut opened).look().await.is_ok()
            && !is_server_preface(bytes(&mut opened).seen())
        {
            return opened;
        }
        // The client, when it speaks, meets the failure again.
        std::future::pending().await
    };
    tokio::select! {
        seen = stream.look() => seen?,
        opened = speaks_first => return Ok((Guess::Opaque, Some(opened))),
    };
    Ok((beginning(stream).await?, None))
}

/// What begins like HTTP or TLS and does not go on is taken as bytes.
async fn beginning(stream: &mut Prefixed<TcpStream>) -> Result<Guess, Closed> {
    match timeout(BEGINNING, stream.detect()).await {
        Ok(told) => Ok(told?),
        Err(_) => Ok(Guess::Opaque),
    }
}

async fn http(
    context: &Arc<Context>,
    stream: Prefixed<TcpStream>,
    client: SocketAddr,
    live: Arc<Live>,
    http2: bool,
) -> Result<(), Closed> {
    let _open = context
        .metrics
        .connection(Direction::Outbound, ConnectionTls::None);
    let downstream = Arc::new(Downstream {
        context: context.clone(),
        direction: Direction::Outbound,
        address: client,
        identity: Some(context.identity.clone()),
        closing: context.shutdown.closing(),
        client: None,
    });
    let source = RouteSource::Destination(live);
    let handler = Arc::new(Outbound { downstream, source });
    let config = ServerConfig {
        http2,
        header_timeout: None,
        idle: None,
        linger: None,
        error_details: true,
        half_close: context.half_close,
        answer_idle: None,
        external: false,
        certificate_lifetime: None,
    };
    Ok(serve(stream, config, handler, &context.shutdown.closing()).await?)
}

/// Bytes to where the connection was going, unchanged.
async fn pass_through<S>(
    context: &Context,
    stream: S,
    client: SocketAddr,
    original: SocketAddr,
    reason: &'static str,
) -> Result<(), Closed>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    context.metrics.passed_through(reason);
    let mut account = Account::outbound(context, client, false);
    account.metrics = Some(context.metrics.outbound_unknown.clone());
    account.endpoint = Some(original);
    let endpoint = context.upstream.plaintext(original);
    let result = match context.upstream.connect(&endpoint, alpn::TCP).await {
        Ok(upstream) => {
            let _open = context
                .metrics
                .connection(Direction::Outbound, ConnectionTls::None);
            account.pass(stream, upstream).await
        }
        Err(error) => Err(error.into()),
    };
    account.end(result)
}
