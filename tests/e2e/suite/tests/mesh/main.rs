//! Weft in a real cluster, seen from pods and from the Kubernetes API.
//!
//! Needs a cluster with Weft and the image weft/shop:0.1.0, so every test is ignored unless asked for:
//! `cargo test -p weft-e2e -- --include-ignored`, or `tests/e2e/suite/run`, which also loads the image.

/// Declares tests that run in a namespace of their own. `in` and `out`: whether it is labelled for injection; `alone`:
/// the test restarts a part of the control plane, and no other runs beside it.
macro_rules! mesh_tests {
    ($($runner:ident $mesh:ident $name:ident;)*) => {$(
        #[test]
        #[ignore = "needs a cluster with Weft: tests/e2e/suite/run"]
        fn $name() -> anyhow::Result<()> {
            let name = concat!(module_path!(), "-", stringify!($name));
            let name = name.rsplit("::").next().unwrap_or(name).replace('_', "-");
            weft_e2e::$runner(&name[..name.len().min(42)], weft_e2e::Mesh::$mesh, cases::$name)
        }
    )*};
}

mod bad_input;
mod control_plane;
mod faults;
mod hostile;
mod identity;
mod imports;
mod injection;
mod lifecycle;
mod opaque;
mod protocols;
mod rotation;
mod routing;
mod rules;
mod status;
mod trust;
mod vocabulary;
