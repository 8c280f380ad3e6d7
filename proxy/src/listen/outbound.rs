//! Connections that the pod opens: what they speak, and where they go.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_api::alpn;
use weft_ir::Protocol;

use super::{BEGINNING, Closed, Context, Listener, SILENCE};
use crate::config::resolved::{Live, Resolved, ResolvedRouting};
use crate::config::store::Lookup;
use crate::detect::{Guess, Prefixed};
use crate::http::exchange::Caller;
use crate::http::forward::{self, Outbound};
use crate::http::serve::{Manner, serve};
use crate::tcp;
use crate::telemetry::metrics::ConnectionTls;
use crate::telemetry::requests::Direction;
use crate::upstream::{Cluster, ConnectError, Peer, Transport};

const NAME: &str = "outbound";
/// Endpoints tried for one connection.
const MAX_TRIES: usize = 3;

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
    if context.shared.is_own(original.ip()) {
        return pass_through(context, stream, original, "own_address").await;
    }
    let live = match context.store.lookup(original).await {
        Lookup::Live(live) => live,
        Lookup::Unreachable if context.permissive() => {
            return pass_through(context, stream, original, "controller_unreachable").await;
        }
        Lookup::Unreachable => {
            let words = format!(
                "the controller cannot say what is at {original}, and plain text is not allowed"
            );
            return Err(Closed::refused("controller_unreachable", words));
        }
    };
    let declared = match &**live.load() {
        Resolved::Unknown => {
            return pass_through(context, stream, original, "unknown_destination").await;
        }
        Resolved::Pod(_) => Protocol::Detect,
        Resolved::Service(service) => service.protocol,
    };
    let mut stream = Prefixed::new(stream);
    let detected = tokio::select! {
        detected = begin(context, &mut stream, &live, declared) => detected,
        () = context.shutdown.draining() => return Ok(()),
    };
    let (told, opened) = detected?;
    match told {
        Guess::Http1 => http(context, stream, client, live, false).await,
        Guess::Http2 => http(context, stream, client, live, true).await,
        Guess::Tls | Guess::Opaque | Guess::More => opaque(context, stream, &live, opened).await,
    }
}

/// What the connection speaks.
async fn begin(
    context: &Context,
    stream: &mut Prefixed<TcpStream>,
    live: &Live,
    declared: Protocol,
) -> Result<(Guess, Option<Opened>), Closed> {
    match declared {
        Protocol::Tcp | Protocol::Tls => Ok((Guess::Opaque, None)),
        Protocol::Detect => detect(context, stream, live).await,
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => Ok((stream.detect().await?, None)),
    }
}

/// Whoever speaks first decides: after a moment of silence the upstream is opened as bytes, and let go again when it is
/// the client with HTTP.
async fn detect(
    context: &Context,
    stream: &mut Prefixed<TcpStream>,
    live: &Live,
) -> Result<(Guess, Option<Opened>), Closed> {
    if let Ok(told) = timeout(SILENCE, stream.detect()).await {
        return Ok((told?, None));
    }
    if !stream.seen().is_empty() {
        return Ok((beginning(stream).await?, None));
    }
    let speaks_first = async {
        if let Ok(mut opened) = open(context, live).await
            && opened.stream.look().await.is_ok()
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
pub(super) async fn beginning(stream: &mut Prefixed<TcpStream>) -> Result<Guess, Closed> {
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
    let caller = Arc::new(Caller {
        context: context.clone(),
        direction: Direction::Outbound,
        address: client,
        identity: Some(context.identity.clone()),
    });
    let handler = Arc::new(Outbound { caller, live });
    let manner = Manner {
        http2,
        patience: None,
    };
    Ok(serve(stream, manner, handler, &context.shutdown).await?)
}

/// A connection to an endpoint, opened as bytes.
struct Opened {
    stream: Prefixed<Transport>,
    peer: Arc<Peer>,
}

async fn opaque(
    context: &Context,
    stream: Prefixed<TcpStream>,
    live: &Live,
    opened: Option<Opened>,
) -> Result<(), Closed> {
    let Opened {
        stream: upstream,
        peer,
    } = match opened {
        Some(opened) => opened,
        None => open(context, live).await?,
    };
    let tls = match peer.identity {
        Some(_) => ConnectionTls::Mesh,
        None => ConnectionTls::None,
    };
    let _open = context.metrics.connection(Direction::Outbound, tls);
    peer.load.begin();
    let (passed, ended) = tcp::pass(stream, upstream, &context.shutdown).await;
    peer.load.end();
    tracing::debug!(endpoint = %peer.address, up = passed.up, down = passed.down, "bytes passed");
    Ok(ended?)
}

/// Opens a connection to one of the endpoints.
async fn open(context: &Context, live: &Live) -> Result<Opened, Closed> {
    let cluster = cluster_for_bytes(live)?;
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last: Option<ConnectError> = None;
    while tried.len() < MAX_TRIES
        && let Some(peer) = cluster.pick(&tried)
    {
        match context.shared.connect(&peer, alpn::TCP).await {
            Ok(stream) => {
                let stream = Prefixed::new(stream);
                return Ok(Opened { stream, peer });
            }
            Err(error) => {
                context.shared.avoid(&peer);
                tried.push(peer.address);
                last = Some(error);
            }
        }
    }
    Err(match last {
        Some(error) => Closed::Connect(error),
        None => Closed::refused(
            "no_endpoints",
            format!("{} has no ready endpoints", cluster.name),
        ),
    })
}

/// Routes of HTTP say nothing of bytes: only a Service without them takes bytes.
fn cluster_for_bytes(live: &Live) -> Result<Arc<Cluster>, Closed> {
    let config = live.load();
    let service = match &**config {
        Resolved::Pod(cluster) => return Ok(cluster.clone()),
        Resolved::Service(service) => service,
        Resolved::Unknown => {
            let words = format!("nothing is at {} any more", live.address);
            return Err(Closed::refused("gone", words));
        }
    };
    let ResolvedRouting::Direct(rule) = &service.routing else {
        let words = format!("{} has HTTP routes, and this is not HTTP", service.id);
        return Err(Closed::refused("not_http", words));
    };
    match forward::pick(rule).map(|backend| &backend.target) {
        Some(Ok(cluster)) => Ok(cluster.clone()),
        Some(Err(reason)) => Err(Closed::refused("misconfigured", &**reason)),
        None => Err(Closed::refused("misconfigured", "no backend has a weight")),
    }
}

/// Bytes to where the connection was going, unchanged.
async fn pass_through<S>(
    context: &Context,
    stream: S,
    original: SocketAddr,
    reason: &'static str,
) -> Result<(), Closed>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    context.metrics.passed_through(reason);
    let peer = context.shared.plain(original);
    let upstream = context.shared.connect(&peer, alpn::TCP).await?;
    let _open = context
        .metrics
        .connection(Direction::Outbound, ConnectionTls::None);
    let (_, ended) = tcp::pass(stream, upstream, &context.shutdown).await;
    Ok(ended?)
}
