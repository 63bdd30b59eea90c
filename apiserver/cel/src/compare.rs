//! Equality and order.

use std::cmp::Ordering;

use serde_json::Value;

use crate::{Budget, EvalError, Val};

/// Whether two values are equal; numbers by what they are worth, sets and map-like lists whatever their order.
pub(crate) fn equal(a: &Val<'_>, b: &Val<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    budget.pay(1)?;
    Ok(match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::Text(a), Val::Text(b)) => {
            budget.walk(a.len().min(b.len()))?;
            a == b
        }
        (Val::Bytes(a), Val::Bytes(b)) => a == b,
        (Val::Type(a), Val::Type(b)) => a == b,
        (Val::Ip(a), Val::Ip(b)) => a == b,
        (Val::Cidr(a), Val::Cidr(b)) => a == b,
        (Val::Optional(a), Val::Optional(b)) => match (a, b) {
            (Some(a), Some(b)) => equal(a, b, budget)?,
            (a, b) => a.is_none() && b.is_none(),
        },
        _ => {
            if let Some(order) = scalars(a, b) {
                return Ok(order == Some(Ordering::Equal));
            }
            if let (Some(left), Some(right)) = (a.items(), b.items()) {
                return lists(a, &left, &right, budget);
            }
            if let (Some(left), Some(right)) = (a.keys(), b.keys()) {
                if left.len() != right.len() {
                    return Ok(false);
                }
                for key in &left {
                    let (Some(x), Some(y)) = (entry(a, key, budget)?, entry(b, key, budget)?) else { return Ok(false) };
                    if !equal(&x, &y, budget)? {
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
            false
        }
    })
}

fn lists(a: &Val<'_>, left: &[Val<'_>], right: &[Val<'_>], budget: &mut Budget) -> Result<bool, EvalError> {
    if left.len() != right.len() {
        return Ok(false);
    }
    let any_order = matches!(a, Val::Json(Value::Array(_), Some(shape), _) if shape.is_set() || !shape.map_keys().is_empty());
    if any_order {
        for x in left {
            if !contains(right, x, budget)? {
                return Ok(false);
            }
        }
        return Ok(true);
    }
    for (x, y) in left.iter().zip(right) {
        if !equal(x, y, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a list holds a value.
pub(crate) fn contains(items: &[Val<'_>], wanted: &Val<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    for item in items {
        if equal(item, wanted, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What stands under a key of a map.
pub(crate) fn entry<'a>(map: &Val<'a>, key: &Val<'_>, budget: &mut Budget) -> Result<Option<Val<'a>>, EvalError> {
    match (map, key) {
        (_, Val::Text(name)) => Ok(map.member(name)),
        (Val::Map(entries), key) => {
            for (k, v) in entries.iter() {
                if equal(k, key, budget)? {
                    return Ok(Some(v.clone()));
                }
            }
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// The order of two scalars: `None` for what has no order, `Some(None)` for what cannot be compared, like NaN.
#[allow(clippy::option_option, reason = "two different answers")]
pub(crate) fn scalars(a: &Val<'_>, b: &Val<'_>) -> Option<Option<Ordering>> {
    let int_double = |int: f64, double: &f64| int.partial_cmp(double);
    Some(match (a, b) {
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
        (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Int(a), Val::Double(b)) => int_double(*a as f64, b),
        (Val::Uint(a), Val::Double(b)) => int_double(*a as f64, b),
        (Val::Double(a), Val::Int(b)) => int_double(*b as f64, a).map(Ordering::reverse),
        (Val::Double(a), Val::Uint(b)) => int_double(*b as f64, a).map(Ordering::reverse),
        (Val::Text(a), Val::Text(b)) => Some(a.cmp(b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::Time(a), Val::Time(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        (Val::Quantity(a), Val::Quantity(b)) => Some(a.cmp(b)),
        _ => return None,
    })
}
