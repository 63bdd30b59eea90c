//! A delta as input for iptables-restore: text, no more.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::{Delta, Installed, Rule, Table, TableDelta};

/// The text that carries out a delta.
///
/// iptables-restore commits table by table. Refusals in `filter` never hurt traffic that `nat` redirects, so that old and new
/// ones stand together while `nat` changes: a packet is served as before or as after, or refused as before or as after.
pub fn script(delta: &Delta, installed: &Installed) -> String {
    let mut out = String::new();
    let filter = delta.tables.get(&Table::Filter).filter(|work| !work.is_empty());
    if let Some(work) = filter {
        table(&mut out, Table::Filter, &with_old(work, installed));
    }
    if let Some(work) = delta.tables.get(&Table::Nat).filter(|work| !work.is_empty()) {
        table(&mut out, Table::Nat, &lines(work));
        // Only worth a second visit where the first left old rules behind.
        if let Some(work) = filter {
            let rest = TableDelta { write: work.write.clone(), delete_chains: work.delete_chains.clone(), ..TableDelta::default() };
            table(&mut out, Table::Filter, &lines(&rest));
        }
    } else if let Some(work) = filter {
        out.clear();
        table(&mut out, Table::Filter, &lines(work));
    }
    out
}

#[derive(Default)]
struct Lines {
    declared: Vec<String>,
    rules: Vec<String>,
}

fn table(out: &mut String, table: Table, lines: &Lines) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "*{table}");
    for line in lines.declared.iter().chain(&lines.rules) {
        let _ = writeln!(out, "{line}");
    }
    out.push_str("COMMIT\n");
}

fn declare(chain: &str) -> String {
    // In restore's noflush mode this makes the chain, or empties it if it is there.
    format!(":{chain} - [0:0]")
}

fn append(chain: &str, rules: &[Rule]) -> Vec<String> {
    rules.iter().map(|rule| format!("-A {chain} {rule}")).collect()
}

fn lines(work: &TableDelta) -> Lines {
    let mut lines = Lines::default();
    for (chain, rules) in &work.write {
        lines.declared.push(declare(chain));
        lines.rules.extend(append(chain, rules));
    }
    lines.rules.extend(work.insert_jumps.iter().map(|(from, rule)| format!("-I {from} 1 {rule}")));
    lines.rules.extend(work.delete_rules.iter().map(|(from, rule)| format!("-D {from} {rule}")));
    // All are emptied before any is deleted: a chain in use cannot be.
    lines.declared.extend(work.delete_chains.iter().map(|c| declare(c)));
    lines.rules.extend(work.delete_chains.iter().map(|c| format!("-X {c}")));
    lines
}

/// The same, with the old rules kept behind the new ones and no chain deleted.
fn with_old(work: &TableDelta, installed: &Installed) -> Lines {
    let old: BTreeMap<&str, &Vec<String>> = installed
        .chains
        .iter()
        .filter(|((table, _), _)| *table == Table::Filter)
        .map(|((_, chain), rules)| (chain.as_str(), rules))
        .collect();
    let mut lines = lines(&TableDelta { delete_chains: Vec::new(), ..work.clone() });
    for (chain, _) in &work.write {
        lines.rules.extend(old.get(chain.as_str()).into_iter().flat_map(|rules| rules.iter()).map(|rule| format!("-A {chain} {rule}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family, Plan, PlanOptions};
    use wharf_core::proxy::{Endpoint, ProxyState, ServicePort};

    fn plan(generation: u64, endpoints: Vec<Endpoint>) -> Plan {
        let web = ServicePort {
            namespace: "a".into(),
            name: "web".into(),
            cluster_ips: vec![[10, 96, 0, 1].into()],
            port: 80,
            endpoints,
            ..ServicePort::default()
        };
        let state = ProxyState { generation, services: vec![web], ..ProxyState::default() };
        Plan::new(&state, Family::V4, &PlanOptions::default())
    }

    #[test]
    fn refusals_stand_while_nat_changes() {
        let served = plan(1, vec![Endpoint::ready([10, 0, 0, 1], 8080)]);
        let refused = plan(2, vec![]);
        for (from, to) in [(&served, &refused), (&refused, &served)] {
            let installed = Installed::from(from);
            let text = script(&to.delta(&installed), &installed);
            let tables: Vec<_> = text.lines().filter(|l| l.starts_with('*')).collect();
            assert_eq!(tables, ["*filter", "*nat", "*filter"]);
            let before_nat = text.split("*nat").next().unwrap();
            assert!(before_nat.contains("REJECT"), "{text}");
        }
    }

    #[test]
    fn chains_are_emptied_before_they_are_deleted() {
        let plan = plan(1, vec![Endpoint::ready([10, 0, 0, 1], 8080)]);
        let installed = Installed::from(&plan);
        let text = script(&installed.removal(), &installed);
        let nat = text.split("*nat").nth(1).unwrap().split("COMMIT").next().unwrap();
        assert!(nat.rfind(" - [0:0]").unwrap() < nat.find("-X ").unwrap());
        assert!(nat.contains("-D PREROUTING -m comment --comment \"service portals\" -j WHARF-SERVICES"));
    }

    #[test]
    fn nothing_to_do_is_no_text() {
        let plan = plan(1, vec![]);
        let installed = Installed::from(&plan);
        assert_eq!(script(&plan.delta(&installed), &installed), "");
    }
}
