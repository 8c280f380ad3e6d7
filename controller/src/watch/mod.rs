//! The state of the cluster: one store for each kind that translation reads, kept in sync by
//! watches.
//!
//! Stores keep what they hold while a watch is interrupted. [`World::listed`] says whether every
//! kind has completed its initial list.

mod burst;
mod follow;
pub mod keys;
pub mod kinds;
mod linger;
pub mod object;
mod store;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::ApiResource;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_translate::{Objects, objects};

pub(crate) use burst::burst;
pub use follow::Changes;
pub use keys::KeyStore;
pub use kinds::{Kinds, Served};
pub use object::{ObjectKey, StatusPart, Watchable};
pub use store::Store;

use crate::metrics::ClusterMetrics;
use follow::{Follower, follow};

/// A store for each kind.
#[derive(Debug, Default)]
pub struct World {
    pub services: Arc<Store<objects::Service>>,
    pub service_imports: Arc<Store<objects::ServiceImport>>,
    pub endpoint_slices: Arc<Store<objects::EndpointSlice>>,
    pub pods: Arc<Store<objects::Pod>>,
    pub namespaces: Arc<Store<objects::Namespace>>,
    pub nodes: Arc<Store<objects::Node>>,
    pub http_routes: Arc<Store<objects::HttpRoute>>,
    pub grpc_routes: Arc<Store<objects::GrpcRoute>>,
    pub tls_routes: Arc<Store<objects::TlsRoute>>,
    pub tcp_routes: Arc<Store<objects::TcpRoute>>,
    pub udp_routes: Arc<Store<objects::UdpRoute>>,
    pub gateway_classes: Arc<Store<objects::GatewayClass>>,
    pub gateways: Arc<Store<objects::Gateway>>,
    pub listener_sets: Arc<Store<objects::ListenerSet>>,
    pub reference_grants: Arc<Store<objects::ReferenceGrant>>,
    pub backend_tls_policies: Arc<Store<objects::BackendTlsPolicy>>,
    pub authorization_policies: Arc<Store<objects::AuthorizationPolicy>>,
    pub cluster_authorization_policies: Arc<Store<objects::ClusterAuthorizationPolicy>>,
    pub authentication_policies: Arc<Store<objects::AuthenticationPolicy>>,
    pub fetched_keys: Arc<KeyStore>,
    pub traffic_policies: Arc<Store<objects::TrafficPolicy>>,
    pub fault_filters: Arc<Store<objects::FaultFilter>>,
    pub backend_traffic_policies: Arc<Store<objects::BackendTrafficPolicy>>,
    pub secrets: Arc<Store<objects::Secret>>,
    pub config_maps: Arc<Store<objects::ConfigMap>>,
    pub cluster_trust_bundles: Arc<Store<objects::ClusterTrustBundle>>,
    pub changes: Changes,
}

impl World {
    /// Returns true once every kind has completed its initial list.
    pub fn listed(&self) -> bool {
        self.services.listed()
            && self.service_imports.listed()
            && self.endpoint_slices.listed()
            && self.pods.listed()
            && self.namespaces.listed()
            && self.nodes.listed()
            && self.http_routes.listed()
            && self.grpc_routes.listed()
            && self.tls_routes.listed()
            && self.tcp_routes.listed()
            && self.udp_routes.listed()
            && self.gateway_classes.listed()
            && self.gateways.listed()
            && self.listener_sets.listed()
            && self.reference_grants.listed()
            && self.backend_tls_policies.listed()
            && self.authorization_policies.listed()
            && self.cluster_authorization_policies.listed()
            && self.authentication_policies.listed()
            && self.fetched_keys.listed()
            && self.traffic_policies.listed()
            && self.fault_filters.listed()
            && self.backend_traffic_policies.listed()
            && self.secrets.listed()
            && self.config_maps.listed()
            && self.cluster_trust_bundles.listed()
    }

    /// Returns the current objects.
    pub fn objects(&self) -> Objects {
        Objects {
            services: self.services.objects(),
            service_imports: self.service_imports.objects_if_served(),
            endpoint_slices: self.endpoint_slices.objects(),
            pods: self.pods.objects(),
            namespaces: self.namespaces.objects(),
            nodes: self.nodes.objects(),
            http_routes: self.http_routes.objects(),
            grpc_routes: self.grpc_routes.objects(),
            tls_routes: self.tls_routes.objects(),
            tcp_routes: self.tcp_routes.objects(),
            udp_routes: self.udp_routes.objects(),
            gateway_classes: self.gateway_classes.objects(),
            gateways: self.gateways.objects(),
            listener_sets: self.listener_sets.objects(),
            reference_grants: self.reference_grants.objects(),
            backend_tls_policies: self.backend_tls_policies.objects(),
            authorization_policies: self.authorization_policies.objects(),
            cluster_authorization_policies: self.cluster_authorization_policies.objects(),
            authentication_policies: self.authentication_policies.objects(),
            fetched_keys: self.fetched_keys.objects(),
            traffic_policies: self.traffic_policies.objects(),
            fault_filters: self.fault_filters.objects(),
            backend_traffic_policies: self.backend_traffic_policies.objects(),
            secrets: self.secrets.objects(),
            config_maps: self.config_maps.objects(),
            cluster_trust_bundles: self.cluster_trust_bundles.objects(),
        }
    }
}

/// Which kinds are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The kinds that determine the configuration of sidecars.
    Mesh,
    /// And the kinds that determine the configuration of Gateways' proxies.
    MeshAndGateways,
    /// Only the kinds that determine the objects of Gateways ([`weft_translate::provisions`]).
    Provisions,
}

impl Scope {
    fn mesh(self) -> bool {
        self != Self::Provisions
    }

    /// What only Gateways need, to be served or provisioned.
    fn gateways(self) -> bool {
        self != Self::Mesh
    }

    /// What only Gateways need, to be served.
    fn served_gateways(self) -> bool {
        self == Self::MeshAndGateways
    }
}

/// The dependencies of the watches.
#[derive(Clone, Copy)]
pub struct Following<'a> {
    pub client: &'a Client,
    pub metrics: &'a Arc<ClusterMetrics>,
    pub tasks: &'a TaskTracker,
    pub stop: &'a CancellationToken,
    pub scope: Scope,
}

/// Starts the discovery of kinds and a watch for each kind of the scope, all until `stop`. Kinds
/// outside the scope count as absent from the cluster.
pub fn start(world: &World, following: &Following<'_>) -> Kinds {
    let mut start = Start {
        follower: Follower {
            client: following.client.clone(),
            changes: world.changes.clone(),
            metrics: Arc::clone(following.metrics),
            stop: following.stop.clone(),
        },
        tasks: following.tasks,
        discovered: Vec::new(),
    };
    let scope = following.scope;
    if !scope.mesh() {
        world.fetched_keys.absent();
    }
    let (mesh, gateways, served) = (scope.mesh(), scope.gateways(), scope.served_gateways());
    start.built_in::<Service, _>(mesh, &world.services);
    start.built_in::<EndpointSlice, _>(mesh, &world.endpoint_slices);
    start.built_in::<Pod, _>(mesh, &world.pods);
    start.built_in::<Namespace, _>(true, &world.namespaces);
    start.built_in::<Node, _>(mesh, &world.nodes);
    world
        .secrets
        .linger(objects::Secret::LINGERS, objects::Secret::gone);
    start.built_in::<Secret, _>(served, &world.secrets);
    start.built_in::<ConfigMap, _>(gateways, &world.config_maps);
    let bundles = &world.cluster_trust_bundles;
    let policies = &world.backend_tls_policies;
    let authorization = &world.authorization_policies;
    let of_cluster = &world.cluster_authorization_policies;
    let tokens = &world.authentication_policies;
    let budgets = &world.backend_traffic_policies;
    start.discovered(mesh, kinds::SERVICE_IMPORT, &world.service_imports);
    start.discovered(mesh, kinds::FAULT_FILTER, &world.fault_filters);
    start.discovered(gateways, kinds::REFERENCE_GRANT, &world.reference_grants);
    start.discovered(gateways, kinds::CLUSTER_TRUST_BUNDLE, bundles);
    let kinds = Kinds {
        gateway_class: start.discovered(gateways, kinds::GATEWAY_CLASS, &world.gateway_classes),
        gateway: start.discovered(gateways, kinds::GATEWAY, &world.gateways),
        listener_set: start.discovered(gateways, kinds::LISTENER_SET, &world.listener_sets),
        http_route: start.discovered(mesh, kinds::HTTP_ROUTE, &world.http_routes),
        grpc_route: start.discovered(mesh, kinds::GRPC_ROUTE, &world.grpc_routes),
        tls_route: start.discovered(mesh, kinds::TLS_ROUTE, &world.tls_routes),
        tcp_route: start.discovered(mesh, kinds::TCP_ROUTE, &world.tcp_routes),
        udp_route: start.discovered(mesh, kinds::UDP_ROUTE, &world.udp_routes),
        backend_tls_policy: start.discovered(served, kinds::BACKEND_TLS_POLICY, policies),
        authorization_policy: start.discovered(mesh, kinds::AUTHORIZATION_POLICY, authorization),
        cluster_authorization_policy: start.discovered(
            mesh,
            kinds::CLUSTER_AUTHORIZATION_POLICY,
            of_cluster,
        ),
        authentication_policy: start.discovered(mesh, kinds::AUTHENTICATION_POLICY, tokens),
        traffic_policy: start.discovered(mesh, kinds::TRAFFIC_POLICY, &world.traffic_policies),
        backend_traffic_policy: start.discovered(mesh, kinds::BACKEND_TRAFFIC_POLICY, budgets),
        mesh: start.discover(mesh, kinds::MESH),
    };
    let discovery = kinds::discover(
        following.client.clone(),
        start.discovered,
        following.stop.clone(),
    );
    following.tasks.spawn(discovery);
    kinds
}

/// Starts one watch after the other.
struct Start<'a> {
    follower: Follower,
    tasks: &'a TaskTracker,
    discovered: Vec<(kinds::Wanted, watch::Sender<Served>)>,
}

impl Start<'_> {
    /// Watches a kind that every cluster serves, if it is wanted.
    fn built_in<K, T>(&self, wanted: bool, store: &Arc<Store<T>>)
    where
        K: kube::Resource<DynamicType = ()>,
        T: Watchable,
    {
        if !wanted {
            store.absent();
            return;
        }
        let (tell, served) = watch::channel(Served::As(ApiResource::erase::<K>(&())));
        let following = follow(self.follower.clone(), served, Arc::clone(store));
        self.tasks.spawn(async move {
            following.await;
            // The channel stays open without being written to: the kind never changes.
            drop(tell);
        });
    }

    /// Watches a kind that the cluster may serve, if it is wanted.
    fn discovered<T>(
        &mut self,
        wanted: bool,
        kind: kinds::Wanted,
        store: &Arc<Store<T>>,
    ) -> watch::Receiver<Served>
    where
        T: Watchable,
    {
        let served = self.discover(wanted, kind);
        if wanted {
            let following = follow(self.follower.clone(), served.clone(), Arc::clone(store));
            self.tasks.spawn(following);
        } else {
            store.absent();
        }
        served
    }

    /// Returns a receiver of whether the cluster serves the kind; one that is not wanted counts as
    /// absent.
    fn discover(&mut self, wanted: bool, kind: kinds::Wanted) -> watch::Receiver<Served> {
        let first = if wanted {
            Served::Unknown
        } else {
            Served::Absent
        };
        let (tell, served) = watch::channel(first);
        if wanted {
            self.discovered.push((kind, tell));
        }
        served
    }
}
