//! The cluster as the API server tells of it: one store for each kind that translation reads.
//!
//! Stores survive a broken watch with what they hold. Whether all is known that there is to know says [`World::listed`].

mod follow;
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

pub use follow::Changes;
pub use kinds::{Kinds, Served};
pub use object::{ObjectKey, StatusPart, Watchable};
pub use store::Store;

use crate::metrics::Metrics;
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
    pub secrets: Arc<Store<objects::Secret>>,
    pub config_maps: Arc<Store<objects::ConfigMap>>,
    pub cluster_trust_bundles: Arc<Store<objects::ClusterTrustBundle>>,
    pub changes: Changes,
}

impl World {
    /// Whether every kind was listed to its end at least once.
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
            && self.secrets.listed()
            && self.config_maps.listed()
            && self.cluster_trust_bundles.listed()
    }

    /// What translation reads, as of now.
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
            secrets: self.secrets.objects(),
            config_maps: self.config_maps.objects(),
            cluster_trust_bundles: self.cluster_trust_bundles.objects(),
        }
    }
}

/// What the watches need.
#[derive(Clone, Copy)]
pub struct Following<'a> {
    pub client: &'a Client,
    pub metrics: &'a Arc<Metrics>,
    pub tasks: &'a TaskTracker,
    pub stop: &'a CancellationToken,
    /// Whether what only Gateways need is followed.
    pub gateways: bool,
}

/// Starts the discovery of kinds and a watch for each, all until `stop`.
pub fn start(world: &World, following: &Following<'_>) -> Kinds {
    let mut start = Start {
        follower: Follower {
            client: following.client.clone(),
            changes: world.changes.clone(),
            metrics: Arc::clone(following.metrics),
            stop: following.stop.clone(),
        },
        tasks: following.tasks,
        gateways: following.gateways,
        found: Vec::new(),
    };
    start.built_in::<Service, _>(&world.services);
    start.built_in::<EndpointSlice, _>(&world.endpoint_slices);
    start.built_in::<Pod, _>(&world.pods);
    start.built_in::<Namespace, _>(&world.namespaces);
    start.built_in::<Node, _>(&world.nodes);
    if following.gateways {
        world
            .secrets
            .linger(objects::Secret::LINGERS, objects::Secret::gone);
        start.built_in::<Secret, _>(&world.secrets);
        start.built_in::<ConfigMap, _>(&world.config_maps);
    } else {
        world.secrets.absent();
        world.config_maps.absent();
    }
    start.found(kinds::SERVICE_IMPORT, &world.service_imports);
    start.gateways(kinds::REFERENCE_GRANT, &world.reference_grants);
    start.gateways(kinds::CLUSTER_TRUST_BUNDLE, &world.cluster_trust_bundles);
    let kinds = Kinds {
        gateway_class: start.gateways(kinds::GATEWAY_CLASS, &world.gateway_classes),
        gateway: start.gateways(kinds::GATEWAY, &world.gateways),
        listener_set: start.gateways(kinds::LISTENER_SET, &world.listener_sets),
        http_route: start.found(kinds::HTTP_ROUTE, &world.http_routes),
        grpc_route: start.found(kinds::GRPC_ROUTE, &world.grpc_routes),
        tls_route: start.found(kinds::TLS_ROUTE, &world.tls_routes),
        tcp_route: start.found(kinds::TCP_ROUTE, &world.tcp_routes),
        udp_route: start.found(kinds::UDP_ROUTE, &world.udp_routes),
        backend_tls_policy: start.gateways(kinds::BACKEND_TLS_POLICY, &world.backend_tls_policies),
        mesh: start.asked_for(kinds::MESH),
    };
    let discovery = kinds::discover(
        following.client.clone(),
        start.found,
        following.stop.clone(),
    );
    following.tasks.spawn(discovery);
    kinds
}

/// Starts one watch after the other.
struct Start<'a> {
    follower: Follower,
    tasks: &'a TaskTracker,
    gateways: bool,
    found: Vec<(kinds::Wanted, watch::Sender<Served>)>,
}

impl Start<'_> {
    /// Follows a kind that every cluster has.
    fn built_in<K, T>(&self, store: &Arc<Store<T>>)
    where
        K: kube::Resource<DynamicType = ()>,
        T: Watchable,
    {
        let (tell, served) = watch::channel(Served::As(ApiResource::erase::<K>(&())));
        let following = follow(self.follower.clone(), served, Arc::clone(store));
        self.tasks.spawn(async move {
            following.await;
            // The channel stays open without being written to: the kind never changes.
            drop(tell);
        });
    }

    /// Follows a kind that the cluster may have.
    fn found<T>(&mut self, wanted: kinds::Wanted, store: &Arc<Store<T>>) -> watch::Receiver<Served>
    where
        T: Watchable,
    {
        let served = self.asked_for(wanted);
        let following = follow(self.follower.clone(), served.clone(), Arc::clone(store));
        self.tasks.spawn(following);
        served
    }

    /// As [`Start::found`], of a kind that only Gateways need.
    fn gateways<T>(
        &mut self,
        wanted: kinds::Wanted,
        store: &Arc<Store<T>>,
    ) -> watch::Receiver<Served>
    where
        T: Watchable,
    {
        if self.gateways {
            return self.found(wanted, store);
        }
        store.absent();
        self.asked_for(wanted)
    }

    /// Whether the cluster has the kind.
    fn asked_for(&mut self, wanted: kinds::Wanted) -> watch::Receiver<Served> {
        let (tell, served) = watch::channel(Served::Unknown);
        self.found.push((wanted, tell));
        served
    }
}
