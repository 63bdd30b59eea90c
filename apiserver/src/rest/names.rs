//! Names made from `generateName`.

/// Letters and digits that spell nothing rude, as Kubernetes uses.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
/// Longest base, so that a name stays a label value.
const MAX_BASE: usize = 63 - SUFFIX;

/// A name from a base.
pub(super) fn generate(base: &str) -> String {
    let cut = base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|end| *end <= MAX_BASE).last().unwrap_or(0);
    let mut name = base[..cut].to_owned();
    for _ in 0..SUFFIX {
        name.push(char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]));
    }
    name
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_stay_short() {
        assert_eq!(super::generate("web-").len(), 9);
        assert_eq!(super::generate(&"ä".repeat(80)).len(), 58 + 5);
    }
}
