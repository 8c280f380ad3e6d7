//! Statuses: of routes, and of the mesh. Written by the leader alone.

mod features;
mod merge;
mod mesh;
mod programmed;
mod routes;

pub use features::SUPPORTED;
pub use mesh::MeshWriter;
pub use routes::RouteWriter;

/// The present, as conditions write it: RFC 3339 in UTC with seconds.
fn now() -> String {
    k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}
