//! Decodes traffic policies.

mod balancing;
mod health;
pub(super) mod limits;

use std::num::NonZeroU32;
use std::time::Duration;

use weft_ir::{
    BudgetInterval, ConnectTimeout, EjectionTime, GrpcStatuses, OutlierDetection, Percent,
    PolicyTimeouts, Retries, RetryBudget, Timeouts, TrafficPolicy,
};

use super::rules::{limit, retry};
use super::{DecodeError, Decoded, invalid};
use crate::proto;

pub(super) fn policy(wire: proto::TrafficPolicy) -> Decoded<TrafficPolicy> {
    let proto::TrafficPolicy {
        outlier_detection,
        retry_budget,
        limits,
        load_balancing,
        health_checks,
        timeouts,
        retries,
    } = wire;
    Ok(TrafficPolicy {
        outlier_detection: outlier_detection.map(outliers).transpose()?,
        retry_budget: retry_budget.map(budget).transpose()?,
        limits: limits.map(limits::limits).transpose()?,
        load_balancing: load_balancing.map(balancing::section).transpose()?,
        health_checks: health_checks.map(health::checks).transpose()?.flatten(),
        timeouts: timeouts.map(self::timeouts).transpose()?,
        retries: retries.map(self::retries).transpose()?,
    })
}

fn budget(wire: proto::RetryBudget) -> Decoded<RetryBudget> {
    let proto::RetryBudget {
        percent: share,
        min_per_second: rate,
        interval_milliseconds: length,
        min_retries,
        answers_503,
    } = wire;
    let share = percent("retry_budget.percent", share)?;
    if length == 0 {
        let valid = u16::try_from(rate);
        let valid = valid.map_err(|_| invalid("retry_budget.min_per_second")(&rate))?;
        return Ok(RetryBudget::per_second(share, valid));
    }
    let interval = BudgetInterval::new(Duration::from_millis(length.into()));
    Ok(RetryBudget {
        percent: share,
        min_retries,
        interval: interval.ok_or_else(|| invalid("retry_budget.interval_milliseconds")(&length))?,
        answers_503,
    })
}

fn timeouts(wire: proto::PolicyTimeouts) -> Decoded<PolicyTimeouts> {
    let proto::PolicyTimeouts {
        request_timeout,
        backend_timeout,
        connect_milliseconds,
    } = wire;
    let connect = (connect_milliseconds > 0).then(|| {
        let limit = ConnectTimeout::new(Duration::from_millis(connect_milliseconds.into()));
        limit.ok_or_else(|| invalid("timeouts.connect_milliseconds")(&connect_milliseconds))
    });
    Ok(PolicyTimeouts {
        requests: Timeouts {
            request: limit(request_timeout),
            backend: limit(backend_timeout),
        },
        connect: connect.transpose()?,
    })
}

fn retries(wire: proto::Retries) -> Decoded<Retries> {
    let proto::Retries {
        retry: again,
        grpc_statuses,
    } = wire;
    let mut statuses = GrpcStatuses::default();
    for status in grpc_statuses {
        let all = statuses.with(status);
        statuses = all.ok_or_else(|| invalid("retries.grpc_statuses")(&status))?;
    }
    Ok(Retries {
        retry: retry(again.ok_or(DecodeError::Absent("retries.retry"))?)?,
        grpc_statuses: statuses,
    })
}

fn outliers(wire: proto::OutlierDetection) -> Decoded<OutlierDetection> {
    let proto::OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors,
        base_ejection_milliseconds,
        max_ejection_milliseconds,
        max_ejection_percent,
        panic_threshold,
    } = wire;
    let milliseconds = |number: u32| Duration::from_millis(number.into());
    let (base, max) = (base_ejection_milliseconds, max_ejection_milliseconds);
    let ejection_time = EjectionTime::new(milliseconds(base), milliseconds(max));
    let ejection_time = ejection_time.ok_or_else(|| {
        invalid("outlier_detection.base_ejection_milliseconds")(&format_args!("{base} up to {max}"))
    })?;
    Ok(OutlierDetection {
        consecutive_5xx: NonZeroU32::new(consecutive_5xx),
        consecutive_gateway_errors: NonZeroU32::new(consecutive_gateway_errors),
        ejection_time,
        max_ejection_percent: percent(
            "outlier_detection.max_ejection_percent",
            max_ejection_percent,
        )?,
        panic_threshold: percent("outlier_detection.panic_threshold", panic_threshold)?,
    })
}

fn percent(field: &'static str, number: u32) -> Decoded<Percent> {
    Percent::new(number).ok_or_else(|| invalid(field)(&number))
}
