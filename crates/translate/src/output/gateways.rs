//! The statuses of GatewayClasses, Gateways, ListenerSets and BackendTLSPolicies.

use std::fmt;
use std::sync::Arc;

use weft_ir::{GatewayId, PolicyId, Transport};

use super::routes::Condition;
use crate::objects::ParentRef;

/// Status of a GatewayClass managed by this controller. Supported features are not part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayClassStatus {
    /// `metadata.name`.
    pub name: String,
    /// The generation that the conditions describe.
    pub generation: i64,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
}

/// Status of a Gateway of a managed class.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayStatus {
    /// The Gateway.
    pub id: GatewayId,
    /// The generation that the conditions describe.
    pub generation: i64,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
    /// `status.addresses`.
    pub addresses: Vec<Address>,
    /// Status of the Gateway's own listeners, in their order.
    pub listeners: Vec<ListenerStatus>,
    /// Number of accepted ListenerSets.
    pub attached_listener_sets: u32,
}

/// An address that is requested by or assigned to a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Whether it is an IP address or a host name.
    pub kind: AddressKind,
    /// The address.
    pub value: String,
    /// From where it can be reached.
    pub routability: Routability,
}

/// From where an address can be reached (GEP-5093).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Routability {
    /// From wherever the load balancer accepts connections.
    #[default]
    Unspecified,
    /// Only from within the cluster: a ClusterIP.
    Cluster,
    /// Has no meaning; used by the conformance suite.
    Sentinel,
}

impl Routability {
    /// Returns the value of an address's `routability`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Cluster => "Cluster",
            Self::Sentinel => "testing.x-k8s.io/sentinel",
        }
    }
}

/// The type of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressKind {
    /// `IPAddress`.
    Ip,
    /// `Hostname`.
    Hostname,
}

impl AddressKind {
    /// Returns the value of an address's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "IPAddress",
            Self::Hostname => "Hostname",
        }
    }
}

/// Status of one listener of a Gateway or a ListenerSet.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerStatus {
    /// Name of the listener.
    pub name: String,
    /// The socket that proxies should listen on, if translation accepts the listener. Whether they
    /// do is reported by the condition Programmed once proxies have answered.
    pub socket: Option<(Transport, u16)>,
    /// Kinds of routes that can attach.
    pub supported_kinds: Vec<RouteGroupKind>,
    /// Number of accepted routes.
    pub attached_routes: u32,
    /// Conditions of the listener.
    pub conditions: Vec<Condition>,
}

/// A kind of route, with its API group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteGroupKind {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
}

/// Status of a ListenerSet whose Gateway is managed by this controller.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSetStatus {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The Gateway that the set belongs to.
    pub gateway: GatewayId,
    /// The generation that the conditions describe.
    pub generation: i64,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
    /// Status of the set's listeners, in their order.
    pub listeners: Vec<ListenerStatus>,
}

/// Status of a BackendTLSPolicy whose target is a backend of a managed Gateway, or of an
/// XBackendTrafficPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyStatus {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The generation that the conditions describe.
    pub generation: i64,
    /// One entry for each Gateway, or each target, in order: at least one, at most 16.
    pub ancestors: Vec<AncestorStatus>,
}

/// Status of an AuthorizationPolicy, a ClusterAuthorizationPolicy or an AuthenticationPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationStatus {
    /// The policy.
    pub id: PolicyId,
    /// The generation that the conditions describe.
    pub generation: i64,
    /// One entry for each target: at least one, at most 16.
    pub ancestors: Vec<AncestorStatus>,
    /// Why providers of an accepted policy have no keys, so that their tokens are refused.
    pub without_keys: Option<String>,
}

/// A TrafficPolicy, `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrafficPolicyId {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for TrafficPolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrafficPolicy {}/{}", self.namespace, self.name)
    }
}

/// Status of a TrafficPolicy (GEP-713).
#[derive(Clone, Debug, PartialEq)]
pub struct TrafficPolicyStatus {
    /// The policy.
    pub id: TrafficPolicyId,
    /// The generation that the conditions describe.
    pub generation: i64,
    /// One entry for each target: at least one, at most 16.
    pub ancestors: Vec<AncestorStatus>,
}

/// Status of a policy with regard to one ancestor (GEP-713).
#[derive(Clone, Debug, PartialEq)]
pub struct AncestorStatus {
    /// The Gateway, or the target of an authorization policy, as a reference.
    pub ancestor: ParentRef,
    /// Conditions of the policy for this ancestor.
    pub conditions: Vec<Condition>,
}
