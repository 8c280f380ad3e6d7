//! What a policy applies to.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An object in the policy's own namespace, or the pods that a selector selects there.
///
/// Source: GEP-713 (`LocalPolicyTargetReferenceWithSectionName`), GEP-3779
/// (`PolicyTargetReferenceWithLabelSelectors`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.kind == 'Pod' ? has(self.selector) && !has(self.name) : has(self.name) && !has(self.selector)")
        .message("a Pod has a selector and no name; every other kind has a name and no selector"),
    validation = Rule::new("self.kind in ['Pod', 'Service'] ? !has(self.group) || self.group == '' : has(self.group) && self.group == 'gateway.networking.k8s.io'")
        .message("group is empty for Pod and Service, and gateway.networking.k8s.io for other kinds"),
    validation = Rule::new("self.kind != 'Pod' || !has(self.sectionName)")
        .message("a Pod has no sectionName")
)]
pub struct TargetRef {
    /// The API group: empty for Pod and Service, `gateway.networking.k8s.io` for others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Pod`, `Service`, `Gateway`, `HTTPRoute` or `GRPCRoute`.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^(Pod|Service|Gateway|HTTPRoute|GRPCRoute)$")
    )]
    pub kind: String,
    /// The name of the object; absent for Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// The name of a Service's port, a Gateway's listener or a route's rule; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// The pods of the mesh that the policy applies to; an empty selector selects all of the
    /// namespace. Pods of Gateways are not among them: target the Gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Pods or Gateways of all namespaces, or of those that a selector selects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.kind == 'Pod' ? !has(self.group) || self.group == '' : has(self.group) && self.group == 'gateway.networking.k8s.io'")
        .message("group is empty for Pod, and gateway.networking.k8s.io for Gateway")
)]
pub struct ClusterTarget {
    /// The API group: empty for Pod, `gateway.networking.k8s.io` for Gateway.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Pod` or `Gateway`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^(Pod|Gateway)$"))]
    pub kind: String,
    /// Absent or empty: all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Absent or empty: all pods or Gateways of these namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// `metav1.LabelSelector`: every entry must match; an empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(
    rename_all = "camelCase",
    default,
    deny_unknown_fields,
    expecting = "an object"
)]
pub struct LabelSelector {
    /// Labels with exactly these values.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions on labels.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub match_expressions: Vec<LabelRequirement>,
}

/// `metav1.LabelSelectorRequirement`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct LabelRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[schemars(regex(pattern = "^(In|NotIn|Exists|DoesNotExist)$"))]
    pub operator: String,
    /// The values of `In` and `NotIn`.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 64))]
    pub values: Vec<String>,
}

/// Treats `null` as absent.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
