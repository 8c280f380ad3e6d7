//! Authorization policies as YAML, the limits on them, and what an edit of one leaves alone.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use serde_norway::{Mapping, Value};
use weft_ir::{
    Authentication, Authorization, AuthorizationAction, AuthorizationPolicy, AuthorizationRule,
    Authorizations, DefaultAuthorization, JwtProvider, KeyMaterial, PolicyEffect, RouteSection,
    SourceMatch, TokenLocation,
};
use weft_translate::{
    AncestorStatus, AuthorizationStatus, Condition, Mesh, Objects, Translation, Translator,
    translate,
};

use crate::input::{self, settings};
use crate::view::{conditions, fields, list, request_match, text};

/// Returns what the proxy of a pod, `namespace/name`, enforces.
pub(crate) fn enforced(mesh: &Mesh, query: &String) -> (Value, Value) {
    let (namespace, name) = query.split_once('/').expect("NAMESPACE/POD");
    let answer = match mesh.authorizations(namespace, name) {
        None => text("nothing"),
        Some(of) => authorizations(of),
    };
    (text(query), answer)
}

fn authorizations(of: &Authorizations) -> Value {
    let Authorizations {
        workload,
        listeners,
        routes,
    } = of;
    let listener = |((port, name), of): &((u16, String), Authorization)| {
        (
            text(format!("listener {name} on {port}")),
            authorization(of),
        )
    };
    let route = |(RouteSection { route, rule }, of): &(RouteSection, Authorization)| {
        let rule = rule.as_ref().map(|rule| format!(" rule {rule}"));
        let name = format!("{route}{}", rule.unwrap_or_default());
        (text(name), authorization(of))
    };
    let all = [(text("workload"), authorization(workload))];
    let all = all.into_iter().chain(listeners.iter().map(listener));
    Value::Mapping(all.chain(routes.iter().map(route)).collect())
}

fn authorization(of: &Authorization) -> Value {
    let Authorization { policies, default } = of;
    let default = match default {
        DefaultAuthorization::Allow => "allow",
        DefaultAuthorization::Mesh => "mesh",
        DefaultAuthorization::Deny => "deny",
    };
    match list(policies.iter().map(|of| policy(of))) {
        None => text(default),
        policies => fields([("default", Some(text(default))), ("policies", policies)]),
    }
}

fn policy(of: &AuthorizationPolicy) -> Value {
    let AuthorizationPolicy { id, ports, effect } = of;
    let action = match effect {
        PolicyEffect::Invalid => "denies everything",
        PolicyEffect::Tokens(of) if of.required => "requires a token",
        PolicyEffect::Tokens(_) => "takes a token",
        PolicyEffect::Rules(AuthorizationAction::Allow, _) => "allows",
        PolicyEffect::Rules(AuthorizationAction::Deny, _) => "denies",
        PolicyEffect::Rules(AuthorizationAction::Audit, _) => "reports",
    };
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    let on = match &ports[..] {
        [] => String::new(),
        ports => format!(" on {}", ports.join(" ")),
    };
    let name = format!("{id} {action}{on}");
    let parts = match of.tokens() {
        Some(of) => list(tokens(of).into_iter()),
        None => list(of.rules().iter().map(rule)),
    };
    match parts {
        None => text(name),
        Some(rules) => Value::Mapping([(text(name), rules)].into_iter().collect()),
    }
}

fn tokens(of: &Authentication) -> Vec<Value> {
    let provider = |of: &JwtProvider| {
        let all = |of: Vec<String>| (!of.is_empty()).then(|| text(of.join(", ")));
        let keys = of.keys.iter().map(|key| {
            let material = match &key.material {
                KeyMaterial::Rsa { modulus, .. } => format!("RSA {}", modulus.len() * 8),
                KeyMaterial::P256(_) => "P-256".to_owned(),
                KeyMaterial::P384(_) => "P-384".to_owned(),
                KeyMaterial::Ed25519(_) => "Ed25519".to_owned(),
            };
            let id = key.id.as_deref().unwrap_or("-");
            let algorithm = key.algorithm.map_or("", |of| of.as_str());
            format!("{id} {material} {algorithm}").trim_end().to_owned()
        });
        let place = |of: &TokenLocation| match of {
            TokenLocation::Header { name, prefix } => format!("header {name} {prefix:?}"),
            TokenLocation::Query(name) => format!("query {name}"),
            TokenLocation::Cookie(name) => format!("cookie {name}"),
        };
        let headers = of.claim_headers.iter();
        let headers = headers.map(|of| format!("{} as {}", of.claim, of.header));
        let kept = if of.forward { "forwarded" } else { "removed" };
        fields([
            ("provider", Some(text(&of.name))),
            ("issuer", Some(text(&of.issuer))),
            ("audiences", all(of.audiences.clone())),
            ("keys", all(keys.collect())),
            ("from", all(of.locations.iter().map(place).collect())),
            ("claims", all(headers.collect())),
            ("token", Some(text(kept))),
            ("skew", Some(text(of.clock_skew.to_string()))),
        ])
    };
    of.providers.iter().map(provider).collect()
}

fn rule(of: &AuthorizationRule) -> Value {
    let AuthorizationRule {
        sources,
        not_sources,
        ports,
        requests,
        not_requests,
    } = of;
    let some = |words: Vec<String>| (!words.is_empty()).then(|| text(words.join(", ")));
    let named = |of: &[SourceMatch]| of.iter().map(source).collect::<Vec<_>>();
    let from = sources.as_ref().map(|of| match &of[..] {
        [] => text("nobody"),
        of => text(named(of).join(", ")),
    });
    let all = [
        ("from", from),
        ("notFrom", some(named(not_sources))),
        ("ports", some(ports.iter().map(u16::to_string).collect())),
        (
            "requests",
            list(requests.iter().map(|of| text(request_match(of)))),
        ),
        (
            "notRequests",
            list(not_requests.iter().map(|of| text(request_match(of)))),
        ),
    ];
    match all.iter().all(|(_, value)| value.is_none()) {
        true => text("everything"),
        false => fields(all),
    }
}

fn source(of: &SourceMatch) -> String {
    match of {
        SourceMatch::Identity(identity) => identity.to_string(),
        SourceMatch::Namespace(domain, namespace) => format!("spiffe://{domain}/ns/{namespace}/*"),
        SourceMatch::Network(network) => network.to_string(),
        SourceMatch::Token(of) => {
            let subject = of.subject.as_deref().unwrap_or("*");
            let claims = of.claims.iter();
            let claims = claims.map(|of| format!(" {}={}", of.name, of.values.join("|")));
            format!(
                "token {} {subject}{}",
                of.issuer,
                claims.collect::<String>()
            )
        }
    }
}

pub(crate) fn statuses(translation: &Translation) -> Mapping {
    let status = |of: &AuthorizationStatus| {
        let AuthorizationStatus {
            id,
            generation,
            ancestors,
            without_keys,
        } = of;
        let keys = without_keys
            .iter()
            .map(|why| text(format!("without keys: {why}")));
        let said = list(ancestors.iter().map(ancestor_status).chain(keys));
        let said = said.unwrap_or(Value::Null);
        (text(format!("{id} at {generation}")), said)
    };
    translation.authorizations.iter().map(status).collect()
}

/// Returns the conditions of a policy for a target, by the target.
pub(crate) fn ancestor_status(of: &AncestorStatus) -> Value {
    let name = serde_json::to_string(&of.ancestor).expect("JSON");
    let conditions = [(text(name), conditions(&of.conditions))];
    Value::Mapping(conditions.into_iter().collect())
}

/// The pods `a`, `b` and `c` with sidecars in the namespace `shop`.
fn pods() -> Vec<Json> {
    let pod = |name: &str| {
        json!({
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
            "spec": {"containers": [{"name": "weft-proxy"}]},
        })
    };
    ["a", "b", "c"].map(pod).into()
}

fn policy_for(name: &str, app: &str, minute: usize, rules: Json) -> Json {
    json!({
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": name, "namespace": "shop",
            "creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z"),
        },
        "spec": {
            "targetRefs": [{"kind": "Pod", "selector": {"matchLabels": {"app": app}}}],
            "action": "ALLOW", "rules": rules,
        },
    })
}

fn objects(documents: &[Json]) -> Objects {
    input::objects(documents).0
}

#[track_caller]
fn accepted(translation: &Translation, name: &str) -> Condition {
    let mut statuses = translation.authorizations.iter();
    let status = statuses.find(|of| &*of.id.name == name).unwrap();
    status.ancestors[0].conditions[0].clone()
}

fn at(translation: &Translation, pod: &str) -> Arc<Authorizations> {
    Arc::clone(translation.mesh.authorizations("shop", pod).unwrap())
}

/// Rules of about this encoded size.
fn rules_of(bytes: usize) -> Json {
    let headers: Vec<Json> = (0..bytes / 4000)
        .map(|place| json!({"headers": [{"name": "x-value", "value": format!("{place:04}{}", "v".repeat(3950))}]}))
        .collect();
    json!([{"applicationAttributes": {"requests": headers}}])
}

/// What exceeds a limit is closed, and says so with the size and the limit.
#[test]
fn policy_over_a_limit_closes_its_targets_alone() {
    let sources: Vec<Json> = (0..64)
        .map(|place| json!({"type": "Namespace", "namespace": format!("n{place}")}))
        .collect();
    let many_sources: Vec<Json> = (0..17).map(|_| json!({"sources": sources})).collect();
    let patterns = |texts: &[String]| {
        let headers = texts.iter().map(
            |text| json!({"headers": [{"name": "x", "type": "RegularExpression", "value": text}]}),
        );
        json!([{"applicationAttributes": {"requests": headers.collect::<Vec<_>>()}}])
    };
    let many: Vec<String> = (0..129).map(|place| format!("a{place}")).collect();
    for (rules, words) in [
        (
            json!(vec![json!({}); 65]),
            "has 65 rules, and the limit is 64",
        ),
        (
            json!(many_sources),
            "has 1088 sources, and the limit is 1024",
        ),
        (
            rules_of(300_000),
            "bytes, and the limit of a policy is 262144",
        ),
        (
            patterns(&many),
            "more than 128 different regular expressions, the limit of a policy",
        ),
        (
            patterns(&["(a{200}){200}".to_owned()]),
            "rules[0].applicationAttributes.requests[0]",
        ),
    ] {
        let mut all = pods();
        all.push(policy_for("large", "a", 1, rules));
        all.push(policy_for("small", "b", 2, json!([{}])));
        let translation = translate(&objects(&all), &settings());
        let Condition {
            status,
            reason,
            message,
            ..
        } = accepted(&translation, "large");
        assert!(
            !status && reason == "Invalid" && message.contains(words),
            "{message}"
        );
        let effect = |pod| at(&translation, pod).workload.policies[0].effect.clone();
        assert_eq!(effect("a"), PolicyEffect::Invalid, "{words}");
        assert!(matches!(effect("b"), PolicyEffect::Rules(..)));
        assert!(accepted(&translation, "small").status);
        assert!(at(&translation, "c").workload.policies.is_empty());
    }
}

/// 30 policies of 250 KB on one pod: the older ones fit.
#[test]
fn policies_of_one_proxy_have_a_limit() {
    let mut all = pods();
    for minute in 0..30 {
        let name = format!("p{minute:02}");
        all.push(policy_for(&name, "a", minute, rules_of(250_000)));
    }
    let translation = translate(&objects(&all), &settings());
    let policies = at(&translation, "a").workload.policies.clone();
    assert_eq!(policies.len(), 30);
    let closed = policies
        .iter()
        .filter(|of| of.effect == PolicyEffect::Invalid);
    let bytes: usize = policies.iter().map(|of| of.wire_size()).sum();
    assert!(closed.count() > 0 && bytes < 6_400_000, "{bytes}");
    assert!(accepted(&translation, "p00").status);
    let last = accepted(&translation, "p29");
    assert!(
        !last.status && last.message.contains("at most 6291456 bytes"),
        "{}",
        last.message
    );
}

#[test]
fn edit_of_a_policy_keeps_what_other_pods_enforce() {
    let mut documents = pods();
    documents.push(policy_for("one", "a", 1, json!([{}])));
    documents.push(policy_for("other", "b", 2, json!([{}])));
    let mut translator = Translator::new(settings());
    let mut now = objects(&documents);
    let first = translator.translate(&now);
    let edited = policy_for("one", "a", 1, json!([{"sources": []}]));
    let one = now.authorization_policies.iter_mut();
    let mut one = one.filter(|of| of.metadata.name == "one");
    *one.next().unwrap() = Arc::new(serde_json::from_value(edited).unwrap());
    let second = translator.translate(&now);
    assert!(!Arc::ptr_eq(&at(&first, "a"), &at(&second, "a")));
    for pod in ["b", "c"] {
        assert!(Arc::ptr_eq(&at(&first, pod), &at(&second, pod)), "{pod}");
    }
    // Pods that enforce the same share it.
    let everywhere = json!({
        "kind": "AuthorizationPolicy", "metadata": {"name": "all", "namespace": "shop"},
        "spec": {"targetRefs": [{"kind": "Pod", "selector": {}}], "action": "ALLOW"},
    });
    let mut documents = pods();
    documents.push(everywhere);
    let translation = translate(&objects(&documents), &settings());
    assert!(Arc::ptr_eq(&at(&translation, "a"), &at(&translation, "b")));
}

/// The examples are valid as they stand.
#[test]
fn examples_are_accepted() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policies");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("authorization-") && !name.starts_with("authentication-") {
            continue;
        }
        let all: Vec<Json> = input::documents(&std::fs::read_to_string(&path).unwrap());
        let known = |of: &&Json| of["kind"].as_str().unwrap().ends_with("Policy");
        let mut objects = Objects::default();
        // Every namespace of a cluster has it.
        let ca = "{kind: ConfigMap, metadata: {name: kube-root-ca.crt, namespace: shop}, \
                  data: {ca.crt: '@ca.crt'}}";
        for map in input::documents(ca) {
            input::add(&mut objects, "ConfigMap", &map).unwrap();
        }
        for document in all.iter().filter(known) {
            let kind = document["kind"].as_str().unwrap();
            assert_eq!(document["apiVersion"], "policy.weft.dev/v1alpha1", "{name}");
            input::add(&mut objects, kind, document).unwrap();
            read += 1;
        }
        let translation = translate(&objects, &settings());
        for status in &translation.authorizations {
            for ancestor in &status.ancestors {
                let Condition {
                    status: accepted,
                    reason,
                    message,
                    ..
                } = &ancestor.conditions[0];
                // What it targets is in the cluster of the user.
                let ok = *accepted || reason == "TargetNotFound";
                assert!(ok, "{name}: {}: {message}", status.id);
            }
        }
    }
    assert!(read >= 8, "{read} policies");
}
