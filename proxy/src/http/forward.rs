//! A request on its way to where it is routed: of the pod, or of a gateway's client.
//!
//! [`Outbound::handle`] reads the configuration once, and is the only place where failures become responses.

use std::sync::Arc;

use http::StatusCode;
use hyper::body::Incoming;
use weft_ir::Filter;

use super::bodies::{Body, Response, Tail};
use super::errors::{Failure, Stop, conceal};
use super::exchange::{Caller, Exchange};
use super::mirror::Copies;
use super::routes::{Config, Source, Taken, To};
use super::serve::Handle;
use super::tries;
use super::{cors, filters, headers, upgrade};
use crate::balance;
use crate::config::resolved::{ResolvedBackend, ResolvedMirror, ResolvedRule};
use crate::upstream::{Ask, Cluster, Outcome, Peer};

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
        let response = match self.forward(&config, request, &mut tail).await {
            Ok(response) => response,
            Err(Stop::Answer(response)) => *response,
            Err(Stop::Failure(failure)) => tail.exchange.respond(&failure, false),
        };
        tail.attach(response)
    }

    fn busy(&self) -> bool {
        self.caller.busy()
    }
}

impl Outbound {
    async fn forward(
        &self,
        config: &Config,
        request: http::Request<Incoming>,
        tail: &mut Tail,
    ) -> Result<Response, Stop> {
        let (mut head, body) = request.into_parts();
        let upgrade = headers::clean_request(&mut head)?;
        self.source.announce(&mut head, &self.caller);
        let taken = self.source.route(config, &head, tail)?;
        head.version = self.source.version(head.version, tail.exchange.is_grpc());
        let context = filters::Context {
            matched: taken.path,
            scheme: self.source.scheme(),
            port: self.source.port(),
        };
        filters::on_request(taken.filters, &mut head, context, &mut tail.added)?;
        let mut copies = Copies::default();
        if !upgrade {
            copies.draw(taken.mirrors(), &head, &self.caller.context);
        }
        let backend = taken.backend(tail)?;
        filters::on_request(backend.filters, &mut head, context, &mut tail.added)?;
        if !upgrade {
            copies.draw(backend.mirrors, &head, &self.caller.context);
        }
        let on_upgrade = upgrade.then(|| upgrade::of(&mut head));
        let address = self.source.address();
        let ask = Ask::new(head, body, upgrade, address);
        copies.send(&ask.spare, address, &self.caller.context);
        tail.exchange.spare = Some(ask.spare.clone());
        let sent = match taken.limits {
            None => {
                let seen = |peer: &Arc<Peer>| tail.exchange.tried(peer);
                backend.cluster.send(ask, seen).await
            }
            // In a box: a request without limits carries no room for it.
            Some(limits) => Box::pin(tries::send(backend.cluster, ask, limits, tail)).await,
        };
        let outcome = sent?;
        let mut response = receive(outcome, false, tail);
        filters::on_response(backend.filters, response.headers_mut());
        filters::on_response(taken.filters, response.headers_mut());
        upgrade::finish(&mut response, on_upgrade, &self.caller);
        Ok(response)
    }
}

struct Chosen<'a> {
    cluster: &'a Arc<Cluster>,
    filters: &'a [Filter],
    mirrors: &'a [ResolvedMirror],
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

/// The answer as it goes on to the client. `from_app`: it comes from an application, not from a proxy.
pub fn receive(outcome: Outcome, from_app: bool, tail: &mut Tail) -> Response {
    let Outcome { response, lease } = outcome;
    let (mut head, incoming) = response.into_parts();
    let from_app = from_app || !lease.peer().is_proxy();
    headers::clean_response(&mut head.headers, from_app);
    headers::finish_upgrade(
        &mut head.headers,
        head.status == StatusCode::SWITCHING_PROTOCOLS,
    );
    tail.lease = Some(lease);
    Response::from_parts(head, Body::response(incoming))
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
