//! Renders the objects of a Gateway. Pure.
//!
//! Source: GEP-1762 (names and labels), GEP-1867 (labels and annotations of the infrastructure).

use std::net::IpAddr;

use serde_json::{Value, json};
use weft_ir::Transport;
use weft_translate::{
    AddressKind, Provision, ProvisionPort, Scaling, ServiceProvision, ServiceType,
};

use super::ProxySettings;
use super::pods::{selector, template};
use crate::kubernetes::{FIELD_MANAGER, MANAGED_BY};

/// MetalLB's annotation for requested addresses, the only way to request several.
const METALLB_ADDRESSES: &str = "metallb.io/loadBalancerIPs";

/// The kinds of objects of a Gateway, in the order in which they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    ServiceAccount,
    Service,
    Deployment,
    DisruptionBudget,
    Autoscaler,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::Service,
        Self::Deployment,
        Self::DisruptionBudget,
        Self::Autoscaler,
    ];

    /// Group, version, kind and plural.
    pub(super) fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::DisruptionBudget => (
                "policy",
                "v1",
                "PodDisruptionBudget",
                "poddisruptionbudgets",
            ),
            Self::Autoscaler => (
                "autoscaling",
                "v2",
                "HorizontalPodAutoscaler",
                "horizontalpodautoscalers",
            ),
        }
    }
}

/// Renders the objects of a Gateway. All have the same name and are in the Gateway's namespace.
pub(super) fn render(of: &Provision, settings: &ProxySettings) -> Vec<(Kind, Value)> {
    let mut objects = vec![
        (Kind::ServiceAccount, account(of)),
        (Kind::Service, service(of)),
        (Kind::Deployment, deployment(of, settings)),
        (Kind::DisruptionBudget, disruption_budget(of)),
    ];
    if let Scaling::Auto {
        min,
        max,
        cpu_percent,
    } = of.scaling
    {
        objects.push((Kind::Autoscaler, autoscaler(of, min, max, cpu_percent)));
    }
    objects
}

/// Adds to `body` the fields that all objects have.
fn object(kind: Kind, of: &Provision, mut body: Value) -> Value {
    let (group, version, kind, _) = kind.names();
    let mut labels = json!(of.labels);
    labels[MANAGED_BY] = json!(FIELD_MANAGER);
    body["apiVersion"] = match group {
        "" => json!(version),
        group => json!(format!("{group}/{version}")),
    };
    body["kind"] = json!(kind);
    body["metadata"] = json!({
        "name": of.name,
        "namespace": of.gateway.namespace,
        "labels": labels,
        "annotations": of.annotations,
        "ownerReferences": [{
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "name": of.gateway.name,
            "uid": of.uid,
            "controller": true,
        }],
    });
    body
}

fn account(of: &Provision) -> Value {
    let body = json!({ "automountServiceAccountToken": false });
    object(Kind::ServiceAccount, of, body)
}

fn service(of: &Provision) -> Value {
    let ServiceProvision {
        kind,
        ports,
        addresses,
        cluster_ip,
        external_traffic_policy,
        annotations,
        load_balancer_class,
    } = &of.service;
    let ports: Vec<Value> = ports.iter().map(service_port).collect();
    let mut spec = json!({
        "type": kind.as_str(),
        "selector": selector(of),
        "ports": ports,
        "ipFamilyPolicy": "PreferDualStack",
    });
    if *kind != ServiceType::ClusterIp {
        spec["externalTrafficPolicy"] = json!(external_traffic_policy.as_str());
    }
    if let Some(address) = cluster_ip {
        spec["clusterIP"] = json!(address);
    }
    if let Some(class) = load_balancer_class
        && *kind == ServiceType::LoadBalancer
    {
        spec["loadBalancerClass"] = json!(class);
    }
    let addresses: Vec<&str> = addresses
        .iter()
        .filter(|address| address.kind == AddressKind::Ip)
        .map(|address| address.value.as_str())
        .collect();
    let mut annotations = annotations.clone();
    let own = annotations.get(METALLB_ADDRESSES);
    let own = own.or_else(|| of.annotations.get(METALLB_ADDRESSES));
    let asked = own.map_or_else(|| addresses.clone(), |own| own.split(',').collect());
    if let Some(family) = single_family(&asked, cluster_ip.as_deref()) {
        spec["ipFamilyPolicy"] = json!("SingleStack");
        spec["ipFamilies"] = json!([family]);
    }
    // MetalLB accepts one of both ways, and rejects a Service with both.
    if own.is_none() {
        match addresses[..] {
            [] => {}
            [one] => spec["loadBalancerIP"] = json!(one),
            _ => drop(annotations.insert(METALLB_ADDRESSES.to_owned(), addresses.join(","))),
        }
    }
    let mut service = object(Kind::Service, of, json!({ "spec": spec }));
    for (name, value) in annotations {
        service["metadata"]["annotations"][name] = json!(value);
    }
    service
}

/// Returns the family of the requested addresses, if they have one. A load balancer assigns a
/// Service an address of each of its families: MetalLB rejects a Service of two families that
/// requests addresses of one.
fn single_family(asked: &[&str], cluster_ip: Option<&str>) -> Option<&'static str> {
    if asked.is_empty() {
        return None;
    }
    let all = asked.iter().copied().chain(cluster_ip);
    let mut six = all.map(|one| one.trim().parse().map(|ip: IpAddr| ip.is_ipv6()).ok());
    let is_six = six.next()??;
    six.all(|one| one == Some(is_six))
        .then_some(if is_six { "IPv6" } else { "IPv4" })
}

fn service_port(of: &ProvisionPort) -> Value {
    json!({
        "name": of.name,
        "port": of.port,
        "targetPort": of.port,
        "protocol": match of.transport {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        },
    })
}

fn deployment(of: &Provision, settings: &ProxySettings) -> Value {
    let mut spec = json!({
        "selector": { "matchLabels": selector(of) },
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
        "template": template(of, settings),
    });
    // With an autoscaler, the number of replicas is the autoscaler's field.
    if let Scaling::Fixed(replicas) = of.scaling {
        spec["replicas"] = json!(replicas);
    }
    object(Kind::Deployment, of, json!({ "spec": spec }))
}

fn disruption_budget(of: &Provision) -> Value {
    let spec = json!({
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": { "matchLabels": selector(of) },
    });
    object(Kind::DisruptionBudget, of, json!({ "spec": spec }))
}

fn autoscaler(of: &Provision, min: u32, max: u32, cpu_percent: u32) -> Value {
    let target = json!({ "type": "Utilization", "averageUtilization": cpu_percent });
    let spec = json!({
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": of.name },
        "minReplicas": min,
        "maxReplicas": max,
        "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": target } }],
    });
    object(Kind::Autoscaler, of, json!({ "spec": spec }))
}

#[cfg(test)]
pub(super) mod tests;
