//! The Service ports that rules send to.

use weft_ir::{Backend, Filter, Rule, ServicePort, WeightedBackend};

/// Returns the Service ports that get the rule's requests or copies of them.
pub(crate) fn rule_targets(rule: &Rule) -> impl Iterator<Item = ServicePort> + '_ {
    service_ports(&rule.backends).chain(mirrors(rule))
}

/// Returns the Service ports that get copies of the rule's requests.
fn mirrors(rule: &Rule) -> impl Iterator<Item = ServicePort> + '_ {
    let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters);
    rule.filters
        .iter()
        .chain(of_backends)
        .filter_map(|filter| match filter {
            Filter::Mirror(mirror) => Some(mirror.to.clone()),
            _ => None,
        })
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
