//! Faults that the FaultFilters of rules inject: a delay before the request goes on, and an answer
//! in its place.
//!
//! Source: Envoy, `source/extensions/filters/http/fault/fault_filter.cc` (the delay comes first).

use std::time::Duration;

use fastrand::Rng;
use http::{HeaderMap, StatusCode};
use tokio::time::sleep;
use tonic::Code;
use weft_ir::{FaultAbort, FaultDelay, FaultInjection, FaultStatus, Percent};

use super::due::Due;
use super::errors::{Failure, ShortCircuit};
use super::forward::Outbound;
use super::response_body::RequestState;
use super::route_policy::RoutePolicy;
use crate::grpc::http_status;
use crate::telemetry::labels::InjectedFault;

/// Draws what is done to a request. Adds to its delay, and fails if it is answered.
pub(super) fn inject(
    of: &FaultInjection,
    headers: &HeaderMap,
    delay: &mut Duration,
    random: &mut Rng,
) -> Result<(), Failure> {
    if !of.concerns(headers) {
        return Ok(());
    }
    if let Some(time) = of.delay.filter(|of| is_drawn(of.share(), random)) {
        *delay += FaultDelay::time(time);
    }
    match of.abort.filter(|of| is_drawn(of.share, random)) {
        Some(FaultAbort { status, .. }) => Err(Failure::Fault {
            filter: of.filter.clone(),
            status,
        }),
        None => Ok(()),
    }
}

fn is_drawn(share: Percent, random: &mut Rng) -> bool {
    random.u8(..100) < share.get()
}

/// Returns the status of HTTP of an injected answer.
pub(super) fn status(of: FaultStatus) -> StatusCode {
    match of {
        FaultStatus::Http(status) => status.get(),
        FaultStatus::Grpc(code) => {
            let status = http_status(Code::from(i32::from(code.get())));
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Returns the status of gRPC of an injected answer (`doc/http-grpc-status-mapping.md` of its
/// specification).
pub(super) fn code(of: FaultStatus) -> Code {
    match of {
        FaultStatus::Grpc(code) => Code::from(i32::from(code.get())),
        FaultStatus::Http(status) => match status.get().as_u16() {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        },
    }
}

impl Outbound {
    /// Waits for as long as the filters ask, within the timeout of the rule; then what they decided
    /// takes effect.
    pub(super) async fn settle(
        &self,
        decided: Result<(), ShortCircuit>,
        policy: &Option<RoutePolicy<'_>>,
        state: &mut RequestState,
    ) -> Result<(), ShortCircuit> {
        let delay = std::mem::take(&mut state.asked.delay);
        let direction = self.downstream.direction;
        let metrics = &self.downstream.runtime.metrics;
        if !delay.is_zero() {
            metrics.injected(direction, InjectedFault::Delay);
            let limit = policy.and_then(|of| of.timeouts.request.get());
            let due = Due::of(&state.exchange, limit);
            // Boxed, so that the futures of other requests stay small.
            Box::pin(due.within(sleep(delay))).await?;
        }
        if let Err(ShortCircuit::Failure(Failure::Fault { .. })) = &decided {
            metrics.injected(direction, InjectedFault::Abort);
        }
        decided
    }
}

#[cfg(test)]
mod tests {
    use weft_ir::{GrpcError, HttpError};

    use super::*;

    fn percent(share: u32) -> Percent {
        Percent::new(share).unwrap()
    }

    fn injection(delay: u32, abort: u32) -> FaultInjection {
        FaultInjection {
            filter: "shop/chaos".into(),
            header: None,
            delay: FaultDelay::new(Duration::from_secs(1), percent(delay)),
            abort: Some(FaultAbort {
                status: FaultStatus::Http(HttpError::new(503).unwrap()),
                share: percent(abort),
            }),
        }
    }

    /// Delayed and aborted ones of 10,000 requests.
    fn drawn(of: &FaultInjection) -> (usize, usize) {
        let random = &mut Rng::with_seed(7);
        let (mut delayed, mut aborted) = (0, 0);
        for _ in 0..10_000 {
            let mut delay = Duration::ZERO;
            let result = inject(of, &HeaderMap::new(), &mut delay, random);
            delayed += usize::from(delay == Duration::from_secs(1));
            aborted += usize::from(result.is_err());
        }
        (delayed, aborted)
    }

    #[test]
    fn shares_of_requests_are_delayed_and_aborted() {
        assert_eq!(drawn(&injection(0, 0)), (0, 0));
        assert_eq!(drawn(&injection(100, 100)), (10_000, 10_000));
        let (delayed, aborted) = drawn(&injection(30, 1));
        assert!((2_800..3_200).contains(&delayed), "{delayed}");
        assert!((60..140).contains(&aborted), "{aborted}");
    }

    #[test]
    fn each_protocol_has_a_status_for_that_of_the_other() {
        let http = |number| FaultStatus::Http(HttpError::new(number).unwrap());
        let grpc = |number| FaultStatus::Grpc(GrpcError::new(number).unwrap());
        for (fault, http, grpc) in [
            (http(503), 503, Code::Unavailable),
            (http(500), 500, Code::Unknown),
            (http(404), 404, Code::Unimplemented),
            (grpc(14), 503, Code::Unavailable),
            (grpc(1), 499, Code::Cancelled),
            (grpc(16), 401, Code::Unauthenticated),
        ] {
            assert_eq!(status(fault).as_u16(), http, "{fault:?}");
            assert_eq!(code(fault), grpc, "{fault:?}");
        }
    }
}
