//! The harness of Weft's cluster tests: a namespace of its own for each test, pods of the sample shop in it, requests sent
//! from inside them, and everything worth knowing printed when a test fails.
//!
//! The tests are in `tests/mesh/`. They take the cluster and the installed Weft as they find them.

mod bed;
pub mod control_plane;
mod diagnose;
pub mod identity;
pub mod machine;
pub mod objects;
pub mod outsider;
pub mod proxy;
mod shopper;
mod soak;
mod traffic;
mod wait;

pub use bed::{Bed, Mesh, run, run_alone, run_alone_long, run_busy};
pub use proxy::Access;
pub use shopper::{Answer, Summary};
pub use soak::{full_or, soaking};
pub use traffic::{Traffic, senders};
pub use wait::{WAIT, eventually, eventually_within};
