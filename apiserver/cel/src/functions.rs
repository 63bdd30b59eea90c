//! Functions: CEL's own and Kubernetes' libraries, but for those on texts.

use std::net::IpAddr;
use std::rc::Rc;

use base64::Engine;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::compare::{contains, equal, scalars};
use crate::{Budget, EvalError, Val, strings};

type Found<'a> = Result<Val<'a>, EvalError>;

/// Units of a quantity: nano.
const UNIT: i128 = 1_000_000_000;

fn argument<'a>(why: impl Into<String>) -> Found<'a> {
    Err(EvalError::Argument(why.into()))
}

/// A value as a message shows it.
pub(crate) fn shown(value: &Val<'_>) -> String {
    match value {
        Val::Null => "null".to_owned(),
        Val::Bool(b) => b.to_string(),
        Val::Int(i) => i.to_string(),
        Val::Uint(u) => u.to_string(),
        Val::Double(d) => d.to_string(),
        Val::Text(t) => t.to_string(),
        Val::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
        Val::Time(t) => t.to_string(),
        Val::Duration(d) => format!("{}s", decimal(d.as_nanos(), UNIT)),
        Val::Ip(ip) => ip.to_string(),
        Val::Cidr(net) => net.to_string(),
        Val::Quantity(q) => decimal(*q, UNIT),
        Val::Type(name) => (*name).to_owned(),
        Val::Optional(None) => "optional.none()".to_owned(),
        Val::Optional(Some(v)) => format!("optional({})", shown(v)),
        Val::Json(value, ..) => value.to_string(),
        Val::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        Val::Map(entries) => {
            format!("{{{}}}", entries.iter().map(|(k, v)| format!("{}: {}", shown(k), shown(v))).collect::<Vec<_>>().join(", "))
        }
    }
}

fn decimal(value: i128, unit: i128) -> String {
    let (whole, part) = (value / unit, (value % unit).unsigned_abs());
    if part == 0 {
        return whole.to_string();
    }
    let sign = if value < 0 && whole == 0 { "-" } else { "" };
    format!("{sign}{whole}.{:09}", part).trim_end_matches('0').to_owned()
}

/// Go's durations: `1h30m`, `1.5s`.
pub(crate) fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    let mut nanos = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number * scale;
        rest = after;
    }
    let nanos = if negative { -nanos } else { nanos };
    (nanos.abs() < 9.2e18).then(|| SignedDuration::from_nanos(nanos as i64))
}

/// Kubernetes' quantities: `100m`, `1.5Gi`, `1e3`.
fn parse_quantity(text: &str) -> Option<i128> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let scale: f64 = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok().filter(|e| e.abs() <= 18)?),
    };
    if let (Ok(whole), true) = (number.parse::<i64>(), scale >= 1.0) {
        return i128::from(whole).checked_mul(scale as i128)?.checked_mul(UNIT);
    }
    let value: f64 = number.parse().ok().filter(|v: &f64| v.is_finite())?;
    Some((value * scale * UNIT as f64).round() as i128)
}

fn text_of<'v>(value: &'v Val<'_>) -> Result<&'v str, EvalError> {
    match value {
        Val::Text(text) => Ok(text),
        _ => Err(EvalError::NoOverload),
    }
}

/// A function without a target.
pub(crate) fn global<'a>(name: &str, args: &[Val<'a>], budget: &mut Budget) -> Found<'a> {
    let [a] = args else {
        return match (name, args) {
            ("isIP" | "isCIDR", _) => Err(EvalError::NoOverload),
            ("size" | "matches", [target, rest @ ..]) => method(name, target, rest, budget),
            _ => Err(EvalError::NoOverload),
        };
    };
    if let Val::Text(text) = a {
        budget.walk(text.len())?;
    }
    match (name, a) {
        ("size", _) => a.size().map(|s| Val::Int(s as i64)).ok_or(EvalError::NoOverload),
        ("dyn", _) => Ok(a.clone()),
        ("type", _) => Ok(Val::Type(a.type_name())),
        ("string", Val::Json(..) | Val::List(_) | Val::Map(_) | Val::Null | Val::Optional(_) | Val::Type(_)) => Err(EvalError::NoOverload),
        ("string", _) => Ok(Val::text(shown(a))),
        ("bytes", Val::Text(t)) => Ok(Val::Bytes(t.as_bytes().into())),
        ("bool", Val::Bool(b)) => Ok(Val::Bool(*b)),
        ("bool", Val::Text(t)) => match &**t {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Val::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Val::Bool(false)),
            _ => argument("type conversion error from 'string' to 'bool'"),
        },
        ("int", Val::Int(_)) | ("uint", Val::Uint(_)) | ("double", Val::Double(_)) => Ok(a.clone()),
        ("int", Val::Uint(u)) => i64::try_from(*u).map(Val::Int).map_err(|_| EvalError::Overflow),
        ("int", Val::Double(d)) if d.abs() < 9.2e18 => Ok(Val::Int(*d as i64)),
        ("int", Val::Text(t)) => t.parse().map(Val::Int).or_else(|_| argument("type conversion error from 'string' to 'int'")),
        ("int", Val::Time(t)) => Ok(Val::Int(t.as_second())),
        ("uint", Val::Int(i)) => u64::try_from(*i).map(Val::Uint).map_err(|_| EvalError::Overflow),
        ("uint", Val::Text(t)) => t.parse().map(Val::Uint).or_else(|_| argument("type conversion error from 'string' to 'uint'")),
        ("double", Val::Int(i)) => Ok(Val::Double(*i as f64)),
        ("double", Val::Uint(u)) => Ok(Val::Double(*u as f64)),
        ("double", Val::Text(t)) => t.parse().map(Val::Double).or_else(|_| argument("type conversion error from 'string' to 'double'")),
        ("duration", Val::Duration(_)) | ("timestamp", Val::Time(_)) => Ok(a.clone()),
        ("duration", Val::Text(t)) => {
            parse_duration(t).map(Val::Duration).map_or_else(|| argument(format!("time: invalid duration \"{t}\"")), Ok)
        }
        ("timestamp", Val::Text(t)) => t.parse::<Timestamp>().map(Val::Time).or_else(|e| argument(e.to_string())),
        ("timestamp", Val::Int(i)) => Timestamp::from_second(*i).map(Val::Time).map_err(|_| EvalError::Overflow),
        ("ip", Val::Text(t)) => {
            t.parse().map(Val::Ip).or_else(|_| argument(format!("IP Address \"{t}\" parse error during conversion from string")))
        }
        ("isIP", Val::Text(t)) => Ok(Val::Bool(t.parse::<IpAddr>().is_ok())),
        ("cidr", Val::Text(t)) => {
            t.parse().map(Val::Cidr).or_else(|_| argument(format!("network address parse error during conversion from string: {t}")))
        }
        ("isCIDR", Val::Text(t)) => Ok(Val::Bool(t.parse::<IpNet>().is_ok())),
        ("quantity", Val::Text(t)) => parse_quantity(t)
            .map(Val::Quantity)
            .map_or_else(|| argument("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"), Ok),
        ("isQuantity", Val::Text(t)) => Ok(Val::Bool(parse_quantity(t).is_some())),
        ("isURL", Val::Text(t)) => Ok(Val::Bool(strings::is_url(t))),
        _ => Err(EvalError::NoOverload),
    }
}

/// A function of a library with a name: `optional.of(x)`, `math.greatest(..)`, `sets.contains(..)`, `base64.encode(..)`.
pub(crate) fn namespaced<'a>(library: &str, name: &str, args: &[Val<'a>], budget: &mut Budget) -> Found<'a> {
    match (library, name, args) {
        ("optional", "none", []) => Ok(Val::Optional(None)),
        ("optional", "of", [v]) => Ok(Val::Optional(Some(Rc::new(v.clone())))),
        ("optional", "ofNonZeroValue", [v]) => {
            let zero = match v {
                Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) => true,
                Val::Double(d) => *d == 0.0,
                other => other.size() == Some(0),
            };
            Ok(Val::Optional((!zero).then(|| Rc::new(v.clone()))))
        }
        ("math", "greatest" | "least", values) => {
            let list: Vec<Val<'a>> = match values {
                [one] => one.items().unwrap_or_else(|| vec![one.clone()]),
                many => many.to_vec(),
            };
            extreme(&list, name == "greatest", budget)
        }
        ("sets", "contains" | "intersects" | "equivalent", [a, b]) => {
            let (Some(left), Some(right)) = (a.items(), b.items()) else { return Err(EvalError::NoOverload) };
            let mut all = |of: &[Val<'a>], within: &[Val<'a>]| -> Result<(bool, bool), EvalError> {
                let (mut every, mut some) = (true, false);
                for item in of {
                    let found = contains(within, item, budget)?;
                    every &= found;
                    some |= found;
                }
                Ok((every, some))
            };
            let (every, some) = all(&right, &left)?;
            Ok(Val::Bool(match name {
                "contains" => every,
                "intersects" => some,
                _ => every && all(&left, &right)?.0,
            }))
        }
        ("base64", "encode", [Val::Bytes(b)]) => {
            budget.walk(b.len())?;
            Ok(Val::text(base64::engine::general_purpose::STANDARD.encode(b)))
        }
        ("base64", "decode", [Val::Text(t)]) => {
            budget.walk(t.len())?;
            let decoded = base64::engine::general_purpose::STANDARD.decode(t.as_bytes());
            decoded.map(|b| Val::Bytes(b.into())).or_else(|e| argument(e.to_string()))
        }
        ("ip", "isCanonical", [Val::Text(t)]) => Ok(Val::Bool(t.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == **t))),
        _ => Err(EvalError::Undeclared(library.to_owned())),
    }
}

fn extreme<'a>(items: &[Val<'a>], greatest: bool, budget: &mut Budget) -> Found<'a> {
    let mut best: Option<&Val<'a>> = None;
    for item in items {
        budget.pay(1)?;
        let better = match best {
            None => true,
            Some(best) => {
                let order = scalars(item, best).ok_or(EvalError::NoOverload)?;
                order.is_some_and(|o| if greatest { o.is_gt() } else { o.is_lt() })
            }
        };
        if better {
            best = Some(item);
        }
    }
    best.cloned().ok_or_else(|| EvalError::Argument(format!("{} called on empty list", if greatest { "max" } else { "min" })))
}

/// A function of a target.
pub(crate) fn method<'a>(name: &str, target: &Val<'a>, args: &[Val<'a>], budget: &mut Budget) -> Found<'a> {
    match (target, name, args) {
        (_, "size", []) => target.size().map(|s| Val::Int(s as i64)).ok_or(EvalError::NoOverload),
        (Val::Text(text), ..) => strings::method(text, name, args, budget),
        (Val::Optional(inner), "hasValue", []) => Ok(Val::Bool(inner.is_some())),
        (Val::Optional(inner), "value", []) => inner.as_deref().cloned().map_or_else(|| argument("optional.none() dereference"), Ok),
        (Val::Optional(inner), "orValue", [other]) => Ok(inner.as_deref().unwrap_or(other).clone()),
        (Val::Optional(inner), "or", [other]) => Ok(if inner.is_some() { target.clone() } else { other.clone() }),
        (Val::Time(time), ..) => time_part(*time, name, args),
        (Val::Duration(d), "getHours", []) => Ok(Val::Int(d.as_secs() / 3600)),
        (Val::Duration(d), "getMinutes", []) => Ok(Val::Int(d.as_secs() / 60)),
        (Val::Duration(d), "getSeconds", []) => Ok(Val::Int(d.as_secs())),
        (Val::Duration(d), "getMilliseconds", []) => Ok(Val::Int(i64::try_from(d.as_millis()).unwrap_or(i64::MAX))),
        (Val::Ip(ip), _, []) => match name {
            "family" => Ok(Val::Int(if ip.is_ipv4() { 4 } else { 6 })),
            "isLoopback" => Ok(Val::Bool(ip.is_loopback())),
            "isUnspecified" => Ok(Val::Bool(ip.is_unspecified())),
            "isLinkLocalUnicast" => Ok(Val::Bool(match ip {
                IpAddr::V4(v4) => v4.is_link_local(),
                IpAddr::V6(v6) => v6.is_unicast_link_local(),
            })),
            "isGlobalUnicast" => {
                let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4.is_link_local());
                let local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
                Ok(Val::Bool(!(ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() || broadcast || local)))
            }
            _ => Err(EvalError::NoOverload),
        },
        (Val::Cidr(net), "containsIP", [Val::Ip(ip)]) => Ok(Val::Bool(net.contains(ip))),
        (Val::Cidr(net), "containsIP", [Val::Text(t)]) => match t.parse::<IpAddr>() {
            Ok(ip) => Ok(Val::Bool(net.contains(&ip))),
            Err(_) => argument(format!("IP Address \"{t}\" parse error during conversion from string")),
        },
        (Val::Cidr(net), "containsCIDR", [Val::Cidr(other)]) => Ok(Val::Bool(net.contains(other))),
        (Val::Cidr(net), "ip", []) => Ok(Val::Ip(net.addr())),
        (Val::Cidr(net), "masked", []) => Ok(Val::Cidr(net.trunc())),
        (Val::Cidr(net), "prefixLength", []) => Ok(Val::Int(i64::from(net.prefix_len()))),
        (Val::Quantity(q), "isGreaterThan", [Val::Quantity(o)]) => Ok(Val::Bool(q > o)),
        (Val::Quantity(q), "isLessThan", [Val::Quantity(o)]) => Ok(Val::Bool(q < o)),
        (Val::Quantity(q), "compareTo", [Val::Quantity(o)]) => Ok(Val::Int(q.cmp(o) as i64)),
        (Val::Quantity(q), "sign", []) => Ok(Val::Int(q.signum() as i64)),
        (Val::Quantity(q), "isInteger", []) => Ok(Val::Bool(q % UNIT == 0)),
        (Val::Quantity(q), "asInteger", []) if q % UNIT == 0 => i64::try_from(q / UNIT).map(Val::Int).map_err(|_| EvalError::Overflow),
        (Val::Quantity(q), "asApproximateFloat", []) => Ok(Val::Double(*q as f64 / UNIT as f64)),
        (Val::Quantity(q), "add" | "sub", [other]) => {
            let other = match other {
                Val::Quantity(o) => *o,
                Val::Int(i) => i128::from(*i) * UNIT,
                _ => return Err(EvalError::NoOverload),
            };
            let sum = if name == "add" { q.checked_add(other) } else { q.checked_sub(other) };
            sum.map(Val::Quantity).ok_or(EvalError::Overflow)
        }
        _ => list_method(target, name, args, budget),
    }
}

fn list_method<'a>(target: &Val<'a>, name: &str, args: &[Val<'a>], budget: &mut Budget) -> Found<'a> {
    let items = target.items().ok_or(EvalError::NoOverload)?;
    budget.walk(items.len())?;
    match (name, args) {
        ("isSorted", []) => {
            for pair in items.windows(2) {
                let [a, b] = pair else { continue };
                if scalars(a, b).ok_or(EvalError::NoOverload)?.is_none_or(std::cmp::Ordering::is_gt) {
                    return Ok(Val::Bool(false));
                }
            }
            Ok(Val::Bool(true))
        }
        ("sum", []) => {
            let mut sum = Val::Int(0);
            for item in items {
                sum = match (sum, item) {
                    (Val::Int(a), Val::Int(b)) => Val::Int(a.checked_add(b).ok_or(EvalError::Overflow)?),
                    (Val::Int(0), first @ (Val::Double(_) | Val::Duration(_) | Val::Uint(_))) => first,
                    (Val::Double(a), Val::Double(b)) => Val::Double(a + b),
                    (Val::Uint(a), Val::Uint(b)) => Val::Uint(a.checked_add(b).ok_or(EvalError::Overflow)?),
                    (Val::Duration(a), Val::Duration(b)) => Val::Duration(a.checked_add(b).ok_or(EvalError::Overflow)?),
                    _ => return Err(EvalError::NoOverload),
                };
            }
            Ok(sum)
        }
        ("min", []) => extreme(&items, false, budget),
        ("max", []) => extreme(&items, true, budget),
        ("indexOf" | "lastIndexOf", [wanted]) => {
            let mut found = -1;
            for (i, item) in items.iter().enumerate() {
                if equal(item, wanted, budget)? {
                    found = i as i64;
                    if name == "indexOf" {
                        break;
                    }
                }
            }
            Ok(Val::Int(found))
        }
        ("join", rest) => {
            let separator = rest.first().map_or(Ok(""), text_of)?;
            let texts = items.iter().map(text_of).collect::<Result<Vec<_>, _>>()?;
            let length: usize = texts.iter().map(|t| t.len() + separator.len()).sum();
            budget.walk(length)?;
            if length > crate::MAX_MADE { Err(EvalError::TooLarge) } else { Ok(Val::text(texts.join(separator))) }
        }
        ("slice", [Val::Int(from), Val::Int(to)]) => {
            let range = usize::try_from(*from).ok().zip(usize::try_from(*to).ok()).and_then(|(from, to)| items.get(from..to));
            range.map(|r| Val::List(Rc::new(r.to_vec()))).ok_or(EvalError::OutOfBounds(*to))
        }
        ("reverse", []) => Ok(Val::List(Rc::new(items.into_iter().rev().collect()))),
        ("distinct", []) => {
            let mut kept: Vec<Val<'a>> = Vec::new();
            for item in items {
                if !contains(&kept, &item, budget)? {
                    kept.push(item);
                }
            }
            Ok(Val::List(Rc::new(kept)))
        }
        ("flatten", []) => {
            let flat = items.into_iter().flat_map(|item| item.items().unwrap_or_else(|| vec![item]));
            Ok(Val::List(Rc::new(flat.collect())))
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn time_part<'a>(time: Timestamp, name: &str, args: &[Val<'a>]) -> Found<'a> {
    let zone = match args {
        [] => TimeZone::UTC,
        [Val::Text(zone)] if matches!(&**zone, "UTC" | "") => TimeZone::UTC,
        [Val::Text(zone)] => {
            let offset = format!("2000-01-01T00:00:00{}{zone}", if zone.starts_with(['+', '-']) { "" } else { "+" });
            match jiff::fmt::temporal::DateTimeParser::new().parse_pieces(&offset).ok().and_then(|p| p.to_numeric_offset()) {
                Some(offset) => offset.to_time_zone(),
                None => return argument(format!("unknown time zone {zone}")),
            }
        }
        _ => return Err(EvalError::NoOverload),
    };
    let at = time.to_zoned(zone);
    Ok(Val::Int(match name {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDate" => i64::from(at.day()),
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        "getMilliseconds" => i64::from(at.millisecond()),
        _ => return Err(EvalError::NoOverload),
    }))
}
