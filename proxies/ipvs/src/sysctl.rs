//! The kernel's settings that IPVS needs. What they were is kept in comments of a chain that no packet visits, so that a
//! later process can put them back.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use wharf_proxy_plan::{Installed, Match, Names, Rule, Table, Target, tokens};

/// What the comment begins with.
const WAS: &str = "was ";

/// What is set, by path below `/proc/sys`.
///
/// `conn_reuse_mode` stays as it is: since Linux 5.9, both ways work (kubernetes#93297).
const WANTED: [(&str, &str); 3] = [
    // Without, what IPVS redirects cannot be masqueraded.
    ("net/ipv4/vs/conntrack", "1"),
    // A connection to an endpoint that was removed ends, instead of waiting in vain.
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    // A client's affinity ends with its endpoint.
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];
/// For networks where the Services' addresses must not be answered for by every node.
const STRICT_ARP: [(&str, &str); 2] = [("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")];

/// Former values, by path.
pub(crate) type Former = BTreeMap<String, String>;

fn path(key: &str) -> PathBuf {
    Path::new("/proc/sys").join(key)
}

fn read(key: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(path(key))?.trim().to_owned())
}

fn wanted(strict_arp: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    WANTED.into_iter().chain(STRICT_ARP.into_iter().filter(move |_| strict_arp))
}

/// What is recorded, completed by what there is now of those that are to be set and are not recorded.
pub(crate) fn former(installed: &Installed, names: &Names, strict_arp: bool) -> io::Result<Former> {
    let mut former = recorded(installed, names);
    for (key, _) in wanted(strict_arp) {
        if !former.contains_key(key) {
            former.insert(key.to_owned(), read(key)?);
        }
    }
    Ok(former)
}

/// What is recorded.
pub(crate) fn recorded(installed: &Installed, names: &Names) -> Former {
    let rules = installed.chains.get(&(Table::Nat, names.generation()));
    let parse = |rule: &String| {
        let comment = tokens(rule).into_iter().skip_while(|w| w != "--comment").nth(1)?;
        let (key, value) = comment.strip_prefix(WAS)?.split_once(' ')?;
        let known = WANTED.iter().chain(&STRICT_ARP).any(|(k, _)| *k == key);
        known.then(|| (key.to_owned(), value.to_owned()))
    };
    rules.into_iter().flatten().filter_map(parse).collect()
}

/// The record.
pub(crate) fn record(former: &Former) -> Vec<Rule> {
    former.iter().map(|(key, value)| Rule::new([Match::Comment(format!("{WAS}{key} {value}"))], Target::Return)).collect()
}

/// Sets what differs; says how many.
pub(crate) fn set(strict_arp: bool) -> io::Result<usize> {
    let mut count = 0;
    for (key, value) in wanted(strict_arp) {
        if read(key)? != value {
            std::fs::write(path(key), value)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Puts former values back, but for what somebody changed since.
pub(crate) fn restore(former: &Former) -> io::Result<()> {
    for (key, value) in former {
        let ours = WANTED.iter().chain(&STRICT_ARP).find(|(k, _)| k == key).map(|(_, v)| *v);
        match read(key) {
            Ok(now) if Some(now.as_str()) == ours && now != *value => std::fs::write(path(key), value)?,
            Ok(_) => {}
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
    fn the_record_reads_back() {
        let names = Names::default();
        let former = Former::from([("net/ipv4/vs/conntrack".to_owned(), "0".to_owned())]);
        let rules = record(&former).iter().map(Rule::to_string).collect();
        let installed = Installed { chains: BTreeMap::from([((Table::Nat, names.generation()), rules)]), ..Installed::default() };
        assert_eq!(recorded(&installed, &names), former);
    }

    #[test]
    fn only_known_settings_are_put_back() {
        let names = Names::default();
        let rules = vec!["-m comment --comment \"was kernel/panic 1\" -j RETURN".to_owned()];
        let installed = Installed { chains: BTreeMap::from([((Table::Nat, names.generation()), rules)]), ..Installed::default() };
        assert_eq!(recorded(&installed, &names), Former::new());
    }
}
