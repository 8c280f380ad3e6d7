//! What is said of GatewayClasses, Gateways, ListenerSets and policies: the shapes of their statuses.

use weft_ir::{GatewayId, Transport};

use super::routes::Condition;
use crate::objects::ParentRef;

/// Of a class that is ours. What it supports is not said here.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayClassStatus {
    pub name: String,
    pub generation: i64,
    pub conditions: Vec<Condition>,
}

/// Of a Gateway whose class is ours.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayStatus {
    pub id: GatewayId,
    pub generation: i64,
    pub conditions: Vec<Condition>,
    pub addresses: Vec<Address>,
    /// The Gateway's own, in its order.
    pub listeners: Vec<ListenerStatus>,
    pub attached_listener_sets: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    pub kind: AddressKind,
    pub value: String,
    pub routability: Routability,
}

/// From where an address can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Routability {
    /// From wherever the load balancer lets in.
    #[default]
    Unspecified,
    /// A ClusterIP.
    Cluster,
    /// Means nothing; the conformance suite's own.
    Sentinel,
}

impl Routability {
    /// As it stands in an address's `routability`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "",
            Self::Cluster => "Cluster",
            Self::Sentinel => "testing.x-k8s.io/sentinel",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressKind {
    Ip,
    Hostname,
}

impl AddressKind {
    /// As it stands in an address's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "IPAddress",
            Self::Hostname => "Hostname",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListenerStatus {
    pub name: String,
    /// Where proxies are to listen, as far as translation decides it; whether they do says the condition Programmed once
    /// they have been asked.
    pub socket: Option<(Transport, u16)>,
    pub supported_kinds: Vec<RouteGroupKind>,
    pub attached_routes: u32,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteGroupKind {
    pub group: String,
    pub kind: String,
}

/// Of a ListenerSet whose Gateway is ours.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerSetStatus {
    pub namespace: String,
    pub name: String,
    pub gateway: GatewayId,
    pub generation: i64,
    pub conditions: Vec<Condition>,
    pub listeners: Vec<ListenerStatus>,
}

/// Of a BackendTLSPolicy on whose target a Gateway of ours relies.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyStatus {
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    /// The Gateways, in order; 16 at most. Never empty.
    pub ancestors: Vec<AncestorStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AncestorStatus {
    pub ancestor: ParentRef,
    pub conditions: Vec<Condition>,
}
