//! Writes the statuses of Gateways, routes, policies and meshes, on the leader alone.

mod due;
mod features;
mod listening;
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

/// Returns the current time as in conditions: RFC 3339 in UTC, with seconds.
fn now() -> String {
    k8s_openapi::jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
}

/// Returns the number of statuses that are due.
#[cfg(test)]
pub(crate) fn due(
    snapshot: &crate::snapshot::Snapshot,
    registry: &crate::subscribe::Registry,
    world: &crate::watch::World,
) -> usize {
    let routes = programmed::statuses(snapshot, registry, &crate::replicas::Others::default());
    let listening = listening::Listening::new(snapshot.encoder.mesh(), registry, false);
    let obstacles = std::collections::BTreeMap::new();
    let others = crate::replicas::Others::default();
    let counted = due::Counted {
        routes: &routes,
        authorizations: &programmed::authorizations(snapshot, registry, &others),
        traffic: &programmed::traffic(snapshot, registry, &others),
    };
    due::all(snapshot, counted, &listening, &obstacles, world).len()
}

/// Returns the condition Programmed of the listeners of the first Gateway, as status and message.
/// `before` is its earlier status.
#[cfg(test)]
pub(crate) fn programmed(
    snapshot: &crate::snapshot::Snapshot,
    registry: &crate::subscribe::Registry,
    before: Option<&serde_json::Value>,
    others: bool,
) -> Vec<(bool, String)> {
    let listening = listening::Listening::new(snapshot.encoder.mesh(), registry, others);
    let gateway = &snapshot.gateways[0];
    let listeners = listening.of(&gateway.id, &gateway.listeners, before, gateway.generation);
    let programmed = listeners.into_iter().filter_map(|listener| {
        let mut conditions = listener.conditions.into_iter();
        conditions.find(|condition| condition.kind == "Programmed")
    });
    programmed
        .map(|condition| (condition.status, condition.message))
        .collect()
}
