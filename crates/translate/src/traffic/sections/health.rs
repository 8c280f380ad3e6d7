//! Reads `healthChecks`.

use std::num::NonZeroU32;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use weft_ir::{CheckTiming, HealthCheck, HealthChecks, HttpHealthCheck, StatusRange};
use weft_policy::{GrpcHealthCheck, TcpHealthCheck};

use super::values::{count, time};

/// Ranges of statuses of one check.
const MAX_RANGES: usize = 16;
/// Bytes of a path.
const MAX_PATH: usize = 1024;
/// Bytes of a host, and of the name of a service.
const MAX_NAME: usize = 253;

pub(super) fn read(of: &weft_policy::HealthChecks, at: &str) -> Result<HealthChecks, String> {
    let weft_policy::HealthChecks {
        interval,
        timeout,
        unhealthy_threshold,
        healthy_threshold,
        http,
        grpc,
        tcp,
    } = of;
    let interval = time(interval, at, "interval")?.unwrap_or(Duration::from_secs(10));
    let timeout = time(timeout, at, "timeout")?.unwrap_or(Duration::from_secs(1));
    let timing = CheckTiming::new(interval, timeout).ok_or_else(|| {
        format!(
            "{at}: interval is {interval:?} and timeout {timeout:?}; interval is from {:?} to \
             {:?}, and timeout from {:?} to interval, at most {:?}",
            CheckTiming::LEAST_INTERVAL,
            CheckTiming::MOST_INTERVAL,
            CheckTiming::LEAST_TIMEOUT,
            CheckTiming::MOST_TIMEOUT
        )
    })?;
    let check = match (http, grpc, tcp) {
        (Some(of), None, None) => HealthCheck::Http(read_http(of, &format!("{at}.http"))?),
        (None, Some(of), None) => {
            HealthCheck::Grpc(read_service(of, &format!("{at}.grpc"))?.into())
        }
        (None, None, Some(TcpHealthCheck {})) => HealthCheck::Tcp,
        _ => {
            return Err(format!(
                "{at}: exactly one of http, grpc and tcp is required"
            ));
        }
    };
    let threshold = |number, field, absent: NonZeroU32| {
        Ok::<_, String>(count(number, at, field)?.unwrap_or(absent))
    };
    const THREE: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);
    Ok(HealthChecks {
        timing,
        unhealthy_threshold: threshold(*unhealthy_threshold, "unhealthyThreshold", THREE)?,
        healthy_threshold: threshold(*healthy_threshold, "healthyThreshold", NonZeroU32::MIN)?,
        check,
    })
}

fn read_http(of: &weft_policy::HttpHealthCheck, at: &str) -> Result<HttpHealthCheck, String> {
    let weft_policy::HttpHealthCheck {
        path,
        host,
        expected_statuses,
    } = of;
    if path.len() > MAX_PATH {
        return Err(format!("{at}.path: it has more than {MAX_PATH} bytes"));
    }
    let is_graphic = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    let is_path = path.starts_with('/') && path.bytes().all(is_graphic);
    let parsed = PathAndQuery::try_from(path.as_str()).ok();
    let parsed = parsed.filter(|_| is_path);
    let parsed =
        parsed.ok_or_else(|| format!("{at}.path: {path:?} is not a path such as \"/healthz\""))?;
    Ok(HttpHealthCheck {
        path: parsed,
        host: host
            .as_deref()
            .map(|host| read_host(host, at))
            .transpose()?,
        statuses: read_statuses(expected_statuses, at)?,
    })
}

fn read_host(host: &str, at: &str) -> Result<Authority, String> {
    let fits = host.len() <= MAX_NAME && !host.contains('@');
    let parsed = Authority::try_from(host).ok().filter(|_| fits);
    // Without userinfo, an authority is its host, and a port if it has one.
    let is_host = |of: &Authority| of.port_u16().is_some() || of.as_str() == of.host();
    let parsed = parsed.filter(|of| !of.host().is_empty() && is_host(of));
    parsed.ok_or_else(|| format!("{at}.host: {host:?} is not a host such as \"shop.example.com\""))
}

fn read_statuses(of: &[weft_policy::StatusRange], at: &str) -> Result<Vec<StatusRange>, String> {
    if of.is_empty() {
        return Ok(vec![StatusRange::SUCCESS]);
    }
    if of.len() > MAX_RANGES {
        let number = of.len();
        return Err(format!(
            "{at}.expectedStatuses: there are {number} ranges, and the limit is {MAX_RANGES}"
        ));
    }
    let ranges = of.iter().enumerate().map(|(place, range)| {
        let weft_policy::StatusRange { start, end } = *range;
        StatusRange::new(start, end).ok_or_else(|| {
            format!(
                "{at}.expectedStatuses[{place}]: {start} to {end} is not a range within 200 to 599"
            )
        })
    });
    ranges.collect()
}

fn read_service<'s>(of: &'s GrpcHealthCheck, at: &str) -> Result<&'s str, String> {
    let GrpcHealthCheck { service } = of;
    let service = service.as_deref().unwrap_or_default();
    match service.len() <= MAX_NAME {
        true => Ok(service),
        false => Err(format!("{at}.service: it has more than {MAX_NAME} bytes")),
    }
}
