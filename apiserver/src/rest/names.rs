//! Names made from `generateName`, and uids.

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

/// A random uid. From the process's own generator: asking the system costs more than the whole of a small request's routing.
pub(crate) fn uid() -> String {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn uids_are_random_uuids() {
        let (one, other) = (super::uid(), super::uid());
        assert_ne!(one, other);
        assert_eq!(uuid::Uuid::parse_str(&one).unwrap().get_version_num(), 4);
    }

    #[test]
    fn names_stay_short() {
        assert_eq!(super::generate("web-").len(), 9);
        assert_eq!(super::generate(&"ä".repeat(80)).len(), 58 + 5);
    }
}
