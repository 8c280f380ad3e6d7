//! Which tokens requests need: AuthenticationPolicies.
//!
//! The proxy verifies the token of a request before AuthorizationPolicies are asked, which can
//! require its claims (`Source.jwt`).

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::target::TargetRef;

/// Which JSON Web Tokens requests to the targets need.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "policy.weft.dev",
    version = "v1alpha1",
    kind = "AuthenticationPolicy",
    plural = "authenticationpolicies",
    namespaced,
    status = "crate::status::PolicyStatus",
    derive = "PartialEq",
    shortname = "wauthn",
    category = "weft",
    category = "gateway-api",
    label("gateway.networking.k8s.io/policy", "Direct"),
    doc = "Which JSON Web Tokens requests need to the pods, Services, Gateways and routes that it targets.",
    printcolumn(json_path = ".spec.mode", name = "Mode", type_ = "string"),
    printcolumn(
        json_path = ".status.ancestors[0].conditions[?(@.type==\"Accepted\")].status",
        name = "Accepted",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".status.ancestors[0].conditions[?(@.type==\"weft.dev/Programmed\")].status",
        name = "Programmed",
        type_ = "string"
    ),
    printcolumn(
        json_path = ".metadata.creationTimestamp",
        name = "Age",
        type_ = "date"
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.targetRefs.size() == 1 || !self.targetRefs.exists(target, target.kind == 'Pod')")
        .message("a target of kind Pod is the only one")
)]
pub struct AuthenticationPolicySpec {
    /// What the policy applies to.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// What happens to requests without a token; `Required` if absent.
    #[serde(default)]
    pub mode: AuthenticationMode,
    /// Whose tokens are accepted: the claim `iss` decides which of them a token is verified by.
    #[schemars(length(min = 1, max = 8))]
    pub providers: Vec<JwtProvider>,
}

/// What happens to requests without a token. A request with a token that is not valid is refused in
/// any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AuthenticationMode {
    /// They are refused.
    #[default]
    Required,
    /// They pass, without claims.
    Optional,
}

/// An issuer of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtProvider {
    /// A name for it, which no other provider of the policy has.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The claim `iss` of its tokens, exactly. No other provider of the policy has it.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: String,
    /// The claim `aud` of a token must have one of these. Absent or empty: it is not looked at, so
    /// that tokens for other services pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 2048)))]
    pub audiences: Vec<String>,
    /// The issuer's public keys.
    pub jwks: JwksSource,
    /// Where requests have the token. Absent: in the header `Authorization`, after `Bearer `.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TokenSources>,
    /// Claims that become headers of the request. What the client sends in these headers is removed
    /// from every request, with or without a token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub claims_to_headers: Vec<ClaimToHeader>,
    /// Whether the token is forwarded; true if absent. Otherwise it is removed once the request is
    /// allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<bool>,
    /// Seconds by which the clocks of the issuer and the proxy may differ; 60 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 300))]
    pub clock_skew_seconds: Option<i32>,
}

/// A JSON Web Key Set (RFC 7517). Keys of the types RSA (2048 to 8192 bits), EC (P-256, P-384) and
/// OKP (Ed25519) are used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.inline) != has(self.uri)")
        .message("exactly one of inline and uri is required"),
    validation = Rule::new("has(self.uri) || !has(self.caCertificateRefs)")
        .message("caCertificateRefs requires uri")
)]
pub struct JwksSource {
    /// The set as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub inline: Option<String>,
    /// The address of the set, `https` only. The controller fetches it, at least every 5 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 2048), regex(pattern = "^https://"))]
    pub uri: Option<String>,
    /// ConfigMaps of the policy's namespace with CA certificates in `ca.crt`, for the server's
    /// certificate. Absent: those of the Web PKI.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub ca_certificate_refs: Vec<CaCertificateRef>,
}

/// A ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaCertificateRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where a request has a token. All places are looked at: tokens in two of them that differ are
/// refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("(has(self.headers) && self.headers.size() > 0) || (has(self.queryParams) && self.queryParams.size() > 0) || (has(self.cookies) && self.cookies.size() > 0)")
        .message("at least one place is required")
)]
pub struct TokenSources {
    /// Headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub headers: Vec<TokenHeader>,
    /// Query parameters. They end up in logs: prefer headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 256)))]
    pub query_params: Vec<String>,
    /// Cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 256)))]
    pub cookies: Vec<String>,
}

/// A header with a token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenHeader {
    /// The name, in any case.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What precedes the token, in any case, such as `Bearer `. A header that does not begin so has
    /// no token. Absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub prefix: Option<String>,
}

/// A claim that becomes a header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimToHeader {
    /// The claim; with dots, a claim within a claim. Strings, numbers and truth values become a
    /// header, and lists of them, separated by commas.
    #[schemars(length(min = 1, max = 256))]
    pub claim: String,
    /// The header.
    #[schemars(length(min = 1, max = 256))]
    pub header: String,
}
