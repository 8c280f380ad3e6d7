//! Gateways as YAML: configuration of their proxies, infrastructure, and statuses. Keys are never
//! printed.

use std::collections::BTreeMap;

use serde_norway::{Mapping, Value};
use weft_ir::{
    AlternativeName, BackendRoots, BackendTls, ClientValidation, ForwardedHeader, Gateway,
    GatewayPort, HostPattern, HttpListener, ServerTls, Serving, StreamListener, TlsListener,
    TlsServing, VirtualHost,
};
use weft_translate::{
    Address, AncestorStatus, GatewayClassStatus, GatewayStatus, GatewayView, ListenerSetStatus,
    ListenerStatus, PolicyStatus, Provision, ProvisionPort, Resources, Scaling, ServiceProvision,
    Translation,
};

use crate::view::{
    conditions, connection_rule, external_auth, field, fields, list, rule, text, tls_rule,
};

pub(crate) fn view(view: &GatewayView) -> Value {
    let GatewayView { gateway, ports } = view;
    let Gateway {
        id: _,
        client_certificate,
        forwarded,
        proxy_protocol,
        normalize_paths,
    } = gateway.as_ref();
    let certificate = client_certificate
        .as_ref()
        .map(|pair| text(format!("{pair:?}")));
    fields([
        ("clientCertificate", certificate),
        (
            "trustedHops",
            (forwarded.hops > 0).then(|| text(forwarded.hops)),
        ),
        (
            "trustedHeader",
            (forwarded.header != ForwardedHeader::default()).then(|| text("Forwarded")),
        ),
        ("trustedProxies", list(forwarded.proxies.iter().map(text))),
        ("normalizePaths", (!normalize_paths).then(|| text("no"))),
        ("proxyProtocol", proxy_protocol.then(|| text("yes"))),
        ("ports", list(ports.iter().map(|of| port(of)))),
    ])
}

fn port(port: &GatewayPort) -> Value {
    let listeners = match &port.serving {
        Serving::Http(listeners) => list(listeners.iter().map(http)),
        Serving::Tls(listeners) => list(listeners.iter().map(tls)),
        Serving::Tcp(listener) | Serving::Udp(listener) => Some(stream(listener)),
    };
    let kind = match &port.serving {
        Serving::Http(_) => "http",
        Serving::Tls(_) => "tls",
        Serving::Tcp(_) => "bytes",
        Serving::Udp(_) => "datagrams",
    };
    let name = format!("{}/{} {kind}", port.transport(), port.port);
    let services = list(port.services.iter().map(|of| {
        let rules = list(of.rules.iter().map(|of| rule(of)));
        field(&of.id.to_string(), rules.unwrap_or(Value::Null))
    }));
    fields([
        (&*name, Some(listeners.unwrap_or(Value::Null))),
        ("rules of Services", services),
    ])
}

fn head(name: &str, hostname: Option<&HostPattern>) -> Option<Value> {
    let host = hostname.map_or("any".to_owned(), ToString::to_string);
    Some(text(format!("{name} for {host}")))
}

fn http(listener: &HttpListener) -> Value {
    let HttpListener {
        name,
        hostname,
        external_auth: filters,
        hosts,
    } = listener;
    fields([
        ("listener", head(name, hostname.as_ref())),
        ("filters", list(filters.iter().map(|of| external_auth(of)))),
        ("hosts", list(hosts.iter().map(host))),
    ])
}

fn host(host: &VirtualHost) -> Value {
    let VirtualHost { host, rules } = host;
    let name = host.as_ref().map_or("any".to_owned(), ToString::to_string);
    field(
        &name,
        list(rules.iter().map(|of| rule(of))).unwrap_or(Value::Null),
    )
}

fn tls(listener: &TlsListener) -> Value {
    let TlsListener {
        name,
        hostname,
        serving,
    } = listener;
    let filters = match serving {
        TlsServing::Http { external_auth, .. } => external_auth.as_slice(),
        _ => &[],
    };
    let (kind, with, rules) = match serving {
        TlsServing::Http { tls, hosts, .. } => ("https", Some(tls), list(hosts.iter().map(host))),
        TlsServing::Terminate { tls, rules } => {
            ("terminated", Some(tls), list(rules.iter().map(tls_rule)))
        }
        TlsServing::Passthrough { rules } => ("passed", None, list(rules.iter().map(tls_rule))),
    };
    fields([
        ("listener", head(name, hostname.as_ref())),
        ("with", with.map(server_tls)),
        ("filters", list(filters.iter().map(|of| external_auth(of)))),
        (kind, Some(rules.unwrap_or(Value::Null))),
    ])
}

fn server_tls(tls: &ServerTls) -> Value {
    let ServerTls {
        certificates,
        clients,
    } = tls;
    let mut line = format!("{} certificates", certificates.len());
    if let Some(ClientValidation {
        roots: _,
        insecure_fallback,
    }) = clients
    {
        line += ", clients are checked";
        if *insecure_fallback {
            line += " and let in all the same";
        }
    }
    text(line)
}

fn stream(listener: &StreamListener) -> Value {
    let StreamListener { name, rule } = listener;
    fields([
        ("listener", Some(text(name))),
        (
            "routed",
            rule.as_ref().map(|rule| connection_rule(rule, None)),
        ),
    ])
}

pub(crate) fn backend_tls(tls: &BackendTls) -> String {
    let BackendTls {
        hostname,
        alternative_names,
        roots,
    } = tls;
    let roots = match roots {
        BackendRoots::System => "the system's roots",
        BackendRoots::Pem(_) => "roots of its own",
    };
    let names: Vec<String> = alternative_names
        .iter()
        .map(|name| match name {
            AlternativeName::Dns(name) => format!(" or {name}"),
            AlternativeName::Uri(uri) => format!(" or {uri}"),
        })
        .collect();
    format!("TLS to {hostname}{} by {roots}", names.concat())
}

pub(crate) fn statuses(translation: &Translation) -> [(&'static str, Mapping); 5] {
    let classes = translation.gateway_classes.iter().map(|status| {
        let GatewayClassStatus {
            name,
            generation,
            conditions: said,
        } = status;
        (text(format!("{name} at {generation}")), conditions(said))
    });
    [
        ("gatewayClasses", classes.collect()),
        (
            "gateways",
            translation.gateways.iter().map(gateway).collect(),
        ),
        (
            "listenerSets",
            translation.listener_sets.iter().map(listener_set).collect(),
        ),
        (
            "policies",
            translation.policies.iter().map(policy).collect(),
        ),
        (
            "provisions",
            translation.provisions.iter().map(provision).collect(),
        ),
    ]
}

fn gateway(status: &GatewayStatus) -> (Value, Value) {
    let GatewayStatus {
        id,
        generation,
        conditions: said,
        addresses,
        listeners,
        attached_listener_sets,
    } = status;
    let sets = (*attached_listener_sets > 0).then(|| text(attached_listener_sets));
    let all = fields([
        ("conditions", Some(conditions(said))),
        ("addresses", list(addresses.iter().map(address))),
        ("attachedListenerSets", sets),
        ("listeners", list(listeners.iter().map(listener))),
    ]);
    (text(format!("{id} at {generation}")), all)
}

fn address(address: &Address) -> Value {
    let Address {
        kind,
        value,
        routability,
    } = address;
    let line = format!("{} {value} {}", kind.as_str(), routability.as_str());
    text(line.trim_end())
}

fn listener(status: &ListenerStatus) -> Value {
    let ListenerStatus {
        name,
        socket: _,
        supported_kinds,
        attached_routes,
        conditions: said,
    } = status;
    let kinds: Vec<&str> = supported_kinds.iter().map(|of| of.kind.as_str()).collect();
    let name = format!("{name}: {attached_routes} routes of [{}]", kinds.join(", "));
    field(&name, conditions(said))
}

fn listener_set(status: &ListenerSetStatus) -> (Value, Value) {
    let ListenerSetStatus {
        namespace,
        name,
        gateway: _,
        generation,
        conditions: said,
        listeners,
    } = status;
    let all = fields([
        ("conditions", Some(conditions(said))),
        ("listeners", list(listeners.iter().map(listener))),
    ]);
    (text(format!("{namespace}/{name} at {generation}")), all)
}

fn policy(status: &PolicyStatus) -> (Value, Value) {
    let PolicyStatus {
        namespace,
        name,
        generation,
        ancestors,
    } = status;
    let each = ancestors.iter().map(|of| {
        let AncestorStatus {
            ancestor,
            conditions: said,
        } = of;
        field(
            &serde_json::to_string(ancestor).expect("JSON"),
            conditions(said),
        )
    });
    let name = format!("{namespace}/{name} at {generation}");
    (text(name), list(each).unwrap_or(Value::Null))
}

fn provision(provision: &Provision) -> (Value, Value) {
    let Provision {
        gateway,
        uid,
        class,
        name,
        labels,
        annotations,
        pod_labels,
        pod_annotations,
        kept_off_pods,
        service,
        scaling,
        resources,
        outside_grace,
    } = provision;
    let ServiceProvision {
        kind,
        ports,
        addresses,
        cluster_ip,
        external_traffic_policy,
        annotations: own,
        load_balancer_class,
    } = service;
    let Resources { requests, limits } = resources;
    let pairs = |of: &BTreeMap<String, String>| {
        list(
            of.iter()
                .map(|(key, value)| text(format!("{key}: {value}"))),
        )
    };
    // Only if pods do not get everything.
    let own_pairs = |of: &BTreeMap<String, String>, all| (of != all).then(|| pairs(of)).flatten();
    let port = |of: &ProvisionPort| text(format!("{} {}/{}", of.name, of.transport, of.port));
    let scaling = match scaling {
        Scaling::Fixed(replicas) => format!("{replicas} replicas"),
        Scaling::Auto {
            min,
            max,
            cpu_percent,
        } => format!("{min} to {max} replicas at {cpu_percent} %"),
    };
    // Only if it differs from the default.
    let outside_grace = (*outside_grace != 10).then(|| text(format!("{outside_grace} s")));
    let service = format!("{} {}", kind.as_str(), external_traffic_policy.as_str());
    let all = fields([
        ("name", Some(text(format!("{name} of {uid:?} and {class}")))),
        ("labels", pairs(labels)),
        ("annotations", pairs(annotations)),
        ("podLabels", own_pairs(pod_labels, labels)),
        ("podAnnotations", own_pairs(pod_annotations, annotations)),
        ("keptOffPods", list(kept_off_pods.iter().map(text))),
        ("service", Some(text(service))),
        ("loadBalancerClass", load_balancer_class.as_ref().map(text)),
        ("serviceAnnotations", pairs(own)),
        ("ports", list(ports.iter().map(port))),
        ("addresses", list(addresses.iter().map(address))),
        ("clusterIP", cluster_ip.as_ref().map(text)),
        ("scaling", Some(text(scaling))),
        ("requests", pairs(requests)),
        ("limits", pairs(limits)),
        ("outsideGrace", outside_grace),
    ]);
    (text(gateway), all)
}
