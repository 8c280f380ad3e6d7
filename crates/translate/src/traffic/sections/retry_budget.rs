//! Reads `retryBudget`.

use std::time::Duration;

use weft_ir::{BudgetInterval, RetryBudget};

use super::values::time;
use crate::routes::percent;

/// Retries per second.
const RATE: u32 = 10;
const MOST: u32 = 1000;

pub(super) fn read(of: &weft_policy::RetryBudget, at: &str) -> Result<RetryBudget, String> {
    let weft_policy::RetryBudget {
        percent: share,
        min_per_second: rate,
        interval: length,
    } = of;
    let without = RetryBudget::default();
    let share = share.unwrap_or(without.percent.get().into());
    let rate = rate.unwrap_or(RATE);
    if rate > MOST {
        return Err(format!("{at}.minPerSecond: {rate} is not from 0 to {MOST}"));
    }
    let interval = match time(length, at, "interval")? {
        None => without.interval,
        Some(length) => interval(length, &format!("{at}.interval"))?,
    };
    Ok(RetryBudget {
        percent: percent(share, 0, at, "percent")?,
        min_retries: interval.times(rate, Duration::from_secs(1)),
        interval,
        answers_503: false,
    })
}

/// `at` is the path of the field.
pub(in crate::traffic) fn interval(length: Duration, at: &str) -> Result<BudgetInterval, String> {
    let (least, most) = (BudgetInterval::LEAST, BudgetInterval::MOST);
    let why = || format!("{at}: {length:?} is not from {least:?} to {most:?}");
    BudgetInterval::new(length).ok_or_else(why)
}
