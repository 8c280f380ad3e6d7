//! Which rule takes a request: of a destination for what the pod sends, of a port's listeners for a
//! gateway's clients.
//!
//! Source for listeners: Gateway API v1.6.3, `Listener.hostname` (the most specific listener alone
//! takes a request) and GEP-3567 (a request on a connection of another listener's TLS is answered
//! with 421).

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http::Version;
use http::request::Parts;
use tokio_util::sync::CancellationToken;
use weft_ir::{Filter, ForwardedTrust, Gateway, PathMatch, RouteId, RouteSection, bare_host};

use super::errors::Failure;
use super::exchange::Downstream;
use super::filters::own_authority;
use super::forwarded::{self, Connection};
use super::path;
use super::response_body::RequestState;
use super::route_policy::RoutePolicy;
use crate::authorization::{ClientPolicies, Permit};
use crate::routing::destination::{
    ComposedService, Resolved, ResolvedMirror, ResolvedRouting, ResolvedRule, Routes,
    WatchedDestination,
};
use crate::routing::external_auth::ResolvedAuth;
use crate::routing::gateway_port::{
    ResolvedListener, ResolvedPort, ResolvedServing, ResolvedTlsServing, WatchedPort,
};
use crate::upstream::Cluster;

/// Where the routes for the requests of a connection come from.
pub enum RouteSource {
    /// The destination that the pod connected to.
    Destination(Arc<WatchedDestination>),
    Gateway(GatewayConnection),
}

/// A connection of a gateway's client.
pub struct GatewayConnection {
    pub port: Arc<WatchedPort>,
    /// The address that the client connected to.
    pub local: SocketAddr,
    /// The token of the listener that terminated its TLS; `None` without TLS.
    pub listener: Option<Arc<CancellationToken>>,
    pub policies: Arc<ClientPolicies>,
}

impl GatewayConnection {
    /// Returns the version in force. For a removed listener it is the one before, so that requests
    /// on its connections are answered as promised until these have ended.
    fn load(&self) -> Arc<ResolvedPort> {
        let gone = self.listener.as_ref().filter(|own| own.is_cancelled());
        let before = gone.and_then(|own| self.port.before_removal(own));
        before.unwrap_or_else(|| arc_swap::Guard::into_inner(self.port.load()))
    }
}

/// One version of a source's routes.
pub enum RouteConfig {
    Destination(Arc<Resolved>),
    Gateway(Arc<ResolvedPort>),
}

impl RouteSource {
    /// Returns the version in force. A request calls this once.
    pub fn load(&self) -> RouteConfig {
        match self {
            Self::Destination(watched) => {
                RouteConfig::Destination(arc_swap::Guard::into_inner(watched.load()))
            }
            Self::Gateway(connection) => RouteConfig::Gateway(connection.load()),
        }
    }

    /// Returns true if a route that had retries in version `config` still has them.
    pub fn retries_route(&self, config: &RouteConfig, route: &RouteId) -> bool {
        match (self.load(), config) {
            (RouteConfig::Destination(now), RouteConfig::Destination(then)) => {
                Arc::ptr_eq(&now, then) || now.retries_route(route)
            }
            (RouteConfig::Gateway(now), RouteConfig::Gateway(then)) => {
                Arc::ptr_eq(&now, then) || now.retries_route(route)
            }
            (RouteConfig::Destination(_), _) | (RouteConfig::Gateway(_), _) => false,
        }
    }

    /// Returns where the connection was going: the host, if the client named none.
    pub fn address(&self) -> SocketAddr {
        match self {
            Self::Destination(watched) => watched.address,
            Self::Gateway(connection) => connection.local,
        }
    }

    /// Returns the port that the client connected to.
    pub fn port(&self) -> u16 {
        match self {
            Self::Destination(watched) => watched.address.port(),
            Self::Gateway(connection) => connection.port.number,
        }
    }

    pub fn scheme(&self) -> &'static str {
        match self {
            Self::Gateway(GatewayConnection {
                listener: Some(_), ..
            }) => "https",
            Self::Gateway(_) | Self::Destination(_) => "http",
        }
    }

    /// Sets the forwarded headers of a gateway's request, whatever its client says, and normalizes
    /// its path. Returns what policies decide on; `None` for what the pod sends.
    pub fn set_forwarded_headers(
        &self,
        head: &mut Parts,
        downstream: &Downstream,
    ) -> Option<Permit> {
        let Self::Gateway(connection) = self else {
            return None;
        };
        let accepted = Connection {
            client: downstream.address,
            tls: connection.listener.is_some(),
            port: connection.port.number,
        };
        let gateway = downstream.runtime.store.gateway();
        let nobody = ForwardedTrust::default();
        let trust = gateway
            .as_ref()
            .map_or(&nobody, |gateway| &gateway.forwarded);
        let client = forwarded::set(head, accepted, trust, forwarded::new_request_id);
        let normalizes = |gateway: &Arc<Gateway>| gateway.normalize_paths;
        if gateway.as_ref().is_none_or(normalizes) || connection.policies.reads_paths() {
            path::normalize(head);
        }
        Some(connection.policies.gateway_request(head, client))
    }

    /// Returns the version of HTTP for an application that declares none. From a sidecar it is what
    /// the pod spoke. A gateway's clients speak HTTP/2 whenever they can, which says nothing of the
    /// application, unless it is gRPC.
    pub fn version(&self, asked: Version, grpc: bool) -> Version {
        match self {
            Self::Gateway(_) if !grpc => Version::HTTP_11,
            Self::Gateway(_) | Self::Destination(_) => asked,
        }
    }

    /// Returns the listener of a gateway's request, in whose metrics it counts from here on.
    pub fn listener<'a>(
        &self,
        config: &'a RouteConfig,
        head: &mut Parts,
        state: &mut RequestState,
    ) -> Result<Option<&'a ResolvedListener>, Failure> {
        let (Self::Gateway(connection), RouteConfig::Gateway(config)) = (self, config) else {
            return Ok(None);
        };
        let listener = listener(connection, config, host(head)?.as_deref())?;
        state.exchange.metrics = listener.unmatched.clone();
        state.exchange.set_listener(&listener.name);
        let name = &listener.name;
        state.exchange.authenticate_at_listener(name, head)?;
        Ok(Some(listener))
    }

    /// Matches the request in this version; it counts in the metrics of the rule from here on. At a
    /// gateway the rules are those of its listener.
    pub fn route<'a>(
        &self,
        config: &'a RouteConfig,
        listener: Option<&'a ResolvedListener>,
        head: &mut Parts,
        state: &mut RequestState,
    ) -> Result<MatchedRoute<'a>, Failure> {
        match (self, config, listener) {
            (Self::Destination(watched), RouteConfig::Destination(config), _) => {
                by_destination(config, head, state, watched.address)
            }
            (Self::Gateway(_), RouteConfig::Gateway(_), Some(listener)) => {
                by_host(listener, head, state)
            }
            // A source loads versions of its own kind.
            (_, RouteConfig::Destination(_) | RouteConfig::Gateway(_), _) => {
                Err(Failure::Misdirected)
            }
        }
    }
}

/// The rule that a request matched.
pub struct MatchedRoute<'a> {
    pub filters: &'a [Filter],
    pub path: Option<&'a PathMatch>,
    pub policy: Option<RoutePolicy<'a>>,
    pub target: Target<'a>,
    /// Whose policies decide once an external server has allowed the request.
    pub undecided: Option<&'a Arc<RouteSection>>,
}

pub enum Target<'a> {
    Rule(&'a ResolvedRule),
    Pod(&'a Arc<Cluster>),
}

impl<'a> MatchedRoute<'a> {
    fn unconditional(target: Target<'a>) -> Self {
        Self {
            filters: &[],
            path: None,
            policy: None,
            target,
            undecided: None,
        }
    }

    fn section(&self) -> Option<&'a Arc<RouteSection>> {
        match self.target {
            Target::Rule(rule) => rule.section.as_ref(),
            Target::Pod(_) => None,
        }
    }

    pub fn external_auth(&self) -> Option<&'a ResolvedAuth> {
        match self.target {
            Target::Rule(rule) => rule.external_auth.as_deref(),
            Target::Pod(_) => None,
        }
    }

    pub fn mirrors(&self) -> &'a [ResolvedMirror] {
        match self.target {
            Target::Rule(rule) => &rule.mirrors,
            Target::Pod(_) => &[],
        }
    }
}

fn by_destination<'a>(
    config: &'a Resolved,
    head: &Parts,
    state: &mut RequestState,
    address: SocketAddr,
) -> Result<MatchedRoute<'a>, Failure> {
    let service = match config {
        Resolved::Service(service) => service,
        Resolved::Pod(cluster) => return Ok(MatchedRoute::unconditional(Target::Pod(cluster))),
        Resolved::Unknown => return Err(Failure::Gone(address)),
    };
    match &service.routing {
        ResolvedRouting::Direct(rule) => Ok(MatchedRoute::unconditional(Target::Rule(rule))),
        // The connection is older than this routing, which would forward its bytes.
        ResolvedRouting::Tcp(rule) => Ok(MatchedRoute::unconditional(Target::Rule(rule))),
        ResolvedRouting::Tls(routes) => {
            state.exchange.metrics = routes.unmatched.clone();
            Err(Failure::NoRoute(service.id.to_string()))
        }
        ResolvedRouting::Http(routes, _) | ResolvedRouting::Grpc(routes, _) => {
            match_rule(routes, head, state)?.ok_or_else(|| Failure::NoRoute(service.id.to_string()))
        }
    }
}

fn by_host<'a>(
    listener: &'a ResolvedListener,
    head: &mut Parts,
    state: &mut RequestState,
) -> Result<MatchedRoute<'a>, Failure> {
    state.exchange.authorize_at_listener(&listener.name, head)?;
    let mut matched_route = match_host(listener, head, state)?;
    let section = matched_route.section();
    state.exchange.authenticate_at_route(section, head)?;
    match matched_route.external_auth() {
        Some(_) => matched_route.undecided = section,
        None => state.exchange.authorize_at_route(section, head)?,
    }
    Ok(matched_route)
}

/// Matches the request against the routes of its listener. Claims may have become headers before.
fn match_host<'a>(
    listener: &'a ResolvedListener,
    head: &Parts,
    state: &mut RequestState,
) -> Result<MatchedRoute<'a>, Failure> {
    let host = host(head)?;
    for routes in listener.hosts.fitting(host.as_deref()) {
        if let Some(matched_route) = match_rule(routes, head, state)? {
            return Ok(matched_route);
        }
    }
    Err(Failure::NoRoute(format!("listener {}", listener.name)))
}

impl ComposedService {
    /// Matches a request that a gateway's rule sends to the Service against the Service's own
    /// routes; it counts in the metrics of the rule from here on.
    pub fn route(
        &self,
        head: &Parts,
        state: &mut RequestState,
    ) -> Result<MatchedRoute<'_>, Failure> {
        // A request without a match counts in the metrics of the gateway's rule.
        let chosen = state.exchange.metrics.clone();
        match match_rule(&self.routes, head, state)? {
            Some(matched_route) => Ok(matched_route),
            None => {
                state.exchange.metrics = chosen;
                Err(Failure::NoRoute(self.id.to_string()))
            }
        }
    }
}

/// Returns the most specific listener for the host.
fn listener<'a>(
    connection: &GatewayConnection,
    config: &'a ResolvedPort,
    host: Option<&str>,
) -> Result<&'a ResolvedListener, Failure> {
    let none = || Failure::NoListener(connection.port.number);
    match (&config.serving, &connection.listener) {
        (ResolvedServing::Http(listeners), None) => listeners.fitting(host).next().ok_or_else(none),
        (ResolvedServing::Tls(listeners), Some(own)) => {
            let of = listeners.fitting(host).next().ok_or_else(none)?;
            match &of.serving {
                ResolvedTlsServing::Http(_, listener) if Arc::ptr_eq(&of.closing, own) => {
                    Ok(listener)
                }
                _ => Err(Failure::Misdirected),
            }
        }
        // The connection is older than what the port serves now.
        _ => Err(Failure::Misdirected),
    }
}

/// Returns the host of the request, as listeners and virtual hosts match it. Only HTTP/1.0 need not
/// name one.
fn host(head: &Parts) -> Result<Option<Cow<'_, str>>, Failure> {
    let authority = own_authority(head).unwrap_or_default();
    let host = bare_host(authority);
    if host.is_empty() {
        return match head.version {
            Version::HTTP_10 | Version::HTTP_09 => Ok(None),
            _ => Err(Failure::BadRequest("no host")),
        };
    }
    if !authority.bytes().all(is_of_host) {
        return Err(Failure::BadRequest("the host is no host"));
    }
    Ok(Some(match host.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(host.to_ascii_lowercase()),
        false => Cow::Borrowed(host),
    }))
}

/// RFC 3986, 3.2.2 and 3.2.3: no user, no path, nothing that one reader may take for an end and
/// another not.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(&byte)
}

fn match_rule<'a>(
    routes: &'a Routes,
    head: &Parts,
    state: &mut RequestState,
) -> Result<Option<MatchedRoute<'a>>, Failure> {
    let Some(matched) = routes.table.find(&head.method, &head.uri, &head.headers) else {
        state.exchange.metrics = routes.unmatched.clone();
        return Ok(None);
    };
    let rule = matched.payload;
    state.exchange.metrics = rule.metrics.clone();
    if matched.invalid {
        return Err(Failure::BrokenMatch);
    }
    if let Some(reason) = &matched.rule.failure {
        return Err(Failure::Misconfigured(reason.clone()));
    }
    Ok(Some(MatchedRoute {
        filters: &matched.rule.filters,
        path: matched.path,
        policy: RoutePolicy::of(matched.rule),
        target: Target::Rule(rule),
        undecided: None,
    }))
}

#[cfg(test)]
mod tests;
