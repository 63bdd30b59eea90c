//! ARCHITECTURE.md's invariants, as tests.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A plugin may stand on these beside core: (whose name begins so, what).
const SHARED: &[(&str, &str)] = &[
    ("wharf-apiserver", "wharf-schema"),
    ("wharf-apiserver", "wharf-patch"),
    ("wharf-apiserver", "wharf-structural"),
    ("wharf-apiserver", "wharf-cel"),
    ("wharf-structural", "wharf-cel"),
    ("wharf-patch", "wharf-schema"),
    ("wharf-network", "wharf-netfilter"),
    ("wharf-network", "wharf-proxy-plan"),
    ("wharf-netfilter", "wharf-proxy-plan"),
    ("wharf-proxy-", "wharf-netfilter"),
    ("wharf-proxy-", "wharf-proxy-plan"),
    ("wharf-scheduler-", "wharf-scheduler-framework"),
    ("wharf-store-", "wharf-store-mvcc"),
];
/// Packages that may see more than core: they assemble, or drive what is assembled.
const ASSEMBLERS: &[&str] = &["wharf", "wharf-e2e", "wharf-examples", "wharf-fuzz"];
/// Packages that are neither a plugin nor an assembler.
const OTHERS: &[&str] = &["wharf-core", "wharf-conformance", "xtask"];
/// Files in which `unsafe` may stand.
const UNSAFE: &[&str] = &["runtimes/youki/src/sys.rs"];
/// How it begins; the word alone may be one of a message.
const UNSAFE_CODE: &[&str] = &["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait", "unsafe extern"];
/// Calls that ask the machine for the time.
const TIME: &[&str] = &["Instant::now()", "SystemTime::now()", "Timestamp::now()", "tokio::time::sleep"];
/// Where asking the machine for the time is right: the clock itself, and processes that no Clock reaches.
const TIME_ALLOWED: &[&str] = &["core/src/clock.rs", "runtimes/youki/src/shim/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each workspace package with its normal dependencies in the workspace.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let of = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().cloned().unwrap_or_default();
        let normal = all.iter().filter(|d| d["kind"].is_null()).filter_map(|d| d["name"].as_str());
        normal.filter(|name| names.contains(name)).map(str::to_owned).collect()
    };
    packages.iter().map(|p| (p["name"].as_str().unwrap_or_default().to_owned(), of(p))).collect()
}

/// Every library source file of the workspace, without tests.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }
    let mut out = Vec::new();
    for folder in ["core", "client", "apiserver", "controllers", "node", "network"] {
        walk(&root().join(folder).join("src"), &mut out);
    }
    for group in ["stores", "runtimes", "schedulers", "proxies", "bridges", "apiserver"] {
        for entry in fs::read_dir(root().join(group)).into_iter().flatten().flatten() {
            // The API server has packages of its own below it.
            walk(&entry.path().join("src"), &mut out);
        }
    }
    walk(&root().join("src"), &mut out);
    assert!(out.len() > 50, "the walk must find the sources");
    out
}

/// A file's code before its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("sources are readable");
    text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

#[test]
fn core_stands_alone() {
    assert_eq!(graph()["wharf-core"], BTreeSet::new());
}

#[test]
fn plugins_know_only_core() {
    let graph = graph();
    for (plugin, dependencies) in &graph {
        if ASSEMBLERS.contains(&plugin.as_str()) || OTHERS.contains(&plugin.as_str()) {
            continue;
        }
        for dependency in dependencies {
            let shared = SHARED.iter().any(|(who, what)| plugin.starts_with(who) && dependency == what);
            assert!(dependency == "wharf-core" || shared, "{plugin} must not depend on {dependency}");
        }
    }
    assert_eq!(graph["wharf-conformance"], BTreeSet::from(["wharf-core".to_owned()]), "a kit knows no implementation");
}

#[test]
fn the_default_build_needs_a_c_compiler_at_most() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "wharf", "--edges", "normal,build", "--prefix", "none", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo tree runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let packages: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(packages.contains("wharf-core") && packages.contains("ring"), "the tree must be read: {output:?}");
    // Each of these runs a program, or looks for headers, that a machine need not have.
    for needs_more in ["prost-build", "tonic-prost-build", "bindgen", "cmake", "pkg-config", "openssl-sys", "aws-lc-sys", "vcpkg"] {
        assert!(!packages.contains(needs_more), "the default build has {needs_more}: put what needs it behind a feature");
    }
}

#[test]
fn nothing_depends_on_the_facade() {
    for (package, dependencies) in graph() {
        assert!(ASSEMBLERS.contains(&package.as_str()) || !dependencies.contains("wharf"), "{package} must not depend on the facade");
    }
}

#[test]
fn seams_are_dyn_safe() {
    fn is_a_type<T: ?Sized>() {}
    is_a_type::<dyn wharf::core::store::ObjectStore>();
    is_a_type::<dyn wharf::core::runtime::Runtime>();
    is_a_type::<dyn wharf::core::runtime::PodNetwork>();
    is_a_type::<dyn wharf::core::scheduler::Scheduler>();
    is_a_type::<dyn wharf::core::proxy::NetworkProxy>();
    is_a_type::<dyn wharf::core::controller::Controller>();
    is_a_type::<dyn wharf::core::api::Api>();
    is_a_type::<dyn wharf::core::node::NodeConnector>();
    is_a_type::<dyn wharf::core::clock::Clock>();
}

#[test]
fn time_is_injected() {
    for path in sources() {
        let name = relative(&path);
        if TIME_ALLOWED.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        let code = code(&path);
        for call in TIME {
            assert!(!code.contains(call), "{name} calls {call}: take the time from a Clock");
        }
    }
}

#[test]
fn unsafe_stands_in_named_files() {
    for path in sources() {
        let name = relative(&path);
        let has =
            code(&path).lines().any(|line| !line.trim_start().starts_with("//") && UNSAFE_CODE.iter().any(|code| line.contains(code)));
        assert!(!has || UNSAFE.contains(&name.as_str()), "{name} has unsafe code and is not named");
    }
}

#[test]
fn the_tree_is_the_one_described() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    for test in [
        "core_stands_alone",
        "plugins_know_only_core",
        "the_default_build_needs_a_c_compiler_at_most",
        "nothing_depends_on_the_facade",
        "seams_are_dyn_safe",
        "time_is_injected",
    ] {
        assert!(text.contains(test), "ARCHITECTURE.md must name {test}");
    }
}
