//! For tests that need more than a Rust toolchain.

/// Set to `1` where a missing part of the system is a failure instead of an omission.
pub const REQUIRE_SYSTEM: &str = "WHARF_REQUIRE_SYSTEM";

/// Says that a test is left out because something is missing.
///
/// ```no_run
/// if !std::path::Path::new("/usr/sbin/iptables").exists() {
///     return wharf_core::testing::omit("proxy.iptables.apply", "iptables is not installed");
/// }
/// ```
///
/// # Panics
/// When [`REQUIRE_SYSTEM`] is `1`: there, nothing may be left out.
pub fn omit(test: &str, why: &str) {
    assert!(std::env::var(REQUIRE_SYSTEM).as_deref() != Ok("1"), "{test} must run here, but {why}");
    println!("omitted: {test}: {why}");
}
