//! Who may call whom: AuthorizationPolicies of a namespace, and ClusterAuthorizationPolicies.
//!
//! A request is decided by the policies that target the server's pod, its Service or its Gateway:
//! first those of the cluster, then those of the namespace. In each of the two, a matching `DENY`
//! refuses the request; if there are `ALLOW` policies, one of them has to match. Where neither has
//! `ALLOW` policies, the default of the mesh decides. `AUDIT` policies only count and log.
//!
//! Source: GEP-3779. Beyond it go `DENY` and `AUDIT`, the sources `Namespace` and `CIDR`,
//! `notSources`, `applicationAttributes`, and targets other than pods.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::requests::RequestMatch;
use crate::target::{ClusterTarget, TargetRef};

/// Who may call the targets.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "policy.weft.dev",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    namespaced,
    status = "crate::status::PolicyStatus",
    derive = "PartialEq",
    shortname = "wauthz",
    category = "weft",
    category = "gateway-api",
    label("gateway.networking.k8s.io/policy", "Direct"),
    doc = "Who may call the pods, Services, Gateways and routes that it targets.",
    printcolumn(json_path = ".spec.action", name = "Action", type_ = "string"),
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
    validation = Rule::new("self.action == 'ALLOW' || (has(self.rules) && self.rules.size() > 0)")
        .message("DENY and AUDIT require at least one rule"),
    validation = Rule::new("self.targetRefs.size() == 1 || !self.targetRefs.exists(target, target.kind == 'Pod')")
        .message("a target of kind Pod is the only one")
)]
pub struct AuthorizationPolicySpec {
    /// What the policy applies to.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// What happens to requests that match a rule.
    pub action: Action,
    /// The policy matches a request if one of its rules does; without rules it matches none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<AuthorizationRule>,
}

/// Who may call the targets, in all namespaces; decided before the policies of namespaces.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "policy.weft.dev",
    version = "v1alpha1",
    kind = "ClusterAuthorizationPolicy",
    plural = "clusterauthorizationpolicies",
    status = "crate::status::PolicyStatus",
    derive = "PartialEq",
    shortname = "wcauthz",
    category = "weft",
    category = "gateway-api",
    label("gateway.networking.k8s.io/policy", "Direct"),
    doc = "Who may call the pods and Gateways that it targets, whatever policies of namespaces say.",
    printcolumn(json_path = ".spec.action", name = "Action", type_ = "string"),
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
    validation = Rule::new("self.action == 'ALLOW' || (has(self.rules) && self.rules.size() > 0)")
        .message("DENY and AUDIT require at least one rule")
)]
pub struct ClusterAuthorizationPolicySpec {
    /// What the policy applies to.
    #[schemars(length(min = 1, max = 16))]
    pub targets: Vec<ClusterTarget>,
    /// What happens to requests that match a rule.
    pub action: Action,
    /// The policy matches a request if one of its rules does; without rules it matches none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<AuthorizationRule>,
}

/// What happens to requests that match a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// They are allowed; those that match no `ALLOW` policy of the target are denied.
    Allow,
    /// They are denied, whatever `ALLOW` policies say.
    Deny,
    /// They are counted and logged, and decided by other policies.
    Audit,
}

/// Conditions that must all be met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationRule {
    /// The client is one of these. Absent: any client; an empty list: no client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub sources: Option<Vec<Source>>,
    /// The client is none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub not_sources: Vec<Source>,
    /// Conditions on the connection; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_attributes: Option<NetworkAttributes>,
    /// Conditions on the request; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_attributes: Option<ApplicationAttributes>,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.serviceAccount) == (self.type == 'ServiceAccount') && has(self.spiffe) == (self.type == 'SPIFFE') && has(self.namespace) == (self.type == 'Namespace') && has(self.cidr) == (self.type == 'CIDR') && has(self.jwt) == (self.type == 'JWT')")
        .message("exactly the field that type names is required")
)]
pub struct Source {
    /// Which of the fields below is set.
    #[serde(rename = "type")]
    pub kind: SourceType,
    /// A service account of the mesh's own trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<SourceAccount>,
    /// A SPIFFE ID, `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 10, max = 2048))]
    pub spiffe: Option<String>,
    /// All service accounts of a namespace, in the mesh's own trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// A network, such as `10.1.0.0/16`: the address of the connection; at Gateways that of the
    /// client as trusted proxies name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 49))]
    pub cidr: Option<String>,
    /// A token that an AuthenticationPolicy of the target verified. Requests without one do not
    /// match, nor do connections of bytes in `ALLOW` rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtSource>,
}

/// A verified JSON Web Token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtSource {
    /// The issuer, exactly.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: String,
    /// The claim `sub`, exactly; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub subject: Option<String>,
    /// Further claims; each must be met.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub claims: Vec<JwtClaim>,
}

/// A condition on a claim.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JwtClaim {
    /// The claim; with dots, a claim within a claim, unless one has this very name.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// The claim is one of these; of a list, one element is. Strings, numbers and truth values are
    /// compared as text.
    #[schemars(length(min = 1, max = 64), inner(length(max = 1024)))]
    pub values: Vec<String>,
}

/// Which field of a [`Source`] is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum SourceType {
    /// `serviceAccount`.
    ServiceAccount,
    /// `spiffe`.
    #[serde(rename = "SPIFFE")]
    Spiffe,
    /// `namespace`.
    Namespace,
    /// `cidr`.
    #[serde(rename = "CIDR")]
    Cidr,
    /// `jwt`.
    #[serde(rename = "JWT")]
    Jwt,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceAccount {
    /// Its namespace. Absent: that of the policy; required in a ClusterAuthorizationPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Its name; `*` means all of the namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Conditions on the connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkAttributes {
    /// Ports of the pod, or of the Gateway. Absent or empty: all ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
}

/// Conditions on the request. A connection that is not HTTP meets none of them: an `ALLOW` rule
/// with such conditions does not match it, and a `DENY` rule does, since it cannot be decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApplicationAttributes {
    /// The request matches one of these; absent or empty: any request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub requests: Vec<RequestMatch>,
    /// The request matches none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub not_requests: Vec<RequestMatch>,
}
