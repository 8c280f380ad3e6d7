//! What the connections of a proxy share.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio_util::sync::CancellationToken;
use weft_accept::{Bounds, Pool, Port, Protected};
use weft_ir::{Identity, IdentityError, IpNet, Mode};

use super::client_connections::ClientConnections;
use super::mirror::MirrorSlots;
use crate::control::store::Store;
use crate::drain::{DrainWatch, Shutdown};
use crate::options::{MtlsOutbound, Options};
use crate::overload::Overload;
use crate::telemetry::access::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::requests::Direction;
use crate::tls::Tls;
use crate::upstream::EndpointRegistry;

/// Connections of one direction that have not said yet what they are. A load balancer, or a node that masquerades, is one source.
const UNIDENTIFIED: Bounds = Bounds {
    total: 4_096,
    per_source: 1_024,
    protected: 1_024,
};
/// How often idle upstream connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// The parts of a proxy, as it is put together; clones are the same parts.
#[derive(Clone)]
pub struct Proxy {
    pub options: Arc<Options>,
    pub store: Store,
    pub tls: Tls,
    pub metrics: Arc<Metrics>,
    pub access: AccessLog,
    pub upstream: Arc<EndpointRegistry>,
}

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
    pub(crate) inbound: Pool,
    pub(crate) gateway: Pool,
    /// All connections of a gateway's clients.
    pub(crate) clients: ClientConnections,
    /// The longest that a drain takes.
    drain: Duration,
    pub(crate) outbound: OutboundMtls,
    /// How long an answer may take once a client of HTTP/1.1 has ended its side.
    pub(crate) half_close: Duration,
    pub overload: Overload,
    /// How long a gateway waits for more of a request's body.
    pub body_idle: Option<Duration>,
    /// How long a gateway's client may take nothing of an answer.
    pub(crate) answer_idle: Option<Duration>,
    /// How long a gateway passes on bytes of which there are none.
    bytes_idle: Option<Duration>,
}

/// Whether connections of the pod's may go out in plain text.
#[derive(Clone, Debug)]
pub(crate) struct OutboundMtls {
    required: bool,
    cluster: Vec<IpNet>,
}

impl OutboundMtls {
    /// Whether a connection may pass while the controller cannot say what is there. Where the cluster's ranges are not
    /// known, every address may be one of the cluster.
    pub(crate) fn allows_unresolved(&self, to: IpAddr) -> bool {
        !self.required || (!self.cluster.is_empty() && !self.is_cluster(to))
    }

    /// Whether a connection may pass to where the controller knows of nothing.
    pub(crate) fn allows_unknown(&self, to: IpAddr) -> bool {
        !(self.required && self.is_cluster(to))
    }

    fn is_cluster(&self, to: IpAddr) -> bool {
        let to = to.to_canonical();
        self.cluster.iter().any(|range| range.contains(&to))
    }
}

impl Runtime {
    /// Errors when the proxy's own name is no identity.
    pub fn new(proxy: &Proxy, shutdown: Shutdown) -> Result<Arc<Self>, IdentityError> {
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
    pub(crate) async fn housekeeping(&self) {
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                self.upstream.sweep();
            }
        };
        tokio::join!(sweep, self.overload.watch());
    }

    /// When connections of a listener with this token are to finish.
    pub(crate) fn watch_with(&self, listener: &CancellationToken) -> DrainWatch {
        self.shutdown.watch_with(listener.clone(), self.drain)
    }

    /// Whether plain text may be spoken: known to be so, not only not known to be otherwise.
    pub(crate) fn permissive(&self) -> bool {
        let workload = self.store.workload();
        workload.is_some_and(|workload| workload.mode == Mode::Permissive)
    }
}

/// 0 is no limit.
fn limited(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}
