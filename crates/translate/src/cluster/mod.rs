//! The state of the cluster apart from routes: Services, their endpoints, pods and nodes.

pub(crate) mod address_owners;
pub(crate) mod endpoint_sets;
pub(crate) mod endpoints;
pub(crate) mod modes;
pub(crate) mod pods;
mod probes;
mod protocol;
mod service_endpoints;
pub(crate) mod service_pods;
pub(crate) mod services;
mod sidecar;
pub(crate) mod slices;
pub(crate) mod zones;
