//! The statuses of routes.

use weft_ir::RouteKind;

use crate::objects::ParentRef;

/// The status of one route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteStatus {
    /// Kind of the route.
    pub kind: RouteKind,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The generation that the conditions describe.
    pub generation: i64,
    /// One entry for each parentRef managed by this controller, in the route's order. Never empty.
    pub parents: Vec<ParentStatus>,
}

/// The status of a route with regard to one parent.
#[derive(Clone, Debug, PartialEq)]
pub struct ParentStatus {
    /// The reference as it is written in the route.
    pub parent_ref: ParentRef,
    /// The controller that writes the entry.
    pub controller: Controller,
    /// Conditions of the route for this parent.
    pub conditions: Vec<Condition>,
}

/// The controller that an entry of a route's status is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Controller {
    /// For Service parents: [`Settings::controller_name`](crate::Settings::controller_name).
    Mesh,
    /// For Gateways and ListenerSets:
    /// [`Settings::gateway_controller_name`](crate::Settings::gateway_controller_name).
    Gateway,
}

/// A condition of a status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The condition's type, such as `Accepted`.
    pub kind: String,
    /// `True` or `False`.
    pub status: bool,
    /// Machine-readable reason, in CamelCase.
    pub reason: String,
    /// For users: what is wrong, where, and how to fix it.
    pub message: String,
}
