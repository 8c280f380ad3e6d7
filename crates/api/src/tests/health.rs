//! Encoding and decoding of health checks.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use prost::Message;
use weft_ir::*;

use crate::proto::health_checks::Check;
use crate::proto::resource::Body;
use crate::{Resource, decode, encode, proto};

fn http() -> HealthCheck {
    HealthCheck::Http(HttpHealthCheck {
        path: PathAndQuery::from_static("/healthz?full"),
        host: Some(Authority::from_static("shop.example.com:8080")),
        statuses: vec![StatusRange::SUCCESS, StatusRange::new(404, 404).unwrap()],
    })
}

fn set(check: HealthCheck) -> EndpointSet {
    let timing = CheckTiming::new(Duration::from_secs(3600), Duration::from_millis(100));
    EndpointSet {
        traffic: Some(Arc::new(TrafficPolicy {
            health_checks: Some(HealthChecks {
                timing: timing.unwrap(),
                unhealthy_threshold: NonZeroU32::new(1000).unwrap(),
                healthy_threshold: NonZeroU32::MIN,
                check,
            }),
            ..TrafficPolicy::default()
        })),
        ..EndpointSet::new(ServicePort::new("shop", "v1", 80), Protocol::Http1, vec![])
    }
}

#[test]
fn encoded_health_checks_decode_to_the_same_value() {
    let grpc = HealthCheck::Grpc("shop.Reviews".into());
    for check in [http(), grpc, HealthCheck::Grpc("".into()), HealthCheck::Tcp] {
        let set = set(check);
        let bytes = encode::endpoints(&set).encode_to_vec();
        let resource = proto::Resource::decode(&*bytes).unwrap();
        let (_, _, decoded) = decode::resource(resource).unwrap();
        assert_eq!(decoded, Resource::Endpoints(set));
    }
}

fn change(of: &EndpointSet, change: impl FnOnce(&mut proto::HealthChecks)) -> proto::Resource {
    let mut resource = encode::endpoints(of);
    let Some(Body::Endpoints(set)) = &mut resource.body else {
        panic!("endpoints");
    };
    change(
        set.traffic
            .as_mut()
            .unwrap()
            .health_checks
            .as_mut()
            .unwrap(),
    );
    resource
}

#[test]
fn invalid_health_checks_are_rejected_with_the_field() {
    type Change = fn(&mut proto::HealthChecks);
    fn of_http(of: &mut proto::HealthChecks, change: fn(&mut proto::HttpHealthCheck)) {
        match &mut of.check {
            Some(Check::Http(http)) => change(http),
            _ => panic!("http"),
        }
    }
    let changes: [(&str, Change); 9] = [
        ("interval_milliseconds", |of| of.interval_milliseconds = 0),
        ("interval_milliseconds", |of| {
            of.timeout_milliseconds = u32::MAX
        }),
        ("unhealthy_threshold", |of| of.unhealthy_threshold = 0),
        ("healthy_threshold", |of| of.healthy_threshold = 0),
        ("http.path", |of| {
            of_http(of, |http| http.path = "http://a/".into())
        }),
        ("http.path", |of| {
            of_http(of, |http| http.path = "/a b".into())
        }),
        ("http.host", |of| {
            of_http(of, |http| http.host = "a/b".into())
        }),
        ("http.statuses", |of| {
            of_http(of, |http| http.statuses.clear())
        }),
        ("http.statuses", |of| {
            of_http(of, |http| http.statuses[0].end = 600)
        }),
    ];
    for (field, changed) in changes {
        let error = decode::resource(change(&set(http()), changed)).unwrap_err();
        assert!(error.to_string().contains(field), "{field}: {error}");
    }
}

#[test]
fn unknown_kind_of_check_is_as_without_checks() {
    let resource = change(&set(HealthCheck::Tcp), |of| of.check = None);
    let Ok((_, _, Resource::Endpoints(set))) = decode::resource(resource) else {
        panic!("endpoints");
    };
    assert_eq!(set.traffic, Some(Arc::default()));
}
