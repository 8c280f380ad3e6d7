//! How often a request is sent, and how long it may take.
//!
//! Source: Gateway API v1.6.3, `HTTPRouteTimeouts` and `HTTPRouteRetry` (GEP-1731). An attempt that
//! certainly never reached the application is retried for any method; one that may have reached it
//! only if its method is idempotent (RFC 9110, 9.2.2), or if the rule or policy names the status
//! code. A gRPC status counts where it comes with the head of the response, before anything was
//! passed on (as Envoy's `retriable-grpc-status-codes`). What the upstream side sends again on its
//! own is part of one attempt.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Code;
use weft_ir::{GrpcStatuses, Retry, RouteId};

use super::errors::Failure;
use super::exchange::Exchange;
use super::informational::{AttemptProgress, Held};
use super::mirror::clone_head;
use super::response_body::RequestState;
use super::route_policy::RoutePolicy;
use crate::body::{ReplayBuffer, RequestBody};
use crate::grpc::grpc_status;
use crate::telemetry::labels::RetryResult;
use crate::telemetry::requests::RequestMetrics;
use crate::upstream::{Cluster, SendError, UpstreamRequest, UpstreamResponse};
use crate::wire::ERROR;

/// The backoff grows to this many times the first one.
const MAX_BACKOFF: u32 = 10;

/// Sends the request within the policy; its timeouts go on for the body of the response. `in_force`
/// says whether a route still has its retries.
pub async fn send(
    cluster: &Cluster,
    mut request: UpstreamRequest,
    policy: RoutePolicy<'_>,
    in_force: impl Fn(&RouteId) -> bool,
    state: &mut RequestState,
) -> Result<UpstreamResponse, Failure> {
    let started = Instant::from_std(state.exchange.started());
    let request_deadline = policy.timeouts.request.get().map(|limit| Deadline {
        at: started + limit,
        limit,
        failure: Failure::RequestTimeout,
    });
    let retry = policy.retry.filter(|retry| retry.attempts > 0);
    let retried = Retriable {
        retry,
        grpc: match state.exchange.is_grpc() {
            true => policy.grpc_statuses,
            false => GrpcStatuses::default(),
        },
    };
    let upgrade = request.upgrade;
    if retry.is_some() {
        request.replay_buffer.keep_for_retry();
    }
    let mut exclude: Vec<SocketAddr> = Vec::new();
    let mut retries = 0;
    let mut sent_retry: Option<SentRetry> = None;
    loop {
        let next = retry.filter(|retry| retries < retry.attempts);
        let next = next.map(|retry| (retry, clone_head(&request.head)));
        let method = request.head.method.clone();
        let (replay_buffer, address, client) = (
            request.replay_buffer.clone(),
            request.address,
            request.client,
        );
        let deadline = earliest(request_deadline, policy.timeouts.backend.get());
        let attempted = attempt(cluster, request, deadline, next.is_some(), state).await;
        let Attempted { result, last, held } = attempted;
        let is_wanted = retried.includes(&result, &method);
        if let Some(sent) = sent_retry.take() {
            sent.finish(match is_wanted || result.is_err() {
                true => RetryResult::Failed,
                false => RetryResult::Succeeded,
            });
        }
        if !is_wanted {
            held.release();
            return result;
        }
        let Some((retry, head)) = next else {
            state.exchange.count_retry(RetryResult::LimitReached);
            return result;
        };
        let pause = backoff(retry.backoff, retries);
        let late = |deadline: Deadline| Instant::now() + pause >= deadline.at;
        let prepared = match request_deadline.is_some_and(late) {
            true => Err(RetryResult::DeadlineExceeded.into()),
            false => {
                let in_force = || match policy.route {
                    Some(route) => in_force(route),
                    None => cluster.retries_requests(),
                };
                prepare(cluster, &replay_buffer, pause, &state.exchange, in_force).await
            }
        };
        let body = match prepared {
            Ok(body) => body,
            Err(NotSent { why, instead }) => {
                state.exchange.count_retry(why);
                let Some(instead) = instead else {
                    held.release();
                    return result;
                };
                state.deadline = None;
                return Err(instead.into());
            }
        };
        drop(result);
        sent_retry = Some(SentRetry::new(&state.exchange.metrics));
        state.deadline = None;
        exclude.extend(last.filter(|last| !exclude.contains(last)));
        retries += 1;
        request = UpstreamRequest {
            head,
            body,
            replay_buffer,
            upgrade,
            address,
            exclude: exclude.clone(),
            client,
            mirrored: false,
        };
    }
}

/// Why no retry is sent.
struct NotSent {
    why: RetryResult,
    /// What the request ends with, in place of the last result.
    instead: Option<SendError>,
}

impl From<RetryResult> for NotSent {
    fn from(why: RetryResult) -> Self {
        Self { why, instead: None }
    }
}

/// Waits until a retry may be sent, and returns its body.
async fn prepare(
    cluster: &Cluster,
    replay_buffer: &ReplayBuffer,
    pause: Duration,
    exchange: &Exchange,
    in_force: impl Fn() -> bool,
) -> Result<RequestBody, NotSent> {
    if !replay_buffer.is_replayable() {
        return Err(RetryResult::BodyNotReplayable.into());
    }
    cluster.spend_retry().map_err(|exhausted| NotSent {
        why: RetryResult::BudgetExhausted,
        instead: exhausted.instead,
    })?;
    tokio::select! {
        () = sleep(pause) => {}
        () = exchange.draining() => return Err(RetryResult::Canceled.into()),
    }
    if !in_force() {
        return Err(RetryResult::Canceled.into());
    }
    let body = replay_buffer.replay();
    body.ok_or(RetryResult::BodyNotReplayable.into())
}

/// A retry that was sent. Counted on drop: as canceled if the client went away before its result.
struct SentRetry {
    metrics: Arc<RequestMetrics>,
    result: RetryResult,
}

impl SentRetry {
    fn new(metrics: &Arc<RequestMetrics>) -> Self {
        Self {
            metrics: metrics.clone(),
            result: RetryResult::Canceled,
        }
    }

    fn finish(mut self, result: RetryResult) {
        self.result = result;
    }
}

impl Drop for SentRetry {
    fn drop(&mut self) {
        self.metrics.count_retry(self.result);
    }
}

/// A point in time, and the failure of what is not done by then.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    limit: Duration,
    failure: fn(Duration) -> Failure,
}

/// Returns the deadline of an attempt that begins now.
fn earliest(request_deadline: Option<Deadline>, each: Option<Duration>) -> Option<Deadline> {
    let each = each.map(|limit| Deadline {
        at: Instant::now() + limit,
        limit,
        failure: Failure::BackendTimeout,
    });
    request_deadline
        .into_iter()
        .chain(each)
        .min_by_key(|end| end.at)
}

/// What came of one attempt.
struct Attempted {
    result: Result<UpstreamResponse, Failure>,
    /// The endpoint that was tried last.
    last: Option<SocketAddr>,
    held: Held,
}

/// Sends the request once. `repeatable`: the client does not get the result if it is retried, and
/// so no informational response before.
async fn attempt(
    cluster: &Cluster,
    request: UpstreamRequest,
    deadline: Option<Deadline>,
    repeatable: bool,
    state: &mut RequestState,
) -> Attempted {
    let body = request.replay_buffer.clone();
    let mut progress = AttemptProgress::new(&mut state.exchange, repeatable);
    let sent = cluster.send(request, &mut progress);
    let result = match deadline {
        None => sent.await.map_err(Failure::from),
        Some(Deadline { at, limit, failure }) => {
            let mut end = Box::pin(sleep_until(at));
            let result = tokio::select! {
                result = sent => result.map_err(Failure::from),
                () = &mut end => Err(failure(limit)),
            };
            // While the client still sends, it may be what takes long.
            if let (Err(Failure::RequestTimeout(_) | Failure::BackendTimeout(_)), Some(last)) =
                (&result, progress.last)
                && body.is_read()
            {
                cluster.timed_out(last);
            }
            state.deadline = result.is_ok().then_some(end);
            result
        }
    };
    Attempted {
        result,
        last: progress.last,
        held: progress.held(),
    }
}

/// Which results allow another attempt.
struct Retriable<'a> {
    retry: Option<&'a Retry>,
    /// Of gRPC calls.
    grpc: GrpcStatuses,
}

impl Retriable<'_> {
    fn includes(&self, result: &Result<UpstreamResponse, Failure>, method: &Method) -> bool {
        let Some(retry) = self.retry else {
            return false;
        };
        let named = |status: StatusCode| retry.codes.contains(&status);
        let called = |code: Code| self.grpc.contains(code.into());
        let named_failure =
            |failure: &Failure| named(failure.status()) || called(failure.grpc_status());
        match result {
            Ok(UpstreamResponse { response, lease }) => {
                let (status, headers) = (response.status(), response.headers());
                // The proxy at the other end had no answer of its application.
                let from_proxy = lease.endpoint().is_proxy() && headers.contains_key(ERROR);
                named(status)
                    || (from_proxy && status.is_server_error() && method.is_idempotent())
                    || (!self.grpc.is_empty() && grpc_status(headers).is_some_and(called))
            }
            Err(failure) if failure.never_reached_app() => true,
            Err(
                failure
                @ (Failure::Upstream(SendError::Broken { .. }) | Failure::BackendTimeout(_)),
            ) => method.is_idempotent() || named_failure(failure),
            Err(failure @ Failure::Upstream(SendError::NoEndpoints(_))) => named_failure(failure),
            Err(_) => false,
        }
    }
}

/// Doubled with each retry, with up to half of it as jitter, so that clients do not come back
/// together.
fn backoff(shortest: Duration, retries: u32) -> Duration {
    let factor = 1_u32
        .checked_shl(retries)
        .map_or(MAX_BACKOFF, |factor| factor.min(MAX_BACKOFF));
    let wait = shortest.max(Retry::LEAST_BACKOFF).saturating_mul(factor);
    wait.saturating_add(wait.mul_f64(fastrand::f64() / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_backoff_grows_with_jitter_and_has_minimum() {
        let shortest = Duration::from_millis(100);
        for (retries, times) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 10), (40, 10)] {
            let wait = backoff(shortest, retries);
            assert!(
                wait >= shortest * times && wait <= shortest * times * 3 / 2,
                "{wait:?}"
            );
        }
        assert!(backoff(Duration::ZERO, 0) >= Retry::LEAST_BACKOFF);
    }
}
