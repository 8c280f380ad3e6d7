//! HTTPRoutes, GRPCRoutes, TLSRoutes, TCPRoutes and UDPRoutes. Enumerations are strings, so that
//! unknown values result in conditions.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::filters::{ExtensionRef, HeaderFilter, HttpFilter, RequestMirror};
use super::lenient::{Lenient, list, or_default};
use super::meta::Meta;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct HttpRoute {
    pub metadata: Meta,
    pub spec: Lenient<HttpRouteSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct HttpRouteSpec {
    #[serde(deserialize_with = "list")]
    pub parent_refs: Vec<Lenient<ParentRef>>,
    /// Without meaning on Service parents.
    #[serde(deserialize_with = "list")]
    pub hostnames: Vec<Lenient<String>>,
    #[serde(deserialize_with = "list")]
    pub rules: Vec<Lenient<HttpRule>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct GrpcRoute {
    pub metadata: Meta,
    pub spec: Lenient<GrpcRouteSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct GrpcRouteSpec {
    #[serde(deserialize_with = "list")]
    pub parent_refs: Vec<Lenient<ParentRef>>,
    /// As in HTTPRoutes.
    #[serde(deserialize_with = "list")]
    pub hostnames: Vec<Lenient<String>>,
    #[serde(deserialize_with = "list")]
    pub rules: Vec<Lenient<GrpcRule>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct TlsRoute {
    pub metadata: Meta,
    pub spec: Lenient<TlsRouteSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct TlsRouteSpec {
    #[serde(deserialize_with = "list")]
    pub parent_refs: Vec<Lenient<ParentRef>>,
    /// Absent (before v1) means any SNI.
    #[serde(deserialize_with = "list")]
    pub hostnames: Vec<Lenient<String>>,
    #[serde(deserialize_with = "list")]
    pub rules: Vec<Lenient<ConnectionRuleSpec>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct TcpRoute {
    pub metadata: Meta,
    pub spec: Lenient<TcpRouteSpec>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct TcpRouteSpec {
    #[serde(deserialize_with = "list")]
    pub parent_refs: Vec<Lenient<ParentRef>>,
    #[serde(deserialize_with = "list")]
    pub rules: Vec<Lenient<ConnectionRuleSpec>>,
}

/// A UDPRoute, of the same shape as a TCPRoute.
pub type UdpRoute = TcpRoute;

/// A rule of a TLSRoute, a TCPRoute or a UDPRoute.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct ConnectionRuleSpec {
    pub name: Option<String>,
    #[serde(deserialize_with = "list")]
    pub backend_refs: Vec<Lenient<BackendRef<IgnoredAny>>>,
}

/// The parent of a route. It serializes to what is written in the route, to be repeated in the
/// status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub struct ParentRef {
    /// Absent means `gateway.networking.k8s.io`; empty is the core group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Absent means `Gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Absent means the route's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i64>,
}

impl ParentRef {
    /// Returns a reference to an object, as it is reported in a status.
    pub(crate) fn to(group: &str, kind: &str, namespace: Option<&str>, name: &str) -> Self {
        Self {
            group: Some(group.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: namespace.map(str::to_owned),
            name: name.to_owned(),
            section_name: None,
            port: None,
        }
    }
}

/// A backend of an HTTPRoute (`F` = [`HttpFilter`]), of a GRPCRoute, or of a TLSRoute, TCPRoute or
/// UDPRoute, which have no filters.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(bound = "F: serde::de::DeserializeOwned", expecting = "an object")]
pub struct BackendRef<F> {
    /// Absent and empty mean the core group.
    #[serde(default, deserialize_with = "or_default")]
    pub group: String,
    /// Absent means `Service`.
    #[serde(default)]
    pub kind: Option<String>,
    pub name: String,
    /// Absent means the route's own namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    pub port: Option<i64>,
    /// Absent means 1.
    #[serde(default)]
    pub weight: Option<i64>,
    #[serde(default = "Vec::new", deserialize_with = "list")]
    pub filters: Vec<Lenient<F>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct HttpRule {
    pub name: Option<String>,
    #[serde(deserialize_with = "list")]
    pub matches: Vec<Lenient<HttpMatch>>,
    #[serde(deserialize_with = "list")]
    pub filters: Vec<Lenient<HttpFilter>>,
    #[serde(deserialize_with = "list")]
    pub backend_refs: Vec<Lenient<BackendRef<HttpFilter>>>,
    #[serde(deserialize_with = "or_default")]
    pub timeouts: HttpTimeouts,
    pub retry: Option<HttpRetry>,
    /// Not supported; only its presence is recorded.
    pub session_persistence: Option<IgnoredAny>,
}

/// GEP-2257 durations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct HttpTimeouts {
    pub request: Option<String>,
    pub backend_request: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct HttpRetry {
    #[serde(deserialize_with = "or_default")]
    pub codes: Vec<i64>,
    pub attempts: Option<i64>,
    /// A GEP-2257 duration.
    pub backoff: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct HttpMatch {
    pub path: Option<HttpPathMatch>,
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<HttpHeaderMatch>,
    /// Of the same shape as headers.
    #[serde(deserialize_with = "or_default")]
    pub query_params: Vec<HttpHeaderMatch>,
    pub method: Option<String>,
    /// Conditions that this version does not support.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, IgnoredAny>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct HttpPathMatch {
    /// `Exact`, `PathPrefix` (also when absent) or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Absent means `/`.
    pub value: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct HttpHeaderMatch {
    /// `Exact` (also when absent) or `RegularExpression`.
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "an object")]
pub struct GrpcRule {
    pub name: Option<String>,
    #[serde(deserialize_with = "list")]
    pub matches: Vec<Lenient<GrpcMatch>>,
    #[serde(deserialize_with = "list")]
    pub filters: Vec<Lenient<GrpcFilter>>,
    #[serde(deserialize_with = "list")]
    pub backend_refs: Vec<Lenient<BackendRef<GrpcFilter>>>,
    /// Not supported; only its presence is recorded.
    pub session_persistence: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, expecting = "an object")]
pub struct GrpcMatch {
    pub method: Option<GrpcMethodMatch>,
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<GrpcHeaderMatch>,
    /// As in HTTPRoutes.
    #[serde(flatten)]
    pub unknown: BTreeMap<String, IgnoredAny>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct GrpcMethodMatch {
    /// `Exact` (also when absent) or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub service: Option<String>,
    pub method: Option<String>,
}

/// Of the same shape as in HTTPRoutes.
pub type GrpcHeaderMatch = HttpHeaderMatch;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
pub struct GrpcFilter {
    /// `RequestHeaderModifier`, `ResponseHeaderModifier`, `RequestMirror` or `ExtensionRef`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub request_header_modifier: Option<HeaderFilter>,
    #[serde(default)]
    pub response_header_modifier: Option<HeaderFilter>,
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
    #[serde(default)]
    pub extension_ref: Option<ExtensionRef>,
}
