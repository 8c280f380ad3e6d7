//! Weft in a real cluster, tested from pods and through the Kubernetes API.
//!
//! Needs a cluster with Weft and the image weft/shop:0.1.0, so every test is ignored by default:
//! `cargo test -p weft-e2e -- --include-ignored`, or `tests/e2e/suite/run`, which also loads the
//! image.

#[macro_use]
extern crate weft_e2e;

mod authentication;
mod authorization;
mod bad_input;
mod balancing;
mod control_plane;
mod external_auth;
mod families;
mod fault_filter;
mod faults;
mod filters;
mod grpc_failures;
mod identity;
mod imports;
mod injection;
mod installation;
mod lifecycle;
mod malformed_traffic;
mod mirrors;
mod opaque;
mod parent_refs;
mod pods;
mod protocols;
mod retry_constraint;
mod rotation;
mod routing;
mod rules;
mod servers;
mod services;
mod status;
mod traffic_health;
mod traffic_limits;
mod traffic_policy;
mod traffic_retries;
mod traffic_timeouts;
mod trust;
