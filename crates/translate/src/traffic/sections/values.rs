//! Numbers and durations within their bounds. `at` is the path of the section.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::routes::duration;

pub(super) fn count(
    number: Option<u32>,
    at: &str,
    field: &str,
) -> Result<Option<NonZeroU32>, String> {
    const MOST: u32 = 1000;
    let Some(number) = number else {
        return Ok(None);
    };
    let valid = NonZeroU32::new(number).filter(|number| number.get() <= MOST);
    let why = || format!("{at}.{field}: {number} is not from 1 to {MOST}");
    valid.map(Some).ok_or_else(why)
}

pub(super) fn time(
    text: &Option<String>,
    at: &str,
    field: &str,
) -> Result<Option<Duration>, String> {
    let Some(text) = text else {
        return Ok(None);
    };
    let why = || format!("{at}.{field}: {text:?} is not a duration such as \"30s\"");
    duration(text).map(Some).ok_or_else(why)
}
