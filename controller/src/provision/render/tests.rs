#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use weft_ir::{GatewayId, Identity, TrustDomain};
use weft_translate::{
    Address, CLASS_LABEL, ExternalTrafficPolicy, GATEWAY_LABEL, Resources, Routability,
};

use super::*;
use crate::provision::ProxyResources;

pub(crate) fn settings() -> ProxySettings {
    let trust_domain = TrustDomain::new("cluster.local").unwrap();
    let identity = Identity::new(trust_domain.clone(), "weft-system", "weft-controller");
    ProxySettings {
        image: "weft/proxy:1".into(),
        pull_policy: "IfNotPresent".into(),
        pull_secrets: Vec::new(),
        controller: "https://weft-controller.weft-system.svc:15012".into(),
        controller_identity: identity.unwrap(),
        trust_domain,
        access_log: "errors".into(),
        log: "info".into(),
        log_format: weft_process::log::Format::Json,
        workers: 2,
        resources: ProxyResources {
            requests: BTreeMap::from([("cpu".into(), "100m".into())]),
            limits: BTreeMap::new(),
        },
    }
}

pub(crate) fn provision() -> Provision {
    let port = |port: u16, transport: Transport| ProvisionPort {
        port,
        transport,
        name: format!("{transport}-{port}"),
    };
    let labels = [
        (GATEWAY_LABEL, "front"),
        (CLASS_LABEL, "weft"),
        ("team", "shop"),
        // Neither may make the pod another's.
        ("weft.dev/inject", "enabled"),
        ("app.kubernetes.io/managed-by", "me"),
    ];
    Provision {
        gateway: GatewayId::new("shop", "front"),
        uid: "u-1".into(),
        class: "weft".into(),
        name: "front-weft".into(),
        labels: labels
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        annotations: BTreeMap::from([
            ("note".into(), "x".into()),
            ("example.com/net".into(), "y".into()),
        ]),
        pod_labels: labels
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        pod_annotations: BTreeMap::from([("note".into(), "x".into())]),
        kept_off_pods: vec!["example.com/net".into()],
        service: ServiceProvision {
            kind: ServiceType::LoadBalancer,
            ports: vec![port(443, Transport::Tcp), port(53, Transport::Udp)],
            addresses: Vec::new(),
            cluster_ip: None,
            external_traffic_policy: ExternalTrafficPolicy::Cluster,
            annotations: BTreeMap::new(),
            load_balancer_class: None,
        },
        scaling: Scaling::Fixed(2),
        resources: Resources::default(),
        outside_grace: 10,
    }
}

fn of(kind: Kind, provision: &Provision) -> Value {
    let objects = render(provision, &settings());
    let (_, object) = objects.into_iter().find(|(one, _)| *one == kind).unwrap();
    object
}

fn addresses(values: &[&str]) -> Vec<Address> {
    let of = |value: &&str| Address {
        kind: AddressKind::Ip,
        value: (*value).to_owned(),
        routability: Routability::Unspecified,
    };
    values.iter().map(of).collect()
}

#[test]
fn cluster_ip_service_has_its_address_and_no_load_balancer() {
    let mut inside = provision();
    inside.service.kind = ServiceType::ClusterIp;
    inside.service.cluster_ip = Some("10.96.0.9".to_owned());
    inside.service.load_balancer_class = Some("example.com/lb".to_owned());
    let spec = of(Kind::Service, &inside)["spec"].clone();
    assert_eq!(spec["type"], "ClusterIP");
    assert_eq!(spec["clusterIP"], "10.96.0.9");
    assert_eq!(spec.get("loadBalancerClass"), None);
    assert_eq!(spec.get("externalTrafficPolicy"), None);
}

#[test]
fn gateway_has_all_objects() {
    let objects = render(&provision(), &settings());
    let objects: Vec<Value> = objects.into_iter().map(|(_, object)| object).collect();
    insta::assert_yaml_snapshot!(objects);
}

#[test]
fn listeners_do_not_change_the_pod_template() {
    let mut other = provision();
    other.service.ports.remove(0);
    other.service.addresses = addresses(&["192.0.2.1"]);
    assert_eq!(
        of(Kind::Deployment, &other),
        of(Kind::Deployment, &provision())
    );
}

#[test]
fn addresses_are_requested_in_one_way() {
    let metallb = "/metadata/annotations/metallb.io~1loadBalancerIPs";
    for (wanted, annotation, one, several) in [
        (&[][..], false, None, None),
        (&["192.0.2.1"], false, Some("192.0.2.1"), None),
        (
            &["192.0.2.1", "2001:db8::1"],
            false,
            None,
            Some("192.0.2.1,2001:db8::1"),
        ),
        // An annotation of the Gateway for MetalLB takes precedence.
        (&["192.0.2.1"], true, None, Some("192.0.2.9")),
    ] {
        let mut of_these = provision();
        of_these.service.addresses = addresses(wanted);
        if annotation {
            let own = (METALLB_ADDRESSES.to_owned(), "192.0.2.9".to_owned());
            of_these.service.annotations.extend([own]);
        }
        let service = of(Kind::Service, &of_these);
        let text = |path: &str| service.pointer(path).and_then(Value::as_str);
        assert_eq!(text("/spec/loadBalancerIP"), one, "{wanted:?}");
        assert_eq!(text(metallb), several, "{wanted:?}");
    }
}

#[test]
fn service_has_the_family_of_the_requested_addresses() {
    let both = (Some("PreferDualStack"), None);
    let (four, six) = (
        (Some("SingleStack"), Some("IPv4")),
        (Some("SingleStack"), Some("IPv6")),
    );
    for (wanted, annotation, cluster_ip, expected) in [
        (&[][..], None, None, both),
        (&[], None, Some("10.0.0.1"), both),
        (&["192.0.2.1"], None, None, four),
        (&["2001:db8::1"], None, None, six),
        (&["2001:db8::1"], None, Some("fd00::1"), six),
        (&["2001:db8::1"], None, Some("10.0.0.1"), both),
        (&["192.0.2.1", "2001:db8::1"], None, None, both),
        (&[], Some("2001:db8::1"), None, six),
        (&["192.0.2.1"], Some("192.0.2.9, 2001:db8::1"), None, both),
        (&[], Some("no address"), None, both),
    ] {
        let mut of_these = provision();
        of_these.service.addresses = addresses(wanted);
        of_these.service.cluster_ip = cluster_ip.map(str::to_owned);
        if let Some(own) = annotation {
            let own = (METALLB_ADDRESSES.to_owned(), own.to_owned());
            of_these.service.annotations.extend([own]);
        }
        let service = of(Kind::Service, &of_these);
        let text = |path: &str| service.pointer(path).and_then(Value::as_str);
        let found = (text("/spec/ipFamilyPolicy"), text("/spec/ipFamilies/0"));
        assert_eq!(found, expected, "{wanted:?} {annotation:?} {cluster_ip:?}");
    }
}

#[test]
fn autoscaled_deployment_has_no_replicas() {
    let mut scaled = provision();
    scaled.scaling = Scaling::Auto {
        min: 2,
        max: 9,
        cpu_percent: 70,
    };
    let deployment = of(Kind::Deployment, &scaled);
    assert_eq!(deployment.pointer("/spec/replicas"), None);
    insta::assert_yaml_snapshot!(of(Kind::Autoscaler, &scaled));
}

#[test]
fn service_and_pods_have_the_requested_settings() {
    let mut asked = provision();
    asked.service.kind = ServiceType::NodePort;
    asked.service.external_traffic_policy = ExternalTrafficPolicy::Local;
    asked.resources.limits = BTreeMap::from([("memory".into(), "1Gi".into())]);
    let service = of(Kind::Service, &asked);
    assert_eq!(service["spec"]["type"], "NodePort");
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
    let deployment = of(Kind::Deployment, &asked);
    let resources = deployment.pointer("/spec/template/spec/containers/0/resources");
    let expected = json!({"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}});
    assert_eq!(resources, Some(&expected));
    asked.service.kind = ServiceType::ClusterIp;
    let service = of(Kind::Service, &asked);
    assert_eq!(service.pointer("/spec/externalTrafficPolicy"), None);
}
