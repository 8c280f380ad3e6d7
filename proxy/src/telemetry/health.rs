//! Counters of active health checks.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    Passed,
    /// Another status than expected, not `SERVING`, or no answer of this protocol.
    WrongAnswer,
    /// No connection, or it broke off.
    Unreachable,
    Timeout,
}

impl CheckResult {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::WrongAnswer => "wrong_answer",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    result: &'static str,
}

#[derive(Clone, Debug, Default)]
pub struct HealthMetrics {
    checks: Family<CheckLabels, Counter>,
    /// Endpoints of a cluster that get no requests because of checks.
    pub unhealthy: Gauge,
}

impl HealthMetrics {
    pub fn checked(&self, result: CheckResult) {
        let result = result.as_str();
        self.checks.get_or_create(&CheckLabels { result }).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "weft_health_checks",
            "Health checks of endpoints",
            self.checks.clone(),
        );
        registry.register(
            "weft_health_unhealthy_endpoints",
            "Endpoints that are unhealthy by their health checks",
            self.unhealthy.clone(),
        );
    }
}
