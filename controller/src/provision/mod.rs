//! What a Gateway runs on: its Deployment, Service and what goes with them, rendered from what translation decided and
//! kept so in the cluster, by the leader alone.
//!
//! [`render`] decides how the objects look, [`observe`] what stands in the cluster, [`plan`] what differs, and [`keep`]
//! acts. What exists under a name and is not ours is left alone and reported ([`Obstacles`]).

mod keep;
mod observe;
mod plan;
mod pods;
mod render;

use std::collections::BTreeMap;

use serde::Deserialize;
use weft_ir::{Identity, TrustDomain};

pub use keep::{Obstacles, Provisioner};
use weft_process::log::Format as LogFormat;

/// The label, and the field manager, by which objects are known as made by the controller.
const MANAGER: &str = crate::kubernetes::FIELD_MANAGER;
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What is the same for the proxies of all Gateways.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    pub image: String,
    pub pull_policy: String,
    /// Names of Secrets, which have to be in the Gateway's namespace.
    pub pull_secrets: Vec<String>,
    /// Where the controller is, `https://host:port`.
    pub controller: String,
    pub controller_identity: Identity,
    pub trust_domain: TrustDomain,
    pub access_log: String,
    pub log: String,
    pub log_format: LogFormat,
    pub workers: u16,
    /// Where a Gateway's parameters ask for nothing.
    pub resources: ProxyResources,
}

/// Quantities by resource, as a container has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyResources {
    pub requests: BTreeMap<String, String>,
    pub limits: BTreeMap<String, String>,
}
