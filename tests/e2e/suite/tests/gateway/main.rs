//! Weft's Gateways in a real cluster, tested by clients outside of it and through the Kubernetes
//! API.
//!
//! Needs what the mesh tests need (`tests/mesh`), addresses for Services of type LoadBalancer that
//! this machine reaches, and curl, openssl, nc and dig, which `tests/e2e/suite/run` installs.

#[macro_use]
extern crate weft_e2e;

mod authentication;
mod authorization;
mod certificates;
mod client_address;
mod clients;
mod composition;
mod condition_table;
mod examples;
mod external_auth;
mod families;
mod grants;
mod identity;
mod lifecycle;
mod other_controllers;
mod provisioning;
mod route_status;
mod status;
mod status_writes;
mod traffic_policy;
