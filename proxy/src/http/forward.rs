//! A request on its way to where it is routed: of the pod, or of a gateway's client.
//!
//! [`Outbound::handle`] reads the configuration once, and is the only place where failures become responses.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use weft_ir::{Filter, RouteId};

use super::bodies::{Body, Response, Spare, Tail};
use super::errors::{Failure, Stop, conceal};
use super::exchange::{Caller, Exchange};
use super::mirror::Copies;
use super::routes::{Config, Source, Taken, To};
use super::serve::Handle;
use super::tries::{self, Limits};
use super::{cors, filters, headers, upgrade};
use crate::balance;
use crate::config::resolved::{ComposedService, ResolvedBackend, ResolvedMirror, ResolvedRule};
use crate::listen::clients::Client;
use crate::upstream::{Cluster, Endpoint, UpstreamRequest, UpstreamResponse};

/// One connection whose requests are routed.
pub struct Outbound {
    pub caller: Arc<Caller>,
    pub source: Source,
}

impl Handle for Outbound {
    async fn handle(self: Arc<Self>, request: http::Request<Incoming>) -> Response {
        let config = self.source.load();
        let metrics = self.caller.context.metrics.outbound_pod.clone();
        let exchange = Exchange::begin(&self.caller, &request, &metrics);
        let mut tail = Tail::new(exchange);
        let mut filters = ResponseFilters::default();
        let sent = self.forward(&config, request, &mut filters, &mut tail);
        let mut response = match sent.await {
            Ok(response) => response,
            Err(Stop::Answer(response)) => *response,
            Err(Stop::Failure(failure)) => tail.exchange.respond(&failure, false),
        };
        filters.apply(response.headers_mut());
        tail.attach(response)
    }

    fn busy(&self) -> bool {
        self.caller.busy()
    }

    fn evicted(&self) -> Option<&CancellationToken> {
        let client = self.caller.client.as_deref();
        client.map(Client::evicted)
    }

    fn unreadable(&self, error: &hyper::Error) {
        self.caller.unreadable(error);
    }

    fn closed(&self, reason: &'static str) {
        let caller = &self.caller;
        let listener = caller.direction.as_str();
        caller.context.metrics.protocol_error(listener, reason);
    }
}

impl Outbound {
    async fn forward<'a>(
        &self,
        config: &'a Config,
        request: http::Request<Incoming>,
        filters: &mut ResponseFilters<'a>,
        tail: &mut Tail,
    ) -> Result<Response, Stop> {
        self.caller.admit()?;
        let (mut head, body) = request.into_parts();
        let upgrade = headers::clean_request(&mut head)?;
        self.source.announce(&mut head, &self.caller);
        let way = self.way(config, &mut head, filters, tail)?;
        let on_upgrade = upgrade.then(|| upgrade::of(&mut head));
        let address = self.source.address();
        let context = &self.caller.context;
        let mut request =
            UpstreamRequest::new(head, body, upgrade, address, &context.overload.replay);
        request.client = Some(self.caller.address.ip());
        if tail.exchange.is_of_gateway() {
            request.spare.limit_idle(context.body_idle);
        }
        // Mirrors get no request that changes its connection, which the answer tells. With a body, they cannot wait for it.
        if !(upgrade && request.spare.is_none()) {
            std::mem::take(&mut tail.copies).send(&request.spare, address, &self.caller.context);
        }
        tail.exchange.spare = Some(request.spare.clone());
        let sent = match way.limits {
            None => {
                let seen = |endpoint: &Arc<Endpoint>| tail.exchange.tried(endpoint);
                way.cluster.send(request, seen).await
            }
            // In a box: a request without limits carries no room for it.
            Some(limits) => {
                let in_force = |route: &RouteId| self.source.repeats_for(config, route);
                Box::pin(tries::send(way.cluster, request, limits, in_force, tail)).await
            }
        };
        let copies = std::mem::take(&mut tail.copies);
        if !is_switching(&sent) {
            copies.send(&Spare::none(), address, &self.caller.context);
        }
        let upstream = sent?;
        upgrade::expected(&upstream, upgrade)?;
        let mut response = receive(upstream, false, tail)?;
        upgrade::finish(&mut response, on_upgrade, &self.caller);
        Ok(response)
    }
}

/// Where a request goes.
struct Way<'a> {
    cluster: &'a Arc<Cluster>,
    limits: Option<Limits<'a>>,
}

/// The filters whose changes the response gets, whoever makes it: the upstream, a redirect, or the proxy for a failure.
#[derive(Default)]
struct ResponseFilters<'a> {
    /// In the order in which they met the request.
    met: [&'a [Filter]; 4],
    len: usize,
}

impl<'a> ResponseFilters<'a> {
    fn push(&mut self, filters: &'a [Filter]) {
        if let Some(place) = self.met.get_mut(self.len) {
            *place = filters;
            self.len += 1;
        }
    }

    /// In reverse: those of a backend before those of its rule, a Service's before a gateway's.
    fn apply(&self, headers: &mut HeaderMap) {
        for filters in self.met.iter().rev() {
            filters::on_response(filters, headers);
        }
    }
}

impl Outbound {
    /// Where the request goes, changed by the filters on the way there. Rules are applied once, or, where a gateway's
    /// choose a Service that wants its own applied, twice.
    fn way<'a>(
        &self,
        config: &'a Config,
        head: &mut Parts,
        filters: &mut ResponseFilters<'a>,
        tail: &mut Tail,
    ) -> Result<Way<'a>, Stop> {
        let taken = self.source.route(config, head, tail)?;
        let version = self.source.version(head.version, tail.exchange.is_grpc());
        headers::set_version(head, version);
        let chosen = self.choose(&taken, head, filters, tail)?;
        let Some(service) = chosen.service else {
            return Ok(Way {
                cluster: chosen.cluster,
                limits: taken.limits,
            });
        };
        let own = service.route(head, tail)?;
        let last = self.choose(&own, head, filters, tail)?;
        Ok(Way {
            cluster: last.cluster,
            limits: Limits::both(taken.limits, own.limits),
        })
    }

    /// Applies a rule: its filters, then those of the backend that it chooses.
    fn choose<'a>(
        &self,
        taken: &Taken<'a>,
        head: &mut Parts,
        on_response: &mut ResponseFilters<'a>,
        tail: &mut Tail,
    ) -> Result<Chosen<'a>, Stop> {
        let context = filters::Context {
            matched: taken.path,
            scheme: self.source.scheme(),
            port: self.source.port(),
        };
        on_response.push(taken.filters);
        filters::on_request(taken.filters, head, context, &mut tail.added)?;
        tail.copies
            .draw(taken.mirrors(), head, &self.caller.context);
        let chosen = taken.backend(tail)?;
        on_response.push(chosen.filters);
        filters::on_request(chosen.filters, head, context, &mut tail.added)?;
        tail.copies.draw(chosen.mirrors, head, &self.caller.context);
        Ok(chosen)
    }
}

struct Chosen<'a> {
    cluster: &'a Arc<Cluster>,
    filters: &'a [Filter],
    mirrors: &'a [ResolvedMirror],
    /// Where the request goes on, in the place of `cluster`.
    service: Option<&'a ComposedService>,
}

impl<'a> Taken<'a> {
    /// A backend by weight; its metrics from here on.
    fn backend(&self, tail: &mut Tail) -> Result<Chosen<'a>, Failure> {
        let rule = match self.to {
            To::Pod(cluster) => {
                return Ok(Chosen {
                    cluster,
                    filters: &[],
                    mirrors: &[],
                    service: None,
                });
            }
            To::Rule(rule) => rule,
        };
        let backend = pick(rule).ok_or(Failure::NoBackends)?;
        tail.exchange.metrics = backend.metrics.clone();
        match &backend.target {
            Ok(cluster) => Ok(Chosen {
                cluster,
                filters: &backend.filters,
                mirrors: &backend.mirrors,
                service: backend.service.as_deref(),
            }),
            Err(reason) => Err(Failure::Misconfigured(reason.clone())),
        }
    }
}

/// A backend of the rule, by weight.
pub fn pick(rule: &ResolvedRule) -> Option<&ResolvedBackend> {
    if let [only] = &rule.backends[..] {
        return (only.weight > 0).then_some(only);
    }
    let weights = rule.backends.iter().map(|backend| backend.weight);
    let place = balance::weighted(rule.total_weight, &mut fastrand::Rng::new(), weights)?;
    rule.backends.get(place)
}

/// The application takes up the protocol that the client asked for.
fn is_switching(sent: &Result<UpstreamResponse, Failure>) -> bool {
    let status = sent.as_ref().map(|upstream| upstream.response.status());
    status.is_ok_and(|status| status == StatusCode::SWITCHING_PROTOCOLS)
}

/// The answer as it goes on to the client. `from_app`: it comes from an application, not from a proxy.
pub fn receive(
    upstream: UpstreamResponse,
    from_app: bool,
    tail: &mut Tail,
) -> Result<Response, Failure> {
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
    if let Some(spare) = &tail.exchange.spare {
        spare.answered();
    }
    tail.lease = Some(lease);
    Ok(Response::from_parts(head, Body::response(incoming)))
}

impl Exchange {
    /// The one place where a failure becomes a response.
    pub fn respond(&mut self, failure: &Failure, to_proxy: bool) -> Response {
        self.failed(failure);
        failure.response(self.is_grpc(), self.version(), to_proxy)
    }
}

impl Tail {
    pub fn new(exchange: Exchange) -> Box<Self> {
        Box::new(Self {
            exchange,
            lease: None,
            deadline: None,
            added: None,
            copies: Copies::default(),
        })
    }

    /// Ends with the response's body.
    pub fn attach(mut self: Box<Self>, response: Response) -> Response {
        self.exchange
            .answered(response.status(), response.headers());
        let (mut head, body) = response.into_parts();
        head.version = self.exchange.version();
        if self.exchange.is_of_gateway() {
            conceal(&mut head.headers);
        }
        if let Some(added) = &self.added {
            cors::apply(added, &mut head.headers);
        }
        Response::from_parts(head, body.with_tail(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a call gives, without calling.
    fn size_of_result<A, B, F>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// Futures are moved when they are started: each byte is copied for each request.
    #[test]
    fn a_request_is_small() {
        let size = size_of_result(|outbound: Arc<Outbound>, request| outbound.handle(request));
        assert!(size <= 4_352, "{size}");
    }
}
