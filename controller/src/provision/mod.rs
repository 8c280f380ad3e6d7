//! The objects that Gateways run on: Deployment, Service, ServiceAccount, PodDisruptionBudget and
//! HorizontalPodAutoscaler, rendered from what translation decides ([`Provisions`]) and kept so in
//! the cluster by the leading provisioner.
//!
//! [`render`] makes the manifests, [`observe`] watches the objects in the cluster, [`plan`]
//! compares the two, and [`keep`] applies the difference. An object of the same name that was not
//! made for the Gateway is left alone and reported ([`Obstacles`](crate::obstacles::Obstacles)).

mod keep;
mod observe;
mod plan;
mod pods;
mod render;
mod wanted;

use std::collections::BTreeMap;

use serde::Deserialize;
use weft_ir::{Identity, TrustDomain};

pub use keep::Provisioner;
pub use wanted::{Provisions, publish};
use weft_process::log::Format as LogFormat;

/// Settings of the proxies of all Gateways.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    pub image: String,
    pub pull_policy: String,
    /// Names of Secrets in the namespaces of the Gateways.
    pub pull_secrets: Vec<String>,
    /// The address of the controller, as `https://host:port`.
    pub controller: String,
    pub controller_identity: Identity,
    pub trust_domain: TrustDomain,
    pub access_log: String,
    pub log: String,
    pub log_format: LogFormat,
    pub workers: u16,
    /// Used where a Gateway's parameters set none.
    pub resources: ProxyResources,
}

/// Quantities by resource, as in a container's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyResources {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}
