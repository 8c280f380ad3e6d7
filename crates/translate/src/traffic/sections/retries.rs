//! Reads `retries`.

use std::time::Duration;

use http::StatusCode;
use weft_ir::{GrpcStatuses, Retries, Retry};

use super::values::time;

/// The longest wait before the first retry.
const MOST_BACKOFF: Duration = Duration::from_secs(60);
/// The longest lists.
const MOST_CODES: usize = 32;
const MOST_STATUSES: usize = 16;

pub(super) fn read(of: &weft_policy::Retries, at: &str) -> Result<Retries, String> {
    let weft_policy::Retries {
        attempts,
        backoff,
        status_codes,
        grpc_statuses,
    } = of;
    let (least, most) = (Retry::LEAST_BACKOFF, Retry::MAX_ATTEMPTS);
    let attempts = attempts.unwrap_or(1);
    if attempts > most {
        return Err(format!("{at}.attempts: {attempts} is not from 0 to {most}"));
    }
    let backoff = time(backoff, at, "backoff")?.unwrap_or(least);
    if !(least..=MOST_BACKOFF).contains(&backoff) {
        return Err(format!(
            "{at}.backoff: {backoff:?} is not from {least:?} to {MOST_BACKOFF:?}"
        ));
    }
    Ok(Retries {
        retry: Retry {
            codes: codes(status_codes, at)?,
            attempts,
            backoff,
        },
        grpc_statuses: statuses(grpc_statuses, at)?,
    })
}

fn codes(of: &[u32], at: &str) -> Result<Vec<StatusCode>, String> {
    at_most(MOST_CODES, of.len(), at, "statusCodes")?;
    let mut codes = Vec::new();
    for (place, number) in of.iter().enumerate() {
        let code = u16::try_from(*number).ok();
        let code = code.filter(|code| (400..=599).contains(code));
        let code = code.and_then(|code| StatusCode::from_u16(code).ok());
        let code = code
            .ok_or_else(|| format!("{at}.statusCodes[{place}]: {number} is not from 400 to 599"))?;
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    Ok(codes)
}

fn statuses(of: &[String], at: &str) -> Result<GrpcStatuses, String> {
    at_most(MOST_STATUSES, of.len(), at, "grpcStatuses")?;
    let mut statuses = GrpcStatuses::default();
    for (place, name) in of.iter().enumerate() {
        statuses = statuses.with_name(name).ok_or_else(|| {
            format!(
                "{at}.grpcStatuses[{place}]: {name:?} is not one of {}",
                GrpcStatuses::NAMES.join(", ")
            )
        })?;
    }
    Ok(statuses)
}

fn at_most(most: usize, count: usize, at: &str, field: &str) -> Result<(), String> {
    match count > most {
        true => Err(format!("{at}.{field}: {count} entries; at most {most}")),
        false => Ok(()),
    }
}
