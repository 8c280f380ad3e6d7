//! What the sidecar of each pod enforces.
//!
//! The results of a namespace are kept for as long as its policies, the Services that they target
//! and its default are the same; in it, that of a pod for as long as the pod is the same object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{Authorizations, DefaultAuthorization, PolicyId, ServiceId};

use super::compose::{Composer, Ports, Room};
use super::defaults::AuthorizationDefaults;
use super::policy::Policy;
use super::targets::Target;
use crate::cluster::pods::{PodInfo, Pods, PodsByName};
use crate::cluster::service_pods::service_ports;
use crate::cluster::services::{ServiceInfo, Services};
use crate::cluster::slices::{SliceInfo, Slices};
use crate::memo::ByIdentity;
use crate::selectors::selects;

/// The last state of all namespaces.
#[derive(Debug, Default)]
pub(super) struct PodAuthorizations {
    pods: Option<ByIdentity<Pods>>,
    namespaces: HashMap<Arc<str>, NamespaceCache>,
}

#[derive(Debug)]
struct NamespaceCache {
    inputs: Inputs,
    pods: HashMap<Arc<str>, (Arc<PodInfo>, PodResult)>,
    outcome: Arc<NamespaceAuthorizations>,
}

/// What the pods of a namespace depend on beside themselves.
#[derive(Debug, PartialEq)]
struct Inputs {
    default: DefaultAuthorization,
    /// In their order of precedence.
    policies: Vec<ByIdentity<Policy>>,
    /// The Services that they target; `None` for those that do not exist.
    services: Vec<Option<TargetedService>>,
}

/// A Service, with its slices if it has no selector.
type TargetedService = (ByIdentity<ServiceInfo>, Vec<ByIdentity<SliceInfo>>);

/// What a pod enforces, and the targets that it is part of.
#[derive(Clone, Debug)]
struct PodResult {
    enforced: Arc<Authorizations>,
    hits: Vec<Hit>,
    crowded: Vec<Arc<Policy>>,
}

/// A policy, and the position of a target of it that applies to something.
pub(super) type Hit = (PolicyId, usize);

/// What the pods of a namespace enforce.
#[derive(Debug, PartialEq)]
pub(crate) struct NamespaceAuthorizations {
    /// Of pods that no policy applies to.
    pub(super) default: Arc<Authorizations>,
    pub(super) pods: HashMap<Arc<str>, Arc<Authorizations>>,
    pub(super) hits: BTreeSet<Hit>,
    /// Policies that are closed at some pod, since it has no room for them.
    pub(super) crowded: BTreeSet<PolicyId>,
}

/// The objects that policies refer to.
#[derive(Clone, Copy)]
pub(super) struct Lookups<'a> {
    pub(super) pods: &'a ByIdentity<Pods>,
    pub(super) services: &'a Services,
    pub(super) slices: &'a Slices,
    /// The labels of namespaces.
    pub(super) namespaces: &'a HashMap<&'a str, &'a BTreeMap<String, String>>,
}

impl Lookups<'_> {
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceInfo>> {
        self.services.get(&ServiceId::new(namespace, name))
    }
}

impl PodAuthorizations {
    /// Returns the namespaces that have policies or a default of their own. `policies` are in their
    /// order of precedence.
    pub(super) fn update(
        &mut self,
        policies: &[Arc<Policy>],
        lookups: Lookups<'_>,
        defaults: &AuthorizationDefaults,
        composer: &mut Composer,
    ) -> HashMap<Arc<str>, Arc<NamespaceAuthorizations>> {
        let same_pods = self.pods.as_ref() == Some(lookups.pods);
        let mut before = std::mem::take(&mut self.namespaces);
        let (cluster, by_namespace) = by_namespace(policies);
        for (namespace, pods) in lookups.pods.namespaces() {
            let own = by_namespace.get(&**namespace).into_iter().flatten();
            let wide = cluster.iter().filter(|of| {
                let labels = lookups.namespaces.get(&**namespace);
                reaches(of, labels.copied())
            });
            let relevant: Vec<ByIdentity<Policy>> =
                wide.chain(own).map(|of| ByIdentity::of(of)).collect();
            let default = defaults.of(namespace);
            if relevant.is_empty() && default == defaults.mesh {
                continue;
            }
            let inputs = Inputs {
                default,
                services: targeted_services(&relevant, namespace, lookups),
                policies: relevant,
            };
            let cache = match before.remove(namespace) {
                Some(known) if known.inputs == inputs && same_pods => known,
                known => NamespaceCache::new(inputs, pods, known, lookups, composer),
            };
            self.namespaces.insert(Arc::clone(namespace), cache);
        }
        self.pods = Some(lookups.pods.clone());
        let all = self.namespaces.iter();
        all.map(|(namespace, of)| (Arc::clone(namespace), Arc::clone(&of.outcome)))
            .collect()
    }
}

type ByNamespace<'a> = HashMap<&'a str, Vec<&'a Arc<Policy>>>;

/// Separates the policies of the cluster from those of namespaces; only those with pods as targets.
fn by_namespace(policies: &[Arc<Policy>]) -> (Vec<&Arc<Policy>>, ByNamespace<'_>) {
    let (mut cluster, mut own) = (Vec::new(), ByNamespace::new());
    for policy in policies.iter().filter(|of| of.effect.is_some()) {
        let of_pods = |target: &Target| {
            matches!(
                target,
                Target::Pods { .. } | Target::Service { .. } | Target::Everything
            )
        };
        if !policy.targets.iter().any(|of| of_pods(&of.target)) {
            continue;
        }
        match policy.namespace() {
            None => cluster.push(policy),
            Some(namespace) => own.entry(namespace).or_default().push(policy),
        }
    }
    (cluster, own)
}

/// Returns true if a policy of the cluster targets pods of a namespace with these labels.
fn reaches(policy: &Policy, labels: Option<&BTreeMap<String, String>>) -> bool {
    let mut targets = policy.targets.iter();
    targets.any(|of| match &of.target {
        Target::Pods { namespaces, .. } => in_namespace(namespaces.as_ref(), labels),
        Target::Everything => true,
        _ => false,
    })
}

/// A namespace that is not known has no labels.
pub(super) fn in_namespace(
    selector: Option<&weft_policy::LabelSelector>,
    labels: Option<&BTreeMap<String, String>>,
) -> bool {
    let none = BTreeMap::new();
    selector.is_none_or(|selector| selects(selector, labels.unwrap_or(&none)))
}

fn targeted_services(
    policies: &[ByIdentity<Policy>],
    namespace: &str,
    lookups: Lookups<'_>,
) -> Vec<Option<TargetedService>> {
    let targets = policies.iter().flat_map(|of| &of.targets);
    let named = targets.filter_map(|of| match &of.target {
        Target::Service { name, .. } => Some(name),
        _ => None,
    });
    named
        .map(|name| {
            let service = lookups.service(namespace, name)?;
            let object = service.object.as_ref()?;
            let slices = match object.spec.selector.is_empty() {
                true => ByIdentity::all(lookups.slices.of(&service.id)),
                false => Vec::new(),
            };
            Some((ByIdentity::of(service), slices))
        })
        .collect()
}

impl NamespaceCache {
    fn new(
        inputs: Inputs,
        pods: &PodsByName,
        before: Option<Self>,
        lookups: Lookups<'_>,
        composer: &mut Composer,
    ) -> Self {
        let known = before.as_ref().filter(|of| of.inputs == inputs);
        let mut results = HashMap::new();
        for (name, pod) in pods.iter().filter(|(_, pod)| pod.has_server()) {
            let known = known.and_then(|of| of.pods.get(name));
            let result = match known {
                Some((same, result)) if Arc::ptr_eq(same, pod) => result.clone(),
                _ => pod_result(pod, &inputs, lookups, composer),
            };
            results.insert(Arc::clone(name), (Arc::clone(pod), result));
        }
        let all = || results.values().map(|(_, result)| result);
        let enforced = results
            .iter()
            .filter(|(_, (_, of))| !of.enforced.workload.policies.is_empty());
        let outcome = NamespaceAuthorizations {
            default: composer.workload(inputs.default, Vec::new()),
            pods: enforced
                .map(|(name, (_, of))| (Arc::clone(name), Arc::clone(&of.enforced)))
                .collect(),
            hits: all().flat_map(|of| of.hits.iter().cloned()).collect(),
            crowded: all()
                .flat_map(|of| of.crowded.iter().map(|policy| policy.id.clone()))
                .collect(),
        };
        let outcome = crate::memo::intern(outcome, before.as_ref().map(|of| &of.outcome));
        Self {
            inputs,
            pods: results,
            outcome,
        }
    }
}

fn pod_result(
    pod: &PodInfo,
    inputs: &Inputs,
    lookups: Lookups<'_>,
    composer: &mut Composer,
) -> PodResult {
    let (mut hits, mut crowded, mut policies) = (Vec::new(), Vec::new(), Vec::new());
    let mut room = Room::default();
    for ByIdentity(policy) in &inputs.policies {
        let mut scope: Option<Ports> = None;
        for (place, of) in policy.targets.iter().enumerate() {
            let Some(ports) = ports_of(&of.target, pod, lookups) else {
                continue;
            };
            hits.push((policy.id.clone(), place));
            scope = Some(match scope {
                None => ports,
                Some(known) => union(known, ports),
            });
        }
        let made = scope.and_then(|ports| composer.policy(policy, ports, &mut room, &mut crowded));
        policies.extend(made);
    }
    PodResult {
        enforced: composer.workload(inputs.default, policies),
        hits,
        crowded,
    }
}

/// No ports mean all of them.
fn union(one: Ports, other: Ports) -> Ports {
    if one.is_empty() || other.is_empty() {
        return Ports::new();
    }
    let all: BTreeSet<u16> = one.into_iter().chain(other).collect();
    all.into_iter().collect()
}

/// Returns the ports of the pod that a target applies to, or `None` if it does not apply.
fn ports_of(target: &Target, pod: &PodInfo, lookups: Lookups<'_>) -> Option<Ports> {
    match target {
        Target::Everything => Some(Ports::new()),
        Target::Pods { namespaces, pods } => {
            let labels = lookups.namespaces.get(&*pod.namespace).copied();
            let selected = in_namespace(namespaces.as_ref(), labels)
                && selects(pods, &pod.object.metadata.labels);
            selected.then(Ports::new)
        }
        Target::Service { name, port } => {
            let service = lookups.service(&pod.namespace, name)?;
            service_ports(service, port.as_deref(), pod, lookups.slices)
        }
        Target::Gateway { .. }
        | Target::Gateways { .. }
        | Target::Route { .. }
        | Target::Unsupported(_)
        | Target::Conflicted(_) => None,
    }
}
