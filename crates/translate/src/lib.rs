//! Kubernetes objects -> the mesh and the status of every route; the mesh and a client -> its resources.
//!
//! Pure: no client, clock or async. Whatever users write yields a mesh and conditions, never an error.
//!
//! Source: Gateway API v1.6.3, GEP-1294 and GEP-1324 (routes whose parent is a Service) and the comments of the types.

pub mod objects;

mod attach;
mod endpoints;
mod mesh;
mod modes;
mod pods;
mod probes;
mod routes;
mod services;
mod status;
mod views;

use std::collections::BTreeSet;
use std::sync::Arc;

use attach::Attachments;
use modes::Modes;
use routes::Route;
use services::Services;
use weft_ir::{Mode, RouteKind, TrustDomain};

pub use mesh::Mesh;
pub use status::{Condition, ParentStatus, RouteStatus};

/// The cluster at one moment. The order of objects means nothing.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub services: Vec<Arc<objects::Service>>,
    /// `None`: the cluster does not have the kind.
    pub service_imports: Option<Vec<Arc<objects::ServiceImport>>>,
    pub endpoint_slices: Vec<Arc<objects::EndpointSlice>>,
    pub pods: Vec<Arc<objects::Pod>>,
    pub namespaces: Vec<Arc<objects::Namespace>>,
    pub http_routes: Vec<Arc<objects::HttpRoute>>,
    pub grpc_routes: Vec<Arc<objects::GrpcRoute>>,
    pub tls_routes: Vec<Arc<objects::TlsRoute>>,
    pub tcp_routes: Vec<Arc<objects::TcpRoute>>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub trust_domain: TrustDomain,
    /// Of pods that neither have the annotation `weft.dev/mtls` nor are in a namespace that has it.
    pub mode: Mode,
    /// `weft.dev/mesh-controller`.
    pub controller_name: String,
}

#[derive(Clone, Debug)]
pub struct Translation {
    pub mesh: Mesh,
    /// Of the routes that have a Service as a parent, by kind, namespace and name.
    pub statuses: Vec<RouteStatus>,
    /// What users wrote on pods and namespaces and is not in force, for the log.
    pub warnings: BTreeSet<String>,
}

/// The mesh that `objects` describe, and what is to be said of each route.
pub fn translate(objects: &Objects, settings: &Settings) -> Translation {
    let Objects {
        services,
        service_imports,
        endpoint_slices,
        pods,
        namespaces,
        http_routes,
        grpc_routes,
        tls_routes,
        tcp_routes,
    } = objects;
    let services = Services::new(services, service_imports.as_deref());
    let mut modes = Modes::new(settings.mode, namespaces);
    let pods = pods::index(pods, settings, &mut modes);
    let endpoints = endpoints::index(&services, endpoint_slices, &pods);
    let leaving = endpoints::leaving(&services, endpoint_slices, &pods);

    let http = http_routes
        .iter()
        .filter_map(|of| Route::http(of, &services));
    let grpc = grpc_routes
        .iter()
        .filter_map(|of| Route::grpc(of, &services));
    let tls = tls_routes.iter().filter_map(|of| Route::tls(of, &services));
    let tcp = tcp_routes.iter().filter_map(|of| Route::tcp(of, &services));
    let mut routes: Vec<_> = http
        .chain(grpc)
        .chain(tls)
        .chain(tcp)
        .map(|route| {
            let attachments = attach::attachments(&route, &services);
            (route, attachments)
        })
        .filter(|(_, attachments)| !attachments.is_empty())
        .collect();
    // The order that decides ties between routes (specification of `HTTPRouteRule.matches`).
    routes.sort_by_cached_key(|(route, _)| {
        let age = route.meta.creation_timestamp.clone();
        (age, format!("{}/{}", route.id.namespace, route.id.name))
    });
    let attached = Attachments::new(&routes);

    let addresses = views::views(&services, &routes, &attached);
    let mut statuses: Vec<RouteStatus> = (0..routes.len())
        .filter_map(|place| status::route_status(place, &routes, &attached))
        .collect();
    statuses.sort_by(|a, b| status_order(a).cmp(&status_order(b)));
    Translation {
        mesh: Mesh {
            addresses,
            endpoints,
            pods: pods.by_address,
            workloads: pods.workloads,
            leaving,
        },
        statuses,
        warnings: modes.warnings,
    }
}

fn status_order(status: &RouteStatus) -> (u8, &str, &str) {
    let kind = match status.kind {
        RouteKind::Http => 0,
        RouteKind::Grpc => 1,
        RouteKind::Tls => 2,
        RouteKind::Tcp => 3,
        RouteKind::Udp => 4,
    };
    (kind, &status.namespace, &status.name)
}
