//! The OCI runtime spec of a container, from its CRI config and its image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wharf_core::runtime::{ContainerConfig, LinuxContainerResources, Mount, MountPropagation, NamespaceMode, PodSandboxConfig};

use crate::image::ContainerDefaults;
use crate::user::User;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Docker's default set.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// All, at the index of its number in the kernel.
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Paths of the sandbox that go into every container.
#[derive(Debug, Clone)]
pub(crate) struct SandboxPaths {
    /// `None` for the host's.
    pub(crate) net: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) shm: Option<PathBuf>,
    pub(crate) resolv_conf: Option<PathBuf>,
    pub(crate) hostname: Option<PathBuf>,
}

/// Everything a spec is made from.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    pub(crate) config: &'a ContainerConfig,
    pub(crate) sandbox: &'a PodSandboxConfig,
    pub(crate) defaults: &'a ContainerDefaults,
    pub(crate) user: &'a User,
    pub(crate) paths: &'a SandboxPaths,
    pub(crate) rootfs: &'a Path,
    pub(crate) cgroup: &'a str,
    /// Devices of the host, for privileged containers.
    pub(crate) devices: &'a [Device],
    pub(crate) available: Available,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) path: String,
    /// `b` or `c`.
    pub(crate) kind: char,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) mode: u32,
}

/// The command line, as Kubernetes combines it with the image's.
pub(crate) fn command_line(config: &ContainerConfig, defaults: &ContainerDefaults) -> Vec<String> {
    let entrypoint = defaults.entrypoint.clone().unwrap_or_default();
    let cmd = defaults.cmd.clone().unwrap_or_default();
    match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => [entrypoint, cmd].concat(),
        (true, false) => [entrypoint, config.args.clone()].concat(),
        (false, _) => [config.command.clone(), config.args.clone()].concat(),
    }
}

/// The environment: the image's, then the container's over it.
pub(crate) fn environment(config: &ContainerConfig, sandbox: &PodSandboxConfig, defaults: &ContainerDefaults, home: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        if values.insert(name.to_string(), value.to_string()).is_none() {
            order.push(name.to_string());
        }
    };
    if let Some((name, value)) = DEFAULT_PATH.split_once('=') {
        set(name, value);
    }
    if !sandbox.hostname.is_empty() {
        set("HOSTNAME", &sandbox.hostname);
    }
    if config.tty {
        set("TERM", "xterm");
    }
    set("HOME", home);
    for entry in defaults.env.iter().flatten() {
        if let Some((name, value)) = entry.split_once('=') {
            set(name, value);
        }
    }
    for (name, value) in &config.envs {
        set(name, value);
    }
    order.into_iter().map(|name| format!("{name}={}", values.get(&name).map_or("", String::as_str))).collect()
}

/// The capabilities of a container.
pub(crate) fn capabilities(config: &ContainerConfig, available: Available) -> Vec<String> {
    let mut set = wanted_capabilities(config);
    // What this process may not have it cannot give.
    set.retain(|name| ALL_CAPABILITIES.iter().position(|c| c == name).is_some_and(|bit| available.capabilities & (1 << bit) != 0));
    if !available.device_rules && !config.security_context.privileged {
        // No rule would keep the container from the disks of the machine, once it has made nodes for them.
        set.retain(|name| name != "CAP_MKNOD");
    }
    set
}

/// What this process has to give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Available {
    /// Its bounding set.
    pub(crate) capabilities: u64,
    /// Its own adjustment of the OOM killer's score, below which it cannot go without CAP_SYS_RESOURCE.
    pub(crate) oom_score_adj: i64,
    /// Whether the cgroup keeps containers from devices. Version 2 would do so by a program in the kernel, which is not loaded.
    pub(crate) device_rules: bool,
}

impl Available {
    const SYS_RESOURCE: u64 = 1 << 24;

    /// Of this process. Blocks.
    pub(crate) fn detect(device_rules: bool) -> std::io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let bounding = status.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap_or_default();
        let own = std::fs::read_to_string("/proc/self/oom_score_adj")?;
        Ok(Self {
            capabilities: u64::from_str_radix(bounding.trim(), 16).unwrap_or(u64::MAX),
            oom_score_adj: own.trim().parse().unwrap_or_default(),
            device_rules,
        })
    }

    fn oom_score_adj(self, wanted: i64) -> i64 {
        let wanted = wanted.clamp(-1000, 1000);
        if self.capabilities & Self::SYS_RESOURCE == 0 { wanted.max(self.oom_score_adj) } else { wanted }
    }
}

fn wanted_capabilities(config: &ContainerConfig) -> Vec<String> {
    let security = &config.security_context;
    if security.privileged {
        return ALL_CAPABILITIES.iter().map(|c| c.to_string()).collect();
    }
    let full = |name: &String| {
        let name = name.to_uppercase();
        if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let all = |list: &[String]| list.iter().any(|c| c.eq_ignore_ascii_case("ALL"));
    let mut set: Vec<String> = if all(&security.add_capabilities) {
        ALL_CAPABILITIES.iter().map(|c| c.to_string()).collect()
    } else if all(&security.drop_capabilities) {
        Vec::new()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|c| c.to_string()).collect()
    };
    for name in security.add_capabilities.iter().filter(|c| !c.eq_ignore_ascii_case("ALL")).map(full) {
        // One that the kernel does not have cannot be given.
        if ALL_CAPABILITIES.contains(&name.as_str()) && !set.contains(&name) {
            set.push(name);
        }
    }
    let dropped: Vec<String> = security.drop_capabilities.iter().map(full).collect();
    set.retain(|c| !dropped.contains(c));
    set
}

fn resources(resources: &LinuxContainerResources, privileged: bool) -> Value {
    let mut out = json!({ "devices": device_rules(privileged) });
    let mut cpu = serde_json::Map::new();
    if resources.cpu_shares > 0 {
        cpu.insert("shares".into(), json!(resources.cpu_shares));
    }
    if resources.cpu_quota != 0 {
        cpu.insert("quota".into(), json!(resources.cpu_quota));
        cpu.insert("period".into(), json!(if resources.cpu_period > 0 { resources.cpu_period } else { 100_000 }));
    }
    if !resources.cpuset_cpus.is_empty() {
        cpu.insert("cpus".into(), json!(resources.cpuset_cpus));
    }
    if !cpu.is_empty() {
        out["cpu"] = Value::Object(cpu);
    }
    if resources.memory_limit_in_bytes > 0 {
        out["memory"] = json!({ "limit": resources.memory_limit_in_bytes });
    }
    if resources.pids_limit > 0 {
        out["pids"] = json!({ "limit": resources.pids_limit });
    }
    out
}

fn device_rules(privileged: bool) -> Value {
    if privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    // Making nodes is harmless; using them is what is ruled.
    rules.push(json!({ "allow": true, "type": "c", "access": "m" }));
    rules.push(json!({ "allow": true, "type": "b", "access": "m" }));
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(json!({ "allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm" }));
    }
    rules.push(json!({ "allow": true, "type": "c", "major": 136, "access": "rwm" }));
    Value::Array(rules)
}

fn bind(destination: &str, source: &Path, readonly: bool, propagation: &str) -> Value {
    json!({
        "destination": destination, "source": source, "type": "bind",
        "options": ["rbind", propagation, if readonly { "ro" } else { "rw" }],
    })
}

fn mounts(input: &Input<'_>) -> Vec<Value> {
    let privileged = input.config.security_context.privileged;
    let sys = if privileged { "rw" } else { "ro" };
    let mut out = vec![
        json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] }),
        json!({ "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] }),
        json!({ "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] }),
        json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", sys] }),
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", sys] }),
    ];
    let given = |path: &str| input.config.mounts.iter().any(|m| m.container_path.trim_end_matches('/') == path);
    let readonly_root = input.config.security_context.readonly_rootfs;
    for (destination, source, readonly) in [
        ("/dev/shm", &input.paths.shm, false),
        ("/etc/resolv.conf", &input.paths.resolv_conf, readonly_root),
        ("/etc/hostname", &input.paths.hostname, readonly_root),
    ] {
        if let Some(source) = source
            && !given(destination)
        {
            out.push(bind(destination, source, readonly, "rprivate"));
        }
    }
    let mut sorted: Vec<&Mount> = input.config.mounts.iter().collect();
    // A mount below another comes after it.
    sorted.sort_by_key(|m| Path::new(&m.container_path).components().count());
    for mount in sorted {
        let propagation = match mount.propagation {
            MountPropagation::Private => "rprivate",
            MountPropagation::HostToContainer => "rslave",
            MountPropagation::Bidirectional => "rshared",
        };
        out.push(bind(&mount.container_path, &mount.host_path, mount.readonly, propagation));
    }
    out
}

/// Makes the spec.
pub(crate) fn build(input: &Input<'_>) -> Value {
    let (config, security) = (input.config, &input.config.security_context);
    let caps = capabilities(config, input.available);
    let cwd = [config.working_dir.as_str(), input.defaults.working_dir.as_deref().unwrap_or_default()]
        .into_iter()
        .find(|d| !d.is_empty())
        .unwrap_or("/");
    // An ordinary user keeps the bound only: capabilities come back through set-user-ID programs.
    let effective = if input.user.uid == 0 { caps.clone() } else { Vec::new() };
    let mut process = json!({
        "terminal": config.tty,
        "user": { "uid": input.user.uid, "gid": input.user.gid, "additionalGids": input.user.groups },
        "args": command_line(config, input.defaults),
        "env": environment(config, input.sandbox, input.defaults, &input.user.home),
        "cwd": cwd,
        "capabilities": { "bounding": caps, "effective": effective, "permitted": effective, "inheritable": [], "ambient": [] },
        "noNewPrivileges": security.no_new_privs,
    });
    process["oomScoreAdj"] = json!(input.available.oom_score_adj(config.resources.oom_score_adj));
    let mut namespaces = vec![json!({ "type": "mount" }), json!({ "type": "cgroup" })];
    if security.namespace_options.pid != NamespaceMode::Node {
        namespaces.push(json!({ "type": "pid" }));
    }
    for (kind, path) in [("network", &input.paths.net), ("ipc", &input.paths.ipc), ("uts", &input.paths.uts)] {
        if let Some(path) = path {
            namespaces.push(json!({ "type": kind, "path": path }));
        }
    }
    let list = |own: &Option<Vec<String>>, default: &[&str]| -> Vec<String> {
        match own {
            Some(list) => list.clone(),
            None if security.privileged => Vec::new(),
            None => default.iter().map(|p| p.to_string()).collect(),
        }
    };
    let devices: Vec<Value> = input
        .devices
        .iter()
        .map(|d| json!({ "path": d.path, "type": d.kind.to_string(), "major": d.major, "minor": d.minor, "fileMode": d.mode, "uid": 0, "gid": 0 }))
        .collect();
    let bidirectional = config.mounts.iter().any(|m| m.propagation == MountPropagation::Bidirectional);
    let slave = config.mounts.iter().any(|m| m.propagation == MountPropagation::HostToContainer);
    json!({
        "ociVersion": "1.0.2",
        "process": process,
        "root": { "path": input.rootfs, "readonly": security.readonly_rootfs },
        "mounts": mounts(input),
        "annotations": config.annotations,
        "linux": {
            "cgroupsPath": input.cgroup,
            "namespaces": namespaces,
            "resources": resources(&config.resources, security.privileged),
            "devices": devices,
            "maskedPaths": list(&security.masked_paths, &MASKED),
            "readonlyPaths": list(&security.readonly_paths, &READONLY),
            "rootfsPropagation": if bidirectional { "shared" } else if slave { "slave" } else { "private" },
        },
    })
}

/// `/etc/resolv.conf`.
pub(crate) fn resolv_conf(dns: &wharf_core::runtime::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// A signal by name (`SIGTERM`, `TERM`) or number.
pub(crate) fn signal_number(signal: &str) -> Option<i32> {
    if let Ok(number) = signal.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = signal.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN+") {
        return offset.parse::<i32>().ok().filter(|n| (0..=30).contains(n)).map(|n| 34 + n);
    }
    name.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::runtime::DnsConfig;

    const ALL: Available = Available { capabilities: u64::MAX, oom_score_adj: 0, device_rules: true };

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn command_and_args_override_as_in_kubernetes() {
        let defaults = ContainerDefaults { entrypoint: Some(strings(&["e"])), cmd: Some(strings(&["c"])), ..ContainerDefaults::default() };
        let line = |command: &[&str], args: &[&str]| {
            let config = ContainerConfig { command: strings(command), args: strings(args), ..ContainerConfig::default() };
            command_line(&config, &defaults).join(" ")
        };
        assert_eq!(line(&[], &[]), "e c");
        assert_eq!(line(&[], &["a"]), "e a");
        assert_eq!(line(&["x"], &[]), "x");
        assert_eq!(line(&["x"], &["a"]), "x a");
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let caps = |add: &[&str], drop: &[&str]| {
            let mut config = ContainerConfig::default();
            config.security_context.add_capabilities = strings(add);
            config.security_context.drop_capabilities = strings(drop);
            capabilities(&config, ALL)
        };
        assert_eq!(caps(&[], &[]).len(), DEFAULT_CAPABILITIES.len());
        assert_eq!(caps(&["net_admin"], &["ALL"]), strings(&["CAP_NET_ADMIN"]));
        assert!(!caps(&["ALL"], &["SYS_ADMIN"]).contains(&"CAP_SYS_ADMIN".to_string()));
    }

    #[test]
    fn devices_are_not_made_where_no_rule_guards_them() {
        let unguarded = Available { device_rules: false, ..ALL };
        let mut config = ContainerConfig::default();
        config.security_context.add_capabilities = strings(&["ALL"]);
        assert!(!capabilities(&config, unguarded).contains(&"CAP_MKNOD".to_string()));
        assert!(capabilities(&config, ALL).contains(&"CAP_MKNOD".to_string()));
        config.security_context.privileged = true;
        assert!(capabilities(&config, unguarded).contains(&"CAP_MKNOD".to_string()));
    }

    #[test]
    fn nothing_is_given_that_is_not_there() {
        let little = Available { capabilities: 1, oom_score_adj: 100, device_rules: true };
        assert_eq!(capabilities(&ContainerConfig::default(), little), strings(&["CAP_CHOWN"]));
        assert_eq!((little.oom_score_adj(-997), little.oom_score_adj(500), ALL.oom_score_adj(-997)), (100, 500, -997));
    }

    #[test]
    fn the_container_environment_is_over_the_images() {
        let defaults = ContainerDefaults { env: Some(strings(&["A=1", "PATH=/x"])), ..ContainerDefaults::default() };
        let config = ContainerConfig { envs: vec![("A".into(), "2".into())], ..ContainerConfig::default() };
        let env = environment(&config, &PodSandboxConfig::default(), &defaults, "/root");
        assert_eq!(env, strings(&["PATH=/x", "HOME=/root", "A=2"]));
    }

    #[test]
    fn the_spec_is_one_that_libcontainer_reads() {
        let mut config = ContainerConfig { tty: true, ..ContainerConfig::default() };
        config.resources = LinuxContainerResources { cpu_quota: 5000, memory_limit_in_bytes: 1 << 20, pids_limit: 9, ..Default::default() };
        config.mounts = vec![
            Mount { container_path: "/a/b".into(), host_path: "/x".into(), readonly: true, ..Mount::default() },
            Mount { container_path: "/a".into(), host_path: "/y".into(), ..Mount::default() },
        ];
        let sandbox = PodSandboxConfig::default();
        let user = User { uid: 0, gid: 0, groups: vec![0], home: "/root".into() };
        let paths = SandboxPaths { net: Some("/n".into()), ipc: None, uts: None, shm: None, resolv_conf: None, hostname: None };
        let value = build(&Input {
            config: &config,
            sandbox: &sandbox,
            defaults: &ContainerDefaults::default(),
            user: &user,
            paths: &paths,
            rootfs: Path::new("/r"),
            cgroup: "/wharf/p/c",
            devices: &[],
            available: ALL,
        });
        let spec: oci_spec::runtime::Spec = serde_json::from_value(value).unwrap();
        let linux = spec.linux().clone().unwrap();
        assert_eq!(linux.resources().clone().unwrap().memory().unwrap().limit(), Some(1 << 20));
        let destinations: Vec<_> = spec.mounts().clone().unwrap().iter().map(|m| m.destination().display().to_string()).collect();
        let at = |d: &str| destinations.iter().position(|x| x == d).unwrap();
        assert!(at("/a") < at("/a/b"));
        assert!(linux.masked_paths().clone().unwrap().contains(&"/proc/kcore".to_string()));
    }

    #[test]
    fn resolv_conf_has_kubernetes_order() {
        let dns = DnsConfig { servers: strings(&["10.0.0.10"]), searches: strings(&["a.svc", "svc"]), options: strings(&["ndots:5"]) };
        assert_eq!(resolv_conf(&dns), "search a.svc svc\nnameserver 10.0.0.10\noptions ndots:5\n");
    }

    #[test]
    fn signals_have_names_and_numbers() {
        assert_eq!(signal_number("SIGQUIT"), Some(3));
        assert_eq!(signal_number("int"), Some(2));
        assert_eq!(signal_number("9"), Some(9));
        assert_eq!(signal_number("SIGRTMIN+3"), Some(37));
        assert_eq!(signal_number("NOPE"), None);
    }
}
