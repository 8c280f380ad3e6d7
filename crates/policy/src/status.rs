//! The status of a policy.
//!
//! Source: GEP-713, `PolicyStatus`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The status of a policy, by what it applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct PolicyStatus {
    /// One entry for each target, and for each controller.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<AncestorStatus>,
}

/// The status of a policy with regard to one target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The target.
    pub ancestor_ref: AncestorRef,
    /// The controller that wrote the entry.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// `Accepted`, and `weft.dev/Programmed`.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}

/// A reference to a target.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// The API group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The section of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

/// `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// The type.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The generation of the policy that the condition describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The time of the last change of `status`, as RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The reason, in camel case.
    pub reason: String,
    /// The reason, for people.
    #[schemars(length(max = 32768))]
    pub message: String,
}
