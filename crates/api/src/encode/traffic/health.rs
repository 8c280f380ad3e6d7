//! Encodes health checks.

use weft_ir::{HealthCheck, HealthChecks, HttpHealthCheck, StatusRange};

use super::milliseconds;
use crate::proto;
use proto::health_checks::Check;

pub(super) fn checks(of: &HealthChecks) -> proto::HealthChecks {
    let HealthChecks {
        timing,
        unhealthy_threshold,
        healthy_threshold,
        check,
    } = of;
    proto::HealthChecks {
        interval_milliseconds: milliseconds(timing.interval()),
        timeout_milliseconds: milliseconds(timing.timeout()),
        unhealthy_threshold: unhealthy_threshold.get(),
        healthy_threshold: healthy_threshold.get(),
        check: Some(match check {
            HealthCheck::Http(of) => Check::Http(http(of)),
            HealthCheck::Grpc(service) => Check::Grpc(proto::GrpcHealthCheck {
                service: service.to_string(),
            }),
            HealthCheck::Tcp => Check::Tcp(proto::TcpHealthCheck {}),
        }),
    }
}

fn http(of: &HttpHealthCheck) -> proto::HttpHealthCheck {
    let HttpHealthCheck {
        path,
        host,
        statuses,
    } = of;
    let range = |of: &StatusRange| proto::StatusRange {
        start: (*of.bounds().start()).into(),
        end: (*of.bounds().end()).into(),
    };
    proto::HttpHealthCheck {
        path: path.to_string(),
        host: host.as_ref().map(ToString::to_string).unwrap_or_default(),
        statuses: statuses.iter().map(range).collect(),
    }
}
