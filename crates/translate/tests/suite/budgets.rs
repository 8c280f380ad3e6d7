//! Limits on the size of routes and listeners: whatever exceeds one is rejected at the expense of
//! its owner only, and the condition states the size and the limit.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};
use weft_ir::{GatewayId, GatewayPort, Routing, Rule, Serving, Target};
use weft_translate::{Condition, Objects, Translation, translate};

use crate::input::{self, settings};

fn objects(documents: &[Value]) -> Objects {
    input::objects(documents).0
}

fn gateway(ports: &[u16]) -> Vec<Value> {
    let listeners = ports.iter().map(|port| {
        json!({"name": format!("p{port}"), "protocol": "HTTP", "port": port, "allowedRoutes": {"namespaces": {"from": "All"}}})
    });
    let listeners: Vec<Value> = listeners.collect();
    let class = json!({
        "kind": "GatewayClass", "metadata": {"name": "weft"},
        "spec": {"controllerName": "weft.dev/gateway-controller"},
    });
    let gateway = json!({
        "kind": "Gateway", "metadata": {"name": "shared", "namespace": "edge"},
        "spec": {"gatewayClassName": "weft", "listeners": listeners},
    });
    let service = json!({
        "kind": "Service", "metadata": {"name": "app", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]},
    });
    vec![class, gateway, service]
}

/// A route on the Gateway, created at `minute`.
fn route(name: &str, minute: usize, rules: &[Value]) -> Value {
    json!({
        "kind": "HTTPRoute",
        "metadata": {
            "name": name, "namespace": "shop",
            "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z"),
        },
        "spec": {"parentRefs": [{"name": "shared", "namespace": "edge"}], "rules": rules},
    })
}

fn on_service(mut route: Value) -> Value {
    route["spec"]["parentRefs"] = json!([{"group": "", "kind": "Service", "name": "app"}]);
    route
}

/// A rule with one match for each of these header values.
fn rule(kind: &str, values: &[String]) -> Value {
    let matches = values
        .iter()
        .map(|value| json!({"headers": [{"name": "x-value", "type": kind, "value": value}]}));
    let matches: Vec<Value> = matches.collect();
    json!({"matches": matches, "backendRefs": [{"name": "app", "port": 80}]})
}

/// Rules of about this encoded size.
fn rules_of(bytes: usize) -> Vec<Value> {
    let values: Vec<String> = (0..bytes / 4000)
        .map(|place| format!("{place:04}{}", "v".repeat(3950)))
        .collect();
    values
        .chunks(64)
        .map(|chunk| rule("Exact", chunk))
        .collect()
}

fn accepted(translation: &Translation, name: &str) -> Condition {
    let mut statuses = translation.statuses.iter();
    let status = statuses.find(|of| of.name == name).unwrap();
    let mut conditions = status.parents[0].conditions.iter();
    conditions.find(|of| of.kind == "Accepted").unwrap().clone()
}

#[track_caller]
fn assert_refused(translation: &Translation, name: &str, reason: &str, words: &str) {
    let Condition {
        status,
        reason: said,
        message,
        ..
    } = accepted(translation, name);
    assert!(!status && said == reason, "{name}: {said}: {message}");
    assert!(message.contains(words), "{message}");
}

fn ports(translation: &Translation) -> Vec<Arc<GatewayPort>> {
    let id = GatewayId::new("edge", "shared");
    translation.mesh.gateway(&id).unwrap().ports.clone()
}

/// Returns the rules of a port, each once, however many hosts have it.
fn port_rules(port: &GatewayPort) -> Vec<Arc<Rule>> {
    let Serving::Http(listeners) = &port.serving else {
        panic!("no port of HTTP")
    };
    let hosts = listeners.iter().flat_map(|of| &of.hosts);
    let mut seen = HashSet::new();
    let rules = hosts.flat_map(|host| host.rules.iter().cloned());
    rules
        .filter(|rule| seen.insert(Arc::as_ptr(rule)))
        .collect()
}

/// 1.2 MB of rules and 16 host names, next to another owner's route.
#[test]
fn oversized_route_is_rejected_alone() {
    let mut all = gateway(&[80]);
    let mut large = route("large", 1, &rules_of(1_200_000));
    let hostnames: Vec<String> = (0..16).map(|n| format!("h{n}.example.com")).collect();
    large["spec"]["hostnames"] = json!(hostnames);
    all.push(large);
    all.push(route("small", 2, &[rule("Exact", &["a".to_owned()])]));
    let translation = translate(&objects(&all), &settings());
    let words = "and the limit of a route is 524288; split it";
    assert_refused(&translation, "large", "TooLarge", words);
    assert!(accepted(&translation, "small").status);
    let rules = port_rules(&ports(&translation)[0]);
    let failing: Vec<_> = rules.iter().filter(|of| of.failure.is_some()).collect();
    assert_eq!((rules.len(), failing.len()), (2, 1));
    // The traffic it was to restrict is not let through: its hosts answer 500 to requests that
    // match no other route.
    assert!(failing[0].matches[0].invalid);
    let bytes: usize = rules.iter().map(|rule| rule.wire_size()).sum();
    assert!(bytes < 2_000, "{bytes}");
}

#[test]
fn route_within_the_limit_is_on_its_port_once() {
    let mut all = gateway(&[80]);
    let mut large = route("large", 1, &rules_of(400_000));
    let hostnames: Vec<String> = (0..16).map(|n| format!("h{n}.example.com")).collect();
    large["spec"]["hostnames"] = json!(hostnames);
    all.push(large);
    let translation = translate(&objects(&all), &settings());
    assert!(accepted(&translation, "large").status);
    let rules = port_rules(&ports(&translation)[0]);
    let bytes: usize = rules.iter().map(|rule| rule.wire_size()).sum();
    assert!((380_000..450_000).contains(&bytes), "{bytes}");
}

#[test]
fn regular_expressions_are_limited_in_number_text_and_compiled_size() {
    let patterns = |count: usize, of: &dyn Fn(usize) -> String| {
        let values: Vec<String> = (0..count).map(of).collect();
        let chunks = values.chunks(64);
        let rules: Vec<Value> = chunks
            .map(|chunk| rule("RegularExpression", chunk))
            .collect();
        rules
    };
    let many = patterns(129, &|place| format!("a{place}[0-9]+"));
    let long = patterns(20, &|place| format!("{place}{}", "ab".repeat(1800)));
    let classes = patterns(9, &|place| format!("{place}{}", "[ab]".repeat(60)));
    let too_large = patterns(17, &|place| format!(r"{place}\w{{9}}"));
    let heavy = patterns(40, &|place| format!(r"{place}\w{{4}}"));
    let same = patterns(120, &|_| r"\w{4}".to_owned());
    let few = patterns(128, &|place| format!("/v{place}/[0-9a-z-]+"));
    let too_long = patterns(1, &|_| "a".repeat(4097));
    let mut all = gateway(&[80]);
    let rows = [
        ("many", &many, "more than 128 different regular expressions"),
        ("long", &long, "has more than 65536 bytes"),
        ("heavy", &heavy, "compile to more than 4194304 bytes"),
        ("classes", &classes, "more than 512 character classes"),
        (
            "too-large",
            &too_large,
            "compile to more than 4194304 bytes",
        ),
        ("same", &same, ""),
        ("few", &few, ""),
        ("too-long", &too_long, "has 4097 bytes, the maximum is 4096"),
    ];
    for (name, rules, _) in &rows {
        all.push(route(name, 1, rules));
        if ["long", "same"].contains(name) {
            all.push(on_service(route(&format!("mesh-{name}"), 1, rules)));
        }
    }
    let translation = translate(&objects(&all), &settings());
    for (name, _, words) in rows {
        match words {
            "" => assert!(accepted(&translation, name).status, "{name}"),
            // Only that match is invalid, like any pattern that does not compile.
            words if words.contains("4097") => {
                assert_refused(&translation, name, "UnsupportedValue", words);
            }
            words => assert_refused(&translation, name, "TooLarge", words),
        }
    }
    assert_refused(&translation, "mesh-long", "TooLarge", "65536 bytes");
    assert!(accepted(&translation, "mesh-same").status);
}

#[test]
fn namespace_cannot_fill_the_port_of_another_namespaces_gateway() {
    let mut all = gateway(&[80]);
    for place in 0..6 {
        let mut of = route(&format!("r{place}"), 1, &rules_of(490_000));
        of["metadata"]["namespace"] = json!(if place < 5 { "shop" } else { "web" });
        all.push(of);
    }
    all.push(route("late", 59, &rules_of(490_000)));
    let translation = translate(&objects(&all), &settings());
    let words = "the share of namespace shop of port 80/tcp of Gateway edge/shared has no room for the route";
    assert_refused(&translation, "late", "PortFull", words);
    assert!(accepted(&translation, "r4").status);
    assert!(accepted(&translation, "r5").status);
}

#[test]
fn youngest_routes_are_removed_from_a_full_gateway_port() {
    let mut all = gateway(&[80, 8080]);
    // Of the same age: the first by name wins.
    for place in 0..12 {
        let mut of = route(&format!("r{place:02}"), 1, &rules_of(490_000));
        of["metadata"]["namespace"] = json!("edge");
        let port = if place < 11 { json!(80) } else { Value::Null };
        of["spec"]["parentRefs"][0]["port"] = port;
        all.push(of);
    }
    all.push(route("small", 59, &[rule("Exact", &["a".to_owned()])]));
    let translation = translate(&objects(&all), &settings());
    for place in 0..10 {
        assert!(
            accepted(&translation, &format!("r{place:02}")).status,
            "{place}"
        );
    }
    let words =
        "port 80/tcp of Gateway edge/shared has no room for the route: its configuration takes";
    assert_refused(&translation, "r10", "PortFull", words);
    // There is room on the other port.
    let partly = accepted(&translation, "r11");
    assert!(partly.status, "{partly:?}");
    assert!(
        partly
            .message
            .contains("except where there is no room: port 80/tcp"),
        "{partly:?}"
    );
    // A small route can still fit.
    assert!(accepted(&translation, "small").status);
    let rules = ports(&translation);
    let sizes = rules.iter().map(|port| {
        let rules = port_rules(port);
        rules.iter().map(|rule| rule.wire_size()).sum::<usize>()
    });
    assert!(
        sizes.clone().all(|size| size < 5 << 20),
        "{:?}",
        sizes.collect::<Vec<_>>()
    );
}

/// The size of a small route is multiplied by hosts and listeners.
#[test]
fn hosts_count_for_each_listener() {
    let ports: Vec<u16> = vec![80];
    let mut all = gateway(&ports);
    let listeners = (0..64).map(|n| {
        json!({
            "name": format!("l{n}"), "protocol": "HTTP", "port": 80, "hostname": format!("*.l{n}.example.com"),
            "allowedRoutes": {"namespaces": {"from": "All"}},
        })
    });
    all[1]["spec"]["listeners"] = listeners.collect();
    // 128 matches on 64 listeners with 16 hosts each.
    let rules: Vec<Value> = (0..16)
        .map(|n| {
            rule(
                "Exact",
                &(0..8).map(|m| format!("{n}-{m}")).collect::<Vec<_>>(),
            )
        })
        .collect();
    for place in 0..8 {
        let mut of = route(&format!("r{place}"), 1, &rules);
        // A host below each listener's own.
        let hostnames: Vec<String> = (0..64)
            .flat_map(|n| (0..16).map(move |h| format!("h{place}-{h}.l{n}.example.com")))
            .collect();
        of["spec"]["hostnames"] = json!(hostnames);
        all.push(of);
    }
    let translation = translate(&objects(&all), &settings());
    assert!(accepted(&translation, "r0").status);
    assert_refused(
        &translation,
        "r7",
        "PortFull",
        "of 2621440; attach fewer or smaller routes",
    );
}

#[test]
fn youngest_routes_are_removed_from_a_full_service_port() {
    let mut all = gateway(&[80]);
    for place in 0..10 {
        all.push(on_service(route(
            &format!("r{place}"),
            place,
            &rules_of(490_000),
        )));
    }
    let translation = translate(&objects(&all), &settings());
    for place in 0..8 {
        assert!(
            accepted(&translation, &format!("r{place}")).status,
            "{place}"
        );
    }
    let words = "port shop/app:80 has no room for the route";
    assert_refused(&translation, "r9", "PortFull", words);
    let destination = translation
        .mesh
        .destination("10.96.0.1:80".parse().unwrap(), "shop");
    let Target::Service(service) = destination.target else {
        panic!("no Service")
    };
    let Routing::Http(rules) = &service.routing else {
        panic!("no routes")
    };
    let bytes: usize = rules.iter().map(|rule| rule.wire_size()).sum();
    assert!(bytes < 4 << 20, "{bytes}");
}

/// The Service must not become unrestricted because its only route is too large.
#[test]
fn service_with_only_an_oversized_route_answers_500() {
    let mut all = gateway(&[80]);
    all.push(on_service(route("large", 1, &rules_of(600_000))));
    let translation = translate(&objects(&all), &settings());
    assert_refused(&translation, "large", "TooLarge", "requests get 500");
    let address = "10.96.0.1:80".parse().unwrap();
    let Target::Service(service) = translation.mesh.destination(address, "shop").target else {
        panic!("no Service")
    };
    let Routing::Http(rules) = &service.routing else {
        panic!("no routes")
    };
    assert!(rules.len() == 1 && rules[0].matches[0].invalid);
}

/// CA bundles of 0.9 MB for each HTTPS listener.
#[test]
fn listeners_beyond_the_limit_of_a_port_are_unusable() {
    let mut all = gateway(&[80]);
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pki");
    let authority = std::fs::read_to_string(folder.join("ca.crt")).unwrap();
    let bundle = authority.repeat(900_000 / authority.len());
    let listeners = (0..8).map(|n| {
        json!({
            "name": format!("l{n}"), "protocol": "HTTPS", "port": 443, "hostname": format!("l{n}.example.com"),
            "tls": {"certificateRefs": [{"name": "a"}]},
        })
    });
    all[1]["spec"]["listeners"] = listeners.collect();
    all[1]["spec"]["tls"] = json!({
        "frontend": {"default": {"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ca"}]}}},
    });
    let documents = "
kind: Secret
metadata: {name: a, namespace: edge}
type: kubernetes.io/tls
data: {tls.crt: '@a.crt', tls.key: '@a.key'}
";
    all.extend(input::documents(documents));
    all.push(json!({"kind": "ConfigMap", "metadata": {"name": "ca", "namespace": "edge"}, "data": {"ca.crt": bundle}}));
    let translation = translate(&objects(&all), &settings());
    let conditions = translation.gateways[0].listeners.iter().map(|of| {
        let mut conditions = of.conditions.iter();
        conditions.find(|of| of.kind == "Accepted").unwrap()
    });
    let conditions: Vec<&Condition> = conditions.collect();
    let accepted: Vec<bool> = conditions.iter().map(|of| of.status).collect();
    assert_eq!(accepted, [true, true, true, true, true, true, false, false]);
    assert_eq!(conditions[7].reason, "TooLarge");
    assert!(
        conditions[7]
            .message
            .contains("of 6291456; use fewer or smaller certificates"),
        "{}",
        conditions[7].message
    );
}
