//! Which kernel modules have to be loaded, and in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module's name, as `modprobe` has it, of the path of its file.
pub fn name(path: &str) -> String {
    let file = Path::new(path).file_name().and_then(|f| f.to_str()).unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// The files of the wanted modules and of all they need, each after what it needs. `dependencies` is the text of `modules.dep`, `builtin`
/// that of `modules.builtin`.
pub fn in_order(dependencies: &str, builtin: &str, wanted: &[&str]) -> Result<Vec<String>, String> {
    let needs: BTreeMap<String, (&str, Vec<String>)> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, rest)| (name(path), (path, rest.split_whitespace().map(name).collect())))
        .collect();
    let builtin: BTreeSet<String> = builtin.lines().map(name).collect();
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for module in wanted {
        visit(module, &needs, &builtin, &mut seen, &mut order)?;
    }
    Ok(order)
}

fn visit(
    module: &str,
    needs: &BTreeMap<String, (&str, Vec<String>)>,
    builtin: &BTreeSet<String>,
    seen: &mut BTreeSet<String>,
    order: &mut Vec<String>,
) -> Result<(), String> {
    if builtin.contains(module) || !seen.insert(module.to_string()) {
        return Ok(());
    }
    let (path, dependencies) = needs.get(module).ok_or_else(|| format!("the kernel has no module {module}"))?;
    for dependency in dependencies {
        visit(dependency, needs, builtin, seen, order)?;
    }
    order.push(path.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEPENDENCIES: &str = "kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko kernel/fs/netfs.ko.xz\n\
         kernel/net/9p/9pnet.ko:\nkernel/fs/netfs.ko.xz:\nkernel/net/9p/9pnet-virtio.ko: kernel/net/9p/9pnet.ko kernel/v/virtio.ko\n";

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let order = in_order(DEPENDENCIES, "kernel/v/virtio.ko\n", &["9p", "9pnet_virtio"]).unwrap();
        assert_eq!(order, ["kernel/net/9p/9pnet.ko", "kernel/fs/netfs.ko.xz", "kernel/fs/9p/9p.ko", "kernel/net/9p/9pnet-virtio.ko"]);
    }

    #[test]
    fn an_unknown_module_is_named() {
        assert_eq!(in_order(DEPENDENCIES, "", &["nope"]).unwrap_err(), "the kernel has no module nope");
    }
}
