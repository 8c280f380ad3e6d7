//! Routes as rules, and what is wrong with them: the same for every parent that a route has.

mod backends;
mod cache;
mod compiled;
mod connections;
mod filters;
mod grpc;
pub(crate) mod hosts;
mod http;
mod object;
mod patterns;
mod report;
mod resolver;
mod route;
pub(crate) mod status;
pub(crate) mod targets;
mod values;

pub(crate) use cache::{Memo, Wanted};
pub(crate) use compiled::Rules;
pub(crate) use object::Source;
pub(crate) use report::Report;
pub(crate) use resolver::{GatewayRules, Resolver};
pub(crate) use route::Route;
