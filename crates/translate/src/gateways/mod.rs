//! Gateways: which ones this controller manages, their listeners and the routes on them, their
//! infrastructure, and their statuses.

mod acceptance;
mod addresses;
mod attach;
mod classes;
mod conflicts;
mod frontend;
mod listener_budgets;
mod listener_filters;
mod listeners;
mod metadata;
pub(crate) mod missing;
mod overlaps;
mod parameters;
mod plans;
mod port_budgets;
mod routes;
mod scopes;
mod service_rules;
mod serving;
mod statuses;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_ir::{Gateway, GatewayId, GatewayPort, ServicePort};

use crate::backend_tls::Policies;
use crate::cluster::endpoint_sets::EndpointSets;
use crate::cluster::endpoints::{EndpointIndex, Endpoints};
use crate::cluster::services::Services;
use crate::input::Objects;
use crate::memo::{self, ByIdentity, Memo};
use crate::objects::{BackendTlsPolicy, ClusterTrustBundle, ConfigMap};
use crate::output::{
    GatewayClassStatus, GatewayStatus, ListenerSetStatus, PolicyStatus, Provision,
};
use crate::references::certificates::ReferencedObjects;
use crate::references::grants::Grants;
use crate::routes::status::PositionedStatus;
use crate::routes::{FaultFilters, GatewayBackendRules, Resolver};
use acceptance::Infrastructure;
use classes::{ManagedClass, ManagedGateway};
use missing::{MissingParents, missing_parents};
use plans::{ListenerLookups, plans};
use scopes::Namespaces;
use service_rules::AppliedServiceRules;

pub(crate) use classes::{accounts, classes, gateways};
pub use view::GatewayView;

type Classes<'a> = BTreeMap<&'a str, ManagedClass<'a>>;
type Gateways<'a> = BTreeMap<GatewayId, ManagedGateway<'a>>;
type Views = HashMap<GatewayId, Arc<GatewayView>>;

/// The result of translating all Gateways.
#[derive(Debug, Default)]
pub(crate) struct GatewayTranslation {
    pub(crate) views: Views,
    /// Endpoint sets that gateways see differently from the mesh.
    pub(crate) endpoints: Arc<Endpoints>,
    pub(crate) routes: Vec<PositionedStatus>,
    pub(crate) classes: Vec<GatewayClassStatus>,
    pub(crate) gateways: Vec<GatewayStatus>,
    pub(crate) listener_sets: Vec<ListenerSetStatus>,
    pub(crate) policies: Vec<PolicyStatus>,
    pub(crate) provisions: Vec<Provision>,
    pub(crate) missing: Vec<MissingParents>,
    pub(crate) warnings: BTreeSet<String>,
}

/// Returns the infrastructure of the accepted Gateways, by namespace and name, as
/// [`GatewayTranslator::translate`] does, from the objects that decide it: GatewayClasses,
/// Gateways, ListenerSets, the labels of namespaces, and the ConfigMaps, ClusterTrustBundles and
/// ReferenceGrants for parameters and the validation of clients. Secrets are not read, since a
/// listener has its port before its certificate exists.
pub(crate) fn provisions(objects: &Objects, controller: &str) -> Vec<Provision> {
    let classes = classes(&objects.gateway_classes, controller);
    let gateways = gateways(&objects.gateways, &classes);
    let bundles = &objects.cluster_trust_bundles;
    let data = ReferencedObjects::new(&[], &objects.config_maps, bundles);
    let grants = Grants::new(&objects.reference_grants);
    let namespaces = Namespaces::new(&objects.namespaces);
    let lookups = ListenerLookups {
        data: &data,
        grants: &grants,
        namespaces: &namespaces,
        backends: None,
    };
    let plans = plans(&gateways, &objects.listener_sets, lookups);
    let parameters = acceptance::class_parameters(&classes, &data);
    let accepted = plans.values().filter_map(|plan| {
        let class = &parameters[plan.owned.class];
        let (own, valid) = acceptance::parameters(plan, class, &data);
        let (provision, _) = acceptance::provision(plan, &own, valid).ok()?;
        Some(provision)
    });
    accepted.collect()
}

/// Translates Gateways, reusing the results of the last translation.
#[derive(Debug, Default)]
pub(crate) struct GatewayTranslator {
    policies: Memo<PolicyInputs, Policies>,
    routes: routes::GatewayRouteCache,
    service_rules: crate::service_routes::attach::ServiceRouteCache,
    views: Views,
    endpoints: Arc<Endpoints>,
}

/// BackendTLSPolicies, and the objects with CA bundles that they can refer to.
type PolicyInputs = (
    Vec<ByIdentity<BackendTlsPolicy>>,
    Vec<ByIdentity<ConfigMap>>,
    Vec<ByIdentity<ClusterTrustBundle>>,
);

impl GatewayTranslator {
    pub(crate) fn translate(
        &mut self,
        objects: &Objects,
        (classes, gateways): (&Classes<'_>, &Gateways<'_>),
        services: &ByIdentity<Services>,
        known: &EndpointIndex,
        (grants, faults): (&ByIdentity<Grants>, &ByIdentity<FaultFilters>),
    ) -> GatewayTranslation {
        if classes.is_empty() {
            *self = Self::default();
            return GatewayTranslation::default();
        }
        let data = ReferencedObjects::new(
            &objects.secrets,
            &objects.config_maps,
            &objects.cluster_trust_bundles,
        );
        let namespaces = Namespaces::new(&objects.namespaces);
        let policies = &objects.backend_tls_policies;
        let from = (
            ByIdentity::all(policies),
            ByIdentity::all(&objects.config_maps),
            ByIdentity::all(&objects.cluster_trust_bundles),
        );
        let make = || Policies::new(policies, &data);
        let policies = self.policies.get_interned(from, make);
        let rules = GatewayBackendRules {
            grants: grants.clone(),
            policies: policies.clone(),
        };
        let resolver = Resolver::new(services, faults, Some(rules));
        let sources = ListenerLookups {
            data: &data,
            grants,
            namespaces: &namespaces,
            backends: Some(&resolver),
        };
        let plans = plans(gateways, &objects.listener_sets, sources);
        let mut routes =
            routes::attached(&mut self.routes, objects, &plans, &namespaces, &resolver);
        let service_rules = AppliedServiceRules::new(&mut self.service_rules, objects, &resolver);
        port_budgets::enforce(&mut routes, &plans, &service_rules);
        let by_listener = serving::by_listener(&routes);
        let counts = statuses::counts(&routes);
        let parameters = acceptance::class_parameters(classes, &data);
        let endpoints = self.endpoints(&policies, services, known);
        let is_idle = |port: &ServicePort| {
            let set = endpoints.get(port).or_else(|| known.tcp.get(port));
            set.is_some_and(|set| set.whole.endpoints.is_empty())
        };
        let left_out = |port: &ServicePort| known.left_out.get(&port.service).map(|of| &**of);
        let mut outcome = GatewayTranslation {
            routes: routes::statuses(&routes, is_idle, left_out),
            policies: policies
                .statuses(services, &routes::targets(&plans, &routes, &service_rules)),
            classes: acceptance::class_statuses(classes, &parameters),
            missing: missing_parents(objects),
            ..GatewayTranslation::default()
        };
        let infrastructure = Infrastructure {
            all: &objects.services,
            services,
            slices: &known.slices,
        };
        for (id, plan) in &plans {
            let class = &parameters[plan.owned.class];
            let (own, broken) = acceptance::parameters(plan, class, &data);
            let decided = acceptance::provision(plan, &own, broken);
            let state = acceptance::evaluate(plan, decided.as_ref(), &own, &infrastructure);
            outcome
                .gateways
                .push(statuses::gateway(plan, &state, &counts));
            let sets = statuses::listener_sets(plan, &state, &counts);
            outcome.listener_sets.extend(sets);
            let gateway = Gateway {
                id: id.clone(),
                client_certificate: plan.client_certificate.clone().ok().flatten(),
                forwarded: own.forwarded(),
                proxy_protocol: own.proxy_protocol(),
                normalize_paths: own.normalize_paths(),
            };
            let ports = serving::ports(plan, &by_listener, &service_rules);
            outcome.views.insert(id.clone(), self.view(gateway, ports));
            outcome
                .provisions
                .extend(decided.ok().map(|(provision, _)| provision));
        }
        outcome
            .listener_sets
            .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        outcome.endpoints = endpoints;
        outcome.warnings = service_rules.warnings;
        self.views.clone_from(&outcome.views);
        outcome
    }

    /// Returns the endpoint sets that gateways see differently from the mesh. Sets that did not
    /// change keep their identity.
    fn endpoints(
        &mut self,
        policies: &Policies,
        services: &Services,
        known: &EndpointIndex,
    ) -> Arc<Endpoints> {
        // A number that is both a TCP and a UDP port stands for the TCP port.
        let mut endpoints = Endpoints::clone(&known.udp);
        endpoints.retain(|id, _| !known.tcp.contains_key(id));
        let seen = |id: &ServicePort| known.at_gateways.get(id).or_else(|| known.tcp.get(id));
        endpoints.extend(policies.endpoints(services, seen));
        for (id, set) in &known.at_gateways {
            let other = || Arc::clone(set);
            endpoints.entry(Arc::clone(id)).or_insert_with(other);
        }
        for (id, sets) in &mut endpoints {
            *sets = EndpointSets::clone(sets).interned(self.endpoints.get(id));
        }
        self.endpoints = Arc::new(endpoints);
        Arc::clone(&self.endpoints)
    }

    /// Parts of the view that did not change keep their identity.
    fn view(&self, gateway: Gateway, ports: Vec<GatewayPort>) -> Arc<GatewayView> {
        let before = self.views.get(&gateway.id);
        let port = |port: GatewayPort| {
            let mut before = before.into_iter().flat_map(|view| &view.ports);
            let intern = before.find(|before| ***before == port).cloned();
            intern.unwrap_or_else(|| Arc::new(port))
        };
        let view = GatewayView {
            gateway: Arc::new(gateway),
            ports: ports.into_iter().map(port).collect(),
        };
        memo::intern(view, before)
    }
}
