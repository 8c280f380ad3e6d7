//! What holds of every translation, whatever the objects contain. `fuzz/src/translate.rs` contains
//! this file as well.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use weft_ir::{Authorizations, Destination, EndpointSet, Workload};
use weft_translate::{Condition, GatewayView, Mesh, Objects, Translation};

/// Texts with a meaning in patterns, paths, names or addresses.
pub(crate) const ODD_TEXTS: [&str; 12] = [
    "",
    "/",
    "//",
    "(",
    "[^",
    "a{9999}{9999}",
    "None",
    "RegularExpression",
    "*",
    "é\u{0}\n",
    "..",
    "::1",
];

/// Returns the `n`th value of the tree in depth-first order.
pub(crate) fn place(tree: &mut Value, n: usize) -> &mut Value {
    let mut left = n % count(tree).max(1);
    let mut at = tree;
    loop {
        if left == 0 {
            return at;
        }
        left -= 1;
        let children: Vec<&mut Value> = match at {
            Value::Array(entries) => entries.iter_mut().collect(),
            Value::Object(fields) => fields.values_mut().collect(),
            _ => unreachable!("a leaf counts as one"),
        };
        let mut next = None;
        for child in children {
            let size = count(child);
            if left < size {
                next = Some(child);
                break;
            }
            left -= size;
        }
        at = next.expect("the count holds");
    }
}

fn count(tree: &Value) -> usize {
    1 + match tree {
        Value::Array(entries) => entries.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// The configuration of the proxies of a mesh.
#[derive(Default)]
pub(crate) struct Answers {
    pub(crate) workloads: Vec<Arc<Workload>>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) endpoints: Vec<Arc<EndpointSet>>,
    pub(crate) gateways: Vec<Arc<GatewayView>>,
    pub(crate) authorizations: Vec<Arc<Authorizations>>,
}

/// Checks the translation, and returns the answers to all proxies.
pub(crate) fn check(objects: &Objects, translation: &Translation) -> Answers {
    check_gateways(translation);
    for status in &translation.statuses {
        assert!(!status.parents.is_empty());
        for parent in &status.parents {
            assert_eq!(kinds(&parent.conditions)[..2], ["Accepted", "ResolvedRefs"]);
        }
    }
    // Keys must not appear in logs.
    assert!(!format!("{translation:?}").contains("PRIVATE"));
    let mesh = &translation.mesh;
    let mut answers = Answers::default();
    look_up_services(objects, mesh, &mut answers);
    for pod in &objects.pods {
        let meta = &pod.metadata;
        let workload = mesh.workload(&meta.namespace, &meta.name);
        let enforced = mesh.authorizations(&meta.namespace, &meta.name).cloned();
        if let Some(of) = &workload {
            let ours = mesh.gateway_of(&meta.namespace, &meta.name);
            let known = ours.is_none_or(|id| mesh.gateway(&id).is_some());
            assert_eq!(enforced.is_some(), known, "{}", of.identity);
        }
        answers.workloads.extend(workload);
        answers.authorizations.extend(enforced);
    }
    for status in &translation.gateways {
        let view = mesh.gateway(&status.id).expect("of ours");
        for id in view.references() {
            let set = mesh.gateway_endpoints(&id, "");
            let set = set.unwrap_or_else(|| panic!("{id} is referred to"));
            answers.endpoints.push(set);
        }
        answers.gateways.push(view);
    }
    answers
}

/// Looks up every Service address for clients of several namespaces.
fn look_up_services(objects: &Objects, mesh: &Mesh, answers: &mut Answers) {
    let mut referenced = BTreeSet::new();
    for service in &objects.services {
        for address in &service.spec.cluster_ips {
            let Ok(ip) = address.parse() else { continue };
            for port in [80, 443, 7070, 8080] {
                for namespace in ["shop", "web", ""] {
                    let answer = mesh.destination(SocketAddr::new(ip, port), namespace);
                    referenced.extend(Mesh::referenced(&answer));
                    answers.destinations.push(answer);
                }
            }
        }
    }
    for id in referenced {
        let set = mesh.endpoints(&id, "");
        let set = set.unwrap_or_else(|| panic!("{id} is referred to"));
        answers.endpoints.push(set);
    }
}

fn kinds(conditions: &[Condition]) -> Vec<&str> {
    conditions.iter().map(|of| of.kind.as_str()).collect()
}

/// Checks that the status of each Gateway is complete, and that its ports are distinct.
fn check_gateways(translation: &Translation) {
    for status in &translation.gateways {
        let whole = ["Accepted", "Programmed", "ResolvedRefs"];
        assert_eq!(kinds(&status.conditions)[..3], whole);
        for listener in &status.listeners {
            let whole = ["Accepted", "Programmed", "ResolvedRefs", "Conflicted"];
            assert_eq!(kinds(&listener.conditions)[..4], whole);
        }
        let view = translation.mesh.gateway(&status.id).expect("of ours");
        let mut sockets: Vec<_> = view
            .ports
            .iter()
            .map(|of| (of.transport(), of.port))
            .collect();
        let all = sockets.len();
        sockets.dedup();
        assert_eq!(sockets.len(), all, "each port once");
    }
    for status in &translation.listener_sets {
        assert_eq!(kinds(&status.conditions), ["Accepted", "Programmed"]);
    }
    for status in &translation.policies {
        assert!((1..=16).contains(&status.ancestors.len()));
    }
    for status in &translation.authorizations {
        assert!((1..=16).contains(&status.ancestors.len()));
    }
    for provision in &translation.provisions {
        assert!(!provision.service.ports.is_empty());
        assert!(provision.name.len() <= 63);
    }
}
