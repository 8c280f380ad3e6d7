//! The ports of a gateway as connections and requests use them: listeners by host name, routes
//! compiled, certificates read.
//!
//! A connection holds an `Arc<WatchedPort>`; each request loads it once and sees one version
//! throughout. Nothing is decided here: rules and their clusters are those of
//! [`super::destination`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_ir::{HostMap, HostPattern, RouteId, Transport};

use super::destination::{ResolvedRule, Routes, TlsRoutes};
use super::external_auth::ResolvedAuth;
use crate::telemetry::requests::RequestMetrics;
use crate::tls::termination::Termination;
use crate::upstream::Cluster;

/// A port that the gateway listens on, kept up to date for as long as it is held.
pub struct WatchedPort {
    pub transport: Transport,
    pub number: u16,
    current: ArcSwap<ResolvedPort>,
    /// If the newest version removed listeners: the version before, for their open connections.
    removed: ArcSwapOption<RemovedListeners>,
    /// Cancelled when no more connections are to be accepted.
    closed: CancellationToken,
}

/// A version of which listeners were removed.
struct RemovedListeners {
    port: Arc<ResolvedPort>,
    listeners: Vec<Arc<CancellationToken>>,
    until: Instant,
}

/// How long requests on connections of a removed listener are still served: the connections are
/// closed with their next response, or after this time.
pub(crate) const REMOVED_LISTENER_GRACE: Duration = Duration::from_secs(15);

/// A bound port, for the task that accepts from it.
#[derive(Debug)]
pub struct BoundPort {
    pub watched: Arc<WatchedPort>,
    pub socket: PortSocket,
}

/// The channel of bound ports to the task that accepts from them.
#[derive(Clone)]
pub struct BoundPorts(Arc<dyn Fn(BoundPort) + Send + Sync>);

impl BoundPorts {
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<BoundPort>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let send = move |port| {
            // Nobody accepts any longer during the drain.
            let _ = sender.send(port);
        };
        (Self(Arc::new(send)), receiver)
    }

    pub(crate) fn send(&self, port: BoundPort) {
        (self.0)(port);
    }
}

impl std::fmt::Debug for BoundPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoundPorts")
    }
}

#[derive(Debug)]
pub enum PortSocket {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

impl std::fmt::Debug for WatchedPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WatchedPort({}/{})", self.transport, self.number)
    }
}

impl WatchedPort {
    pub(crate) fn new(transport: Transport, number: u16, resolved: ResolvedPort) -> Self {
        Self {
            transport,
            number,
            current: ArcSwap::from_pointee(resolved),
            removed: ArcSwapOption::empty(),
            closed: CancellationToken::new(),
        }
    }

    /// Returns what is served now. A request calls this once.
    pub fn load(&self) -> Guard<Arc<ResolvedPort>> {
        self.current.load()
    }

    /// Returns the version before the listener was removed, for a short time.
    pub fn before_removal(&self, listener: &Arc<CancellationToken>) -> Option<Arc<ResolvedPort>> {
        let gone = self.removed.load();
        let gone = gone.as_ref()?;
        let mut listeners = gone.listeners.iter();
        let is = listeners.any(|of| Arc::ptr_eq(of, listener)) && Instant::now() < gone.until;
        is.then(|| Arc::clone(&gone.port))
    }

    /// Resolves when no more connections are to be accepted.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Serves `resolved` from now on, and tells connections that belong to none of its listeners to
    /// finish.
    pub(crate) fn store(&self, resolved: ResolvedPort) {
        let before = self.current.load_full();
        let listeners = before.removed_listeners(&resolved);
        let until = Instant::now() + REMOVED_LISTENER_GRACE;
        if !listeners.is_empty() {
            self.removed.store(Some(Arc::new(RemovedListeners {
                port: Arc::clone(&before),
                listeners,
                until,
            })));
        } else if self
            .removed
            .load()
            .as_ref()
            .is_some_and(|gone| gone.until < Instant::now())
        {
            self.removed.store(None);
        }
        // Connections are told first, so that none is answered by a version that does not know its
        // listener.
        before.close_incompatible(&resolved);
        self.current.store(Arc::new(resolved));
    }

    /// Accepts no more connections, and tells open ones to finish.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.load().finish();
    }
}

/// One version of a port.
pub struct ResolvedPort {
    pub serving: ResolvedServing,
    /// Cancelled when all connections are to finish: the port is removed, or serves something else.
    /// Connections of TLS go by their listener's token.
    pub closing: CancellationToken,
}

pub enum ResolvedServing {
    /// By the request's host.
    Http(HostMap<ResolvedListener>),
    /// By the server's name in the ClientHello.
    Tls(HostMap<ResolvedTlsListener>),
    /// All connections, or all datagrams.
    Stream(ResolvedStream),
}

/// A listener of HTTP, or of HTTPS behind its TLS.
pub struct ResolvedListener {
    pub name: Arc<str>,
    /// What a request has to pass before it is matched, in order.
    pub external_auth: Vec<ResolvedAuth>,
    /// By the request's host; every fitting one is tried, the closest first.
    pub hosts: HostMap<Routes>,
    /// Counts the requests without a match.
    pub unmatched: Arc<RequestMetrics>,
}

pub struct ResolvedTlsListener {
    pub name: Arc<str>,
    pub hostname: Option<HostPattern>,
    pub serving: ResolvedTlsServing,
    /// Cancelled when its connections are to finish. The same from version to version for as long
    /// as connections may go on: a connection belongs to the listener that has its token.
    pub closing: Arc<CancellationToken>,
}

pub enum ResolvedTlsServing {
    Http(Arc<Termination>, ResolvedListener),
    Terminate(Arc<Termination>, TlsRoutes),
    Passthrough(TlsRoutes),
}

pub struct ResolvedStream {
    pub name: Arc<str>,
    /// `None`: no route is attached. The same from version to version, so that sessions of
    /// datagrams follow it.
    pub rule: Arc<ArcSwapOption<ResolvedRule>>,
    /// Counts the connections without a match.
    pub unmatched: Arc<RequestMetrics>,
}

impl ResolvedPort {
    /// Tells connections for which `now` has no listener to finish.
    fn close_incompatible(&self, now: &Self) {
        if !self.serving.is_same_kind(&now.serving) {
            self.finish();
            return;
        }
        let ResolvedServing::Tls(listeners) = &self.serving else {
            return;
        };
        for listener in listeners.values() {
            if now.serving.listener_of(&listener.closing).is_none() {
                listener.closing.cancel();
            }
        }
    }

    /// Returns the TLS listeners that `now` removes, rather than changes.
    fn removed_listeners(&self, now: &Self) -> Vec<Arc<CancellationToken>> {
        let ResolvedServing::Tls(listeners) = &self.serving else {
            return Vec::new();
        };
        let names: HashSet<&str> = match &now.serving {
            ResolvedServing::Tls(now) => now.values().map(|of| &*of.name).collect(),
            ResolvedServing::Http(_) | ResolvedServing::Stream(_) => HashSet::new(),
        };
        let gone = listeners.values().filter(|of| !names.contains(&*of.name));
        gone.map(|of| Arc::clone(&of.closing)).collect()
    }

    /// Returns true if the route has retries.
    pub fn retries_route(&self, route: &RouteId) -> bool {
        self.any_host(|routes| routes.retries_route(route))
    }

    /// Returns true if a listener has the name.
    pub fn has_listener(&self, name: &str) -> bool {
        match &self.serving {
            ResolvedServing::Http(listeners) => listeners.values().any(|of| *of.name == *name),
            ResolvedServing::Tls(listeners) => listeners.values().any(|of| *of.name == *name),
            ResolvedServing::Stream(stream) => *stream.name == *name,
        }
    }

    /// Returns true if a request may match a rule of the route.
    pub fn has_route(&self, route: &RouteId) -> bool {
        self.any_host(|routes| routes.table.rules().any(|(rule, _)| rule.route == *route))
    }

    /// Returns true if `is` holds for the routes of any host, on any listener for requests.
    fn any_host(&self, is: impl Fn(&Routes) -> bool) -> bool {
        self.any_listener(|listener| listener.hosts.values().any(&is))
    }

    /// Returns true if `is` holds for any listener for requests.
    fn any_listener(&self, is: impl Fn(&ResolvedListener) -> bool) -> bool {
        match &self.serving {
            ResolvedServing::Http(listeners) => listeners.values().any(is),
            ResolvedServing::Tls(listeners) => listeners.values().any(|of| match &of.serving {
                ResolvedTlsServing::Http(_, listener) => is(listener),
                ResolvedTlsServing::Terminate(..) | ResolvedTlsServing::Passthrough(_) => false,
            }),
            ResolvedServing::Stream(_) => false,
        }
    }

    fn finish(&self) {
        self.closing.cancel();
        if let ResolvedServing::Tls(listeners) = &self.serving {
            listeners.values().for_each(|of| of.closing.cancel());
        }
    }

    /// Returns true if any request or connection may be sent to the cluster.
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        let of_bytes = match &self.serving {
            ResolvedServing::Http(_) => false,
            ResolvedServing::Tls(listeners) => listeners.values().any(|of| match &of.serving {
                ResolvedTlsServing::Http(..) => false,
                ResolvedTlsServing::Terminate(_, routes)
                | ResolvedTlsServing::Passthrough(routes) => routes.refers_to(cluster),
            }),
            ResolvedServing::Stream(stream) => {
                let rule = stream.rule.load();
                rule.as_ref().is_some_and(|rule| rule.refers_to(cluster))
            }
        };
        let checks = |listener: &ResolvedListener| {
            listener
                .external_auth
                .iter()
                .any(|of| of.refers_to(cluster))
        };
        of_bytes || self.any_listener(checks) || self.any_host(|routes| routes.refers_to(cluster))
    }
}

impl ResolvedServing {
    /// Returns true if connections of the one may go on with the other.
    pub(super) fn is_same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// Returns the TLS listener that a connection belongs to.
    fn listener_of(&self, to: &Arc<CancellationToken>) -> Option<&ResolvedTlsListener> {
        let Self::Tls(listeners) = self else {
            return None;
        };
        listeners
            .values()
            .find(|listener| Arc::ptr_eq(&listener.closing, to))
    }
}

impl ResolvedTlsServing {
    pub(super) fn termination(&self) -> Option<&Arc<Termination>> {
        match self {
            Self::Http(termination, _) | Self::Terminate(termination, _) => Some(termination),
            Self::Passthrough(_) => None,
        }
    }

    /// Returns true if what a handshake with `self` promised still holds with `now`: the
    /// certificate may differ.
    pub(super) fn is_compatible(&self, now: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(now)
            && match (self.termination(), now.termination()) {
                (Some(before), Some(now)) => before.clients() == now.clients(),
                (None, None) => true,
                _ => false,
            }
    }
}
