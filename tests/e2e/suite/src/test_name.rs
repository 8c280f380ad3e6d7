//! Names of tests as parts of names of namespaces.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The most bytes of a name: with `weft-e2e-` before it and the run after it, a namespace's name
/// stays within the 63 bytes of a DNS label.
const LONGEST: usize = 42;
const HASH: usize = 4;

/// Returns the part of a namespace's name that stands for a test, from the test's path
/// (`suite::module-test`). Long names end in a hash of the whole, so that names that begin alike
/// stay apart.
pub fn test_name(path: &str) -> String {
    let name = path.rsplit("::").next().unwrap_or(path).replace('_', "-");
    if name.len() <= LONGEST {
        return name;
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let start = name.get(..LONGEST - HASH - 1).unwrap_or(&name);
    let start = start.trim_end_matches('-');
    format!("{start}-{:04x}", hasher.finish() & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::test_name;

    #[test]
    fn long_names_that_begin_alike_stay_apart() {
        let proxy = test_name("mesh::malformed_traffic-garbage_does_not_crash_the_proxy");
        let control = test_name("mesh::malformed_traffic-garbage_does_not_crash_the_control_plane");
        assert_ne!(proxy, control);
        for name in [&proxy, &control] {
            assert!(name.len() <= super::LONGEST, "{name}");
            assert!(name.starts_with("malformed-traffic-garbage"), "{name}");
        }
    }

    #[test]
    fn short_names_are_kept() {
        assert_eq!(test_name("mesh::weights-ninety_ten"), "weights-ninety-ten");
    }
}
