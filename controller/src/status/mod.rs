//! Statuses: of Gateways, routes and policies, and of the mesh. Written by the leader alone.

mod due;
mod features;
mod merge;
mod mesh;
mod parents;
mod pauses;
mod programmed;
mod writer;

pub use mesh::MeshWriter;
pub use parents::ParentWatch;
#[cfg(test)]
pub(crate) use programmed::statuses as with_proxies;
pub use writer::StatusWriter;

/// The present, as conditions write it: RFC 3339 in UTC with seconds.
fn now() -> String {
    k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// How many statuses are due.
#[cfg(test)]
pub(crate) fn due(
    snapshot: &crate::snapshot::Snapshot,
    registry: &crate::subscribe::Registry,
    world: &crate::watch::World,
) -> usize {
    let routes = programmed::statuses(snapshot, registry);
    due::all(snapshot, &routes, &std::collections::BTreeMap::new(), world).len()
}
