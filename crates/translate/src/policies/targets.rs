//! The targets of policies as they are written.
//!
//! Source: GEP-713 (targets, ancestors of statuses), GEP-3779 (pods by selector).

use weft_ir::RouteKind;
use weft_policy::{ClusterTarget, LabelSelector, TargetRef};

use crate::names::GROUP;
use crate::objects::ParentRef;
use crate::selectors::check;

/// Number of targets of a policy, and of ancestors of its status.
pub(super) const MAX_TARGETS: usize = 16;
/// The object that a ClusterAuthorizationPolicy is reported for: the mesh as a whole.
const MESH: (&str, &str, &str) = ("gateway.networking.x-k8s.io", "XMesh", "weft");

/// A target, and the object that the status reports it for.
#[derive(Clone, Debug)]
pub(super) struct TargetSpec {
    pub(super) ancestor: ParentRef,
    pub(super) target: Target,
}

/// What a policy applies to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// Pods with a sidecar.
    Pods {
        /// `None` for the policy's own namespace.
        namespaces: Option<LabelSelector>,
        pods: LabelSelector,
    },
    Service {
        name: String,
        /// Name or number of a port.
        port: Option<String>,
    },
    Gateway {
        name: String,
        listener: Option<String>,
    },
    /// Gateways of selected namespaces.
    Gateways {
        namespaces: LabelSelector,
        gateways: LabelSelector,
    },
    Route {
        kind: RouteKind,
        name: String,
        rule: Option<String>,
    },
    /// Everything that a policy of this kind can target, since its targets cannot be read.
    Everything,
    /// The kind cannot be a target, for this reason.
    Unsupported(String),
    /// An older policy has the same target, for this reason.
    Conflicted(String),
}

/// Reads the targets of a policy of a namespace, with what is wrong with them. `None` stands for
/// targets that cannot be read.
pub(super) fn of_namespace(
    refs: Option<&[TargetRef]>,
    namespace: &str,
) -> (Vec<TargetSpec>, Option<String>) {
    let own = || ParentRef::to("", "Namespace", None, namespace);
    let Some(refs) = refs.filter(|refs| !refs.is_empty()) else {
        let everything = TargetSpec {
            ancestor: own(),
            target: Target::Everything,
        };
        return (
            vec![everything],
            Some("targetRefs: at least one is required".to_owned()),
        );
    };
    let mut faults = Vec::new();
    if refs.len() > MAX_TARGETS {
        faults.push(too_many("targetRefs", refs.len()));
    }
    let targets = refs.iter().enumerate().map(|(place, of)| {
        let at = format!("targetRefs[{place}]");
        let target = target(of, &at, &mut faults);
        let ancestor = match &target {
            Target::Pods { .. } | Target::Everything => own(),
            _ => ParentRef {
                section_name: of.section_name.clone(),
                ..ParentRef::to(&of.group, &of.kind, Some(namespace), named(of))
            },
        };
        TargetSpec { ancestor, target }
    });
    let targets = targets.collect();
    (targets, (!faults.is_empty()).then(|| faults.join("; ")))
}

fn named(of: &TargetRef) -> &str {
    of.name.as_deref().unwrap_or_default()
}

/// A reference without a name stands for everything: it is not known what it means.
fn target(of: &TargetRef, at: &str, faults: &mut Vec<String>) -> Target {
    let TargetRef {
        group,
        kind,
        name,
        section_name,
        selector,
    } = of;
    let section = section_name.clone().filter(|name| !name.is_empty());
    if (&**group, &**kind) == ("", "Pod") {
        if name.is_some() || section.is_some() {
            faults.push(format!(
                "{at}: a Pod has a selector, and no name and no sectionName"
            ));
        }
        return Target::Pods {
            namespaces: None,
            pods: valid(selector.as_ref(), &format!("{at}.selector"), faults),
        };
    }
    let known = match (&**group, &**kind) {
        ("", "Service") => true,
        (GROUP, "Gateway" | "HTTPRoute" | "GRPCRoute") => true,
        _ => return Target::Unsupported(unsupported(of, at)),
    };
    let Some(name) = name.clone().filter(|name| known && !name.is_empty()) else {
        faults.push(format!("{at}.name: required"));
        return Target::Everything;
    };
    if selector.is_some() {
        faults.push(format!("{at}.selector: only a Pod has one"));
    }
    match &**kind {
        "Service" => Target::Service {
            name,
            port: section,
        },
        "Gateway" => Target::Gateway {
            name,
            listener: section,
        },
        "GRPCRoute" => Target::Route {
            kind: RouteKind::Grpc,
            name,
            rule: section,
        },
        _ => Target::Route {
            kind: RouteKind::Http,
            name,
            rule: section,
        },
    }
}

fn unsupported(of: &TargetRef, at: &str) -> String {
    let TargetRef { group, kind, .. } = of;
    let cure = match (&**group, &**kind) {
        (GROUP, "TLSRoute" | "TCPRoute" | "UDPRoute" | "ListenerSet") => {
            "; target the Gateway and its listener instead"
        }
        ("apps" | "batch", _) => "; target the pods by their labels instead",
        _ => "",
    };
    format!(
        "{at}: kind {kind:?} of group {group:?} cannot be a target; targets are Pod and Service of \
         group \"\", and Gateway, HTTPRoute and GRPCRoute of group {GROUP}{cure}"
    )
}

/// Like [`of_namespace`], for a ClusterAuthorizationPolicy.
pub(super) fn of_cluster(targets: Option<&[ClusterTarget]>) -> (Vec<TargetSpec>, Option<String>) {
    let of = |target| {
        let (group, kind, name) = MESH;
        TargetSpec {
            ancestor: ParentRef::to(group, kind, None, name),
            target,
        }
    };
    let Some(targets) = targets.filter(|targets| !targets.is_empty()) else {
        let why = "targets: at least one is required".to_owned();
        return (vec![of(Target::Everything)], Some(why));
    };
    let mut faults = Vec::new();
    if targets.len() > MAX_TARGETS {
        faults.push(too_many("targets", targets.len()));
    }
    let specs = targets.iter().enumerate().map(|(place, target)| {
        let ClusterTarget {
            group,
            kind,
            namespace_selector,
            selector,
        } = target;
        let at = format!("targets[{place}]");
        let mut read = |selector: &Option<LabelSelector>, field: &str| {
            valid(selector.as_ref(), &format!("{at}.{field}"), &mut faults)
        };
        let namespaces = read(namespace_selector, "namespaceSelector");
        let selector = read(selector, "selector");
        of(match (&**group, &**kind) {
            ("", "Pod") => Target::Pods {
                namespaces: Some(namespaces),
                pods: selector,
            },
            (GROUP, "Gateway") => Target::Gateways {
                namespaces,
                gateways: selector,
            },
            _ => Target::Unsupported(format!(
                "{at}: kind {kind:?} of group {group:?} cannot be a target; targets are Pod of \
                 group \"\" and Gateway of group {GROUP}"
            )),
        })
    });
    let specs = specs.collect();
    (specs, (!faults.is_empty()).then(|| faults.join("; ")))
}

/// An invalid selector selects everything: what it is to protect is not known.
fn valid(selector: Option<&LabelSelector>, at: &str, faults: &mut Vec<String>) -> LabelSelector {
    let selector = selector.cloned().unwrap_or_default();
    match check(&selector) {
        Ok(()) => selector,
        Err(why) => {
            faults.push(format!("{at}: {why}"));
            LabelSelector::default()
        }
    }
}

fn too_many(field: &str, count: usize) -> String {
    format!(
        "{field}: the policy has {count} targets, and the limit is {MAX_TARGETS}; use several \
         policies"
    )
}
