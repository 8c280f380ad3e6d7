//! Accepts the connections that the redirect rules send here, and finds out where they were going.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use weft_accept::{Bounds, Pool, Port, Protected};
use weft_ir::{Identity, IdentityError, IpNet, Mode};

use crate::control::store::Store;
use crate::drain::{DrainWatch, Shutdown};
use crate::http::mirror::MirrorSlots;
use crate::net::{proxy_protocol, socket};
use crate::options::{MtlsOutbound, Options};
use crate::overload::Overload;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::requests::Direction;
use crate::tls::Tls;
use crate::upstream::EndpointRegistry;

pub mod gateway;
pub mod inbound;
mod opaque;
pub mod outbound;
mod plaintext_policy;
pub mod udp;

use crate::http::client_connections::ClientConnections;
use plaintext_policy::PlaintextPolicy;

/// Connections of one direction that have not said yet what they are. A load balancer, or a node that masquerades, is one source.
const UNIDENTIFIED: Bounds = Bounds {
    total: 4_096,
    per_source: 1_024,
    protected: 1_024,
};
/// How often idle upstream connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// A silent client is given this long before the upstream is opened, in case it is the server who speaks first.
const SERVER_FIRST_DELAY: Duration = Duration::from_millis(5);
/// The same for clients of a permissive pod. Only those without a proxy are silent here, so it may be longer: the ClientHello
/// of a proxy that got no processor comes late.
const INBOUND_SERVER_FIRST_DELAY: Duration = Duration::from_millis(12);
/// Time for a beginning to become a protocol that is known.
const DETECT_TIMEOUT: Duration = Duration::from_secs(2);

/// What connections need of the rest of the proxy.
pub struct Runtime {
    pub store: Store,
    pub upstream: Arc<EndpointRegistry>,
    pub tls: Tls,
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    /// Who this proxy is.
    pub identity: Arc<Identity>,
    pub access: AccessLog,
    /// Whether any request may have to be logged.
    pub logs_requests: bool,
    /// Places for copies of requests that are under way to mirrors.
    pub mirrors: Arc<MirrorSlots>,
    /// Connections of others that have not said yet what they are: to this pod, and of a gateway's clients.
    inbound: Pool,
    gateway: Pool,
    /// All connections of a gateway's clients.
    clients: ClientConnections,
    /// The longest that a drain takes.
    drain: Duration,
    outbound: OutboundMtls,
    /// How long an answer may take once a client of HTTP/1.1 has ended its side.
    half_close: Duration,
    pub overload: Overload,
    /// How long a gateway waits for more of a request's body.
    pub body_idle: Option<Duration>,
    /// How long a gateway's client may take nothing of an answer.
    answer_idle: Option<Duration>,
    /// How long a gateway passes on bytes of which there are none.
    bytes_idle: Option<Duration>,
}

/// Whether connections of the pod's may go out in plain text.
#[derive(Clone, Debug)]
struct OutboundMtls {
    required: bool,
    cluster: Vec<IpNet>,
}

impl OutboundMtls {
    /// Whether a connection may pass while the controller cannot say what is there. Where the cluster's ranges are not
    /// known, every address may be one of the cluster.
    fn allows_unresolved(&self, to: IpAddr) -> bool {
        !self.required || (!self.cluster.is_empty() && !self.is_cluster(to))
    }

    /// Whether a connection may pass to where the controller knows of nothing.
    fn allows_unknown(&self, to: IpAddr) -> bool {
        !(self.required && self.is_cluster(to))
    }

    fn is_cluster(&self, to: IpAddr) -> bool {
        let to = to.to_canonical();
        self.cluster.iter().any(|range| range.contains(&to))
    }
}

impl Runtime {
    /// Errors when the proxy's own name is no identity.
    pub fn new(proxy: &crate::Context, shutdown: Shutdown) -> Result<Arc<Self>, IdentityError> {
        let access = proxy.access.clone();
        let logs_requests = access.wants(StatusCode::INTERNAL_SERVER_ERROR, None, true);
        let rejected = &proxy.metrics.rejected;
        let pool = |name| {
            Pool::new(
                &Port::new(name, rejected),
                UNIDENTIFIED,
                &Protected::default(),
            )
        };
        Ok(Arc::new(Self {
            store: proxy.store.clone(),
            upstream: proxy.upstream.clone(),
            tls: proxy.tls.clone(),
            metrics: proxy.metrics.clone(),
            shutdown,
            identity: Arc::new(proxy.options.identity()?),
            access,
            logs_requests,
            mirrors: Arc::default(),
            inbound: pool("inbound"),
            gateway: pool("gateway"),
            clients: ClientConnections::default(),
            drain: proxy.options.drain,
            outbound: OutboundMtls {
                required: proxy.options.mtls_outbound == MtlsOutbound::Required,
                cluster: proxy.options.cluster_ranges.clone(),
            },
            half_close: proxy.options.half_close,
            overload: Overload::new(proxy.options.memory_limit, proxy.metrics.clone()),
            body_idle: limited(proxy.options.body_idle),
            answer_idle: limited(proxy.options.answer_idle),
            bytes_idle: limited(proxy.options.bytes_idle),
        }))
    }

    /// How long bytes of such connections may pass on nothing.
    pub fn bytes_idle(&self, direction: Direction) -> Option<Duration> {
        self.bytes_idle.filter(|_| direction == Direction::Gateway)
    }

    /// Looks after what has to be looked after from time to time.
    async fn housekeeping(&self) {
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                self.upstream.sweep();
            }
        };
        tokio::join!(sweep, self.overload.watch());
    }

    /// When connections of a listener with this token are to finish.
    fn watch_with(&self, listener: &CancellationToken) -> DrainWatch {
        self.shutdown.watch_with(listener.clone(), self.drain)
    }

    /// Whether plain text may be spoken: known to be so, not only not known to be otherwise.
    fn permissive(&self) -> bool {
        let workload = self.store.workload();
        workload.is_some_and(|workload| workload.mode == Mode::Permissive)
    }

    /// What the application at `app` takes in plain text now.
    fn plaintext_policy(&self, app: SocketAddr) -> PlaintextPolicy {
        PlaintextPolicy::of(self.store.workload().as_deref(), app)
    }
}

/// Where an accepted connection was going.
#[derive(Clone, Copy, Debug)]
pub enum OriginalDst {
    /// The redirect rules of the pod keep it: `SO_ORIGINAL_DST`.
    Redirected,
    /// All connections go here: without redirect rules, as in tests and benches.
    Fixed(SocketAddr),
    /// To the listener itself.
    Local,
}

/// A listening socket.
pub struct Listener {
    pub socket: TcpListener,
    pub origin: OriginalDst,
}

impl Listener {
    /// Listens at `address`; at all IPv4 addresses instead where it is `[::]` and the host has no IPv6.
    pub fn bind(address: SocketAddr, origin: OriginalDst) -> io::Result<Self> {
        let socket = TcpListener::from_std(socket::tcp(address)?)?;
        Ok(Self { socket, origin })
    }

    /// Errors when the connection was not redirected.
    fn original_dst(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        let own = canonical(stream.local_addr()?);
        match self.origin {
            OriginalDst::Fixed(address) => return Ok(address),
            OriginalDst::Local => return Ok(own),
            OriginalDst::Redirected => {}
        }
        let socket = SockRef::from(stream);
        let original = match own.ip() {
            IpAddr::V4(_) => socket.original_dst_v4()?,
            IpAddr::V6(_) => socket.original_dst_v6()?,
        };
        let original = original.as_socket().map(canonical);
        match original {
            Some(original) if original.port() != self.socket.local_addr()?.port() => Ok(original),
            _ => Err(io::Error::other("opened to the proxy's own port")),
        }
    }
}

/// An IPv4 address as one, also where the socket is of IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The sockets of both directions.
pub struct Listeners {
    pub outbound: Listener,
    pub inbound: Listener,
}

impl Listeners {
    /// Listens where the options say, for redirected connections.
    pub fn bind(options: &Options) -> io::Result<Self> {
        Ok(Self {
            outbound: Listener::bind(options.outbound, OriginalDst::Redirected)?,
            inbound: Listener::bind(options.inbound, OriginalDst::Redirected)?,
        })
    }
}

/// Serves both directions until the drain begins; connections that are open then go on. Errors when the proxy's own
/// name is no identity.
pub async fn run(
    proxy: &crate::Context,
    shutdown: Shutdown,
    listeners: Listeners,
) -> Result<(), IdentityError> {
    let runtime = Runtime::new(proxy, shutdown)?;
    let both = async {
        tokio::join!(
            outbound::listen(runtime.clone(), listeners.outbound),
            inbound::listen(runtime.clone(), listeners.inbound)
        )
    };
    tokio::select! {
        _ = both => {}
        () = runtime.housekeeping() => {}
    }
    Ok(())
}

/// 0 is no limit.
fn limited(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}

/// Accepts until the drain begins, and has `serve` run each connection in a task of its own.
async fn accept<F>(runtime: &Arc<Runtime>, listener: &Listener, name: &'static str, serve: F)
where
    F: Fn(TcpStream, SocketAddr, SocketAddr),
{
    let port = Port::new(name, &runtime.metrics.rejected);
    let take = |stream: TcpStream, client| match listener.original_dst(&stream) {
        Ok(original) => {
            let make_room = || {
                let evicted = runtime.clients.evict();
                evicted
                    .inspect(|source| port.reject("idle", *source))
                    .is_some()
            };
            let open = runtime.shutdown.open();
            if runtime.overload.admits_connection(open, make_room) {
                serve(stream, client, original);
            }
        }
        Err(error) => {
            runtime.metrics.protocol_error(name, "not_redirected");
            tracing::debug!(listener = name, %client, %error, "closed");
        }
    };
    let pools = [&runtime.inbound, &runtime.gateway];
    tokio::select! {
        _ = weft_accept::accept(&listener.socket, &port, &pools, take) => {}
        () = runtime.shutdown.draining() => {}
    }
}

/// Why a connection was closed before its end, where its peers did not close it themselves.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{words}")]
    Refused {
        /// One word, for the metric.
        reason: &'static str,
        words: String,
    },
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Connect(#[from] crate::upstream::ConnectError),
}

impl ConnectionError {
    pub(crate) fn refused(reason: &'static str, words: impl Into<String>) -> Self {
        Self::Refused {
            reason,
            words: words.into(),
        }
    }

    /// Counts and logs.
    fn report(&self, runtime: &Runtime, listener: &'static str, client: SocketAddr) {
        match self {
            Self::Refused { reason, words } => {
                runtime.metrics.protocol_error(listener, reason);
                tracing::info!(listener, %client, reason, "connection refused: {words}");
            }
            Self::Http(error) => {
                if error.is_parse() {
                    runtime.metrics.protocol_error(listener, "http");
                    tracing::info!(listener, %client, reason = "http", "request refused: {error}");
                    return;
                }
                if error.is_timeout() {
                    runtime.metrics.protocol_error(listener, "timeout");
                }
                tracing::debug!(listener, %client, %error, "connection closed");
            }
            Self::Connect(error) => {
                runtime.metrics.protocol_error(listener, "unreachable");
                tracing::info!(listener, %client, "connection closed: {error}");
            }
            Self::Io(error) => tracing::debug!(listener, %client, %error, "connection closed"),
        }
    }
}

impl From<proxy_protocol::ReadError> for ConnectionError {
    /// Refused, and so counted, but for what is no fault of the header.
    fn from(error: proxy_protocol::ReadError) -> Self {
        match error {
            proxy_protocol::ReadError::Io(error) => Self::Io(error),
            error => Self::refused("proxy_protocol", error.to_string()),
        }
    }
}
