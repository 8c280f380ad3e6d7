//! The settings of all injected proxies, as validated types. `patch::overrides` reads what a pod or
//! namespace overrides.

mod choices;
mod resources;
mod values;

use std::borrow::Cow;
use std::collections::BTreeSet;

pub use choices::{AccessLog, Mtls, MtlsOutbound, ProbeSources, PullPolicy};
pub use resources::{LimitBelowRequest, Quantity, RESOURCES, Resources, ResourcesError};
pub use values::{LogFilter, OutsideGrace, PortModes, Ports, Ranges, Workers};
pub use weft_process::log::Format as LogFormat;

/// The user and group ID of the proxy, whose traffic is not redirected.
pub const PROXY_UID: i64 = 2460;

/// The settings of an injector.
#[derive(Clone, Debug)]
pub struct Settings {
    pub proxy_image: String,
    pub init_image: String,
    pub pull_policy: PullPolicy,
    /// Address of the controller, as `https://weft-controller.weft-system.svc:15012`.
    pub controller: String,
    /// The SPIFFE ID that the proxy expects of the controller.
    pub controller_identity: String,
    pub trust_domain: String,
    pub access_log: AccessLog,
    /// The proxy's log filter.
    pub log: LogFilter,
    /// The log format of all containers of Weft.
    pub log_format: LogFormat,
    pub workers: Workers,
    pub mtls_outbound: MtlsOutbound,
    /// The address ranges of pods and Services.
    pub cluster_ranges: Ranges,
    pub probe_sources: ProbeSources,
    /// Networks whose probes strict pods serve beside the node's.
    pub probe_networks: Ranges,
    /// Resources of the proxy, and of the init container where `init_resources` has none.
    pub resources: Resources,
    pub init_resources: Resources,
    /// Image pull Secrets in the pods' namespaces.
    pub pull_secrets: Vec<String>,
    pub mtls: Mtls,
    /// The least strict mode that annotations can select.
    pub mtls_floor: Mtls,
    /// Namespaces in which no pod is injected.
    pub system_namespaces: BTreeSet<String>,
    /// Namespaces whose pods can neither opt out of the mesh nor exclude ports from the proxy.
    pub enforced_namespaces: BTreeSet<String>,
}

/// A text that is not a valid value; the message describes valid ones.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct InvalidValue {
    given: String,
    expected: Cow<'static, str>,
}

impl InvalidValue {
    /// Keeps at most 64 characters of `given`, which is untrusted text that others see.
    pub(crate) fn new(given: &str, expected: impl Into<Cow<'static, str>>) -> Self {
        Self {
            given: given.chars().take(64).collect(),
            expected: expected.into(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The settings of the chart's defaults.
    pub(crate) fn settings() -> Settings {
        Settings {
            proxy_image: "weft/proxy:test".to_owned(),
            init_image: "weft/injector:test".to_owned(),
            pull_policy: PullPolicy::IfNotPresent,
            controller: "https://weft-controller.weft-system.svc:15012".to_owned(),
            controller_identity: "spiffe://cluster.local/ns/weft-system/sa/weft-controller"
                .to_owned(),
            trust_domain: "cluster.local".to_owned(),
            access_log: AccessLog::Errors,
            log: "info".parse().unwrap(),
            log_format: LogFormat::Json,
            workers: "1".parse().unwrap(),
            mtls_outbound: MtlsOutbound::Permissive,
            cluster_ranges: Ranges::default(),
            probe_sources: ProbeSources::Any,
            probe_networks: Ranges::default(),
            resources: r#"{"requests":{"cpu":"10m","memory":"16Mi"}}"#.parse().unwrap(),
            init_resources: Resources::default(),
            pull_secrets: Vec::new(),
            mtls: Mtls::Permissive,
            mtls_floor: Mtls::Permissive,
            enforced_namespaces: ["bank".to_owned()].into(),
            system_namespaces: ["kube-system", "weft-system"].map(str::to_owned).into(),
        }
    }
}
