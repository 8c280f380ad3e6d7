//! Kubernetes objects -> the mesh and the status of every route; the mesh and a client -> its resources.
//!
//! Pure: no client, clock or async. Whatever users write yields a mesh and conditions, never an error.
//!
//! Source: Gateway API v1.6.3, GEP-1294 and GEP-1324 (routes whose parent is a Service) and the comments of the types.

pub mod objects;

mod mesh;
mod status;

use std::sync::Arc;

use weft_ir::{Mode, TrustDomain};

pub use mesh::Mesh;
pub use status::{Condition, ParentStatus, RouteStatus};

/// The cluster at one moment. The order of objects means nothing.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub services: Vec<Arc<objects::Service>>,
    pub endpoint_slices: Vec<Arc<objects::EndpointSlice>>,
    pub pods: Vec<Arc<objects::Pod>>,
    pub namespaces: Vec<Arc<objects::Namespace>>,
    pub http_routes: Vec<Arc<objects::HttpRoute>>,
    pub grpc_routes: Vec<Arc<objects::GrpcRoute>>,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub trust_domain: TrustDomain,
    pub mode: Mode,
    /// `weft.dev/mesh-controller`.
    pub controller_name: String,
}

#[derive(Clone, Debug)]
pub struct Translation {
    pub mesh: Mesh,
    /// Of the routes that have a Service as a parent, by kind, namespace and name.
    pub statuses: Vec<RouteStatus>,
}

/// The mesh that `objects` describe, and what is to be said of each route.
pub fn translate(objects: &Objects, settings: &Settings) -> Translation {
    let _ = (objects, settings);
    Translation {
        mesh: Mesh::default(),
        statuses: Vec::new(),
    }
}
