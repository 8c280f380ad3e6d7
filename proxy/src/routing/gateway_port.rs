//! The ports of a gateway as connections and requests use them: listeners by host name, routes compiled, certificates read.
//!
//! Whoever serves a connection holds an `Arc<WatchedPort>`; each request loads it once and sees one version throughout. What
//! is here decides nothing: rules and their clusters are those of [`super::destination`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_ir::{
    GatewayPort, HostMap, HostPattern, RouteId, Serving, TlsListener, TlsServing, Transport,
    VirtualHost,
};

use super::destination::{ResolvedRule, Resolver, Routes, TlsRoutes};
use crate::telemetry::requests::RequestMetrics;
use crate::tls::termination::Termination;
use crate::upstream::Cluster;

/// One port that the gateway listens on, kept up to date for as long as it is held.
pub struct WatchedPort {
    pub transport: Transport,
    pub number: u16,
    current: ArcSwap<ResolvedPort>,
    /// Where listeners went with the newest version: the one before, for connections of theirs that are open.
    removed: ArcSwapOption<RemovedListeners>,
    /// Cancelled when nothing more is to be accepted.
    closed: CancellationToken,
}

/// A version of which listeners are gone.
struct RemovedListeners {
    port: Arc<ResolvedPort>,
    listeners: Vec<Arc<CancellationToken>>,
    until: Instant,
}

/// How long a request that comes on a connection of a listener that is gone is still served: the connections are told to
/// go with their next answer, and closed without one after this time.
const REMOVED_LISTENER_GRACE: Duration = Duration::from_secs(15);

/// A port that was bound, for whoever accepts from it.
#[derive(Debug)]
pub struct BoundPort {
    pub watched: Arc<WatchedPort>,
    pub socket: PortSocket,
}

/// The way of ports to whoever accepts from them.
#[derive(Clone)]
pub struct BoundPorts(Arc<dyn Fn(BoundPort) + Send + Sync>);

impl BoundPorts {
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<BoundPort>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let send = move |port| {
            // Nobody accepts any longer while the process ends.
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

    /// What is served now. A request calls this once.
    pub fn load(&self) -> Guard<Arc<ResolvedPort>> {
        self.current.load()
    }

    /// The version before the listener went, for a short time.
    pub fn before_removal(&self, listener: &Arc<CancellationToken>) -> Option<Arc<ResolvedPort>> {
        let gone = self.removed.load();
        let gone = gone.as_ref()?;
        let mut listeners = gone.listeners.iter();
        let is = listeners.any(|of| Arc::ptr_eq(of, listener)) && Instant::now() < gone.until;
        is.then(|| Arc::clone(&gone.port))
    }

    /// Resolves when nothing more is to be accepted.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Serves `resolved` from now on; connections that belong to none of its listeners are told to finish.
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
        // Connections are told first: then none is answered by a version that does not know its listener.
        before.close_incompatible(&resolved);
        self.current.store(Arc::new(resolved));
    }

    /// Nothing more is accepted, and connections that are open are told to finish.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.load().finish();
    }
}

/// One version of a port.
pub struct ResolvedPort {
    pub serving: ResolvedServing,
    /// Cancelled when all its connections are to finish: the port is gone, or serves something else. Those of TLS go by
    /// their listener's.
    pub closing: CancellationToken,
}

pub enum ResolvedServing {
    /// By the request's host.
    Http(HostMap<ResolvedListener>),
    /// By the server's name in the ClientHello.
    Tls(HostMap<ResolvedTlsListener>),
    /// Connections or datagrams that nothing tells apart.
    Stream(ResolvedStream),
}

/// A listener of HTTP, or of HTTPS behind its TLS.
pub struct ResolvedListener {
    pub name: Arc<str>,
    /// By the request's host; every fitting one is tried, the closest first.
    pub hosts: HostMap<Routes>,
    /// Counts the requests that no rule takes.
    pub unmatched: Arc<RequestMetrics>,
}

pub struct ResolvedTlsListener {
    pub name: Arc<str>,
    pub hostname: Option<HostPattern>,
    pub serving: ResolvedTlsServing,
    /// Cancelled when its connections are to finish. The same from version to version for as long as what a handshake
    /// promised still holds: a connection belongs to the listener that has its token.
    pub closing: Arc<CancellationToken>,
}

pub enum ResolvedTlsServing {
    Http(Arc<Termination>, ResolvedListener),
    Terminate(Arc<Termination>, TlsRoutes),
    Passthrough(TlsRoutes),
}

pub struct ResolvedStream {
    pub name: Arc<str>,
    /// `None`: no route is attached. The same from version to version, so that sessions of datagrams follow it.
    pub rule: Arc<ArcSwapOption<ResolvedRule>>,
    /// Counts the connections that no rule takes.
    pub unmatched: Arc<RequestMetrics>,
}

impl ResolvedPort {
    /// Tells the connections that `now` has no listener for to finish.
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

    /// The listeners of TLS that are gone from `now`, and not merely changed.
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

    /// Whether requests are sent again for the route.
    pub fn retries_route(&self, route: &RouteId) -> bool {
        let of_listener = |listener: &ResolvedListener| {
            let mut hosts = listener.hosts.values();
            hosts.any(|routes| routes.retries_route(route))
        };
        match &self.serving {
            ResolvedServing::Http(listeners) => listeners.values().any(of_listener),
            ResolvedServing::Tls(listeners) => listeners.values().any(|of| match &of.serving {
                ResolvedTlsServing::Http(_, listener) => of_listener(listener),
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

    /// Whether any request or connection may be sent to the cluster.
    pub(crate) fn refers_to(&self, cluster: &Arc<Cluster>) -> bool {
        let any = |rules: &[ResolvedRule]| rules.iter().any(|rule| rule.refers_to(cluster));
        let http = |listener: &ResolvedListener| {
            let mut routes = listener.hosts.values();
            routes.any(|routes| routes.refers_to(cluster))
        };
        match &self.serving {
            ResolvedServing::Http(listeners) => listeners.values().any(http),
            ResolvedServing::Tls(listeners) => listeners.values().any(|of| match &of.serving {
                ResolvedTlsServing::Http(_, listener) => http(listener),
                ResolvedTlsServing::Terminate(_, routes)
                | ResolvedTlsServing::Passthrough(routes) => any(&routes.rules),
            }),
            ResolvedServing::Stream(stream) => {
                let rule = stream.rule.load();
                rule.as_ref().is_some_and(|rule| rule.refers_to(cluster))
            }
        }
    }
}

impl ResolvedServing {
    /// Whether connections of the one may go on with the other.
    fn is_same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }

    /// The TLS listener that a connection belongs to.
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
    fn termination(&self) -> Option<&Arc<Termination>> {
        match self {
            Self::Http(termination, _) | Self::Terminate(termination, _) => Some(termination),
            Self::Passthrough(_) => None,
        }
    }

    /// Whether what a handshake with `self` promised still holds with `now`: the certificate may be another.
    fn is_compatible(&self, now: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(now)
            && match (self.termination(), now.termination()) {
                (Some(before), Some(now)) => before.clients() == now.clients(),
                (None, None) => true,
                _ => false,
            }
    }
}

impl Resolver<'_> {
    /// `before`: the version that is in force, of which certificates and connections are kept. Listeners whose
    /// certificates cannot be used are left without, and named in `faults`.
    pub(crate) fn port(
        &mut self,
        port: &GatewayPort,
        before: Option<&ResolvedPort>,
        faults: &mut Vec<String>,
    ) -> ResolvedPort {
        self.compose(&port.services);
        let before_of_tls = before.and_then(|before| match &before.serving {
            ResolvedServing::Tls(listeners) => Some(listeners),
            _ => None,
        });
        let serving = match &port.serving {
            Serving::Http(listeners) => {
                let mut map = HostMap::default();
                for listener in listeners {
                    let resolved = self.listener(&listener.name, &listener.hosts);
                    map.insert(listener.hostname.clone(), resolved);
                }
                ResolvedServing::Http(map)
            }
            Serving::Tls(listeners) => {
                let mut map = HostMap::default();
                for listener in listeners {
                    let before = before_of_tls.and_then(|before| {
                        before.values().find(|known| known.name == listener.name)
                    });
                    let resolved = self.tls_listener(listener, before, faults);
                    map.insert(listener.hostname.clone(), resolved);
                }
                ResolvedServing::Tls(map)
            }
            Serving::Tcp(stream) | Serving::Udp(stream) => {
                let known = before.and_then(|before| match &before.serving {
                    ResolvedServing::Stream(before) => Some(before.rule.clone()),
                    _ => None,
                });
                let watched = known.unwrap_or_default();
                let rule = stream.rule.as_ref().map(|rule| self.connection_rule(rule));
                watched.store(rule.map(Arc::new));
                ResolvedServing::Stream(ResolvedStream {
                    name: stream.name.clone(),
                    rule: watched,
                    unmatched: self.unmatched(),
                })
            }
        };
        let closing = match before {
            Some(before) if before.serving.is_same_kind(&serving) => before.closing.clone(),
            _ => CancellationToken::new(),
        };
        ResolvedPort { serving, closing }
    }

    fn listener(&mut self, name: &Arc<str>, hosts: &[VirtualHost]) -> ResolvedListener {
        let mut map = HostMap::default();
        for virtual_host in hosts {
            map.insert(virtual_host.host.clone(), self.routes(&virtual_host.rules));
        }
        ResolvedListener {
            name: name.clone(),
            hosts: map,
            unmatched: self.unmatched(),
        }
    }

    fn tls_listener(
        &mut self,
        listener: &TlsListener,
        before: Option<&ResolvedTlsListener>,
        faults: &mut Vec<String>,
    ) -> ResolvedTlsListener {
        let known = before.and_then(|before| before.serving.termination());
        let mut terminate = |tls, alpn: &[&[u8]]| {
            let termination = Termination::new(tls, alpn, known);
            let words = termination.faults().iter();
            faults.extend(words.map(|fault| format!("listener {}: {fault}", listener.name)));
            termination
        };
        let serving = match &listener.serving {
            TlsServing::Http { tls, hosts } => {
                let termination = terminate(tls, &[b"h2", b"http/1.1"]);
                ResolvedTlsServing::Http(termination, self.listener(&listener.name, hosts))
            }
            TlsServing::Terminate { tls, rules } => {
                ResolvedTlsServing::Terminate(terminate(tls, &[]), self.tls_routes(rules))
            }
            TlsServing::Passthrough { rules } => {
                ResolvedTlsServing::Passthrough(self.tls_routes(rules))
            }
        };
        let same = before.filter(|before| {
            before.hostname == listener.hostname && before.serving.is_compatible(&serving)
        });
        ResolvedTlsListener {
            name: listener.name.clone(),
            hostname: listener.hostname.clone(),
            serving,
            closing: same.map_or_else(Arc::default, |before| before.closing.clone()),
        }
    }
}
