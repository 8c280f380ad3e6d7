//! Traffic policies as YAML, and the examples of them.

pub(crate) mod limits;

use std::path::Path;

use serde_norway::{Mapping, Value};
use weft_ir::{
    BalancingMethod, ConsistentHash, HashKey, HealthCheck, HealthChecks, LoadBalancing,
    OutlierDetection, PolicyTimeouts, Retries, RetryBudget, TrafficPolicy, ZonePreference,
};
use weft_translate::{Objects, PolicyStatus, TrafficPolicyStatus, Translation, translate};

use crate::authorization::ancestor_status;
use crate::input::{self, settings};
use crate::view::{limit, list, retry, text};

pub(crate) fn policy(of: &TrafficPolicy) -> Value {
    let TrafficPolicy {
        outlier_detection,
        retry_budget,
        limits,
        load_balancing,
        health_checks,
        timeouts,
        retries,
    } = of;
    let outliers = outlier_detection.as_ref().map(outliers);
    let budget = retry_budget.map(|of| {
        let RetryBudget {
            percent,
            min_retries,
            interval,
            answers_503,
        } = of;
        let (percent, interval) = (percent.get(), interval.get());
        let beyond = if answers_503 { ", else 503" } else { "" };
        format!("{percent} % and {min_retries} retries in {interval:?}{beyond}")
    });
    let limits = limits.as_ref().map(limits::limits);
    let balanced = load_balancing.as_ref().map(balancing);
    let health = health_checks.as_ref().map(health);
    let retries = retries.as_ref().map(self::retries);
    let timeouts = timeouts.as_ref().map(self::timeouts);
    let sections = [
        outliers, budget, limits, balanced, health, timeouts, retries,
    ];
    let sections: Vec<String> = sections.into_iter().flatten().collect();
    text(sections.join("; "))
}

fn timeouts(of: &PolicyTimeouts) -> String {
    let PolicyTimeouts { requests, connect } = of;
    let limit = |of| limit(of).unwrap_or_else(|| "unsaid".to_owned());
    let connect = connect.map(|limit| limit.get());
    format!(
        "request {}, attempt {}, connecting {connect:?}",
        limit(requests.request),
        limit(requests.backend)
    )
}

fn retries(of: &Retries) -> String {
    let Retries {
        retry: again,
        grpc_statuses,
    } = of;
    let statuses: Vec<String> = grpc_statuses.iter().map(|of| of.to_string()).collect();
    format!(
        "sent again {} and gRPC [{}]",
        retry(again),
        statuses.join(" ")
    )
}

fn outliers(of: &OutlierDetection) -> String {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway_errors,
        ejection_time,
        max_ejection_percent,
        panic_threshold,
    } = of;
    let row = |count: &Option<_>, of: &str| count.map(|count| format!("{count} {of}"));
    let rows = [
        row(consecutive_5xx, "5xx"),
        row(consecutive_gateway_errors, "gateway errors"),
    ];
    let rows: Vec<String> = rows.into_iter().flatten().collect();
    format!(
        "ejected after {} for {:?} to {:?}, at most {} %, all below {} %",
        rows.join(" or "),
        ejection_time.base(),
        ejection_time.max(),
        max_ejection_percent.get(),
        panic_threshold.get()
    )
}

fn balancing(of: &LoadBalancing) -> String {
    let LoadBalancing { method, zones } = of;
    let zones = match zones {
        ZonePreference::Service => String::new(),
        zones => format!(", zone {zones:?}"),
    };
    method_of(method) + &zones
}

fn method_of(of: &BalancingMethod) -> String {
    match of {
        BalancingMethod::PerRequest {
            algorithm,
            slow_start: None,
        } => format!("{algorithm:?}"),
        BalancingMethod::PerRequest {
            algorithm,
            slow_start: Some(of),
        } => format!("{algorithm:?}, {:?} until an endpoint is full", of.window()),
        BalancingMethod::ConsistentHash(ConsistentHash { key, load_factor }) => {
            let key = match key {
                HashKey::Header(name) => format!("header {name}"),
                HashKey::Cookie(of) => match of.ttl() {
                    Some(ttl) => format!("cookie {} made at {} for {ttl:?}", of.name(), of.path()),
                    None => format!("cookie {}", of.name()),
                },
                HashKey::QueryParameter(name) => format!("parameter {name}"),
                HashKey::SourceAddress => "source address".to_owned(),
            };
            let bound = load_factor.map(|of| format!(", load up to {} %", of.percent()));
            format!("hash of {key}{}", bound.unwrap_or_default())
        }
    }
}

fn health(of: &HealthChecks) -> String {
    let HealthChecks {
        timing,
        unhealthy_threshold,
        healthy_threshold,
        check,
    } = of;
    let check = match check {
        HealthCheck::Http(of) => {
            let ranges: Vec<_> = of.statuses.iter().map(|range| range.bounds()).collect();
            let host = of.host.as_ref().map_or("", |host| host.as_str());
            format!("GET {host}{} is {ranges:?}", of.path)
        }
        HealthCheck::Grpc(service) => format!("grpc {service:?} serves"),
        HealthCheck::Tcp => "tcp connects".to_owned(),
    };
    format!(
        "checked every {:?} within {:?}, unhealthy after {unhealthy_threshold}, healthy after \
         {healthy_threshold}: {check}",
        timing.interval(),
        timing.timeout()
    )
}

pub(crate) fn statuses(translation: &Translation) -> Mapping {
    let status = |of: &TrafficPolicyStatus| {
        let said = list(of.ancestors.iter().map(ancestor_status)).unwrap_or(Value::Null);
        let name = format!("{}/{} at {}", of.id.namespace, of.id.name, of.generation);
        (text(name), said)
    };
    translation.traffic.iter().map(status).collect()
}

/// The statuses of XBackendTrafficPolicies.
pub(crate) fn constraints(translation: &Translation) -> Mapping {
    let status = |of: &PolicyStatus| {
        let said = list(of.ancestors.iter().map(ancestor_status)).unwrap_or(Value::Null);
        let name = format!("{}/{} at {}", of.namespace, of.name, of.generation);
        (text(name), said)
    };
    translation.backend_traffic.iter().map(status).collect()
}

#[test]
fn example_of_a_retry_constraint_is_accepted() {
    let mut objects = Objects::default();
    let service = serde_json::json!({
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"name": "http", "port": 80}]},
    });
    input::add(&mut objects, "Service", &service).unwrap();
    let path = "../../examples/policies/retry-constraint.yaml";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    for document in input::documents(&std::fs::read_to_string(path).unwrap()) {
        let kind = document["kind"].as_str().unwrap();
        input::add(&mut objects, kind, &document).unwrap();
    }
    let translation = translate(&objects, &settings());
    let accepted = &translation.backend_traffic[0].ancestors[0].conditions[0];
    assert!(accepted.status, "{}", accepted.message);
}

/// The examples are valid as they stand: the Services that they target are of the sample shop.
#[test]
fn examples_are_accepted() {
    let service = serde_json::json!({
        "metadata": {"name": "reviews", "namespace": "shop"},
        "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"name": "http", "port": 80}]},
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policies");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("traffic-") {
            continue;
        }
        let mut objects = Objects::default();
        input::add(&mut objects, "Service", &service).unwrap();
        for document in input::documents(&std::fs::read_to_string(&path).unwrap()) {
            assert_eq!(document["apiVersion"], "policy.weft.dev/v1alpha1", "{name}");
            input::add(&mut objects, "TrafficPolicy", &document).unwrap();
            read += 1;
        }
        for status in &translate(&objects, &settings()).traffic {
            for ancestor in &status.ancestors {
                let accepted = &ancestor.conditions[0];
                assert!(accepted.status, "{name}: {}", accepted.message);
            }
        }
    }
    assert_eq!(read, 9);
}
