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
use crate::probe::sources::AllowedSources;
use crate::telemetry::access::AccessLog;
use crate::telemetry::labels::Direction;
use crate::telemetry::metrics::Metrics;
use crate::tls::Tls;
use crate::upstream::EndpointRegistry;

/// Bounds of connections whose protocol is not known yet, in one direction. A load balancer, or a
/// node that masquerades, is one source.
const UNIDENTIFIED: Bounds = Bounds {
    total: 4_096,
    per_source: 1_024,
    protected: 1_024,
};
/// The interval of sweeps of idle upstream connections.
const SWEEP: Duration = Duration::from_secs(5);
/// The parts of a proxy; clones share them.
#[derive(Clone)]
pub struct Proxy {
    pub options: Arc<Options>,
    pub store: Store,
    pub tls: Tls,
    pub metrics: Arc<Metrics>,
    pub access: AccessLog,
    pub upstream: Arc<EndpointRegistry>,
}

/// What all connections of a listener share.
pub struct Runtime {
    pub store: Store,
    pub upstream: Arc<EndpointRegistry>,
    pub tls: Tls,
    pub metrics: Arc<Metrics>,
    pub shutdown: Shutdown,
    /// The proxy's own identity.
    pub identity: Arc<Identity>,
    pub access: AccessLog,
    /// Whether any request may be logged.
    pub logs_requests: bool,
    /// Slots for mirrored requests in flight.
    pub mirrors: Arc<MirrorSlots>,
    /// Connections whose protocol is not known yet: to this pod, and of a gateway's clients.
    pub(crate) inbound: Pool,
    pub(crate) gateway: Pool,
    /// All connections of a gateway's clients.
    pub(crate) clients: ClientConnections,
    /// The longest time of a drain.
    drain: Duration,
    pub(crate) outbound: OutboundMtls,
    /// Whose probes a strict pod serves.
    pub(crate) probe_sources: AllowedSources,
    /// How long a response may take once a client of HTTP/1.1 has closed its side.
    pub(crate) half_close: Duration,
    pub overload: Overload,
    /// How long a gateway waits for more of a request's body.
    pub body_idle: Option<Duration>,
    /// How long a gateway's client may take nothing of a response.
    pub(crate) answer_idle: Option<Duration>,
    /// How long a gateway keeps a silent connection that it forwards as bytes.
    bytes_idle: Option<Duration>,
}

/// Whether the pod's connections may leave in plain text.
#[derive(Clone, Debug)]
pub(crate) struct OutboundMtls {
    required: bool,
    cluster: Vec<IpNet>,
}

impl OutboundMtls {
    /// Returns true if a connection may pass while the controller cannot say what is at the
    /// address. As long as the cluster's ranges are unknown, every address may be one of the
    /// cluster.
    pub(crate) fn allows_unresolved(&self, to: IpAddr) -> bool {
        !self.required || (!self.cluster.is_empty() && !self.is_cluster(to))
    }

    /// Returns true if a connection may pass to an address at which the controller knows of
    /// nothing.
    pub(crate) fn allows_unknown(&self, to: IpAddr) -> bool {
        !(self.required && self.is_cluster(to))
    }

    fn is_cluster(&self, to: IpAddr) -> bool {
        let to = to.to_canonical();
        self.cluster.iter().any(|range| range.contains(&to))
    }
}

impl Runtime {
    /// Errors if the proxy's own name is no identity.
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
            probe_sources: AllowedSources::new(
                proxy.options.probe_sources,
                proxy.options.probe_networks.clone(),
            ),
            half_close: proxy.options.half_close,
            overload: Overload::new(proxy.options.memory_limit, proxy.metrics.clone()),
            body_idle: limited(proxy.options.body_idle),
            answer_idle: limited(proxy.options.answer_idle),
            bytes_idle: limited(proxy.options.bytes_idle),
        }))
    }

    /// Returns the idle timeout of connections that are forwarded as bytes.
    pub fn bytes_idle(&self, direction: Direction) -> Option<Duration> {
        self.bytes_idle.filter(|_| direction == Direction::Gateway)
    }

    /// Sweeps idle upstream connections and watches memory, until dropped.
    pub(crate) async fn housekeeping(&self) {
        let sweep = async {
            loop {
                tokio::time::sleep(SWEEP).await;
                self.upstream.sweep();
            }
        };
        tokio::join!(sweep, self.overload.watch());
    }

    /// Returns the drain watch for connections of the listener with this token.
    pub(crate) fn watch_with(&self, listener: &CancellationToken) -> DrainWatch {
        self.shutdown.watch_with(listener.clone(), self.drain)
    }

    /// Returns true if the pod is known to be permissive.
    pub(crate) fn permissive(&self) -> bool {
        let workload = self.store.workload();
        workload.is_some_and(|workload| workload.mode == Mode::Permissive)
    }
}

/// 0 is no limit.
fn limited(limit: Duration) -> Option<Duration> {
    (!limit.is_zero()).then_some(limit)
}
