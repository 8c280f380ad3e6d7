//! Forwards a request to where its routes lead: from the pod, or from a gateway's client.
//!
//! [`Outbound::handle`] reads the configuration once, and is the only place where failures become
//! responses.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use tokio_util::sync::CancellationToken;
use weft_ir::{Filter, RouteId};

use super::client_connections::ClientConnection;
use super::errors::{Failure, ShortCircuit, contain, redact};
use super::exchange::{Downstream, Exchange};
use super::filters::FilterEffects;
use super::informational::Progress;
use super::mirror::MirroredRequests;
use super::response_body::{RequestState, Response, ResponseBody};
use super::retry;
use super::route_policy::RoutePolicy;
use super::routes::{MatchedRoute, RouteConfig, RouteSource, Target};
use super::serve::{Handler, Request};
use super::{cors, filters, headers, upgrade};
use crate::body::{ClientBody, ReplayBuffer};
use crate::lease::Owner;
use crate::routing::destination::{ComposedService, ResolvedMirror};
use crate::routing::external_auth::ResolvedAuth;
use crate::telemetry::error_type::ErrorType;
use crate::telemetry::labels::Direction;
use crate::upstream::{Cluster, UpstreamRequest, UpstreamResponse};

/// One connection whose requests are routed.
pub struct Outbound {
    pub downstream: Owner<Downstream>,
    pub source: RouteSource,
}

impl Handler for Outbound {
    async fn handle(self: Arc<Self>, request: Request) -> Response {
        let config = self.source.load();
        let metrics = &self.downstream.runtime.metrics;
        let unrouted = match self.downstream.direction {
            Direction::Gateway => &metrics.gateway,
            Direction::Outbound | Direction::Inbound => &metrics.outbound_pod,
        };
        let exchange = Exchange::begin(&self.downstream, &request, unrouted);
        let mut state = RequestState::new(exchange);
        let mut filters = ResponseFilters::default();
        let sent = self.forward(&config, request, &mut filters, &mut state);
        let mut response = match contain(sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(ShortCircuit::Response(response))) => *response,
            Ok(Err(ShortCircuit::Failure(failure))) => state.exchange.respond(&failure, false),
            Err(_) => state.exchange.respond(&Failure::Panicked, false),
        };
        filters.apply(response.headers_mut());
        state.attach(response)
    }

    fn is_busy(&self) -> bool {
        self.downstream.is_leased()
    }

    fn evicted(&self) -> Option<&CancellationToken> {
        let client = self.downstream.client.as_deref();
        client.map(ClientConnection::evicted)
    }

    fn malformed_request(&self, error: &hyper::Error) {
        self.downstream.log_malformed(error);
    }

    fn count_protocol_error(&self, error_type: ErrorType) {
        let downstream = &self.downstream;
        let listener = downstream.direction.as_str();
        downstream
            .runtime
            .metrics
            .protocol_error(listener, error_type);
    }
}

impl Outbound {
    async fn forward<'a>(
        &self,
        config: &'a RouteConfig,
        request: Request,
        filters: &mut ResponseFilters<'a>,
        state: &mut RequestState,
    ) -> Result<Response, ShortCircuit> {
        self.downstream.admit()?;
        let (mut head, body) = request.into_parts();
        let upgrade = headers::clean_request(&mut head)?;
        state.exchange.permit = self
            .source
            .set_forwarded_headers(&mut head, &self.downstream);
        let runtime = &self.downstream.runtime;
        let mut body = ClientBody::new(body, &runtime.overload.replay);
        if state.exchange.is_from_gateway() {
            body.replay_buffer.set_idle_timeout(runtime.body_idle);
        }
        let parts = (&mut head, &mut body);
        let decision = self.decide_route(config, parts, filters, state).await?;
        let on_upgrade = upgrade.then(|| upgrade::take(&mut head));
        let address = self.source.address();
        let mut request = UpstreamRequest::with_body(head, body, upgrade, address);
        request.client = Some(state.exchange.client_address().ip());
        let permit = state.exchange.permit.as_ref();
        request.replay_buffer.set_permit(permit);
        // An upgrade is not mirrored, and only the response tells whether it is one. With a body,
        // mirrors cannot wait for it.
        if !(upgrade && request.replay_buffer.is_none()) {
            std::mem::take(&mut state.mirrored).send(
                &request.replay_buffer,
                address,
                &self.downstream.runtime,
            );
        }
        state.exchange.replay_buffer = Some(request.replay_buffer.clone());
        let of_backend = decision.cluster.request_policy();
        let policy = RoutePolicy::or_backend(decision.policy, of_backend.as_deref());
        let sent = match policy {
            None => {
                let mut progress = Progress(&mut state.exchange);
                let sent = decision.cluster.send(request, &mut progress).await;
                sent.map_err(Failure::from)
            }
            // Boxed, so that the futures of requests without a policy stay small.
            Some(policy) => {
                let in_force = |route: &RouteId| self.source.retries_route(config, route);
                Box::pin(retry::send(
                    decision.cluster,
                    request,
                    policy,
                    in_force,
                    state,
                ))
                .await
            }
        };
        let mirrored = std::mem::take(&mut state.mirrored);
        if !is_switching(&sent) {
            mirrored.send(&ReplayBuffer::none(), address, &self.downstream.runtime);
        }
        let upstream = sent.map_err(|failure| state.exchange.denied_or(failure))?;
        upgrade::check(&upstream, upgrade)?;
        let mut response = receive(upstream, false, state)?;
        let (permit, lease) = (&state.exchange.permit, &mut state.lease);
        upgrade::finish(&mut response, on_upgrade, &self.downstream, permit, lease);
        Ok(response)
    }
}

/// The cluster that a request goes to, and within which limits of its rules.
struct RouteDecision<'a> {
    cluster: &'a Arc<Cluster>,
    policy: Option<RoutePolicy<'a>>,
}

/// The filters that change the response, whether it comes from the upstream, a redirect, or a
/// failure.
#[derive(Default)]
struct ResponseFilters<'a> {
    /// In the order in which they were applied to the request.
    applied: [&'a [Filter]; 4],
    len: usize,
}

impl<'a> ResponseFilters<'a> {
    fn push(&mut self, filters: &'a [Filter]) {
        if let Some(place) = self.applied.get_mut(self.len) {
            *place = filters;
            self.len += 1;
        }
    }

    /// In reverse order: a backend's before its rule's, a Service's before a gateway's.
    fn apply(&self, headers: &mut HeaderMap) {
        for filters in self.applied.iter().rev() {
            filters::on_response(filters, headers);
        }
    }
}

impl Outbound {
    /// Decides where the request goes, and applies the filters on the way. Rules are applied once,
    /// or twice if a gateway's rule chooses a Service with routes of its own.
    async fn decide_route<'a>(
        &self,
        config: &'a RouteConfig,
        (head, body): (&mut Parts, &mut ClientBody),
        filters: &mut ResponseFilters<'a>,
        state: &mut RequestState,
    ) -> Result<RouteDecision<'a>, ShortCircuit> {
        let listener = self.source.listener(config, head, state)?;
        for auth in listener.into_iter().flat_map(|of| &of.external_auth) {
            self.check(auth, (&mut *head, &mut *body), None, state)
                .await?;
        }
        let matched_route = self.source.route(config, listener, head, state)?;
        let version = self.source.version(head.version, state.exchange.is_grpc());
        headers::set_version(head, version);
        let parts = (&mut *head, &mut *body);
        let chosen = self.choose(&matched_route, parts, filters, state).await?;
        let Some(service) = chosen.service else {
            return Ok(RouteDecision {
                cluster: chosen.cluster,
                policy: matched_route.policy,
            });
        };
        let mut own = service.route(head, state)?;
        own.policy = RoutePolicy::merge(matched_route.policy, own.policy);
        let last = self.choose(&own, (head, body), filters, state).await?;
        Ok(RouteDecision {
            cluster: last.cluster,
            policy: own.policy,
        })
    }

    /// Applies a rule: its filters, then those of the backend that it chooses.
    async fn choose<'a>(
        &self,
        matched_route: &MatchedRoute<'a>,
        (head, body): (&mut Parts, &mut ClientBody),
        on_response: &mut ResponseFilters<'a>,
        state: &mut RequestState,
    ) -> Result<ChosenBackend<'a>, ShortCircuit> {
        let context = filters::FilterContext {
            matched: matched_route.path,
            scheme: self.source.scheme(),
            port: self.source.port(),
        };
        on_response.push(matched_route.filters);
        let rest = match matched_route.external_auth() {
            Some(auth) => {
                let parts = (&mut *head, &mut *body);
                let all = (matched_route.filters, matched_route.undecided);
                self.up_to(auth, matched_route, all, parts, state).await?
            }
            None => matched_route.filters,
        };
        // After the check, whose server sees the token; before mirrors, which do as the backend.
        state.exchange.remove_tokens(head);
        let passed = filters::on_request(rest, head, context, &mut state.asked);
        self.settle(passed, &matched_route.policy, state).await?;
        state
            .mirrored
            .sample(matched_route.mirrors(), head, &self.downstream.runtime);
        let chosen = matched_route.backend(state)?;
        on_response.push(chosen.filters);
        let rest = match chosen.external_auth {
            Some(auth) => {
                let parts = (&mut *head, &mut *body);
                let all = (chosen.filters, None);
                self.up_to(auth, matched_route, all, parts, state).await?
            }
            None => chosen.filters,
        };
        let passed = filters::on_request(rest, head, context, &mut state.asked);
        self.settle(passed, &matched_route.policy, state).await?;
        state
            .mirrored
            .sample(chosen.mirrors, head, &self.downstream.runtime);
        Ok(chosen)
    }
}

struct ChosenBackend<'a> {
    cluster: &'a Arc<Cluster>,
    filters: &'a [Filter],
    mirrors: &'a [ResolvedMirror],
    external_auth: Option<&'a ResolvedAuth>,
    /// The Service whose own routes choose the cluster, in place of `cluster`.
    service: Option<&'a ComposedService>,
}

impl<'a> MatchedRoute<'a> {
    /// Picks a backend by weight; the request counts in its metrics from here on.
    fn backend(&self, state: &mut RequestState) -> Result<ChosenBackend<'a>, Failure> {
        let rule = match self.target {
            Target::Pod(cluster) => {
                return Ok(ChosenBackend {
                    cluster,
                    filters: &[],
                    mirrors: &[],
                    external_auth: None,
                    service: None,
                });
            }
            Target::Rule(rule) => rule,
        };
        let backend = rule.pick_backend().ok_or(Failure::NoBackends)?;
        state.exchange.metrics = backend.metrics.clone();
        match &backend.target {
            Ok(cluster) => Ok(ChosenBackend {
                cluster,
                filters: &backend.filters,
                mirrors: &backend.mirrors,
                external_auth: backend.external_auth.as_deref(),
                service: backend.service.as_deref(),
            }),
            Err(reason) => Err(Failure::Misconfigured(reason.clone())),
        }
    }
}

/// Returns true if the application agrees to the upgrade.
fn is_switching(sent: &Result<UpstreamResponse, Failure>) -> bool {
    let status = sent.as_ref().map(|upstream| upstream.response.status());
    status.is_ok_and(|status| status == StatusCode::SWITCHING_PROTOCOLS)
}

/// Makes the response for the client. `from_app`: it comes from an application, not from a proxy.
pub fn receive(
    upstream: UpstreamResponse,
    from_app: bool,
    state: &mut RequestState,
) -> Result<Response, Failure> {
    state.exchange.still_permitted()?;
    let UpstreamResponse { response, lease } = upstream;
    let (mut head, incoming) = response.into_parts();
    let from_app = from_app || !lease.endpoint().is_proxy();
    headers::clean_response(&mut head.headers, from_app).map_err(|field| Failure::Malformed {
        endpoint: lease.endpoint().address,
        field,
    })?;
    headers::finish_upgrade(
        &mut head.headers,
        head.status == StatusCode::SWITCHING_PROTOCOLS,
    );
    if let Some(replay_buffer) = &state.exchange.replay_buffer {
        replay_buffer.response_started();
    }
    state.lease = Some(lease);
    Ok(Response::from_parts(head, ResponseBody::incoming(incoming)))
}

impl Exchange {
    /// The one place where a failure becomes a response.
    pub fn respond(&mut self, failure: &Failure, to_proxy: bool) -> Response {
        self.failed(failure);
        let mut response = failure.response(self.is_grpc(), self.version(), to_proxy);
        self.describe_denial(failure, &mut response);
        response
    }
}

impl RequestState {
    pub fn new(exchange: Exchange) -> Box<Self> {
        Box::new(Self {
            exchange,
            lease: None,
            deadline: None,
            asked: FilterEffects::default(),
            granted: None,
            mirrored: MirroredRequests::default(),
        })
    }

    /// Attaches the state to the response: it ends with the response's body.
    pub fn attach(mut self: Box<Self>, mut response: Response) -> Response {
        if let Some(granted) = &self.granted {
            granted.apply(response.headers_mut());
        }
        self.exchange
            .response_started(response.status(), response.headers());
        if self.exchange.is_from_gateway() {
            redact(&mut response);
        }
        let (mut head, body) = response.into_parts();
        head.version = self.exchange.version();
        if let Some(added) = &self.asked.added {
            cors::apply(added, &mut head.headers);
        }
        Response::from_parts(head, body.with_state(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the size of a function's result without calling it.
    fn size_of_result<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Futures are moved when they are spawned: each byte is copied for each request.
    #[test]
    fn request_future_stays_small() {
        let size = size_of_result(|outbound: Arc<Outbound>, request| outbound.handle(request));
        assert!(size <= 4_416, "{size}");
    }
}
