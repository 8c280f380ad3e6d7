//! The statuses of policies.
//!
//! Source: GEP-713 (`PolicyAncestorStatus`, reasons of Accepted). Authorization policies add up, so
//! none of them is Conflicted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{
    AuthorizationAction, GatewayId, PolicyId, PolicyKind, Protocol, RouteId, RouteKind, Serving,
};

use super::gateways::{GatewayAuthorizations, GatewayObjects, Views, listeners};
use super::pods::{Hit, Lookups};
use super::policy::Policy;
use super::targets::{MAX_TARGETS, Target, TargetSpec};
use crate::cluster::service_pods::wanted;
use crate::conditions::condition;
use crate::input::Objects;
use crate::limits::{PROXY_POLICY_BYTES, PROXY_POLICY_COMPILED};
use crate::names::gateway_named;
use crate::objects::{GrpcRoute, HttpRoute, Lenient, ParentRef};
use crate::output::{AncestorStatus, AuthorizationStatus, Condition};
use crate::routes::RouteObject;

/// What statuses depend on beside the policy.
pub(super) struct Findings<'a> {
    pub(super) lookups: Lookups<'a>,
    pub(super) objects: &'a Objects,
    pub(super) gateways: &'a GatewayObjects<'a>,
    pub(super) views: &'a Views,
    pub(super) applied: &'a GatewayAuthorizations,
    /// The targets that apply to something.
    pub(super) hits: BTreeSet<&'a Hit>,
    /// The policies that are closed at a proxy that has no room for them.
    pub(super) crowded: BTreeSet<&'a PolicyId>,
}

/// The outcome of one target: a note for the message, or reason and message of Accepted=False.
type Outcome = Result<String, (&'static str, String)>;

impl Findings<'_> {
    pub(super) fn status(&self, policy: &Policy) -> AuthorizationStatus {
        let mut ancestors: Vec<(ParentRef, Vec<Outcome>)> = Vec::new();
        for (place, of) in policy.targets.iter().enumerate() {
            let outcome = self.outcome(policy, place, of);
            match ancestors
                .iter_mut()
                .find(|(known, _)| *known == of.ancestor)
            {
                Some((_, outcomes)) => outcomes.push(outcome),
                None => ancestors.push((of.ancestor.clone(), vec![outcome])),
            }
        }
        let ancestors = ancestors.into_iter().take(MAX_TARGETS);
        AuthorizationStatus {
            id: policy.id.clone(),
            generation: policy.generation,
            ancestors: ancestors
                .map(|(ancestor, outcomes)| AncestorStatus {
                    ancestor,
                    conditions: vec![accepted(policy, outcomes)],
                })
                .collect(),
            without_keys: (policy.fault.is_none() && !policy.without_keys.is_empty())
                .then(|| policy.without_keys.join("; ")),
        }
    }

    fn outcome(&self, policy: &Policy, place: usize, of: &TargetSpec) -> Outcome {
        if let Some(fault) = &policy.fault {
            let then = match policy.effect {
                Some(_) => "the policy is invalid, so its targets deny everything",
                None => "the policy is invalid, and reports nothing",
            };
            return Err(("Invalid", format!("{then}: {fault}")));
        }
        if self.crowded.contains(&policy.id) {
            let why = format!(
                "the policy is closed where it has no room, so there everything is denied: the \
                 policies of one proxy take at most {PROXY_POLICY_BYTES} bytes, and \
                 {PROXY_POLICY_COMPILED} bytes of compiled regular expressions, and older ones \
                 use them up; use fewer or smaller policies"
            );
            return Err(("Invalid", why));
        }
        let applies = self.hits.contains(&(policy.id.clone(), place));
        let namespace = policy.namespace().unwrap_or_default();
        match &of.target {
            Target::Unsupported(why) => Err(("Invalid", why.clone())),
            Target::Conflicted(why) => Err(("Conflicted", why.clone())),
            Target::Everything => Ok(String::new()),
            Target::Pods { .. } => Ok(pods_note(policy, applies)),
            Target::Service { name, port } => {
                self.service(policy, (namespace, name), port.as_deref(), applies)
            }
            Target::Gateway { name, listener } => {
                self.gateway(policy, (namespace, name), listener.as_deref(), applies)
            }
            Target::Gateways { .. } if applies => Ok(String::new()),
            Target::Gateways { .. } => Ok("it selects no Gateway of Weft now".to_owned()),
            Target::Route { kind, name, rule } => {
                self.route(*kind, (namespace, name), rule.as_deref())
            }
        }
    }

    fn service(
        &self,
        policy: &Policy,
        (namespace, name): (&str, &str),
        port: Option<&str>,
        applies: bool,
    ) -> Outcome {
        let service = self.lookups.service(namespace, name);
        let Some(service) = service else {
            return Err(absent("Service", namespace, name));
        };
        let ports = wanted(service, port);
        if let (Some(port), []) = (port, &ports[..]) {
            let why = format!(
                "Service {namespace}/{name} has no TCP port {port:?}; it has {}",
                service.describe_ports()
            );
            return Err(("TargetNotFound", why));
        }
        if !applies {
            let why = "it leads to no pod of the mesh now; check the Service's selector, its target \
                       ports, and that the pods have a sidecar";
            return Ok(why.to_owned());
        }
        let other = ports.iter().filter_map(|port| {
            let info = service.port(port.port)?;
            matches!(info.protocol, Protocol::Tcp | Protocol::Tls).then(|| info.number.to_string())
        });
        Ok(not_http(policy, "ports", other.collect()))
    }

    fn gateway(
        &self,
        policy: &Policy,
        (namespace, name): (&str, &str),
        section: Option<&str>,
        applies: bool,
    ) -> Outcome {
        let Some(gateway) = self.gateways.get(&(namespace, name)) else {
            return Err(absent("Gateway", namespace, name));
        };
        let Some(view) = self.views.get(&GatewayId::new(namespace, name)) else {
            let why = format!("Gateway {namespace}/{name} is not of a GatewayClass of Weft");
            return Err(("TargetNotFound", why));
        };
        if let Some(section) = section {
            let specs = gateway.spec.as_ref().map_or(&[][..], |of| &of.listeners);
            let names = specs.iter().filter_map(|of| of.as_ref().ok());
            let names: Vec<&str> = names.map(|of| of.name.as_str()).collect();
            if !names.contains(&section) {
                let why = format!(
                    "Gateway {namespace}/{name} has no listener {section:?} of its own; it has {}",
                    names.join(", ")
                );
                return Err(("TargetNotFound", why));
            }
        }
        if !applies {
            return Ok("none of its listeners serves now".to_owned());
        }
        let other = view.ports.iter().filter(|port| !serves_http(&port.serving));
        let other: BTreeSet<u16> = other.map(|port| port.port).collect();
        let listeners = listeners(view).into_iter().filter(|(port, name)| {
            other.contains(port) && section.is_none_or(|section| section == &**name)
        });
        let names = listeners.map(|(_, name)| name.to_string());
        Ok(not_http(policy, "listeners", names.collect()))
    }

    fn route(
        &self,
        kind: RouteKind,
        (namespace, name): (&str, &str),
        rule: Option<&str>,
    ) -> Outcome {
        let Objects {
            http_routes,
            grpc_routes,
            ..
        } = self.objects;
        let found = match kind {
            RouteKind::Grpc => {
                find(grpc_routes, namespace, name).map(|of| (of.parents(), of.rules()))
            }
            _ => find(http_routes, namespace, name).map(|of| (of.parents(), of.rules())),
        };
        let Some((parents, rules)) = found else {
            return Err(absent(&kind.to_string(), namespace, name));
        };
        let mut parents = parents.iter().filter_map(|of| of.as_ref().ok());
        let is_gateway = |of: &ParentRef| {
            of.kind.as_deref() == Some("ListenerSet") || gateway_named(of, namespace).is_some()
        };
        if !parents.any(is_gateway) {
            let why = format!(
                "{kind} {namespace}/{name} has no Gateway as a parent: its rules apply at clients, \
                 which can bypass them; target the Service instead, which is enforced at its pods"
            );
            return Err(("Invalid", why));
        }
        if let Some(rule) = rule
            && !rules.iter().any(|name| name == rule)
        {
            let named = match &rules[..] {
                [] => "none of its rules has a name".to_owned(),
                rules => format!("it has {}", rules.join(", ")),
            };
            let why = format!("{kind} {namespace}/{name} has no rule {rule:?}; {named}");
            return Err(("TargetNotFound", why));
        }
        let id = RouteId {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        };
        Ok(match self.applied.apply(&id) {
            true => String::new(),
            false => "no Gateway of Weft applies the route now".to_owned(),
        })
    }
}

fn absent(kind: &str, namespace: &str, name: &str) -> (&'static str, String) {
    let why = format!(
        "{kind} {namespace}/{name} does not exist; a policy targets objects of its own namespace"
    );
    ("TargetNotFound", why)
}

fn serves_http(serving: &Serving) -> bool {
    match serving {
        Serving::Http(_) => true,
        Serving::Tls(listeners) => {
            let mut listeners = listeners.iter();
            listeners.all(|of| matches!(of.serving, weft_ir::TlsServing::Http { .. }))
        }
        Serving::Tcp(_) | Serving::Udp(_) => false,
    }
}

fn pods_note(policy: &Policy, applies: bool) -> String {
    if !applies {
        return "it selects no pod of the mesh now".to_owned();
    }
    if policy.id.kind == PolicyKind::Authentication {
        return "connections that are not HTTP are refused, since they have no tokens".to_owned();
    }
    match policy.requests {
        None => String::new(),
        Some(action) => format!(
            "on connections that are not HTTP, rules with applicationAttributes or tokens {}",
            on_bytes(action)
        ),
    }
}

/// Returns what rules with conditions on requests do on connections of bytes.
fn on_bytes(action: AuthorizationAction) -> &'static str {
    match action {
        AuthorizationAction::Allow => "allow nothing",
        AuthorizationAction::Deny => "deny everything from their sources",
        AuthorizationAction::Audit => "report everything from their sources",
    }
}

fn not_http(policy: &Policy, what: &str, other: Vec<String>) -> String {
    if policy.id.kind == PolicyKind::Authentication && !other.is_empty() {
        return format!(
            "{what} {} are not HTTP: every connection is refused there, since it has no token",
            other.join(", ")
        );
    }
    match policy.requests {
        Some(action) if !other.is_empty() => format!(
            "{what} {} are not HTTP: rules with applicationAttributes or tokens {} there",
            other.join(", "),
            on_bytes(action)
        ),
        _ => String::new(),
    }
}

/// The worst outcome decides.
fn accepted(policy: &Policy, outcomes: Vec<Outcome>) -> Condition {
    let mut faults: Vec<(&'static str, String)> = Vec::new();
    let mut notes: Vec<String> = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(note) if note.is_empty() || notes.contains(&note) => {}
            Ok(note) => notes.push(note),
            Err(fault) if faults.contains(&fault) => {}
            Err(fault) => faults.push(fault),
        }
    }
    if let Some((reason, _)) = faults.first() {
        let texts: Vec<&str> = faults.iter().map(|(_, text)| text.as_str()).collect();
        return condition("Accepted", false, reason, texts.join("; "));
    }
    let mut message = "the policy is in effect".to_owned();
    for note in notes.iter().chain(&policy.notes) {
        message += "; ";
        message += note;
    }
    condition("Accepted", true, "Accepted", message)
}

/// What is read of a route.
trait Targeted: RouteObject {
    /// Names of the rules that have one.
    fn rules(&self) -> Vec<String>;

    fn parents(&self) -> &[Lenient<ParentRef>] {
        self.parent_refs()
    }
}

impl Targeted for HttpRoute {
    fn rules(&self) -> Vec<String> {
        let rules = self.spec.as_ref().map_or(&[][..], |spec| &spec.rules);
        let rules = rules.iter().filter_map(|of| of.as_ref().ok());
        rules.filter_map(|of| of.name.clone()).collect()
    }
}

impl Targeted for GrpcRoute {
    fn rules(&self) -> Vec<String> {
        let rules = self.spec.as_ref().map_or(&[][..], |spec| &spec.rules);
        let rules = rules.iter().filter_map(|of| of.as_ref().ok());
        rules.filter_map(|of| of.name.clone()).collect()
    }
}

fn find<'r, T: RouteObject>(routes: &'r [Arc<T>], namespace: &str, name: &str) -> Option<&'r T> {
    let mut routes = routes.iter();
    let found = routes.find(|of| of.meta().namespace == namespace && of.meta().name == name);
    found.map(Arc::as_ref)
}

/// Returns the Gateways by namespace and name.
pub(super) fn gateway_objects(objects: &Objects) -> GatewayObjects<'_> {
    let all = objects.gateways.iter();
    let keyed = all.map(|of| ((&*of.metadata.namespace, &*of.metadata.name), of));
    keyed.collect::<HashMap<_, _>>()
}
