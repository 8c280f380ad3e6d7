//! Gateways: which are ours, what they listen on and where that leads, what is to be created for them, and what is said
//! of them.

mod addresses;
mod attach;
mod classes;
mod composed;
mod conflicts;
mod fit;
mod frontend;
mod listener_budget;
mod listeners;
mod metadata;
pub(crate) mod missing;
mod overlaps;
mod parameters;
mod plans;
mod routes;
mod scopes;
mod serving;
mod statuses;
mod verdicts;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{Gateway, GatewayId, GatewayPort, ServicePort};

use crate::backend_tls::Policies;
use crate::cluster::endpoint_sets::Sets;
use crate::cluster::endpoints::{Endpoints, Known};
use crate::cluster::services::Services;
use crate::input::Objects;
use crate::memo::{self, Last, Same};
use crate::objects::{BackendTlsPolicy, ClusterTrustBundle, ConfigMap};
use crate::output::{
    GatewayClassStatus, GatewayStatus, ListenerSetStatus, PolicyStatus, Provision,
};
use crate::references::certificates::Data;
use crate::references::grants::Grants;
use crate::routes::status::Placed;
use crate::routes::{GatewayRules, Resolver};
use classes::{Class, Owned};
use composed::Composed;
use missing::{MissingParents, missing_parents};
use plans::{Sources, plans};
use scopes::Namespaces;
use verdicts::Infrastructure;

pub(crate) use classes::{accounts, classes, gateways};
pub use view::GatewayView;

type Classes<'a> = BTreeMap<&'a str, Class<'a>>;
type Gateways<'a> = BTreeMap<GatewayId, Owned<'a>>;
type Views = HashMap<GatewayId, Arc<GatewayView>>;

/// All that there is to know of Gateways.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) views: Views,
    /// Those that differ from what the mesh sees.
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) routes: Vec<Placed>,
    pub(crate) classes: Vec<GatewayClassStatus>,
    pub(crate) gateways: Vec<GatewayStatus>,
    pub(crate) listener_sets: Vec<ListenerSetStatus>,
    pub(crate) policies: Vec<PolicyStatus>,
    pub(crate) provisions: Vec<Provision>,
    pub(crate) missing: Vec<MissingParents>,
    pub(crate) warnings: BTreeSet<String>,
}

/// What is to be created for the accepted Gateways, by name: what [`Memo::translate`] says of it, from the objects that
/// decide it alone. These are GatewayClasses, Gateways, ListenerSets, the labels of namespaces, and the ConfigMaps,
/// ClusterTrustBundles and ReferenceGrants that parameters and the check of clients' certificates need. No Secret is read: a
/// listener has its port before its certificate is there.
pub(crate) fn provisions(objects: &Objects, controller: &str) -> Vec<Provision> {
    let classes = classes(&objects.gateway_classes, controller);
    let gateways = gateways(&objects.gateways, &classes);
    let bundles = &objects.cluster_trust_bundles;
    let data = Data::new(&[], &objects.config_maps, bundles);
    let grants = Grants::new(&objects.reference_grants);
    let namespaces = Namespaces::new(&objects.namespaces);
    let sources = Sources {
        data: &data,
        grants: &grants,
        namespaces: &namespaces,
    };
    let plans = plans(&gateways, &objects.listener_sets, sources);
    let parameters = verdicts::class_parameters(&classes, &data);
    let accepted = plans.values().filter_map(|plan| {
        let class = &parameters[plan.owned.class];
        let (own, sound) = verdicts::parameters(plan, class, &data);
        let (provision, _) = verdicts::provision(plan, &own, sound).ok()?;
        Some(provision)
    });
    accepted.collect()
}

/// What Gateways need, as it was made last.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    policies: Last<PolicySources, Policies>,
    routes: routes::Memo,
    composed: crate::service_routes::attach::Memo,
    views: Views,
    endpoints: Arc<Endpoints>,
}

/// Policies, and the bundles that they may name.
type PolicySources = (
    Vec<Same<BackendTlsPolicy>>,
    Vec<Same<ConfigMap>>,
    Vec<Same<ClusterTrustBundle>>,
);

impl Memo {
    pub(crate) fn translate(
        &mut self,
        objects: &Objects,
        (classes, gateways): (&Classes<'_>, &Gateways<'_>),
        services: &Same<Services>,
        known: &Known,
        grants: &Same<Grants>,
    ) -> Outcome {
        if classes.is_empty() {
            *self = Self::default();
            return Outcome::default();
        }
        let data = Data::new(
            &objects.secrets,
            &objects.config_maps,
            &objects.cluster_trust_bundles,
        );
        let namespaces = Namespaces::new(&objects.namespaces);
        let sources = Sources {
            data: &data,
            grants,
            namespaces: &namespaces,
        };
        let plans = plans(gateways, &objects.listener_sets, sources);
        let policies = &objects.backend_tls_policies;
        let from = (
            Same::all(policies),
            Same::all(&objects.config_maps),
            Same::all(&objects.cluster_trust_bundles),
        );
        let make = || Policies::new(policies, &data);
        let policies = self.policies.get_alike(from, make);
        let rules = GatewayRules {
            grants: grants.clone(),
            policies: policies.clone(),
        };
        let resolver = Resolver::new(services, Some(rules));
        let mut routes =
            routes::attached(&mut self.routes, objects, &plans, &namespaces, &resolver);
        let composed = Composed::new(&mut self.composed, objects, &resolver);
        fit::fit(&mut routes, &plans, &composed);
        let by_listener = serving::by_listener(&routes);
        let counts = statuses::counts(&routes);
        let parameters = verdicts::class_parameters(classes, &data);
        let endpoints = self.endpoints(&policies, services, known);
        let is_idle = |port: &ServicePort| {
            let set = endpoints.get(port).or_else(|| known.tcp.get(port));
            set.is_some_and(|set| set.whole.endpoints.is_empty())
        };
        let left_out = |port: &ServicePort| known.left_out.get(&port.service).map(|of| &**of);
        let mut outcome = Outcome {
            routes: routes::statuses(&routes, is_idle, left_out),
            policies: policies.statuses(services, &routes::targets(&routes, &composed)),
            classes: verdicts::class_statuses(classes, &parameters),
            missing: missing_parents(objects),
            ..Outcome::default()
        };
        let infrastructure = Infrastructure {
            all: &objects.services,
            services,
            slices: &known.slices,
        };
        for (id, plan) in &plans {
            let class = &parameters[plan.owned.class];
            let (own, broken) = verdicts::parameters(plan, class, &data);
            let decided = verdicts::provision(plan, &own, broken);
            let verdict = verdicts::judge(plan, decided.as_ref(), &own, &infrastructure);
            outcome
                .gateways
                .push(statuses::gateway(plan, &verdict, &counts));
            let sets = statuses::listener_sets(plan, &verdict, &counts);
            outcome.listener_sets.extend(sets);
            let gateway = Gateway {
                id: id.clone(),
                client_certificate: plan.client_certificate.clone().ok().flatten(),
                forwarded: own.forwarded(),
                proxy_protocol: own.proxy_protocol(),
                normalize_paths: own.normalize_paths(),
            };
            let ports = serving::ports(plan, &by_listener, &composed);
            outcome.views.insert(id.clone(), self.view(gateway, ports));
            outcome
                .provisions
                .extend(decided.ok().map(|(provision, _)| provision));
        }
        outcome
            .listener_sets
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        outcome.endpoints = endpoints;
        outcome.warnings = composed.warnings;
        self.views.clone_from(&outcome.views);
        outcome
    }

    /// The endpoint sets that gateways see otherwise than the mesh. What says the same as before is the same.
    fn endpoints(
        &mut self,
        policies: &Policies,
        services: &Services,
        known: &Known,
    ) -> Arc<Endpoints> {
        // A number that is a port of TCP too means that one's endpoints.
        let mut endpoints = Endpoints::clone(&known.udp);
        endpoints.retain(|id, _| !known.tcp.contains_key(id));
        let seen = |id: &ServicePort| known.at_gateways.get(id).or_else(|| known.tcp.get(id));
        endpoints.extend(policies.endpoints(services, seen));
        for (id, set) in &known.at_gateways {
            let other = || Arc::clone(set);
            endpoints.entry(Arc::clone(id)).or_insert_with(other);
        }
        for (id, sets) in &mut endpoints {
            *sets = Sets::clone(sets).renewed(self.endpoints.get(id));
        }
        self.endpoints = Arc::new(endpoints);
        Arc::clone(&self.endpoints)
    }

    /// What says the same as before is the same.
    fn view(&self, gateway: Gateway, ports: Vec<GatewayPort>) -> Arc<GatewayView> {
        let before = self.views.get(&gateway.id);
        let port = |port: GatewayPort| {
            let mut before = before.into_iter().flat_map(|view| &view.ports);
            let alike = before.find(|before| ***before == port).cloned();
            alike.unwrap_or_else(|| Arc::new(port))
        };
        let view = GatewayView {
            gateway: Arc::new(gateway),
            ports: ports.into_iter().map(port).collect(),
        };
        memo::alike(view, before)
    }
}
