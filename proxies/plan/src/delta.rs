//! From what is installed to what is planned: only the chains that differ.

use std::collections::BTreeMap;

use crate::canonical::{canonical, tokens};
use crate::rule::{Rule, Table};
use crate::{Names, Plan};

/// The part of an installed rule set that concerns a proxy: its own chains, and who jumps to them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installed {
    /// Own chains and their rules, as printed, without `-A CHAIN`.
    pub chains: BTreeMap<(Table, String), Vec<String>>,
    /// Rules of other chains that jump to own ones: the chain and the rule, as printed.
    pub jumps: BTreeMap<Table, Vec<(String, String)>>,
}

impl Installed {
    /// Adds what iptables-save printed. Other tables and chains are passed over.
    pub fn read(&mut self, saved: &str, names: &Names) {
        let mut table = None;
        for line in saved.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|t| t.to_string() == name);
                continue;
            }
            let Some(table) = table else { continue };
            if let Some(declared) = line.strip_prefix(':') {
                let chain = declared.split_whitespace().next().unwrap_or_default();
                if names.owns(chain) {
                    self.chains.entry((table, chain.to_owned())).or_default();
                }
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
                if names.owns(chain) {
                    self.chains.entry((table, chain.to_owned())).or_default().push(rule.to_owned());
                } else if target(rule).is_some_and(|t| names.owns(&t)) {
                    self.jumps.entry(table).or_default().push((chain.to_owned(), rule.to_owned()));
                }
            }
        }
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.values().all(Vec::is_empty)
    }

    /// What has to be done to remove everything.
    pub fn removal(&self) -> Delta {
        let mut delta = Delta::default();
        for (table, jumps) in &self.jumps {
            delta.tables.entry(*table).or_default().delete_rules.clone_from(jumps);
        }
        for (table, chain) in self.chains.keys() {
            delta.tables.entry(*table).or_default().delete_chains.push(chain.clone());
        }
        delta
    }
}

/// What an executor would find installed after a plan was carried out.
impl From<&Plan> for Installed {
    fn from(plan: &Plan) -> Self {
        let mut installed = Self::default();
        for (table, chains) in &plan.tables {
            for (chain, rules) in chains {
                installed.chains.insert((*table, chain.clone()), rules.iter().map(Rule::to_string).collect());
            }
        }
        for (table, jumps) in &plan.jumps {
            installed.jumps.insert(*table, jumps.iter().map(|j| (j.from.to_owned(), j.rule.to_string())).collect());
        }
        installed
    }
}

/// Where a rule goes on.
pub(crate) fn target(rule: &str) -> Option<String> {
    let words = tokens(rule);
    let at = words.iter().rposition(|w| w == "-j" || w == "-g")?;
    words.into_iter().nth(at + 1)
}

/// The work in one table, to be carried out in one transaction in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableDelta {
    /// Chains to write anew, whole.
    pub write: Vec<(String, Vec<Rule>)>,
    /// Rules to put first in built-in chains; the last of the list ends up first.
    pub insert_jumps: Vec<(String, Rule)>,
    /// Rules to delete from chains of others, as printed.
    pub delete_rules: Vec<(String, String)>,
    /// Own chains to empty and delete.
    pub delete_chains: Vec<String>,
}

impl TableDelta {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.insert_jumps.is_empty() && self.delete_rules.is_empty() && self.delete_chains.is_empty()
    }
}

/// The work, by table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Only tables with work.
    pub tables: BTreeMap<Table, TableDelta>,
}

impl Delta {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tables.values().all(TableDelta::is_empty)
    }
    /// How many chains are written and jumps inserted.
    pub fn written(&self) -> usize {
        self.tables.values().map(|t| t.write.len() + t.insert_jumps.len()).sum()
    }
    /// How many chains and jumps are removed.
    pub fn removed(&self) -> usize {
        self.tables.values().map(|t| t.delete_chains.len() + t.delete_rules.len()).sum()
    }
}

/// Most rules are printed as they were written; only the others are worth taking apart.
fn is_same(there: &str, wanted: &str) -> bool {
    there == wanted || canonical(there) == canonical(wanted)
}

pub(crate) fn delta(plan: &Plan, installed: &Installed) -> Delta {
    let mut delta = Delta::default();
    for (table, chains) in &plan.tables {
        let work = delta.tables.entry(*table).or_default();
        for (chain, rules) in chains {
            let same = installed
                .chains
                .get(&(*table, chain.clone()))
                .is_some_and(|there| there.len() == rules.len() && there.iter().zip(rules).all(|(t, r)| is_same(t, &r.to_string())));
            if !same {
                work.write.push((chain.clone(), rules.clone()));
            }
        }
        let mut unexpected: Vec<_> = installed.jumps.get(table).into_iter().flatten().map(|(c, r)| (c.as_str(), canonical(r), r)).collect();
        // Reversed, because each is put in front of the one before.
        for jump in plan.jumps.get(table).into_iter().flatten().rev() {
            let wanted = canonical(&jump.rule.to_string());
            match unexpected.iter().position(|(chain, rule, _)| *chain == jump.from && *rule == wanted) {
                Some(at) => drop(unexpected.remove(at)),
                None => work.insert_jumps.push((jump.from.to_owned(), jump.rule.clone())),
            }
        }
        // Jumps into own chains that the plan does not know: doubles, or from an earlier version.
        work.delete_rules = unexpected.into_iter().map(|(chain, _, rule)| (chain.to_owned(), rule.clone())).collect();
    }
    for (table, chain) in installed.chains.keys() {
        if !plan.tables.get(table).is_some_and(|c| c.contains_key(chain)) {
            delta.tables.entry(*table).or_default().delete_chains.push(chain.clone());
        }
    }
    delta.tables.retain(|_, work| !work.is_empty());
    delta
}
