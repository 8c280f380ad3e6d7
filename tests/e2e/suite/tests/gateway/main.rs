//! Weft's Gateways in a real cluster, tested by clients outside of it and through the Kubernetes
//! API.
//!
//! Needs what the mesh tests need (`tests/mesh`), addresses for Services of type LoadBalancer that
//! this machine reaches, and curl, openssl, nc and dig, which `tests/e2e/suite/run` installs.

#[macro_use]
extern crate weft_e2e;

mod certificates;
mod client_address;
mod clients;
mod composition;
mod examples;
mod families;
mod few_writes;
mod identity;
mod lifecycle;
mod others;
mod provisioning;
mod route_status;
mod rows;
mod status;
