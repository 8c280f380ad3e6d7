//! Outlier detection: an endpoint that fails several requests in a row gets none for a time.
//!
//! Failures are counted for one cluster, by whose policy they count; that an endpoint cannot be
//! connected to concerns all clusters, and is kept in [`super::Endpoint`]. An endpoint whose time
//! is over is used again, and on trial: its first success counts as recovery, its first failure
//! ejects it again, for longer.
//!
//! Source: Envoy, `source/common/upstream/outlier_detection_impl.cc` (what counts, and how
//! responses of gRPC do).

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use weft_ir::OutlierDetection;

use super::EndpointRegistry;
use crate::clock::{AtomicTimestamp, Timestamp};
use crate::grpc::{grpc_status, http_status, is_grpc};
use crate::telemetry::outliers::OutlierReason;

/// How long the share of healthy endpoints is taken to stay the same: it is counted this often, not
/// for each request.
const PANIC_PERIOD: Duration = Duration::from_millis(100);

/// What came of a request, as far as it tells of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    /// A 5xx status of the application's own.
    ServerError,
    /// 502, 503 or 504, or no response.
    GatewayError,
}

impl Outcome {
    fn of_status(status: u16) -> Self {
        match status {
            502..=504 => Self::GatewayError,
            500.. => Self::ServerError,
            _ => Self::Success,
        }
    }

    /// Returns `None` if the trailers have the status of a gRPC call.
    fn of_response<B>(grpc: bool, response: &http::Response<B>) -> Option<Self> {
        let status = response.status();
        let code = grpc_status(response.headers()).filter(|_| grpc);
        match code {
            Some(code) => Some(Self::of_status(http_status(code))),
            None if grpc && status.is_success() => None,
            None => Some(Self::of_status(status.as_u16())),
        }
    }
}

/// What is known of one endpoint of a cluster. All updates are relaxed: at worst a failure more or
/// less counts.
#[derive(Debug, Default)]
pub(super) struct OutlierState {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    ejected_until: AtomicTimestamp,
    /// Ejections since the last success.
    ejections: AtomicU32,
}

impl OutlierState {
    fn reset(&self, count: &AtomicU32) {
        if count.load(Relaxed) > 0 {
            count.store(0, Relaxed);
        }
    }
}

/// An endpoint that failed too many requests in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Detection {
    reason: OutlierReason,
    /// False if enough others are ejected.
    ejected: bool,
}

/// The outlier detection of a cluster, for one version of its endpoints.
pub(super) struct OutlierDetector {
    settings: OutlierDetection,
    /// In the order of the endpoints.
    states: Vec<Arc<OutlierState>>,
    /// Held while the ejected ones are counted.
    ejecting: Mutex<()>,
    /// Whether too few were healthy when they were last counted.
    panics: AtomicBool,
    counted_until: AtomicTimestamp,
}

impl OutlierDetector {
    pub(super) fn new(settings: OutlierDetection, states: Vec<Arc<OutlierState>>) -> Self {
        Self {
            settings,
            states,
            ejecting: Mutex::default(),
            panics: AtomicBool::default(),
            counted_until: AtomicTimestamp::default(),
        }
    }

    pub(super) fn settings(&self) -> &OutlierDetection {
        &self.settings
    }

    pub(super) fn state(&self, place: usize) -> Option<&Arc<OutlierState>> {
        self.states.get(place)
    }

    pub(super) fn is_ejected(&self, place: usize, now: Timestamp) -> bool {
        let state = self.states.get(place);
        state.is_some_and(|state| state.ejected_until.load() > now)
    }

    /// Returns true if so few endpoints are healthy that all are used, and whether that has just
    /// begun.
    pub(super) fn panics(&self, now: Timestamp, healthy: impl FnOnce() -> usize) -> (bool, bool) {
        let threshold = usize::from(self.settings.panic_threshold.get());
        if threshold == 0 {
            return (false, false);
        }
        let panicked = self.panics.load(Relaxed);
        if self.counted_until.load() > now {
            return (panicked, false);
        }
        let panics = healthy() * 100 < threshold * self.states.len();
        self.panics.store(panics, Relaxed);
        self.counted_until.store(now + PANIC_PERIOD);
        (panics, panics && !panicked)
    }

    /// Counts what came of a request to an endpoint.
    fn record(&self, place: usize, outcome: Outcome, now: Timestamp) -> Option<Detection> {
        let state = self.states.get(place)?;
        if state.ejected_until.load() > now {
            // Of a request that had begun before.
            return None;
        }
        if outcome == Outcome::Success {
            state.reset(&state.server_errors);
            state.reset(&state.gateway_errors);
            state.reset(&state.ejections);
            return None;
        }
        let on_trial = state.ejections.load(Relaxed) > 0;
        let is_reached = |limit: Option<NonZeroU32>, count: u32| {
            limit.is_some_and(|limit| on_trial || count >= limit.get())
        };
        let gateway_errors = match outcome {
            Outcome::GatewayError => state.gateway_errors.fetch_add(1, Relaxed) + 1,
            _ => {
                state.reset(&state.gateway_errors);
                0
            }
        };
        let server_errors = state.server_errors.fetch_add(1, Relaxed) + 1;
        let OutlierDetection {
            consecutive_5xx,
            consecutive_gateway_errors,
            ..
        } = self.settings;
        let reason = if gateway_errors > 0 && is_reached(consecutive_gateway_errors, gateway_errors)
        {
            OutlierReason::GatewayErrors
        } else if is_reached(consecutive_5xx, server_errors) {
            OutlierReason::ServerErrors
        } else {
            return None;
        };
        let ejected = self.eject(state, now)?;
        Some(Detection { reason, ejected })
    }

    /// Ejects an endpoint, unless enough others are. Returns `None` if it is ejected already.
    fn eject(&self, state: &OutlierState, now: Timestamp) -> Option<bool> {
        let _one_at_a_time = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ejected = |of: &OutlierState| of.ejected_until.load() > now;
        if is_ejected(state) {
            return None;
        }
        // Otherwise each further failure would ask again.
        state.reset(&state.server_errors);
        state.reset(&state.gateway_errors);
        let ejected = self.states.iter().filter(|of| is_ejected(of)).count();
        let most = self.settings.max_ejection_percent.of(self.states.len());
        if ejected >= most.max(1) {
            return Some(false);
        }
        let before = state.ejections.fetch_add(1, Relaxed);
        let time = self.settings.ejection_time.after(before);
        state.ejected_until.store(now + time);
        Some(true)
    }
}

/// An endpoint that was picked from a cluster with outlier detection.
#[derive(Clone)]
pub(super) struct TrackedEndpoint {
    pub(super) registry: Arc<EndpointRegistry>,
    pub(super) detector: Arc<OutlierDetector>,
    pub(super) place: usize,
}

impl TrackedEndpoint {
    pub(super) fn record(&self, outcome: Outcome) {
        let now = self.registry.now();
        if let Some(detection) = self.detector.record(self.place, outcome, now) {
            let Detection { reason, ejected } = detection;
            self.registry.metrics.outliers.detected(reason, ejected);
        }
    }

    /// Records the head of a response. Returns true if the trailers tell how the call ended.
    pub(super) fn record_response<B>(
        &self,
        request: &HeaderMap,
        response: &http::Response<B>,
    ) -> bool {
        let outcome = Outcome::of_response(is_grpc(request), response);
        if let Some(outcome) = outcome {
            self.record(outcome);
        }
        outcome.is_none()
    }

    /// Records the trailers of a gRPC response.
    pub(super) fn record_trailers(&self, trailers: &HeaderMap) {
        let status = grpc_status(trailers).map_or(500, http_status);
        self.record(Outcome::of_status(status));
    }
}

#[cfg(test)]
mod tests;
