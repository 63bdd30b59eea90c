//! So many, or a percentage of all.

use serde_json::Value;

use super::{Causes, invalid};

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

fn digits(text: &str) -> Option<&str> {
    text.strip_suffix('%').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))
}

/// A number that is none or more, or a percentage.
pub(super) fn share(amount: &Value, field: &str, causes: &mut Causes) {
    match amount.as_str() {
        Some(text) if digits(text).is_none() => invalid(causes, field, amount, PERCENT),
        None if amount.as_i64().is_some_and(|n| n < 0) => invalid(causes, field, amount, "must be greater than or equal to 0"),
        _ => {}
    }
}

/// Refuses more than 100%.
pub(super) fn not_more_than_all(amount: &Value, field: &str, causes: &mut Causes) {
    // What does not fit a number is more than 100 too.
    if amount.as_str().and_then(digits).is_some_and(|d| !matches!(d.parse(), Ok(0..=100_u64))) {
        invalid(causes, field, amount, "must not be greater than 100%");
    }
}

/// Whether this is none, of however many.
pub(super) fn is_none(amount: Option<&Value>) -> bool {
    match amount {
        Some(Value::String(text)) => digits(text).is_none_or(|d| d.bytes().all(|b| b == b'0')),
        Some(amount) => amount.as_i64() == Some(0),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_of_many() {
        for none in [json!(0), json!("0%"), json!("00%"), json!("a")] {
            assert!(is_none(Some(&none)), "{none}");
        }
        assert!(is_none(None));
        for some in [json!(1), json!("1%"), json!("10%")] {
            assert!(!is_none(Some(&some)), "{some}");
        }
    }
}
