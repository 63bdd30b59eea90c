//! The packet filter rules of a bridge network, in chains of its own.

use std::fmt::Write;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use wharf_core::runtime::Protocol;
use wharf_proxy_plan::{canonical, tokens};

use crate::addresses::Kept;

/// What the rules depend on.
#[derive(Debug, Clone)]
pub(crate) struct Rules<'a> {
    pub(crate) bridge: &'a str,
    pub(crate) range: Ipv4Net,
    /// Not masqueraded when pods send there.
    pub(crate) cluster: &'a [Ipv4Net],
    pub(crate) masquerade: bool,
    /// Whether bridged packets pass through iptables (`br_netfilter`).
    pub(crate) bridged_are_filtered: bool,
}

struct Chain {
    table: &'static str,
    name: String,
    rules: Vec<String>,
    /// Who jumps to it, at the end: what others decided before stays decided.
    jumps: Vec<(&'static str, String)>,
}

impl Rules<'_> {
    fn chain(&self, kind: char) -> String {
        // At most 10 + 15 + 2 characters of 28.
        format!("WHARF-NET-{}-{kind}", self.bridge)
    }

    fn chains(&self, kept: &Kept) -> Vec<Chain> {
        let (range, comment) = (self.range, format!("-m comment --comment \"pod network {}\"", self.bridge));
        let jump = |from, when: &str, to: &str| (from, format!("{when}{comment} -j {to}"));

        let mut leaving = Vec::new();
        if !self.bridged_are_filtered {
            // The answer would go straight to the other pod, which does not know its sender.
            leaving.push(format!("-d {range} -m conntrack --ctstate DNAT -j MASQUERADE"));
        }
        for (ip, _) in host_ports(kept) {
            leaving.push(format!("-s {ip}/32 -d {ip}/32 -m conntrack --ctstate DNAT -j MASQUERADE"));
        }
        if self.masquerade {
            leaving.extend([range].iter().chain(self.cluster).map(|net| format!("-d {net} -j RETURN")));
            leaving.push("-d 224.0.0.0/4 -j RETURN".to_owned());
            leaving.push("-j MASQUERADE --random-fully".to_owned());
        }
        let ports = host_ports(kept).map(|(ip, port)| {
            let protocol = match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            let on = port.host_ip.map(|ip| format!("-d {ip}/32 ")).unwrap_or_default();
            format!("{on}-p {protocol} -m {protocol} --dport {} -j DNAT --to-destination {ip}:{}", port.host_port, port.container_port)
        });
        let (masquerade, host_ports, forward) = (self.chain('M'), self.chain('H'), self.chain('F'));
        vec![
            Chain {
                table: "nat",
                jumps: vec![jump("POSTROUTING", &format!("-s {range} "), &masquerade)],
                name: masquerade,
                rules: leaving,
            },
            Chain {
                table: "nat",
                // Not on loopback, for which route_localnet would be needed.
                jumps: vec![
                    jump("PREROUTING", "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL ", &host_ports),
                    jump("OUTPUT", "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL ", &host_ports),
                ],
                name: host_ports,
                rules: ports.collect(),
            },
            Chain {
                table: "filter",
                // For machines whose policy is to forward nothing.
                jumps: vec![jump("FORWARD", "", &forward)],
                name: forward,
                rules: vec![format!("-s {range} -j ACCEPT"), format!("-d {range} -j ACCEPT")],
            },
        ]
    }

    /// Input for iptables-restore that installs the rules, given what iptables-save printed.
    pub(crate) fn install(&self, kept: &Kept, saved: &str) -> String {
        self.script(self.chains(kept), |out, chain| {
            for rule in &chain.rules {
                let _ = writeln!(out, "-A {} {rule}", chain.name);
            }
            for (from, rule) in &chain.jumps {
                let wanted = canonical(rule);
                let there = saved_rules(saved, chain.table).any(|(c, r)| c == *from && canonical(r) == wanted);
                if !there {
                    let _ = writeln!(out, "-A {from} {rule}");
                }
            }
        })
    }

    /// Input for iptables-restore that removes the rules; `None` if there are none.
    pub(crate) fn remove(&self, saved: &str) -> Option<String> {
        let chains: Vec<_> =
            self.chains(&Kept::default()).into_iter().filter(|chain| saved.contains(&format!(":{} ", chain.name))).collect();
        if chains.is_empty() {
            return None;
        }
        Some(self.script(chains, |out, chain| {
            for (from, rule) in saved_rules(saved, chain.table) {
                if tokens(rule).last().is_some_and(|target| *target == chain.name) {
                    let _ = writeln!(out, "-D {from} {rule}");
                }
            }
            let _ = writeln!(out, "-X {}", chain.name);
        }))
    }

    fn script(&self, chains: Vec<Chain>, each: impl Fn(&mut String, &Chain)) -> String {
        let mut out = String::new();
        for table in ["nat", "filter"] {
            let _ = writeln!(out, "*{table}");
            for chain in chains.iter().filter(|c| c.table == table) {
                // Makes the chain, or empties it.
                let _ = writeln!(out, ":{} - [0:0]", chain.name);
            }
            chains.iter().filter(|c| c.table == table).for_each(|chain| each(&mut out, chain));
            out.push_str("COMMIT\n");
        }
        out
    }
}

fn host_ports(kept: &Kept) -> impl Iterator<Item = (Ipv4Addr, &crate::addresses::HostPort)> {
    kept.sandboxes.values().flat_map(|a| a.ports.iter().map(|p| (a.ip, p)))
}

/// The rules of a table: chain and rule.
fn saved_rules<'a>(saved: &'a str, table: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut inside = false;
    saved.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('*') {
            inside = name == table;
        }
        line.strip_prefix("-A ").filter(|_| inside)?.split_once(' ')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::{Allocation, HostPort};

    fn rules(bridged_are_filtered: bool) -> Rules<'static> {
        Rules { bridge: "wharf0", range: "10.88.0.0/16".parse().unwrap(), cluster: &[], masquerade: true, bridged_are_filtered }
    }
    fn kept() -> Kept {
        let ports = vec![HostPort { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None }];
        Kept { sandboxes: [("a".to_owned(), Allocation { ip: Ipv4Addr::new(10, 88, 0, 2), ports })].into(), ..Kept::default() }
    }

    #[test]
    fn masquerades_only_what_leaves() {
        let text = rules(true).install(&Kept::default(), "");
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} in {text}"));
        assert!(at("-A WHARF-NET-wharf0-M -d 10.88.0.0/16 -j RETURN") < at("-A WHARF-NET-wharf0-M -j MASQUERADE"));
        assert!(!text.contains("--ctstate DNAT"));
        assert!(rules(false).install(&Kept::default(), "").contains("-d 10.88.0.0/16 -m conntrack --ctstate DNAT -j MASQUERADE"));
    }

    #[test]
    fn host_ports_lead_to_their_sandbox() {
        let text = rules(true).install(&kept(), "");
        assert!(text.contains("-A WHARF-NET-wharf0-H -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.88.0.2:80"), "{text}");
    }

    #[test]
    fn jumps_are_made_once_and_removed_alone() {
        let text = rules(true).install(&kept(), "");
        let saved = format!("{text}*nat\n-A POSTROUTING -j DOCKER\n");
        let again = rules(true).install(&kept(), &saved);
        assert!(!again.contains("-A POSTROUTING") && !again.contains("-A FORWARD"), "{again}");
        let removal = rules(true).remove(&saved).unwrap();
        assert_eq!(removal.matches("-D ").count(), 4, "{removal}");
        assert_eq!(removal.matches("-X ").count(), 3);
        assert!(!removal.contains("DOCKER"));
        assert_eq!(rules(true).remove("*nat\n-A POSTROUTING -j DOCKER\n"), None);
    }
}
