//! Incremental translation: a result is derived again only if an object that it depends on has
//! changed.
//!
//! The outcome equals that of [`translate`] on the same objects, whatever was translated before.
//! Each step keeps its last result together with the inputs of that result ([`crate::memo`]): lists
//! of objects, or the results of earlier steps, compared by identity. An edit therefore costs what
//! it affects plus the comparison of lists.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_ir::RouteKind;

use crate::cluster::modes::MtlsModes;
use crate::cluster::pods::GatewayAccounts;
use crate::cluster::services::Services;
use crate::cluster::zones::Zones;
use crate::cluster::{endpoints, pods, services};
use crate::gateways::missing::MissingParents;
use crate::input::{Objects, Settings};
use crate::memo::{ByIdentity, Memo};
use crate::mesh::Mesh;
use crate::objects::{GatewayClass, Namespace, Node, ReferenceGrant};
use crate::output::{
    AuthorizationStatus, GatewayClassStatus, GatewayStatus, ListenerSetStatus, PolicyStatus,
    Provision, RouteStatus, TrafficPolicyStatus,
};
use crate::policies::{PolicyTranslator, Scene};
use crate::references::grants::Grants;
use crate::routes::status::merge_statuses;
use crate::routes::{FaultCache, FaultFilters, Resolver, fault_filters};
use crate::service_routes::attach::Attachments;
use crate::service_routes::{attach, status, views};
use crate::traffic::{ServerLimits, TrafficTranslator};
use crate::{gateways, objects};

/// The result of a translation.
#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    /// The configuration of proxies.
    pub mesh: Mesh,
    /// Statuses of the routes that have a parent managed by this controller, by kind, namespace and
    /// name. A status that did not change since the last translation is the same `Arc`.
    pub statuses: Vec<Arc<RouteStatus>>,
    /// Statuses of the GatewayClasses managed by this controller, by name.
    pub gateway_classes: Vec<GatewayClassStatus>,
    /// Statuses of the Gateways of these classes, by namespace and name.
    pub gateways: Vec<GatewayStatus>,
    /// Statuses of the ListenerSets of these Gateways, by namespace and name.
    pub listener_sets: Vec<ListenerSetStatus>,
    /// Statuses of BackendTLSPolicies, by namespace and name.
    pub policies: Vec<PolicyStatus>,
    /// Statuses of ClusterAuthorizationPolicies by name, then of AuthorizationPolicies by namespace
    /// and name, each before the AuthenticationPolicy of the same name.
    pub authorizations: Vec<AuthorizationStatus>,
    /// The key sets to fetch for AuthenticationPolicies, without repetitions. The first ones are
    /// the first to be fetched: namespaces take turns.
    pub key_sources: Vec<objects::KeySource>,
    /// Statuses of TrafficPolicies, by namespace and name.
    pub traffic: Vec<TrafficPolicyStatus>,
    /// Statuses of XBackendTrafficPolicies, by namespace and name.
    pub backend_traffic: Vec<PolicyStatus>,
    /// Infrastructure to create for the accepted Gateways, by namespace and name.
    pub provisions: Vec<Provision>,
    /// Routes that refer to parents which do not exist, by kind, namespace and name; empty unless a
    /// GatewayClass is managed by this controller.
    pub missing_parents: Vec<MissingParents>,
    /// Ignored settings that no status reports, to be logged.
    pub warnings: BTreeSet<String>,
}

/// Translates one state of the cluster from scratch.
pub fn translate(objects: &Objects, settings: &Settings) -> Translation {
    Translator::new(settings.clone()).translate(objects)
}

/// Returns only [`Translation::provisions`], for a controller that watches no other objects than
/// these need: GatewayClasses, Gateways, ListenerSets, namespaces, ConfigMaps, ClusterTrustBundles
/// and ReferenceGrants. Objects of other kinds can be absent.
pub fn provisions(objects: &Objects, gateway_controller_name: &str) -> Vec<Provision> {
    gateways::provisions(objects, gateway_controller_name)
}

/// Translates successive states of the cluster, reusing earlier results.
#[derive(Debug)]
pub struct Translator {
    settings: Settings,
    accounts: Memo<AccountInputs, GatewayAccounts>,
    services: services::ServiceCache,
    modes: Memo<Vec<ByIdentity<Namespace>>, MtlsModes>,
    zones: Memo<Vec<ByIdentity<Node>>, Zones>,
    pods: pods::PodCache,
    grants: Memo<Vec<ByIdentity<ReferenceGrant>>, Grants>,
    endpoints: endpoints::EndpointCache,
    routes: attach::ServiceRouteCache,
    views: views::ViewCache,
    gateways: gateways::GatewayTranslator,
    policies: PolicyTranslator,
    traffic: TrafficTranslator,
    server_limits: ServerLimits,
    faults: FaultCache,
    statuses: Vec<Arc<RouteStatus>>,
}

/// Inputs of the gateway accounts: only Gateways of managed classes have one.
type AccountInputs = (
    Vec<ByIdentity<GatewayClass>>,
    Vec<ByIdentity<objects::Gateway>>,
);

impl Translator {
    /// Creates a translator without earlier results.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            accounts: Memo::default(),
            services: services::ServiceCache::default(),
            modes: Memo::default(),
            zones: Memo::default(),
            pods: pods::PodCache::default(),
            grants: Memo::default(),
            endpoints: endpoints::EndpointCache::default(),
            routes: attach::ServiceRouteCache::default(),
            views: views::ViewCache::default(),
            gateways: gateways::GatewayTranslator::default(),
            policies: PolicyTranslator::default(),
            traffic: TrafficTranslator::default(),
            server_limits: ServerLimits::default(),
            faults: FaultCache::default(),
            statuses: Vec::new(),
        }
    }

    /// Translates the current state of the cluster.
    pub fn translate(&mut self, objects: &Objects) -> Translation {
        let settings = &self.settings;
        let name = &settings.gateway_controller_name;
        let classes = gateways::classes(&objects.gateway_classes, name);
        let gateways = gateways::gateways(&objects.gateways, &classes);
        let owners = (
            ByIdentity::all(&objects.gateway_classes),
            ByIdentity::all(&objects.gateways),
        );
        let accounts = self
            .accounts
            .get_interned(owners, || gateways::accounts(&gateways));

        let services = self.services.update(objects);
        let namespaces = &objects.namespaces;
        let modes = self.modes.get_interned(ByIdentity::all(namespaces), || {
            MtlsModes::new(settings.mode, settings.mode_floor, namespaces)
        });
        let rules = (accounts, modes.clone());
        let nodes = &objects.nodes;
        let zones = self
            .zones
            .get_interned(ByIdentity::all(nodes), || Zones::new(nodes));
        let pods = self.pods.update(&objects.pods, settings, rules, &zones);
        let slices = &objects.endpoint_slices;
        let grants = &objects.reference_grants;
        let grants = self
            .grants
            .get(ByIdentity::all(grants), || Grants::new(grants));
        let policies = (
            &*objects.traffic_policies,
            &*objects.backend_traffic_policies,
        );
        let traffic = self
            .traffic
            .translate(policies, &services, &settings.namespace);
        let given = (&grants, &traffic.effective);
        let rules = &settings.endpoints;
        let endpoints = self
            .endpoints
            .update(&services, slices, &pods, given, rules);
        let limited =
            self.server_limits
                .update(&traffic.effective, &services, &endpoints.slices, &pods);

        let faults = fault_filters(&mut self.faults, &objects.fault_filters);
        let routes = mesh_routes(&mut self.routes, objects, &services, &faults);
        let attached = Attachments::new(&routes);
        let load_balancers = self.views.load_balancers(&services);
        let (addresses, routed) = self.views.update(&services, &routes, &attached);
        let statuses = (0..routes.len())
            .filter_map(|position| status::route_status(position, &routes, &attached))
            .collect();

        let ours = (&classes, &gateways);
        let outcome =
            self.gateways
                .translate(objects, ours, &services, &endpoints, (&grants, &faults));
        let scene = Scene {
            pods: &pods,
            services: &services,
            slices: &endpoints.slices,
            views: &outcome.views,
        };
        let policies = self.policies.translate(objects, settings, scene);
        self.statuses = merge_statuses(statuses, outcome.routes, &self.statuses);
        let warnings = [
            &modes.warnings,
            &pods.warnings,
            &services.warnings,
            &endpoints.warnings,
            &policies.warnings,
        ];
        let warnings = warnings.into_iter().flatten().cloned();
        Translation {
            mesh: Mesh {
                addresses,
                load_balancers,
                routed,
                endpoints: Arc::clone(&endpoints.tcp),
                pods: Arc::clone(&pods.0),
                terminating: Arc::clone(&endpoints.terminating),
                gateways: outcome.views,
                authorized: policies.authorized,
                traffic: Arc::clone(&traffic.applied),
                limited,
                gateway_endpoints: outcome.endpoints,
            },
            statuses: self.statuses.clone(),
            gateway_classes: outcome.classes,
            gateways: outcome.gateways,
            listener_sets: outcome.listener_sets,
            policies: outcome.policies,
            authorizations: policies.statuses,
            key_sources: policies.key_sources,
            traffic: traffic.statuses.clone(),
            backend_traffic: traffic.constraints.clone(),
            provisions: outcome.provisions,
            missing_parents: outcome.missing,
            warnings: warnings.chain(outcome.warnings).collect(),
        }
    }
}

/// Returns the routes that have a Service as a parent, in tie-breaking order.
fn mesh_routes(
    cache: &mut attach::ServiceRouteCache,
    objects: &Objects,
    services: &ByIdentity<Services>,
    faults: &ByIdentity<FaultFilters>,
) -> Vec<Arc<attach::AttachedRoute>> {
    let resolver = Resolver::new(services, faults, None);
    // In the mesh, no route applies to datagrams.
    let wanted = |kind, parents: &[_], own: &str| {
        kind != RouteKind::Udp && attach::service_parents(parents, own).next().is_some()
    };
    attach::attached_routes(cache, objects, &resolver, &wanted)
}
