//! Whether a test may make network namespaces.

use std::io::Write;

/// CAP_NET_ADMIN and CAP_SYS_ADMIN, which root in a container may lack.
const NEEDED: u64 = (1 << 12) | (1 << 21);

/// Returns true if the calling test can run. Without these capabilities it prints that the test is
/// skipped and returns false; with `WEFT_ROOT_TESTS=all`, which `make test` sets, it panics.
pub fn rooted() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(capabilities.unwrap_or_default().trim(), 16);
    if capabilities.is_ok_and(|capabilities| capabilities & NEEDED == NEEDED) {
        return true;
    }
    let all = std::env::var_os("WEFT_ROOT_TESTS").is_some_and(|value| value == "all");
    assert!(!all, "needs root, for network namespaces");
    let test = std::thread::current();
    // The test harness captures `eprintln!` in passing tests, but not this.
    let _ = writeln!(
        std::io::stderr(),
        "skipped: needs root: {}",
        test.name().unwrap_or_default()
    );
    false
}
