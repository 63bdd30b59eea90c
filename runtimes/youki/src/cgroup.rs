//! Control groups, version 1 and 2, by their files: limits, use, and the last word on what is still running.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wharf_core::runtime::LinuxContainerResources;

/// How often a cgroup is tried again to make whose parent was removed meanwhile.
const MAKE_ATTEMPTS: u32 = 100;
/// How often a cgroup that is still busy is tried again before its removal fails.
const REMOVE_ATTEMPTS: u32 = 100;
/// The pause between two such attempts.
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// Where the hierarchies are mounted.
#[derive(Debug, Clone)]
pub(crate) enum Hierarchies {
    /// One mount point a controller (or group of co-mounted ones).
    V1(Vec<(Vec<String>, PathBuf)>),
    V2(PathBuf),
}

impl Hierarchies {
    /// Whether device rules of a container's spec take effect.
    pub(crate) fn has_device_rules(&self) -> bool {
        matches!(self, Self::V1(_))
    }

    /// Reads them from the mount table. A hybrid machine counts as version 1, as libcontainer has it.
    pub(crate) fn detect() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mounts")?))
    }

    fn parse(mounts: &str) -> Self {
        let mut v1 = Vec::new();
        let mut v2 = None;
        for line in mounts.lines() {
            let mut fields = line.split(' ');
            let (Some(_), Some(point), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            match kind {
                "cgroup" => v1.push((options.split(',').map(str::to_string).collect(), PathBuf::from(point))),
                "cgroup2" => v2 = v2.or(Some(PathBuf::from(point))),
                _ => {}
            }
        }
        match v2 {
            Some(path) if v1.is_empty() => Self::V2(path),
            _ => Self::V1(v1),
        }
    }

    fn controller(&self, name: &str, group: &str) -> Option<PathBuf> {
        let relative = group.trim_start_matches('/');
        match self {
            Self::V2(root) => Some(root.join(relative)),
            Self::V1(mounts) => mounts.iter().find(|(names, _)| names.iter().any(|n| n == name)).map(|(_, p)| p.join(relative)),
        }
    }

    fn directories(&self, group: &str) -> Vec<PathBuf> {
        let relative = group.trim_start_matches('/');
        match self {
            Self::V2(root) => vec![root.join(relative)],
            Self::V1(mounts) => mounts.iter().map(|(_, p)| p.join(relative)).collect(),
        }
    }

    /// Makes a group in every hierarchy. Blocks; succeeds if there is one.
    pub(crate) fn make(&self, group: &str) -> io::Result<()> {
        for directory in self.directories(group) {
            for attempt in 0.. {
                match fs::create_dir_all(&directory) {
                    Ok(()) => break,
                    // A neighbour that ended has just taken the parent along.
                    Err(e) if e.kind() == io::ErrorKind::NotFound && attempt < MAKE_ATTEMPTS => {}
                    Err(e) => return Err(io::Error::new(e.kind(), format!("make the cgroup {}: {e}", directory.display()))),
                }
            }
        }
        Ok(())
    }

    /// Every process in a group and the groups below it.
    pub(crate) fn processes(&self, group: &str) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        // The root holds the whole machine, and is nobody's group.
        if group.trim_matches('/').is_empty() {
            return found;
        }
        for directory in self.directories(group) {
            walk(&directory, &mut |d| {
                if let Ok(text) = fs::read_to_string(d.join("cgroup.procs")) {
                    found.extend(text.lines().filter_map(|l| l.trim().parse::<i32>().ok()).filter(|p| *p > 0));
                }
            });
        }
        found
    }

    /// Kills every process in a group.
    pub(crate) fn kill_all(&self, group: &str) {
        for pid in self.processes(group) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Kills what is in a group and removes it in every hierarchy. Blocks; succeeds if there is none.
    pub(crate) fn remove(&self, group: &str) -> io::Result<()> {
        // Never the root, whatever a record says.
        if group.trim_matches('/').is_empty() {
            return Ok(());
        }
        for attempt in 0.. {
            self.kill_all(group);
            let mut last = Ok(());
            for directory in self.directories(group) {
                if let Err(error) = remove_tree(&directory) {
                    last = Err(error);
                }
            }
            match last {
                Ok(()) => break,
                Err(error) if attempt >= REMOVE_ATTEMPTS => return Err(error),
                Err(_) => std::thread::sleep(REMOVE_PAUSE),
            }
        }
        Ok(())
    }

    /// Removes a group's parent if nothing else is in it.
    pub(crate) fn remove_if_empty(&self, group: &str) {
        if group.trim_matches('/').is_empty() {
            return;
        }
        for directory in self.directories(group) {
            // Another pod's group keeps it, which is right.
            let _ = fs::remove_dir(directory);
        }
    }

    /// How many processes of a group the OOM killer has taken.
    pub(crate) fn oom_kills(&self, group: &str) -> u64 {
        let file = match self {
            Self::V1(_) => "memory.oom_control",
            Self::V2(_) => "memory.events",
        };
        self.controller("memory", group).and_then(|d| fs::read_to_string(d.join(file)).ok()).map_or(0, |text| field(&text, "oom_kill"))
    }

    /// CPU time in nanoseconds and the memory working set in bytes.
    pub(crate) fn usage(&self, group: &str) -> (u64, u64) {
        let number = |controller: &str, file: &str| {
            self.controller(controller, group)
                .and_then(|d| fs::read_to_string(d.join(file)).ok())
                .and_then(|t| t.trim().parse::<u64>().ok())
                .unwrap_or_default()
        };
        let stat = |controller: &str, file: &str, name: &str| {
            self.controller(controller, group).and_then(|d| fs::read_to_string(d.join(file)).ok()).map_or(0, |t| field(&t, name))
        };
        match self {
            Self::V1(_) => (
                number("cpuacct", "cpuacct.usage"),
                number("memory", "memory.usage_in_bytes").saturating_sub(stat("memory", "memory.stat", "total_inactive_file")),
            ),
            Self::V2(_) => (
                stat("cpu", "cpu.stat", "usage_usec").saturating_mul(1000),
                number("memory", "memory.current").saturating_sub(stat("memory", "memory.stat", "inactive_file")),
            ),
        }
    }

    /// Changes limits in place; a zero field is left as it is.
    pub(crate) fn update(&self, group: &str, resources: &LinuxContainerResources) -> io::Result<()> {
        let set = |controller: &str, file: &str, value: String| match self.controller(controller, group) {
            Some(directory) => {
                fs::write(directory.join(file), &value).map_err(|e| io::Error::new(e.kind(), format!("write {value} to {file}: {e}")))
            }
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("the {controller} controller is not mounted"))),
        };
        let v1 = matches!(self, Self::V1(_));
        if resources.cpu_shares > 0 {
            if v1 {
                set("cpu", "cpu.shares", resources.cpu_shares.to_string())?;
            } else {
                set("cpu", "cpu.weight", weight(resources.cpu_shares).to_string())?;
            }
        }
        if resources.cpu_quota != 0 {
            let period = if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 };
            if v1 {
                set("cpu", "cpu.cfs_period_us", period.to_string())?;
                set("cpu", "cpu.cfs_quota_us", resources.cpu_quota.to_string())?;
            } else {
                let quota = if resources.cpu_quota < 0 { "max".into() } else { resources.cpu_quota.to_string() };
                set("cpu", "cpu.max", format!("{quota} {period}"))?;
            }
        }
        if resources.memory_limit_in_bytes > 0 {
            set("memory", if v1 { "memory.limit_in_bytes" } else { "memory.max" }, resources.memory_limit_in_bytes.to_string())?;
        }
        if resources.pids_limit > 0 {
            set("pids", "pids.max", resources.pids_limit.to_string())?;
        }
        if !resources.cpuset_cpus.is_empty() {
            set("cpuset", "cpuset.cpus", resources.cpuset_cpus.clone())?;
        }
        Ok(())
    }
}

/// CPU shares (2 to 262144) as version 2's weight (1 to 10000), as Kubernetes converts them.
fn weight(shares: i64) -> i64 {
    1 + ((shares.clamp(2, 262_144) - 2) * 9999) / 262_142
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or_default()
}

fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    if !directory.is_dir() {
        return;
    }
    visit(directory);
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    let mut all = Vec::new();
    walk(directory, &mut |d| all.push(d.to_path_buf()));
    for directory in all.into_iter().rev() {
        match fs::remove_dir(&directory) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_is_version_1() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let hierarchies = Hierarchies::parse(mounts);
        assert_eq!(hierarchies.controller("cpuacct", "/a/b"), Some("/sys/fs/cgroup/cpu/a/b".into()));
        assert_eq!(hierarchies.controller("memory", "/a"), None);
        assert!(matches!(Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), Hierarchies::V2(_)));
    }

    #[test]
    fn a_parent_that_neighbours_remove_does_not_fail_a_group() {
        let root = tempfile::tempdir().unwrap();
        let hierarchies = Hierarchies::V2(root.path().into());
        let churn = |pod: &'static str| {
            let hierarchies = &hierarchies;
            move || {
                for _ in 0..500 {
                    hierarchies.make(pod).unwrap();
                    hierarchies.remove(pod).unwrap();
                    hierarchies.remove_if_empty("/pods");
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(churn("/pods/a"));
            scope.spawn(churn("/pods/b"));
        });
        assert!(!root.path().join("pods").exists());
    }

    #[test]
    fn the_root_is_no_group() {
        let hierarchies = Hierarchies::detect().unwrap();
        assert!(hierarchies.processes("/").is_empty() && hierarchies.processes("").is_empty());
    }

    #[test]
    fn shares_convert_as_in_kubernetes() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn fields_are_matched_whole() {
        assert_eq!(field("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), 3);
    }
}
