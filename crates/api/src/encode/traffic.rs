//! Encodes traffic policies.

mod balancing;
mod health;
pub(super) mod limits;

use std::num::NonZeroU32;
use std::time::Duration;

use weft_ir::{OutlierDetection, PolicyTimeouts, Retries, RetryBudget, Timeouts, TrafficPolicy};

use super::rules::{limit, retry};
use crate::proto;

pub(super) fn policy(of: &TrafficPolicy) -> proto::TrafficPolicy {
    let TrafficPolicy {
        outlier_detection,
        retry_budget,
        limits,
        load_balancing,
        health_checks,
        timeouts,
        retries,
    } = of;
    proto::TrafficPolicy {
        outlier_detection: outlier_detection.as_ref().map(outliers),
        retry_budget: retry_budget.map(budget),
        limits: limits.as_ref().map(limits::limits),
        load_balancing: load_balancing.as_ref().map(balancing::section),
        health_checks: health_checks.as_ref().map(health::checks),
        timeouts: timeouts.map(self::timeouts),
        retries: retries.as_ref().map(self::retries),
    }
}

fn budget(of: RetryBudget) -> proto::RetryBudget {
    let RetryBudget {
        percent,
        min_retries,
        interval,
        answers_503,
    } = of;
    let seconds = interval.get().as_secs().max(1);
    let per_second = u64::from(min_retries).div_ceil(seconds);
    proto::RetryBudget {
        percent: percent.get().into(),
        min_per_second: per_second.min(u16::MAX.into()) as u32,
        interval_milliseconds: milliseconds(interval.get()),
        min_retries,
        answers_503,
    }
}

fn timeouts(of: PolicyTimeouts) -> proto::PolicyTimeouts {
    let PolicyTimeouts {
        requests: Timeouts { request, backend },
        connect,
    } = of;
    proto::PolicyTimeouts {
        request_timeout: limit(request),
        backend_timeout: limit(backend),
        connect_milliseconds: connect.map_or(0, |limit| milliseconds(limit.get())),
    }
}

fn retries(of: &Retries) -> proto::Retries {
    let Retries {
        retry: again,
        grpc_statuses,
    } = of;
    proto::Retries {
        retry: Some(retry(again)),
        grpc_statuses: grpc_statuses.iter().collect(),
    }
}

fn outliers(of: &OutlierDetection) -> proto::OutlierDetection {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors,
        ejection_time,
        max_ejection_percent,
        panic_threshold,
    } = of;
    let count = |of: &Option<NonZeroU32>| of.map_or(0, NonZeroU32::get);
    proto::OutlierDetection {
        consecutive_5xx: count(consecutive_5xx),
        consecutive_gateway_errors: count(consecutive_gateway_errors),
        base_ejection_milliseconds: milliseconds(ejection_time.base()),
        max_ejection_milliseconds: milliseconds(ejection_time.max()),
        max_ejection_percent: max_ejection_percent.get().into(),
        panic_threshold: panic_threshold.get().into(),
    }
}

fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
