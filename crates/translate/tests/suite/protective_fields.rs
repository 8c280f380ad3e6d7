//! Fields that must be understood (docs/reference/statuses.md): with an unknown field below one of
//! them, nothing that it protects is served.

use serde_json::{Value, json};
use weft_translate::{Objects, Translation, translate};

use crate::input::{self, settings};

/// Protective settings: the path of an unknown field, and where it must be rejected.
const TABLE: &[(&str, &str, Refused)] = &[
    ("Gateway", "/spec/listeners/0/filters", Refused::Listener),
    ("Gateway", "/spec/listeners/0/tls", Refused::Listener),
    (
        "Gateway",
        "/spec/listeners/0/allowedRoutes",
        Refused::Listener,
    ),
    (
        "Gateway",
        "/spec/listeners/0/allowedRoutes/namespaces",
        Refused::Listener,
    ),
    (
        "Gateway",
        "/spec/listeners/0/allowedRoutes/namespaces/selector",
        Refused::Listener,
    ),
    (
        "Gateway",
        "/spec/listeners/0/allowedRoutes/kinds/0",
        Refused::Listener,
    ),
    ("Gateway", "/spec/tls", Refused::Listener),
    ("Gateway", "/spec/tls/frontend", Refused::Listener),
    ("Gateway", "/spec/tls/frontend/default", Refused::Listener),
    (
        "Gateway",
        "/spec/tls/frontend/default/validation",
        Refused::Listener,
    ),
    ("Gateway", "/spec/allowedListeners", Refused::Gateway),
    (
        "Gateway",
        "/spec/allowedListeners/namespaces",
        Refused::Gateway,
    ),
    ("Gateway", "/spec/addresses/0", Refused::Gateway),
    ("HTTPRoute", "/spec/rules/0/filters/0", Refused::Rule),
    (
        "HTTPRoute",
        "/spec/rules/0/filters/0/requestHeaderModifier",
        Refused::Rule,
    ),
    ("HTTPRoute", "/spec/rules/0/matches/0", Refused::Rule),
    ("HTTPRoute", "/spec/rules/0/matches/0/path", Refused::Rule),
    (
        "HTTPRoute",
        "/spec/rules/0/matches/0/headers/0",
        Refused::Rule,
    ),
    ("BackendTLSPolicy", "/spec/validation", Refused::Backend),
    ("BackendTLSPolicy", "/spec/options", Refused::Backend),
    ("ReferenceGrant", "/spec/from/0", Refused::Backend),
    ("ReferenceGrant", "/spec/to/0", Refused::Backend),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Refused {
    Gateway,
    Listener,
    Rule,
    Backend,
}

fn documents() -> Vec<Value> {
    let mut documents = input::documents(
        r#"
kind: GatewayClass
metadata: {name: weft}
spec: {controllerName: weft.dev/gateway-controller}
---
kind: Gateway
metadata: {name: public, namespace: edge}
spec:
  gatewayClassName: weft
  addresses: [{type: IPAddress}]
  allowedListeners: {namespaces: {from: All}}
  tls: {frontend: {default: {validation: {caCertificateRefs: [{kind: ConfigMap, name: ca}]}}}}
  listeners:
  - name: https
    protocol: HTTPS
    port: 443
    tls: {certificateRefs: [{name: pair}]}
    allowedRoutes: {kinds: [{kind: HTTPRoute}], namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}
    filters: {}
---
kind: Namespace
metadata: {name: edge, labels: {a: b}}
---
kind: Secret
metadata: {name: pair, namespace: edge}
type: kubernetes.io/tls
data: {tls.crt: "@a.crt", tls.key: "@a.key"}
---
kind: ConfigMap
metadata: {name: ca, namespace: edge}
data: {ca.crt: "@ca.crt"}
---
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
---
kind: ReferenceGrant
metadata: {name: edge, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}]
  to: [{group: "", kind: Service}]
---
kind: BackendTLSPolicy
metadata: {name: web, namespace: shop}
spec:
  targetRefs: [{group: "", kind: Service, name: web}]
  validation: {hostname: web.example.com, wellKnownCACertificates: System}
  options: {}
---
kind: HTTPRoute
metadata: {name: web, namespace: edge}
spec:
  parentRefs: [{name: public}]
  rules:
  - matches: [{path: {value: /a}, headers: [{name: a, value: b}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}]
    backendRefs: [{name: web, namespace: shop, port: 80}]
"#,
    );
    documents.retain(|document| document["kind"] != "Queries");
    documents
}

fn translation(documents: &[Value]) -> Translation {
    let mut objects = Objects::default();
    for document in documents {
        let kind = document["kind"].as_str().unwrap();
        input::add(&mut objects, kind, document).unwrap();
    }
    translate(&objects, &settings())
}

/// Returns what is rejected of the Gateway, its listener, the route's rule and its backend.
fn refused(translation: &Translation) -> Vec<Refused> {
    let is_false = |conditions: &[weft_translate::Condition], kind: &str| {
        let mut conditions = conditions.iter();
        conditions.any(|of| of.kind == kind && !of.status)
    };
    let gateway = &translation.gateways[0];
    let route = &translation.statuses[0].parents[0].conditions;
    let mut refused = Vec::new();
    if is_false(&gateway.conditions, "Accepted") {
        refused.push(Refused::Gateway);
    }
    let listener = &gateway.listeners[0].conditions;
    if is_false(listener, "Accepted") || is_false(listener, "ResolvedRefs") {
        refused.push(Refused::Listener);
    }
    if is_false(route, "Accepted") {
        refused.push(Refused::Rule);
    }
    let mut policies = translation.policies.iter().flat_map(|of| &of.ancestors);
    if is_false(route, "ResolvedRefs") || policies.any(|of| is_false(&of.conditions, "Accepted")) {
        refused.push(Refused::Backend);
    }
    refused
}

#[test]
fn unknown_fields_of_protective_settings_are_rejected() {
    assert_eq!(refused(&translation(&documents())), []);
    for (kind, place, expected) in TABLE {
        let mut documents = documents();
        let object = documents.iter_mut().find(|of| of["kind"] == *kind).unwrap();
        object.pointer_mut(place).unwrap()["laterField"] = json!({"some": ["value"]});
        let refused = refused(&translation(&documents));
        assert!(refused.contains(expected), "{kind} {place}: {refused:?}");
    }
}

#[test]
fn unknown_fields_elsewhere_are_ignored() {
    for (kind, place) in [
        ("Gateway", "/spec"),
        ("Gateway", "/spec/listeners/0"),
        ("HTTPRoute", "/spec"),
        ("HTTPRoute", "/spec/rules/0"),
        ("HTTPRoute", "/spec/rules/0/backendRefs/0"),
        ("HTTPRoute", "/spec/parentRefs/0"),
        ("BackendTLSPolicy", "/spec"),
        ("BackendTLSPolicy", "/spec/targetRefs/0"),
    ] {
        let mut documents = documents();
        let object = documents.iter_mut().find(|of| of["kind"] == kind).unwrap();
        object.pointer_mut(place).unwrap()["laterField"] = json!(1);
        assert_eq!(refused(&translation(&documents)), [], "{kind} {place}");
    }
}

#[test]
fn reference_lists_the_protective_fields() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../docs/reference/statuses.md"
    );
    let text = std::fs::read_to_string(file).unwrap();
    let (_, section) = text
        .split_once("## Fields that must be understood")
        .unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    for (kind, place, _) in TABLE {
        let field = place.split('/').nth(2).unwrap();
        let field = if matches!(field, "listeners" | "rules") {
            place.split('/').nth(4).unwrap()
        } else {
            field
        };
        let named =
            section.contains(&format!("{field}`")) || section.contains(&format!("{field}[]"));
        assert!(named && section.contains(kind), "{kind} {place}: {field}");
    }
}
