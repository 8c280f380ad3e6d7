//! Decodes health checks.

use std::num::NonZeroU32;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use weft_ir::{CheckTiming, HealthCheck, HealthChecks, HttpHealthCheck, StatusRange};

use crate::decode::{Decoded, invalid};
use crate::proto;
use proto::health_checks::Check;

/// Returns `None` for a kind of check that this version does not know: as without health checks.
pub(super) fn checks(wire: proto::HealthChecks) -> Decoded<Option<HealthChecks>> {
    let proto::HealthChecks {
        interval_milliseconds: interval,
        timeout_milliseconds: timeout,
        unhealthy_threshold,
        healthy_threshold,
        check,
    } = wire;
    let check = match check {
        Some(Check::Http(of)) => HealthCheck::Http(http(of)?),
        Some(Check::Grpc(proto::GrpcHealthCheck { service })) => HealthCheck::Grpc(service.into()),
        Some(Check::Tcp(proto::TcpHealthCheck {})) => HealthCheck::Tcp,
        None => return Ok(None),
    };
    let milliseconds = |number: u32| Duration::from_millis(number.into());
    let timing = CheckTiming::new(milliseconds(interval), milliseconds(timeout));
    let timing = timing.ok_or_else(|| {
        invalid("health_checks.interval_milliseconds")(&format_args!("{interval} with {timeout}"))
    })?;
    let count = |field, number: u32| NonZeroU32::new(number).ok_or_else(|| invalid(field)(&number));
    Ok(Some(HealthChecks {
        timing,
        unhealthy_threshold: count("health_checks.unhealthy_threshold", unhealthy_threshold)?,
        healthy_threshold: count("health_checks.healthy_threshold", healthy_threshold)?,
        check,
    }))
}

fn http(wire: proto::HttpHealthCheck) -> Decoded<HttpHealthCheck> {
    let proto::HttpHealthCheck {
        path,
        host,
        statuses,
    } = wire;
    let origin_form = path.starts_with('/').then_some(());
    let parsed = origin_form.and_then(|()| PathAndQuery::try_from(&path).ok());
    let range = |of: &proto::StatusRange| {
        let range = StatusRange::new(of.start, of.end);
        let (start, end) = (of.start, of.end);
        range.ok_or_else(|| {
            invalid("health_checks.http.statuses")(&format_args!("{start} to {end}"))
        })
    };
    let statuses = statuses.iter().map(range).collect::<Decoded<Vec<_>>>()?;
    if statuses.is_empty() {
        return Err(invalid("health_checks.http.statuses")(&"none"));
    }
    Ok(HttpHealthCheck {
        path: parsed.ok_or_else(|| invalid("health_checks.http.path")(&path))?,
        host: match &*host {
            "" => None,
            host => {
                let parsed = Authority::try_from(host);
                Some(parsed.map_err(|_| invalid("health_checks.http.host")(&host))?)
            }
        },
        statuses,
    })
}
