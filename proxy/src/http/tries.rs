//! How often a request is sent, and how long it may take.
//!
//! Source: Gateway API v1.6.3, `HTTPRouteTimeouts` and `HTTPRouteRetry` (GEP-1731). A try that surely never reached the
//! application is repeated for any method; one that may have reached it only where its method is idempotent (RFC 9110,
//! 9.2.2), or where the rule names the status code. What the upstream repeats on its own is part of one try.

use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::{Instant, sleep, sleep_until};
use weft_ir::{Retry, RouteId, Rule, Timeouts};

use super::bodies::Tail;
use super::errors::{ERROR, Failure};
use super::mirror::copy;
use crate::upstream::{Cluster, UpstreamRequest, UpstreamResponse};

/// The wait before a try grows to this many times the first one at most.
const MAX_BACKOFF: u32 = 10;

/// What a rule says of the way to a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits<'a> {
    pub timeouts: Timeouts,
    pub retry: Option<&'a Retry>,
    /// Whose retries those are.
    pub route: Option<&'a RouteId>,
}

impl<'a> Limits<'a> {
    /// `None`: the rule says nothing, and the request is sent once.
    pub fn of(rule: &'a Rule) -> Option<Self> {
        let limits = Self {
            timeouts: rule.timeouts,
            retry: rule.retry.as_ref(),
            route: rule.retry.as_ref().map(|_| &rule.route),
        };
        let some = limits.retry.is_some() || limits.timeouts != Timeouts::default();
        some.then_some(limits)
    }

    /// Both of a gateway's rule and of the Service's: of times the shorter, of retries the Service's.
    pub fn both(gateway: Option<Self>, service: Option<Self>) -> Option<Self> {
        let (Some(outer), Some(inner)) = (gateway, service) else {
            return gateway.or(service);
        };
        let shorter = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        Some(Self {
            timeouts: Timeouts {
                request: shorter(outer.timeouts.request, inner.timeouts.request),
                backend: shorter(outer.timeouts.backend, inner.timeouts.backend),
            },
            retry: inner.retry.or(outer.retry),
            route: inner.route.or(outer.route),
        })
    }
}

/// Sends within the limits; timeouts go on for the body of the answer. `in_force`: whether a route still is.
pub async fn send(
    cluster: &Cluster,
    mut request: UpstreamRequest,
    limits: Limits<'_>,
    in_force: impl Fn(&RouteId) -> bool,
    tail: &mut Tail,
) -> Result<UpstreamResponse, Failure> {
    let started = Instant::from_std(tail.exchange.started());
    let whole = limits.timeouts.request.map(|limit| Deadline {
        at: started + limit,
        limit,
        failure: Failure::RequestTimeout,
    });
    let (retry, upgrade) = (limits.retry, request.upgrade);
    if retry.is_some() {
        request.spare.keep();
    }
    let mut exclude: Vec<SocketAddr> = Vec::new();
    let mut turn = 0;
    loop {
        let next = retry.filter(|retry| turn < retry.attempts);
        let next = next.map(|retry| (retry, copy(&request.head)));
        let (spare, address, client) = (request.spare.clone(), request.address, request.client);
        let deadline = earlier(whole, limits.timeouts.backend);
        let (ended, last) = one_try(cluster, request, deadline, tail).await;
        let Some((retry, head)) = next else {
            return ended;
        };
        let pause = backoff(retry.backoff, turn);
        let late = |whole: Deadline| Instant::now() + pause >= whole.at;
        if !failed(&ended, retry, &head.method) || whole.is_some_and(late) || !spare.is_whole() {
            return ended;
        }
        if !cluster.try_spend_retry() {
            return ended;
        }
        // The answer that is there is the one to give where the pause shows that nothing is to be repeated any more.
        tokio::select! {
            () = sleep(pause) => {}
            () = tail.exchange.draining() => return ended,
        }
        if !limits.route.is_some_and(&in_force) {
            return ended;
        }
        let Some(body) = spare.again() else {
            return ended;
        };
        drop(ended);
        tail.deadline = None;
        tail.exchange.repeated();
        exclude.extend(last.filter(|last| !exclude.contains(last)));
        turn += 1;
        request = UpstreamRequest {
            head,
            body,
            spare,
            upgrade,
            address,
            exclude: exclude.clone(),
            client,
        };
    }
}

/// When something has to be over, and what it is if it is not.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    limit: Duration,
    failure: fn(Duration) -> Failure,
}

/// The end of a try that begins now.
fn earlier(whole: Option<Deadline>, each: Option<Duration>) -> Option<Deadline> {
    let each = each.map(|limit| Deadline {
        at: Instant::now() + limit,
        limit,
        failure: Failure::BackendTimeout,
    });
    whole.into_iter().chain(each).min_by_key(|end| end.at)
}

/// Gives the endpoint that was asked last, too.
async fn one_try(
    cluster: &Cluster,
    request: UpstreamRequest,
    deadline: Option<Deadline>,
    tail: &mut Tail,
) -> (Result<UpstreamResponse, Failure>, Option<SocketAddr>) {
    let mut last = None;
    let exchange = &mut tail.exchange;
    let sent = cluster.send(request, |endpoint| {
        last = Some(endpoint.address);
        exchange.tried(endpoint);
    });
    let ended = match deadline {
        None => sent.await,
        Some(Deadline { at, limit, failure }) => {
            let mut end = Box::pin(sleep_until(at));
            let ended = tokio::select! {
                ended = sent => ended,
                () = &mut end => Err(failure(limit)),
            };
            tail.deadline = ended.is_ok().then_some(end);
            ended
        }
    };
    (ended, last)
}

/// Whether another try may be made after this one.
fn failed(ended: &Result<UpstreamResponse, Failure>, retry: &Retry, method: &Method) -> bool {
    let named = |status: StatusCode| retry.codes.contains(&status);
    match ended {
        Ok(UpstreamResponse { response, lease }) => {
            // The proxy at the other end had no answer of its application.
            let made = lease.endpoint().is_proxy() && response.headers().contains_key(ERROR);
            named(response.status())
                || (made && response.status().is_server_error() && method.is_idempotent())
        }
        Err(failure) if failure.never_arrived() => true,
        Err(failure @ (Failure::Broken { .. } | Failure::BackendTimeout(_))) => {
            method.is_idempotent() || named(failure.status())
        }
        Err(failure @ Failure::NoEndpoints(_)) => named(failure.status()),
        Err(_) => false,
    }
}

/// Twice as long each time, and up to half as long again, so that clients do not come back together.
fn backoff(shortest: Duration, turn: u32) -> Duration {
    let factor = 1_u32
        .checked_shl(turn)
        .map_or(MAX_BACKOFF, |factor| factor.min(MAX_BACKOFF));
    let wait = shortest.max(Retry::LEAST_BACKOFF).saturating_mul(factor);
    wait.saturating_add(wait.mul_f64(fastrand::f64() / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_rules_the_shorter_times_and_the_services_retries_hold() {
        let retry = |attempts| Retry {
            codes: Vec::new(),
            attempts,
            backoff: Duration::ZERO,
        };
        let route = |name: &str| RouteId {
            kind: weft_ir::RouteKind::Http,
            namespace: "shop".into(),
            name: name.into(),
        };
        let of_gateway = (retry(1), route("gateway"));
        let of_service = (retry(2), route("service"));
        fn limits(request: u64, backend: u64, of: Option<&(Retry, RouteId)>) -> Option<Limits<'_>> {
            let millis = |n| (n > 0).then(|| Duration::from_millis(n));
            let timeouts = Timeouts {
                request: millis(request),
                backend: millis(backend),
            };
            Some(Limits {
                timeouts,
                retry: of.map(|(retry, _)| retry),
                route: of.map(|(_, route)| route),
            })
        }
        for (gateway, service, both) in [
            (None, None, None),
            (limits(5, 0, None), None, limits(5, 0, None)),
            (None, limits(0, 5, None), limits(0, 5, None)),
            (limits(5, 0, None), limits(7, 3, None), limits(5, 3, None)),
            (
                limits(9, 2, Some(&of_gateway)),
                limits(7, 3, Some(&of_service)),
                limits(7, 2, Some(&of_service)),
            ),
            (
                limits(0, 0, Some(&of_gateway)),
                limits(7, 0, None),
                limits(7, 0, Some(&of_gateway)),
            ),
        ] {
            assert_eq!(Limits::both(gateway, service), both);
        }
    }

    #[test]
    fn the_wait_grows_and_is_never_too_short() {
        let shortest = Duration::from_millis(100);
        for (turn, times) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 10), (40, 10)] {
            let wait = backoff(shortest, turn);
            assert!(
                wait >= shortest * times && wait <= shortest * times * 3 / 2,
                "{wait:?}"
            );
        }
        assert!(backoff(Duration::ZERO, 0) >= Retry::LEAST_BACKOFF);
    }
}
