//! The harness of Weft's cluster tests: a namespace for each test, pods of the sample shop in it,
//! requests sent from inside them, and diagnostics when a test fails.
//!
//! The tests are in `tests/mesh/` and `tests/gateway/`. They run against the cluster and the Weft
//! that are installed.

pub mod control_plane;
mod deployments;
mod diagnose;
pub mod external_auth;
pub mod fault_injection;
pub mod gateways;
pub mod host;
pub mod https_client;
pub mod identity;
mod load;
pub mod load_balancer;
pub mod objects;
pub mod policies;
pub mod proxy;
pub mod release;
mod runner;
pub mod servers;
mod soak;
mod test_name;
mod test_namespace;
pub mod tls_client;
pub mod tokens;
mod traffic;
mod wait;
pub mod writes;

pub use load::{LoadResponse, Summary};
pub use proxy::Access;
pub use runner::{run, run_alone, run_alone_long, run_busy, run_installation};
pub use soak::{full_or, soaking};
pub use test_name::test_name;
pub use test_namespace::{Injection, TestNamespace};
pub use traffic::{Traffic, senders};
pub use wait::{WAIT, eventually, eventually_within};

/// Declares tests, each in a namespace of its own, which is labelled for injection if it is
/// `Meshed` and not if it is `Unmeshed`. The functions are those of the module `cases` beside it,
/// the runners those of this crate, such as `run_alone` for a test that restarts a part of the
/// control plane.
#[macro_export]
macro_rules! cluster_tests {
    ($($runner:ident $injection:ident $name:ident;)*) => {$(
        #[test]
        #[ignore = "needs a cluster with Weft: tests/e2e/suite/run"]
        fn $name() -> anyhow::Result<()> {
            let name = $crate::test_name(concat!(module_path!(), "-", stringify!($name)));
            $crate::$runner(&name, $crate::Injection::$injection, cases::$name)
        }
    )*};
}
