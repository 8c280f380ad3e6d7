//! Translation of a cluster that changes: what was derived from objects that are still the same is not derived again.
//!
//! What comes out is what [`translate`](crate::translate) says of the objects, whatever was translated before. Each step
//! keeps what it made last, with what that was made from ([`crate::memo`]): the lists of objects as they are, or what
//! earlier steps made of them, by identity. So an edit costs what it touches, and the comparison of lists.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_ir::RouteKind;

use crate::cluster::modes::Modes;
use crate::cluster::pods::Accounts;
use crate::cluster::services::Services;
use crate::cluster::zones::Zones;
use crate::cluster::{endpoints, pods, services};
use crate::gateways::missing::MissingParents;
use crate::input::{Objects, Settings};
use crate::memo::{Last, Same};
use crate::mesh::Mesh;
use crate::objects::{GatewayClass, Namespace, Node, ReferenceGrant};
use crate::output::{
    GatewayClassStatus, GatewayStatus, ListenerSetStatus, PolicyStatus, Provision, RouteStatus,
};
use crate::references::grants::Grants;
use crate::routes::Resolver;
use crate::routes::status::merge;
use crate::service_routes::attach::Attachments;
use crate::service_routes::{attach, status, views};
use crate::{gateways, objects};

#[derive(Clone, Debug, PartialEq)]
pub struct Translation {
    pub mesh: Mesh,
    /// Of the routes that have a parent of ours, by kind, namespace and name. As with the mesh, one that says what it said
    /// before is in the same `Arc`.
    pub statuses: Vec<Arc<RouteStatus>>,
    /// Of those that are ours, by name.
    pub gateway_classes: Vec<GatewayClassStatus>,
    /// Of those that are ours, by name.
    pub gateways: Vec<GatewayStatus>,
    /// Of those whose Gateway is ours, by name.
    pub listener_sets: Vec<ListenerSetStatus>,
    /// Of BackendTLSPolicies, by name.
    pub policies: Vec<PolicyStatus>,
    /// For the accepted Gateways, by name.
    pub provisions: Vec<Provision>,
    /// Of routes, by kind, namespace and name, where a class is ours.
    pub missing_parents: Vec<MissingParents>,
    /// What users wrote and is not in force, where no status says so: for the log.
    pub warnings: BTreeSet<String>,
}

/// The mesh that `objects` describe, and what is to be said of each route.
pub fn translate(objects: &Objects, settings: &Settings) -> Translation {
    Translator::new(settings.clone()).translate(objects)
}

/// Returns only [`Translation::provisions`], for a controller that watches no other objects than these
/// need: GatewayClasses, Gateways, ListenerSets, namespaces, ConfigMaps, ClusterTrustBundles and
/// ReferenceGrants. Objects of other kinds can be absent.
pub fn provisions(objects: &Objects, gateway_controller_name: &str) -> Vec<Provision> {
    gateways::provisions(objects, gateway_controller_name)
}

/// Translates one state of the cluster after the other.
#[derive(Debug)]
pub struct Translator {
    settings: Settings,
    accounts: Last<Owners, Accounts>,
    services: services::Memo,
    modes: Last<Vec<Same<Namespace>>, Modes>,
    zones: Last<Vec<Same<Node>>, Zones>,
    pods: pods::Memo,
    grants: Last<Vec<Same<ReferenceGrant>>, Grants>,
    endpoints: endpoints::Memo,
    routes: attach::Memo,
    views: views::Memo,
    gateways: gateways::Memo,
    statuses: Vec<Arc<RouteStatus>>,
}

/// Gateways have accounts if their class is ours.
type Owners = (Vec<Same<GatewayClass>>, Vec<Same<objects::Gateway>>);

impl Translator {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            accounts: Last::default(),
            services: services::Memo::default(),
            modes: Last::default(),
            zones: Last::default(),
            pods: pods::Memo::default(),
            grants: Last::default(),
            endpoints: endpoints::Memo::default(),
            routes: attach::Memo::default(),
            views: views::Memo::default(),
            gateways: gateways::Memo::default(),
            statuses: Vec::new(),
        }
    }

    /// The mesh that `objects` describe, and what is to be said of each route.
    pub fn translate(&mut self, objects: &Objects) -> Translation {
        let settings = &self.settings;
        let name = &settings.gateway_controller_name;
        let classes = gateways::classes(&objects.gateway_classes, name);
        let gateways = gateways::gateways(&objects.gateways, &classes);
        let owners = (
            Same::all(&objects.gateway_classes),
            Same::all(&objects.gateways),
        );
        let accounts = self
            .accounts
            .get_alike(owners, || gateways::accounts(&gateways));

        let services = self.services.read(objects);
        let namespaces = &objects.namespaces;
        let modes = self.modes.get_alike(Same::all(namespaces), || {
            Modes::new(settings.mode, settings.mode_floor, namespaces)
        });
        let rules = (accounts, modes.clone());
        let nodes = &objects.nodes;
        let zones = self.zones.get_alike(Same::all(nodes), || Zones::new(nodes));
        let pods = self.pods.read(&objects.pods, settings, rules, &zones);
        let slices = &objects.endpoint_slices;
        let grants = &objects.reference_grants;
        let grants = self.grants.get(Same::all(grants), || Grants::new(grants));
        let rules = &settings.endpoints;
        let endpoints = self
            .endpoints
            .read(&services, slices, &pods, &grants, rules);

        let routes = mesh_routes(&mut self.routes, objects, &services);
        let attached = Attachments::new(&routes);
        let balancers = self.views.balancers(&services);
        let (addresses, routed) = self.views.read(&services, &routes, &attached);
        let statuses = (0..routes.len())
            .filter_map(|place| status::route_status(place, &routes, &attached))
            .collect();

        let ours = (&classes, &gateways);
        let outcome = self
            .gateways
            .translate(objects, ours, &services, &endpoints, &grants);
        self.statuses = merge(statuses, outcome.routes, &self.statuses);
        let warnings = [
            &modes.warnings,
            &pods.warnings,
            &services.warnings,
            &endpoints.warnings,
        ];
        let warnings = warnings.into_iter().flatten().cloned();
        Translation {
            mesh: Mesh {
                addresses,
                balancers,
                routed,
                endpoints: Arc::clone(&endpoints.tcp),
                pods: Arc::clone(&pods.0),
                leaving: Arc::clone(&endpoints.leaving),
                gateways: outcome.views,
                gateway_endpoints: outcome.endpoints,
            },
            statuses: self.statuses.clone(),
            gateway_classes: outcome.classes,
            gateways: outcome.gateways,
            listener_sets: outcome.listener_sets,
            policies: outcome.policies,
            provisions: outcome.provisions,
            missing_parents: outcome.missing,
            warnings: warnings.chain(outcome.warnings).collect(),
        }
    }
}

/// The routes that have a Service as a parent, in the order that decides ties.
fn mesh_routes(
    memo: &mut attach::Memo,
    objects: &Objects,
    services: &Same<Services>,
) -> Vec<Arc<attach::Attached>> {
    let resolver = Resolver::new(services, None);
    // No Service of the mesh is a parent for datagrams.
    let wanted = |kind, parents: &[_], own: &str| {
        kind != RouteKind::Udp && attach::parents(parents, own).next().is_some()
    };
    attach::on_services(memo, objects, &resolver, &wanted)
}
