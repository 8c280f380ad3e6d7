//! How clients use the endpoints of a Service port, beyond its own fields.
//!
//! Source: the effective TrafficPolicy of the port. Each section has a file of its own.

mod balancing;
mod health;
mod limits;
mod outliers;
mod retries;
mod retry_budget;
mod timeouts;

pub use balancing::{
    Algorithm, BalancingMethod, ConsistentHash, HashCookie, HashKey, LoadBalancing, LoadFactor,
    SlowStart, ZonePreference,
};
pub use health::{CheckTiming, HealthCheck, HealthChecks, HttpHealthCheck, StatusRange};
pub use limits::{ClientLimits, Limits, Queue, RequestLimit};
pub use outliers::{EjectionTime, OutlierDetection};
pub use retries::{GrpcStatuses, Retries};
pub use retry_budget::{BudgetInterval, RetryBudget};
pub use timeouts::{ConnectTimeout, PolicyTimeouts};

use crate::route::Timeouts;

/// The sections of the effective TrafficPolicy of a Service port; absent: what clients do without a
/// policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// When an endpoint that answers is ejected.
    pub outlier_detection: Option<OutlierDetection>,
    /// How many requests are sent again.
    pub retry_budget: Option<RetryBudget>,
    /// How much a client, and a server, has at a time.
    pub limits: Option<Limits>,
    /// Which endpoint takes a request.
    pub load_balancing: Option<LoadBalancing>,
    /// How endpoints are asked whether they are healthy.
    pub health_checks: Option<HealthChecks>,
    /// How long requests and connecting may take.
    pub timeouts: Option<PolicyTimeouts>,
    /// When a request is sent again.
    pub retries: Option<Retries>,
}

impl TrafficPolicy {
    /// Returns true if no section is set.
    pub fn is_empty(&self) -> bool {
        let Self {
            outlier_detection,
            retry_budget,
            limits,
            load_balancing,
            health_checks,
            timeouts,
            retries,
        } = self;
        outlier_detection.is_none()
            && retry_budget.is_none()
            && limits.is_none()
            && load_balancing.is_none()
            && health_checks.is_none()
            && timeouts.is_none()
            && retries.is_none()
    }

    /// Returns true if a section applies where the rule of a request says nothing.
    pub fn concerns_requests(&self) -> bool {
        let timeouts = self.timeouts.map(|of| of.requests);
        self.retries.is_some() || timeouts.is_some_and(|of| of != Timeouts::default())
    }
}
