//! Translation of routes to rules, with their faults: the same for every kind of parent.

mod backends;
mod cache;
mod compiled;
mod connections;
mod faults;
pub(crate) mod filters;
mod grpc;
pub(crate) mod hosts;
mod http;
mod object;
pub(crate) mod patterns;
mod report;
mod resolver;
mod route;
pub(crate) mod status;
pub(crate) mod targets;
mod values;

pub(crate) use cache::{RouteCache, RouteFilter};
pub(crate) use compiled::Rules;
pub(crate) use faults::{FaultCache, FaultFilters, fault_filters};
pub(crate) use filters::{ListenerAuth, listener_auth};
pub(crate) use object::RouteObject;
pub(crate) use resolver::{GatewayBackendRules, Resolver, TrackedLookup};
pub(crate) use route::Route;
pub(crate) use values::{duration, percent};
