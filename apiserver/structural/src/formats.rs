//! The formats that Kubernetes checks; others are not looked at.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::Engine;

/// Whether a text is of a format. A format that Kubernetes does not know says nothing.
pub(crate) fn matches(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "mac" => is_mac(text),
        "hostname" => is_hostname(text),
        "email" => is_email(text),
        "uri" => is_uri(text),
        "bsonobjectid" => text.len() == 24 && is_hex(text),
        "hexcolor" => is_hex_color(text),
        "rgbcolor" => is_rgb_color(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => is_ssn(text),
        _ => true,
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Go's durations, and those with a unit in words (`3 days`).
fn is_duration(text: &str) -> bool {
    const GO: &[&str] = &["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
    const WORDS: &[&str] = &[
        "ns",
        "nano",
        "nanosecond",
        "nanoseconds",
        "nanos",
        "us",
        "µs",
        "micro",
        "micros",
        "microsecond",
        "microseconds",
        "ms",
        "milli",
        "millis",
        "millisecond",
        "milliseconds",
        "s",
        "sec",
        "secs",
        "second",
        "seconds",
        "m",
        "min",
        "mins",
        "minute",
        "minutes",
        "h",
        "hr",
        "hour",
        "hours",
        "d",
        "day",
        "days",
        "w",
        "wk",
        "week",
        "weeks",
    ];
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return true;
    }
    let parts = |units: &[&str], spaces: bool| {
        let mut rest = unsigned;
        let mut any = false;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(digits);
            if !number.bytes().any(|b| b.is_ascii_digit()) || number.matches('.').count() > 1 {
                return false;
            }
            let after = if spaces { after.trim_start() } else { after };
            let letters = after.find(|c: char| !c.is_alphabetic()).unwrap_or(after.len());
            let (unit, after) = after.split_at(letters);
            if !units.contains(&unit) {
                return false;
            }
            any = true;
            rest = if spaces { after.trim_start() } else { after };
        }
        any
    };
    parts(GO, false) || parts(WORDS, true)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let digits = !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
    let length: u8 = if digits { length.parse().unwrap_or(u8::MAX) } else { u8::MAX };
    (address.parse::<Ipv4Addr>().is_ok() && length <= 32) || (address.parse::<Ipv6Addr>().is_ok() && length <= 128)
}

fn is_uuid(text: &str, version: Option<char>) -> bool {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    let dashes = text.len() == 32 || (text.len() == 36 && [8, 13, 18, 23].iter().all(|i| text.as_bytes().get(*i) == Some(&b'-')));
    let is_version = match version {
        None => true,
        Some('3') => plain.as_bytes().get(12) == Some(&b'3'),
        Some(version) => {
            plain.chars().nth(12) == Some(version)
                && plain.chars().nth(16).is_some_and(|c| matches!(c.to_ascii_lowercase(), '8' | '9' | 'a' | 'b'))
        }
    };
    plain.len() == 32 && is_hex(&plain) && dashes && is_version
}

fn is_mac(text: &str) -> bool {
    [':', '-'].iter().any(|separator| {
        let parts: Vec<&str> = text.split(*separator).collect();
        matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|p| p.len() == 2 && is_hex(p))
    }) || {
        let parts: Vec<&str> = text.split('.').collect();
        matches!(parts.len(), 3 | 4 | 10) && parts.iter().all(|p| p.len() == 4 && is_hex(p))
    }
}

fn is_hostname(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !l.starts_with('-') && !l.ends_with('-')
    };
    text.len() <= 255 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let local_ok = !local.is_empty() && local.chars().all(|c| !c.is_whitespace() && !c.is_control() && !"()<>[]:;@\\,\"".contains(c));
    local_ok && !local.starts_with('.') && !local.ends_with('.') && !local.contains("..") && is_hostname(domain)
}

fn is_uri(text: &str) -> bool {
    if text.chars().any(|c| c.is_control() || c == ' ') {
        return false;
    }
    if text.starts_with('/') {
        return true;
    }
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
            && !rest.is_empty()
    })
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && is_hex(digits)
}

fn is_rgb_color(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')'));
    inner.is_some_and(|inner| {
        let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
        parts.len() == 3 && parts.iter().all(|p| p.parse::<u8>().is_ok())
    })
}

fn digits_of(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = digits_of(text);
    let value = |(i, c): (usize, char)| match c {
        'X' | 'x' if i == 9 => Some(10),
        c => c.to_digit(10),
    };
    let values: Option<Vec<u32>> = digits.chars().enumerate().map(value).collect();
    values.is_some_and(|v| v.len() == 10 && v.iter().zip(1..).map(|(d, i)| d * i).sum::<u32>() % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits_of(text).chars().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|v| v.len() == 13 && v.iter().enumerate().map(|(i, d)| d * if i % 2 == 0 { 1 } else { 3 }).sum::<u32>() % 10 == 0)
}

fn is_credit_card(text: &str) -> bool {
    let values: Option<Vec<u32>> = digits_of(text).chars().map(|c| c.to_digit(10)).collect();
    values.is_some_and(|v| {
        let sum: u32 = v
            .iter()
            .rev()
            .enumerate()
            .map(|(i, d)| match (i % 2, d * 2) {
                (0, _) => *d,
                (_, doubled) if doubled > 9 => doubled - 9,
                (_, doubled) => doubled,
            })
            .sum();
        (13..=19).contains(&v.len()) && sum.is_multiple_of(10)
    })
}

fn is_ssn(text: &str) -> bool {
    let parts: Vec<&str> = text.split(['-', ' ']).collect();
    let lengths: Vec<usize> = parts.iter().map(|p| p.len()).collect();
    lengths == [3, 2, 4] && parts.iter().all(|p| p.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        for (format, good, bad) in [
            ("date-time", "2026-01-02T03:04:05Z", "2026-01-02"),
            ("date", "2026-01-02", "2026-13-02"),
            ("duration", "1h30m", "1x"),
            ("duration", "3 days", "days"),
            ("byte", "AAE=", "A"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("uuid", "b69d7b4f-1c2f-4a39-8e5b-4bb9f83f2f62", "b69d7b4f"),
            ("uuid4", "b69d7b4f-1c2f-4a39-8e5b-4bb9f83f2f62", "b69d7b4f-1c2f-3a39-8e5b-4bb9f83f2f62"),
            ("mac", "01:23:45:67:89:ab", "01:23"),
            ("hostname", "a-b.example", "a_b"),
            ("email", "a@b.example", "a.b"),
            ("uri", "https://a/b", "no scheme"),
            ("hexcolor", "#fff", "#ggg"),
            ("rgbcolor", "rgb(1, 2, 3)", "rgb(1,2)"),
            ("isbn13", "978-3-16-148410-0", "978-3-16-148410-1"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
        ] {
            assert!(matches(format, good), "{format} {good}");
            assert!(!matches(format, bad), "{format} {bad}");
        }
        assert!(matches("no-such-format", "x"));
    }
}
