//! One spelling for one rule: iptables variants print the parts of a rule in different orders and quote differently.

/// Splits a line of iptables-save into its words, as iptables-restore does: blanks separate, double quotes hold together and
/// a backslash in them keeps the next character.
pub fn tokens(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() && !quoted => out.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

/// The canonical spelling of a rule without its `-A CHAIN`: its parts in a fixed order. Two rules with one spelling do the same.
pub fn canonical(rule: &str) -> String {
    let words = tokens(rule);
    let mut parts: Vec<Vec<&str>> = Vec::new();
    let mut negated = false;
    for word in &words {
        let starts = matches!(word.as_str(), "-s" | "-d" | "-p" | "-i" | "-o" | "-m" | "-j" | "-g" | "-f");
        match (word.as_str(), parts.last_mut()) {
            ("!", _) => negated = true,
            (word, Some(last)) if !starts => {
                if std::mem::take(&mut negated) {
                    last.push("!");
                }
                last.push(word);
            }
            (word, _) => parts.push(if std::mem::take(&mut negated) { vec!["!", word] } else { vec![word] }),
        }
    }
    // `-p tcp` implies `-m tcp`; some versions print it without options.
    parts.retain(|p| !(p.len() == 2 && p[0] == "-m" && matches!(p[1], "tcp" | "udp" | "sctp" | "comment")));
    parts.sort();
    // Unit separators: no word holds one.
    parts.iter().map(|p| p.join("\u{1f}")).collect::<Vec<_>>().join("\u{1e}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_quotes_do_not_matter() {
        let a = canonical(r#"-d 10.0.0.1/32 -p tcp -m comment --comment "a b" -m tcp --dport 80 -j X"#);
        let b = canonical(r#"-p tcp -d 10.0.0.1/32 -m tcp --dport 80 -m comment --comment "a\ b" -j X"#);
        assert_eq!(a, b);
    }

    #[test]
    fn negation_belongs_to_its_part() {
        assert_ne!(canonical("! -s 10.0.0.0/8 -d 10.0.0.1/32 -j X"), canonical("-s 10.0.0.0/8 ! -d 10.0.0.1/32 -j X"));
        assert_ne!(canonical("-m mark ! --mark 0x1/0x1 -j X"), canonical("-m mark --mark 0x1/0x1 -j X"));
    }

    #[test]
    fn values_matter() {
        assert_ne!(canonical("-m comment --comment \"a b\" -j X"), canonical("-m comment --comment a -j X"));
    }

    #[test]
    fn unfinished_quotes_end_with_the_line() {
        assert_eq!(tokens("-m comment --comment \"a b"), ["-m", "comment", "--comment", "a b"]);
        assert_eq!(tokens("\"\""), [""]);
    }
}
