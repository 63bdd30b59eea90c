//! Services to packet-filter rules, as a pure function.
//!
//! [`Plan::new`] turns a [`ProxyState`] into chains of rules, laid out as kube-proxy's are:
//!
//! ```text
//! nat     PREROUTING, OUTPUT -> WHARF-SERVICES   cluster, external and load balancer addresses
//!                                 -> WHARF-NODEPORTS   node ports, for addresses of this machine
//!                                 -> WHARF-FW-*        who may use a load balancer address
//!                                 -> WHARF-EXT-*       traffic from outside: masquerade, policy
//!                                 -> WHARF-SVC-*       spreads over all endpoints
//!                                 -> WHARF-SVL-*       spreads over this node's endpoints
//!                                 -> WHARF-SEP-*       one endpoint: DNAT
//!         WHARF-MARK-MASQ, WHARF-OFF-CLUSTER     mark what needs masquerading
//!         POSTROUTING -> WHARF-POSTROUTING       masquerades what is marked
//!         WHARF-GENERATION                       never visited; its comment keeps the generation
//! filter  INPUT, FORWARD, OUTPUT -> WHARF-FILTER refuses and drops what found no endpoint
//!         FORWARD -> WHARF-FORWARD               lets Service traffic through
//! ```
//!
//! A packet to a Service that has endpoints leaves `nat` with another destination, so that the rules of
//! `WHARF-FILTER` (which match the Service's own addresses) can never hurt it. An executor may therefore install refusals
//! before, and remove them after, the change in `nat`: no order of tables shows a packet a half-installed Service.
//!
//! [`Plan::delta`] compares a plan with what is [`Installed`] and names only the chains that differ. Nothing here does I/O.

mod canonical;
mod delta;
mod filter;
mod names;
mod nat;
mod observe;
mod rule;
mod script;

use std::collections::BTreeMap;
use std::net::IpAddr;

use wharf_core::proxy::ProxyState;

pub use canonical::{canonical, tokens};
pub use delta::{Delta, Installed, TableDelta};
pub use names::{MAX_PREFIX, Names};
pub use observe::{ObservedPlan, observe};
pub use rule::{Family, Match, Rule, Table, Target};
pub use script::script;

/// What a proxy builds its own plan of, if something other than the nat table spreads its connections.
pub mod parts {
    pub use crate::filter::{Arrival, chains as filter_chains, jumps as filter_jumps};
    pub use crate::nat::{generation, jumps as nat_jumps, off_cluster, postrouting};
}
use filter::Arrival;

/// The packet mark for "masquerade this" unless configured otherwise; the one that kube-proxy uses.
pub const DEFAULT_MARK: u32 = 0x4000;

/// What an embedder may choose about a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOptions {
    /// How chain names start. Two proxies on one machine need different ones.
    pub names: Names,
    /// The mark (one bit) for packets to masquerade.
    pub mark: u32,
    /// Whether to masquerade all Service traffic, not only that which needs it.
    pub masquerade_all: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { names: Names::default(), mark: DEFAULT_MARK, masquerade_all: false }
    }
}

/// The chains of one table, by name.
pub type Chains = BTreeMap<String, Vec<Rule>>;

/// A jump from a built-in chain into one of the plan's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jump {
    /// The built-in chain.
    pub from: &'static str,
    /// The rule that jumps.
    pub rule: Rule,
}

/// Everything that has to be installed for one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of which family its addresses are.
    pub family: Family,
    /// The generation of the state that it was made from.
    pub generation: u64,
    /// The chains by table.
    pub tables: BTreeMap<Table, Chains>,
    /// The jumps by table.
    pub jumps: BTreeMap<Table, Vec<Jump>>,
    names: Names,
}

impl Plan {
    /// The plan for a state. Addresses of another family are left out.
    pub fn new(state: &ProxyState, family: Family, options: &PlanOptions) -> Self {
        let tables = BTreeMap::from([
            (Table::Nat, nat::chains(state, family, options)),
            (Table::Filter, filter::chains(state, family, options, Arrival::Redirected)),
        ]);
        let jumps = BTreeMap::from([(Table::Nat, nat::jumps(options)), (Table::Filter, filter::jumps(options))]);
        Self { family, generation: state.generation, tables, jumps, names: options.names.clone() }
    }

    /// A plan of chains that were made elsewhere, with names of `names`.
    pub fn from_parts(
        family: Family,
        generation: u64,
        tables: BTreeMap<Table, Chains>,
        jumps: BTreeMap<Table, Vec<Jump>>,
        names: Names,
    ) -> Self {
        Self { family, generation, tables, jumps, names }
    }

    /// What has to be done to get from what is installed to this plan.
    pub fn delta(&self, installed: &Installed) -> Delta {
        delta::delta(self, installed)
    }

    /// The names that it uses.
    pub fn names(&self) -> &Names {
        &self.names
    }
}

/// The plan in iptables-save's notation, without counters; for people and for snapshot tests.
impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (table, chains) in &self.tables {
            writeln!(f, "*{table}")?;
            for jump in self.jumps.get(table).into_iter().flatten() {
                writeln!(f, "-A {} {}", jump.from, jump.rule)?;
            }
            for (chain, rules) in chains {
                for rule in rules {
                    writeln!(f, "-A {chain} {rule}")?;
                }
            }
        }
        Ok(())
    }
}

/// Those addresses that are of a family.
pub(crate) fn of_family(addresses: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> + '_ {
    addresses.iter().copied().filter(move |a| family.is_of(*a))
}

#[cfg(test)]
mod tests;
