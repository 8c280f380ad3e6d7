//! GatewayClasses, Gateways and ListenerSets. Enumerations are strings, so that unknown values
//! result in conditions. Protective settings must be understood: their types reject unknown fields
//! (docs/reference/statuses.md, "Fields that must be understood").

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use weft_policy::LabelSelector;

use super::filters::ExternalAuthFilter;
use super::lenient::{Lenient, list, or_default};
use super::meta::Meta;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct GatewayClass {
    pub metadata: Meta,
    pub spec: Lenient<GatewayClassSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct GatewayClassSpec {
    #[serde(deserialize_with = "or_default")]
    pub controller_name: String,
    pub parameters_ref: Lenient<Option<ParametersRef>>,
}

/// Reference to the parameters of a class or of a Gateway's infrastructure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct ParametersRef {
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Only for classes.
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct Gateway {
    pub metadata: Meta,
    pub spec: Lenient<GatewaySpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct GatewaySpec {
    #[serde(deserialize_with = "or_default")]
    pub gateway_class_name: String,
    #[serde(deserialize_with = "list")]
    pub listeners: Vec<Lenient<Listener>>,
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<Lenient<GatewayAddress>>,
    pub infrastructure: Lenient<Option<Infrastructure>>,
    pub allowed_listeners: Lenient<Option<AllowedListeners>>,
    pub tls: Lenient<Option<GatewayTls>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct ListenerSet {
    pub metadata: Meta,
    pub spec: Lenient<ListenerSetSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct ListenerSetSpec {
    /// Without section name and port. Absent group and kind mean a Gateway.
    pub parent_ref: Lenient<Option<super::ParentRef>>,
    #[serde(deserialize_with = "list")]
    pub listeners: Vec<Lenient<Listener>>,
}

/// A listener of a Gateway or a ListenerSet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub struct Listener {
    pub name: String,
    /// Absent and empty mean any host.
    #[serde(default, deserialize_with = "or_default")]
    pub hostname: String,
    pub port: i64,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`, or an unsupported protocol.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(default)]
    pub tls: Lenient<Option<ListenerTls>>,
    #[serde(default)]
    pub allowed_routes: Lenient<Option<AllowedRoutes>>,
    #[serde(default)]
    pub filters: Lenient<Option<ListenerFilters>>,
}

/// Filters that every request has to pass before route matching, in order. None may be ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct ListenerFilters {
    #[serde(deserialize_with = "list")]
    pub requests: Vec<Lenient<ListenerFilter>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
pub struct ListenerFilter {
    /// `ExternalAuth`, or an unsupported type.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub external_auth: Option<ExternalAuthFilter>,
    /// Not supported.
    #[serde(default)]
    pub extension_ref: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct ListenerTls {
    /// `Terminate` (also when absent) or `Passthrough`.
    pub mode: Option<String>,
    #[serde(deserialize_with = "list")]
    pub certificate_refs: Vec<Lenient<ObjectRef>>,
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, serde_json::Value>,
}

/// A Secret, a ConfigMap, or an unsupported kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct ObjectRef {
    /// Absent and empty mean the core group.
    #[serde(default, deserialize_with = "or_default")]
    pub group: String,
    /// The default depends on the field.
    #[serde(default)]
    pub kind: Option<String>,
    pub name: String,
    /// Absent means the referrer's own namespace.
    #[serde(default)]
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct AllowedRoutes {
    pub namespaces: Option<FromNamespaces>,
    #[serde(deserialize_with = "list")]
    pub kinds: Vec<Lenient<GroupKind>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct AllowedListeners {
    pub namespaces: Option<FromNamespaces>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct FromNamespaces {
    /// `All`, `Selector`, `Same` (default for routes) or `None` (default for listeners).
    pub from: Option<String>,
    pub selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct GroupKind {
    /// Absent means `gateway.networking.k8s.io`.
    #[serde(default)]
    pub group: Option<String>,
    pub kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct GatewayAddress {
    /// `IPAddress` (also when absent), `Hostname`, or an unsupported type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Empty means any address of the type.
    #[serde(deserialize_with = "or_default")]
    pub value: String,
    /// Empty, `Cluster`, or an implementation-specific value.
    #[serde(deserialize_with = "or_default")]
    pub routability: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct Infrastructure {
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
    pub parameters_ref: Option<ParametersRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct GatewayTls {
    pub backend: Option<BackendTlsConfig>,
    pub frontend: Option<FrontendTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct BackendTlsConfig {
    pub client_certificate_ref: Option<ObjectRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct FrontendTls {
    #[serde(rename = "default", deserialize_with = "or_default")]
    pub for_all: FrontendTlsConfig,
    #[serde(deserialize_with = "or_default")]
    pub per_port: Vec<PortTls>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct PortTls {
    pub port: i64,
    #[serde(deserialize_with = "or_default")]
    pub tls: FrontendTlsConfig,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct FrontendTlsConfig {
    pub validation: Option<FrontendValidation>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct FrontendValidation {
    #[serde(deserialize_with = "list")]
    pub ca_certificate_refs: Vec<Lenient<ObjectRef>>,
    /// `AllowValidOnly` (also when absent) or `AllowInsecureFallback`.
    pub mode: Option<String>,
}
