//! Reads `outlierDetection`.

use std::time::Duration;

use weft_ir::{EjectionTime, OutlierDetection};

use super::values::{count, time};
use crate::routes::percent;

pub(super) fn read(
    of: &weft_policy::OutlierDetection,
    at: &str,
) -> Result<OutlierDetection, String> {
    let weft_policy::OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors,
        base_ejection_time,
        max_ejection_time,
        max_ejection_percent,
        panic_threshold,
    } = of;
    if consecutive_5xx.is_none() && consecutive_gateway_errors.is_none() {
        return Err(format!(
            "{at}: consecutive5xx or consecutiveGatewayErrors is required"
        ));
    }
    let base = time(base_ejection_time, at, "baseEjectionTime")?;
    let base = base.unwrap_or(Duration::from_secs(30));
    let max = time(max_ejection_time, at, "maxEjectionTime")?;
    let max = max.unwrap_or(base.max(Duration::from_secs(300)));
    let ejection_time = EjectionTime::new(base, max).ok_or_else(|| {
        format!(
            "{at}: baseEjectionTime is {base:?} and maxEjectionTime {max:?}; at least {:?}, the \
             first at most the second, and at most {:?}",
            EjectionTime::LEAST,
            EjectionTime::MOST
        )
    })?;
    Ok(OutlierDetection {
        consecutive_5xx: count(*consecutive_5xx, at, "consecutive5xx")?,
        consecutive_gateway_errors: count(
            *consecutive_gateway_errors,
            at,
            "consecutiveGatewayErrors",
        )?,
        ejection_time,
        max_ejection_percent: percent(
            max_ejection_percent.unwrap_or(50),
            1,
            at,
            "maxEjectionPercent",
        )?,
        panic_threshold: percent(panic_threshold.unwrap_or(0), 0, at, "panicThreshold")?,
    })
}
