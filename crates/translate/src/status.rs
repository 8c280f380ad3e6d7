//! What the routes' statuses say about our own parents.

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
    /// One for each parentRef that is a Service, in the route's order. Never empty.
    pub parents: Vec<ParentStatus>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ParentStatus {
    pub parent_ref: ParentRef,
    pub conditions: Vec<Condition>,
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
