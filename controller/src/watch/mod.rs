//! The cluster as the API server tells of it: one store for each kind that translation reads.
//!
//! Stores survive a broken watch with what they hold. Whether all is known that there is to know says [`World::listed`].

mod follow;
pub mod kinds;
pub mod object;
mod store;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::ApiResource;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_translate::{Objects, objects};

pub use follow::Changes;
pub use kinds::{Kinds, Served};
pub use object::ObjectKey;
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
    pub http_routes: Arc<Store<objects::HttpRoute>>,
    pub grpc_routes: Arc<Store<objects::GrpcRoute>>,
    pub tls_routes: Arc<Store<objects::TlsRoute>>,
    pub tcp_routes: Arc<Store<objects::TcpRoute>>,
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
            && self.http_routes.listed()
            && self.grpc_routes.listed()
            && self.tls_routes.listed()
            && self.tcp_routes.listed()
    }

    /// What translation reads, as of now.
    pub fn objects(&self) -> Objects {
        Objects {
            services: self.services.objects(),
            service_imports: self.service_imports.objects_if_served(),
            endpoint_slices: self.endpoint_slices.objects(),
            pods: self.pods.objects(),
            namespaces: self.namespaces.objects(),
            http_routes: self.http_routes.objects(),
            grpc_routes: self.grpc_routes.objects(),
            tls_routes: self.tls_routes.objects(),
            tcp_routes: self.tcp_routes.objects(),
        }
    }
}

/// Starts the discovery of kinds and a watch for each, all until `stop`.
pub fn start(
    client: &Client,
    world: &World,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Kinds {
    let follower = Follower {
        client: client.clone(),
        changes: world.changes.clone(),
        metrics: Arc::clone(metrics),
        stop: stop.clone(),
    };
    let built_in = |kind: ApiResource| {
        let (tell, served) = watch::channel(Served::As(kind));
        // Built-in kinds never change, so their channel stays open without being written to.
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.cancelled().await;
            drop(tell);
        });
        served
    };
    let core = built_in(ApiResource::erase::<Service>(&()));
    tasks.spawn(follow(follower.clone(), core, Arc::clone(&world.services)));
    let slices = built_in(ApiResource::erase::<EndpointSlice>(&()));
    tasks.spawn(follow(
        follower.clone(),
        slices,
        Arc::clone(&world.endpoint_slices),
    ));
    let pods = built_in(ApiResource::erase::<Pod>(&()));
    tasks.spawn(follow(follower.clone(), pods, Arc::clone(&world.pods)));
    let namespaces = built_in(ApiResource::erase::<Namespace>(&()));
    tasks.spawn(follow(
        follower.clone(),
        namespaces,
        Arc::clone(&world.namespaces),
    ));

    let (tell_http, http_route) = watch::channel(Served::Unknown);
    let (tell_grpc, grpc_route) = watch::channel(Served::Unknown);
    let (tell_tls, tls_route) = watch::channel(Served::Unknown);
    let (tell_tcp, tcp_route) = watch::channel(Served::Unknown);
    let (tell_imports, imports) = watch::channel(Served::Unknown);
    tasks.spawn(follow(
        follower.clone(),
        imports,
        Arc::clone(&world.service_imports),
    ));
    let (tell_mesh, mesh) = watch::channel(Served::Unknown);
    tasks.spawn(follow(
        follower.clone(),
        http_route.clone(),
        Arc::clone(&world.http_routes),
    ));
    tasks.spawn(follow(
        follower.clone(),
        grpc_route.clone(),
        Arc::clone(&world.grpc_routes),
    ));
    tasks.spawn(follow(
        follower.clone(),
        tls_route.clone(),
        Arc::clone(&world.tls_routes),
    ));
    tasks.spawn(follow(
        follower,
        tcp_route.clone(),
        Arc::clone(&world.tcp_routes),
    ));
    let found = vec![
        (kinds::HTTP_ROUTE, tell_http),
        (kinds::GRPC_ROUTE, tell_grpc),
        (kinds::TLS_ROUTE, tell_tls),
        (kinds::TCP_ROUTE, tell_tcp),
        (kinds::SERVICE_IMPORT, tell_imports),
        (kinds::MESH, tell_mesh),
    ];
    tasks.spawn(kinds::discover(client.clone(), found, stop.clone()));
    Kinds {
        http_route,
        grpc_route,
        tls_route,
        tcp_route,
        mesh,
    }
}
