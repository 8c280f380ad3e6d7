//! Filters of routes.

use serde::Deserialize;

use super::lenient::or_default;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
pub struct HttpFilter {
    /// `RequestHeaderModifier`, `ResponseHeaderModifier`, `RequestRedirect`, `URLRewrite`,
    /// `RequestMirror`, `CORS`, `ExternalAuth`, `ExtensionRef`, or an unsupported type.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub request_header_modifier: Option<HeaderFilter>,
    #[serde(default)]
    pub response_header_modifier: Option<HeaderFilter>,
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    #[serde(default)]
    pub url_rewrite: Option<UrlRewrite>,
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
    #[serde(default)]
    pub cors: Option<CorsFilter>,
    #[serde(default)]
    pub external_auth: Option<ExternalAuthFilter>,
    #[serde(default)]
    pub extension_ref: Option<ExtensionRef>,
}

/// A filter that is an object of the route's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct ExtensionRef {
    #[serde(default, deserialize_with = "or_default")]
    pub group: String,
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
pub struct RequestMirror {
    pub backend_ref: BackendObjectRef,
    /// Percentage of requests. With neither this nor a fraction, every request is mirrored.
    #[serde(default)]
    pub percent: Option<i64>,
    #[serde(default)]
    pub fraction: Option<Fraction>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
pub struct ExternalAuthFilter {
    /// `HTTP`, `GRPC`, or an unsupported protocol.
    pub protocol: String,
    pub backend_ref: BackendObjectRef,
    #[serde(default)]
    pub grpc: Option<GrpcAuthConfig>,
    #[serde(default)]
    pub http: Option<HttpAuthConfig>,
    #[serde(default)]
    pub forward_body: Option<ForwardBody>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct GrpcAuthConfig {
    #[serde(deserialize_with = "or_default")]
    pub allowed_headers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct HttpAuthConfig {
    #[serde(deserialize_with = "or_default")]
    pub path: String,
    #[serde(deserialize_with = "or_default")]
    pub allowed_headers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub allowed_response_headers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct ForwardBody {
    /// In bytes; absent and 0 mean that no body is forwarded.
    #[serde(deserialize_with = "or_default")]
    pub max_size: i64,
}

/// A reference to a backend, without weight and filters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct BackendObjectRef {
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
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct Fraction {
    pub numerator: i64,
    /// Absent means 100.
    #[serde(default)]
    pub denominator: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct CorsFilter {
    #[serde(deserialize_with = "or_default")]
    pub allow_origins: Vec<String>,
    pub allow_credentials: Option<bool>,
    #[serde(deserialize_with = "or_default")]
    pub allow_methods: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub allow_headers: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub expose_headers: Vec<String>,
    /// In seconds; absent means 5.
    pub max_age: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub struct HeaderFilter {
    #[serde(deserialize_with = "or_default")]
    pub set: Vec<HeaderValueSpec>,
    #[serde(deserialize_with = "or_default")]
    pub add: Vec<HeaderValueSpec>,
    #[serde(deserialize_with = "or_default")]
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct HeaderValueSpec {
    pub name: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct RequestRedirect {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
    pub port: Option<i64>,
    /// Absent means 302.
    pub status_code: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct UrlRewrite {
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "an object")]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub replace_full_path: Option<String>,
    #[serde(default)]
    pub replace_prefix_match: Option<String>,
}
