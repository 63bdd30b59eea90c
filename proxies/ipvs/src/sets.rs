//! The ipsets: which addresses are whose. The rules ask them, so that the number of rules does not grow with that of
//! Services; and they are the memory that tells our virtual servers from those of others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use wharf_core::proxy::{ProxyError, ProxyResult, ServicePortId};
use wharf_core::runtime::Protocol;
use wharf_proxy_plan::Family;

use crate::plan::Key;

/// Most entries of a set.
const MAX_ENTRIES: u32 = 1 << 20;
/// Longest comment that the kernel keeps, in bytes.
const MAX_COMMENT: usize = 255;
/// Most that is kept of an error message, in characters.
const MAX_SAID: usize = 500;
/// Where the program is looked for beyond `PATH`.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin"];

/// What a set is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Cluster addresses with port; also those of Services without endpoints.
    Cluster,
    /// Addresses for traffic from outside that may go to any node, node ports included.
    External,
    /// The same for traffic that stays on this node.
    Local,
    /// Endpoints, as source and destination.
    Hairpin,
    /// What is on the dummy interface.
    Addresses,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [Self::Cluster, Self::External, Self::Local, Self::Hairpin, Self::Addresses];
    /// Those whose entries are virtual servers.
    const SERVERS: [Self; 3] = [Self::Cluster, Self::External, Self::Local];

    /// The set's name: at most 31 characters.
    pub(crate) fn name(self, prefix: &str, family: Family) -> String {
        let kind = match self {
            Self::Cluster => "CLUSTER",
            Self::External => "EXTERNAL",
            Self::Local => "LOCAL",
            Self::Hairpin => "HAIRPIN",
            Self::Addresses => "ADDRESSES",
        };
        format!("{prefix}{}-{kind}", if family == Family::V6 { "6" } else { "" })
    }

    fn create(self) -> &'static str {
        match self {
            Self::Cluster | Self::External | Self::Local => "hash:ip,port",
            Self::Hairpin => "hash:ip,port,ip",
            Self::Addresses => "hash:ip",
        }
    }
}

/// The sets of one family: what is in them, with comments. A set that is not there is not the same as an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Sets(BTreeMap<Kind, BTreeMap<String, String>>);

fn entry(key: &Key) -> String {
    format!("{},{}:{}", key.address.ip(), key.protocol.to_string().to_lowercase(), key.address.port())
}

fn parse_entry(entry: &str) -> Option<Key> {
    let (ip, rest) = entry.split_once(',')?;
    let (protocol, port) = rest.split_once(':')?;
    let protocol: Protocol = protocol.to_uppercase().parse().ok()?;
    Some(Key { protocol, address: SocketAddr::new(ip.parse().ok()?, port.parse().ok()?) })
}

/// Keeps what cannot end a comment or a line.
fn comment(text: &str) -> String {
    text.chars().take(MAX_COMMENT).map(|c| if c.is_ascii_alphanumeric() || " ._:/-".contains(c) { c } else { '_' }).collect()
}

impl Sets {
    /// Every set, empty.
    pub(crate) fn all() -> Self {
        Self(Kind::ALL.into_iter().map(|k| (k, BTreeMap::new())).collect())
    }

    /// Adds an address of a Service port. The first Service keeps an address that two want.
    pub(crate) fn put(&mut self, kind: Kind, key: &Key, id: &str) -> bool {
        if self.has(key) {
            return false;
        }
        self.0.entry(kind).or_default().insert(entry(key), comment(id));
        true
    }
    pub(crate) fn put_hairpin(&mut self, endpoint: &Key) {
        let text = format!("{},{}", entry(endpoint), endpoint.address.ip());
        self.0.entry(Kind::Hairpin).or_default().insert(text, String::new());
    }
    pub(crate) fn put_address(&mut self, ip: IpAddr) {
        self.0.entry(Kind::Addresses).or_default().insert(ip.to_string(), String::new());
    }
    /// Whether this is the address of a Service port.
    pub(crate) fn has(&self, key: &Key) -> bool {
        let entry = entry(key);
        Kind::SERVERS.iter().any(|k| self.0.get(k).is_some_and(|s| s.contains_key(&entry)))
    }
    /// All addresses of Service ports.
    pub(crate) fn keys(&self) -> BTreeSet<Key> {
        Kind::SERVERS.iter().filter_map(|k| self.0.get(k)).flat_map(|s| s.keys()).filter_map(|e| parse_entry(e)).collect()
    }
    /// The cluster addresses, and of which Service port each is.
    pub(crate) fn cluster(&self) -> Vec<(Key, ServicePortId)> {
        let parse = |(entry, id): (&String, &String)| {
            let key = parse_entry(entry)?;
            let (namespace, name) = id.split_once('/')?;
            let (name, port_name) = name.split_once(':').unwrap_or((name, ""));
            let id = ServicePortId { namespace: namespace.into(), name: name.into(), port_name: port_name.into(), protocol: key.protocol };
            Some((key, id))
        };
        self.0.get(&Kind::Cluster).into_iter().flatten().filter_map(parse).collect()
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what `ipset save` printed. Sets of others are passed over.
    pub(crate) fn parse(saved: &str, prefix: &str, family: Family) -> Self {
        let names: BTreeMap<String, Kind> = Kind::ALL.into_iter().map(|k| (k.name(prefix, family), k)).collect();
        let mut out = Self::default();
        for line in saved.lines() {
            let mut words = line.splitn(4, ' ');
            let (verb, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let Some(kind) = names.get(name) else { continue };
            let set = out.0.entry(*kind).or_default();
            if let ("add", Some(entry)) = (verb, words.next()) {
                let comment = words.next().and_then(|rest| rest.strip_prefix("comment \"")?.strip_suffix('"'));
                set.insert(entry.to_owned(), comment.unwrap_or_default().to_owned());
            }
        }
        out
    }

    /// What `ipset restore` needs to make or fill sets so that they hold at least what `wanted` has. Also how many entries.
    pub(crate) fn additions(&self, wanted: &Self, prefix: &str, family: Family) -> (String, usize) {
        let (mut out, mut count) = (String::new(), 0);
        let inet = if family == Family::V4 { "inet" } else { "inet6" };
        for (kind, entries) in &wanted.0 {
            let (name, there) = (kind.name(prefix, family), self.0.get(kind));
            if there.is_none() {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "create {name} {} family {inet} maxelem {MAX_ENTRIES} comment", kind.create());
                count += 1;
            }
            for (entry, comment) in entries {
                if there.and_then(|t| t.get(entry)) != Some(comment) {
                    let said = if comment.is_empty() { String::new() } else { format!(" comment \"{comment}\"") };
                    let _ = writeln!(out, "add {name} {entry}{said}");
                    count += 1;
                }
            }
        }
        (out, count)
    }

    /// What `ipset restore` needs to take out what `wanted` has not.
    pub(crate) fn removals(&self, wanted: &Self, prefix: &str, family: Family) -> (String, usize) {
        let (mut out, mut count) = (String::new(), 0);
        for (kind, entries) in &self.0 {
            let name = kind.name(prefix, family);
            let keep = wanted.0.get(kind);
            for entry in entries.keys().filter(|e| !keep.is_some_and(|k| k.contains_key(*e))) {
                let _ = writeln!(out, "del {name} {entry}");
                count += 1;
            }
        }
        (out, count)
    }

    /// What `ipset restore` needs to remove every set.
    pub(crate) fn destruction(&self, prefix: &str, family: Family) -> String {
        self.0.keys().map(|kind| format!("destroy {}\n", kind.name(prefix, family))).collect()
    }
}

/// The program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ipset(PathBuf);

#[derive(Debug, thiserror::Error)]
#[error("ipset: {0}")]
struct Failure(String);

impl Ipset {
    /// Looks for it; does not run it.
    pub(crate) fn find() -> ProxyResult<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
        folders.map(|f| f.join("ipset")).find(|p| p.is_file()).map(Self).ok_or_else(|| ProxyError::Missing {
            missing: "ipset".into(),
            advice: "install the package `ipset`, or use the proxy over iptables".into(),
        })
    }

    /// Everything that `ipset save` prints. Blocks.
    pub(crate) fn save(&self) -> ProxyResult<String> {
        let output = Command::new(&self.0).arg("save").stdin(Stdio::null()).output();
        let output = output.map_err(|e| ProxyError::permanent("running ipset save", e))?;
        if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(failure(&output.stderr)) }
    }

    /// Carries out text; what is there already, or gone already, is no error. Blocks.
    pub(crate) fn restore(&self, text: &str) -> ProxyResult<()> {
        if text.is_empty() {
            return Ok(());
        }
        let run = || {
            let mut child = Command::new(&self.0)
                .args(["-exist", "restore"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
            let output = child.wait_with_output()?;
            if output.status.success() {
                written?;
            }
            std::io::Result::Ok(output)
        };
        let output = run().map_err(|e| ProxyError::permanent("running ipset restore", e))?;
        if output.status.success() { Ok(()) } else { Err(failure(&output.stderr)) }
    }
}

fn failure(stderr: &[u8]) -> ProxyError {
    let said: String = String::from_utf8_lossy(stderr).trim().chars().take(MAX_SAID).collect();
    if said.contains("Operation not permitted") {
        let advice = format!("run as root or grant the capability (ipset: {said})");
        return ProxyError::Missing { missing: "CAP_NET_ADMIN".into(), advice };
    }
    // A set that a rule just gave up may count as used for a moment.
    let busy = said.contains("in use");
    if busy { ProxyError::transient("changing sets", Failure(said)) } else { ProxyError::permanent("changing sets", Failure(said)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(at: &str) -> Key {
        Key { protocol: Protocol::Tcp, address: at.parse().unwrap() }
    }

    #[test]
    fn what_is_written_reads_back() {
        for (family, at) in [(Family::V4, "10.96.0.1:80"), (Family::V6, "[fd00:96::1]:80")] {
            let mut wanted = Sets::all();
            assert!(wanted.put(Kind::Cluster, &key(at), "a/web:http"));
            assert!(!wanted.put(Kind::External, &key(at), "b/thief"));
            wanted.put_hairpin(&key(at));
            wanted.put_address(key(at).address.ip());
            let (text, _) = Sets::default().additions(&wanted, "W", family);
            let back = Sets::parse(&format!("create OTHER hash:ip\nadd OTHER 10.0.0.1\n{text}"), "W", family);
            assert_eq!(back, wanted);
            assert_eq!(back.additions(&wanted, "W", family).1 + back.removals(&wanted, "W", family).1, 0);
            assert_eq!(back.cluster()[0].1.to_string(), "a/web:http");
            assert_eq!(back.keys(), BTreeSet::from([key(at)]));
        }
    }

    #[test]
    fn only_what_differs_is_touched() {
        let mut before = Sets::all();
        before.put(Kind::Cluster, &key("10.96.0.1:80"), "a/one");
        before.put(Kind::Cluster, &key("10.96.0.2:80"), "a/two");
        let mut after = Sets::all();
        after.put(Kind::Cluster, &key("10.96.0.2:80"), "a/two");
        after.put(Kind::External, &key("10.96.0.3:80"), "a/three");
        assert_eq!(before.additions(&after, "W", Family::V4), ("add W-EXTERNAL 10.96.0.3,tcp:80 comment \"a/three\"\n".to_owned(), 1));
        assert_eq!(before.removals(&after, "W", Family::V4), ("del W-CLUSTER 10.96.0.1,tcp:80\n".to_owned(), 1));
        assert_eq!(before.destruction("W", Family::V4).lines().count(), 5);
    }

    #[test]
    fn comments_cannot_break_out() {
        let mut sets = Sets::default();
        sets.put(Kind::Cluster, &key("10.96.0.1:80"), "a\"\ndestroy x");
        assert_eq!(sets.additions(&sets, "W", Family::V4).1, 0);
        let (text, _) = Sets::default().additions(&sets, "W", Family::V4);
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
