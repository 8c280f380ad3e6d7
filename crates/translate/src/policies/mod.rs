//! Policies on who may call and on tokens: which of them each proxy enforces, and their statuses.
//!
//! What protects fails closed: a policy that is invalid, or that cannot be read, denies everything
//! to its targets, and its status names the reason. Policies add up; none replaces another, except
//! that of AuthenticationPolicies the oldest alone has a target.
//!
//! Source: GEP-3779 and GEP-713.

mod authentication;
mod compose;
mod conflicts;
mod defaults;
mod gateways;
mod jwks;
mod key_sources;
mod pods;
mod policy;
mod requests;
mod rules;
mod status;
mod targets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{Authorizations, GatewayId};

use crate::cluster::pods::Pods;
use crate::cluster::services::Services;
use crate::cluster::slices::Slices;
use crate::input::{Objects, Settings};
use crate::memo::{ByIdentity, Memo, ObjectMemo};
use crate::objects::{
    AuthenticationPolicy, AuthorizationPolicy, ClusterAuthorizationPolicy, KeySource, Namespace,
};
use crate::output::AuthorizationStatus;
use authentication::KeyLookups;
use compose::Composer;
use conflicts::Conflicts;
use defaults::AuthorizationDefaults;
use gateways::{GatewayAuthorizations, Views};
use pods::{Lookups, NamespaceAuthorizations, PodAuthorizations};
use policy::Policy;
use status::{Findings, gateway_objects};

/// Returns true if the text is a JSON Web Key Set with keys that proxies can verify with.
pub fn is_key_set(text: &str) -> bool {
    jwks::parse(text).is_ok()
}

/// What every proxy enforces.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Authorized {
    /// In namespaces without policies and without a default of their own.
    default: Arc<Authorizations>,
    namespaces: HashMap<Arc<str>, Arc<NamespaceAuthorizations>>,
    gateways: HashMap<GatewayId, Arc<Authorizations>>,
}

impl Authorized {
    /// Returns what the sidecar of a pod enforces.
    pub(crate) fn sidecar(&self, namespace: &str, pod: &str) -> &Arc<Authorizations> {
        let Some(of) = self.namespaces.get(namespace) else {
            return &self.default;
        };
        of.pods.get(pod).unwrap_or(&of.default)
    }

    /// Returns what the proxies of a Gateway enforce; `None` if it is not managed.
    pub(crate) fn gateway(&self, id: &GatewayId) -> Option<&Arc<Authorizations>> {
        self.gateways.get(id)
    }

    /// Returns every distinct result.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Authorizations>> {
        let namespaces = self.namespaces.values();
        let of_pods = namespaces.flat_map(|of| of.pods.values().chain([&of.default]));
        let rest = self.gateways.values().chain([&self.default]);
        of_pods.chain(rest)
    }
}

/// The result of translating all policies.
#[derive(Debug)]
pub(crate) struct PolicyTranslation {
    pub(crate) authorized: Authorized,
    /// Those of the cluster first, then by namespace and name.
    pub(crate) statuses: Vec<AuthorizationStatus>,
    pub(crate) warnings: BTreeSet<String>,
    /// What valid policies on tokens need to be fetched; namespaces take turns.
    pub(crate) key_sources: Vec<KeySource>,
}

/// Translates policies, reusing the results of the last translation.
#[derive(Debug, Default)]
pub(crate) struct PolicyTranslator {
    own: ObjectMemo<AuthorizationPolicy, (), Arc<Policy>>,
    cluster: ObjectMemo<ClusterAuthorizationPolicy, (), Arc<Policy>>,
    tokens: ObjectMemo<AuthenticationPolicy, (), Arc<Policy>>,
    conflicts: Conflicts,
    defaults: Memo<Vec<ByIdentity<Namespace>>, AuthorizationDefaults>,
    pods: PodAuthorizations,
    gateways: GatewayAuthorizations,
    composer: Composer,
}

/// The parts of the cluster that policies apply to.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) pods: &'a ByIdentity<Pods>,
    pub(crate) services: &'a Services,
    pub(crate) slices: &'a Slices,
    pub(crate) views: &'a Views,
}

impl PolicyTranslator {
    pub(crate) fn translate(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        scene: Scene<'_>,
    ) -> PolicyTranslation {
        let domain = &settings.trust_domain;
        let cluster = self
            .cluster
            .map(&objects.cluster_authorization_policies, (), |of| {
                Arc::new(Policy::of_cluster(of, domain))
            });
        let own = self.own.map(&objects.authorization_policies, (), |of| {
            Arc::new(Policy::of_namespace(of, domain))
        });
        let lookups = KeyLookups::new(&objects.fetched_keys, &objects.config_maps);
        let tokens = self.tokens.map_valid(
            &objects.authentication_policies,
            (),
            |known| known.holds(&lookups),
            |of| Arc::new(Policy::of_tokens(of, &lookups)),
        );
        let all = cluster.into_iter().chain(own).chain(tokens);
        let mut policies: Vec<Arc<Policy>> = all.collect();
        policies.sort_by(|a, b| a.order().cmp(&b.order()));
        self.conflicts.resolve(&mut policies);
        let sources = policies.iter().flat_map(|of| {
            let namespace = of.id.namespace.as_deref().unwrap_or_default();
            of.found.sources().map(move |source| (namespace, source))
        });
        let key_sources = key_sources::in_turns(sources);
        let namespaces = &objects.namespaces;
        let defaults = self.defaults.get_interned(ByIdentity::all(namespaces), || {
            let (default, floor) = (settings.authorization, settings.authorization_floor);
            AuthorizationDefaults::new(default, floor, namespaces)
        });
        let labels: HashMap<&str, &BTreeMap<String, String>> = namespaces
            .iter()
            .map(|of| (of.metadata.name.as_str(), &of.metadata.labels))
            .collect();
        let lookups = Lookups {
            pods: scene.pods,
            services: scene.services,
            slices: scene.slices,
            namespaces: &labels,
        };
        let composer = &mut self.composer;
        let of_pods = self.pods.update(&policies, lookups, &defaults, composer);
        let gateways = gateway_objects(objects);
        let of_gateways =
            self.gateways
                .update(&policies, scene.views, &gateways, lookups, composer);
        let default = composer.workload(defaults.mesh, Vec::new());
        let hits = of_pods.values().flat_map(|of| &of.hits);
        let crowded = of_pods.values().flat_map(|of| &of.crowded);
        let findings = Findings {
            lookups,
            objects,
            gateways: &gateways,
            views: scene.views,
            applied: &self.gateways,
            hits: hits
                .chain(of_gateways.values().flat_map(|of| &of.hits))
                .collect(),
            crowded: crowded
                .chain(of_gateways.values().flat_map(|of| &of.crowded))
                .collect(),
        };
        let mut statuses: Vec<AuthorizationStatus> =
            policies.iter().map(|of| findings.status(of)).collect();
        statuses.sort_by(|a, b| a.id.cmp(&b.id));
        let gateways = of_gateways.iter();
        let authorized = Authorized {
            default,
            gateways: gateways
                .map(|(id, of)| (id.clone(), Arc::clone(&of.enforced)))
                .collect(),
            namespaces: of_pods,
        };
        self.composer.prune();
        PolicyTranslation {
            authorized,
            statuses,
            warnings: defaults.warnings.clone(),
            key_sources,
        }
    }
}
