//! The Service ports that rules send to.

use std::sync::Arc;

use weft_ir::{Backend, ExternalAuth, Filter, Rule, ServicePort, WeightedBackend};

/// Returns the Service ports that get the rule's requests or copies of them, or decide on them.
pub(crate) fn rule_targets(rule: &Rule) -> impl Iterator<Item = ServicePort> + '_ {
    service_ports(&rule.backends).chain(of_filters(rule))
}

/// Returns the Service ports that get copies of the rule's requests, or decide on them.
fn of_filters(rule: &Rule) -> impl Iterator<Item = ServicePort> + '_ {
    let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
    rule.filters
        .iter()
        .chain(of_backends)
        .filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(mirror.to.clone()),
            Filter::ExternalAuth(of) => server(of),
            _ => None,
        })
}

/// Returns the Service port of the server, if it is valid.
pub(crate) fn server(of: &Arc<ExternalAuth>) -> Option<ServicePort> {
    of.server.clone().ok()
}

/// Returns the Service ports of the valid backends.
pub(crate) fn service_ports(
    backends: &[WeightedBackend],
) -> impl Iterator<Item = ServicePort> + '_ {
    backends
        .iter()
        .filter_map(|backend| match &backend.backend {
            Backend::Service(port) => Some(port.clone()),
            Backend::Invalid(_) => None,
        })
}
