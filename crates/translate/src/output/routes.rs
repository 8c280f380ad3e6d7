//! The statuses of routes.

use weft_ir::RouteKind;

use crate::objects::ParentRef;

/// The status of one route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteStatus {
    pub kind: RouteKind,
    pub namespace: String,
    pub name: String,
    /// The generation that the conditions speak of.
    pub generation: i64,
    /// One for each parentRef that is ours, in the route's order. Never empty.
    pub parents: Vec<ParentStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParentStatus {
    pub parent_ref: ParentRef,
    pub controller: Controller,
    pub conditions: Vec<Condition>,
}

/// Under whose name an entry of a route's status stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Controller {
    /// Of Service parents: [`Settings::controller_name`](crate::Settings::controller_name).
    Mesh,
    /// Of Gateways and ListenerSets:
    /// [`Settings::gateway_controller_name`](crate::Settings::gateway_controller_name).
    Gateway,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The condition's type, as `Accepted`.
    pub kind: String,
    pub status: bool,
    pub reason: String,
    /// For people: what is wrong, where, and what to check.
    pub message: String,
}
