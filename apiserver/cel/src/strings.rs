//! Functions on texts.

use std::rc::Rc;

use crate::{Budget, EvalError, MAX_MADE, Val, functions};

type Found<'a> = Result<Val<'a>, EvalError>;

/// Most memory of a regular expression, in bytes.
const MAX_REGEX: usize = 1 << 20;

pub(crate) fn is_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return text.starts_with('/') && !text.contains(' ') };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && !rest.is_empty()
        && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// A regular expression, whose making is paid for.
fn regex(pattern: &str, text: &str, budget: &mut Budget) -> Result<regex::Regex, EvalError> {
    // Kubernetes' estimate: a tenth of the text for each quarter of the pattern.
    let cost = (1 + text.len() as u64 / 10).saturating_mul(1 + pattern.len() as u64 / 4);
    budget.pay(cost.saturating_add(pattern.len() as u64))?;
    let compiled = regex::RegexBuilder::new(pattern).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build();
    compiled.map_err(|e| EvalError::Argument(format!("error parsing regexp: {e}")))
}

fn position(text: &str, byte: Option<usize>) -> Val<'static> {
    Val::Int(byte.map_or(-1, |at| text.get(..at).map_or(0, |t| t.chars().count()) as i64))
}

fn list<'a>(texts: impl Iterator<Item = String>) -> Val<'a> {
    Val::List(Rc::new(texts.map(Val::text).collect()))
}

pub(crate) fn method<'a>(text: &str, name: &str, args: &[Val<'a>], budget: &mut Budget) -> Found<'a> {
    budget.walk(text.len())?;
    let chars = || -> Vec<char> { text.chars().collect() };
    let at = |i: i64| usize::try_from(i).map_err(|_| EvalError::OutOfBounds(i));
    match (name, args) {
        ("contains", [Val::Text(part)]) => Ok(Val::Bool(text.contains(&**part))),
        ("startsWith", [Val::Text(part)]) => Ok(Val::Bool(text.starts_with(&**part))),
        ("endsWith", [Val::Text(part)]) => Ok(Val::Bool(text.ends_with(&**part))),
        ("matches", [Val::Text(pattern)]) => Ok(Val::Bool(regex(pattern, text, budget)?.is_match(text))),
        ("find", [Val::Text(pattern)]) => Ok(Val::text(regex(pattern, text, budget)?.find(text).map_or("", |m| m.as_str()))),
        ("findAll", [Val::Text(pattern), rest @ ..]) => {
            let most = match rest {
                [] => usize::MAX,
                [Val::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => return Err(EvalError::NoOverload),
            };
            let compiled = regex(pattern, text, budget)?;
            Ok(list(compiled.find_iter(text).take(most).map(|m| m.as_str().to_owned())))
        }
        ("lowerAscii", []) => Ok(Val::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::text(text.to_ascii_uppercase())),
        ("trim", []) => Ok(Val::text(text.trim())),
        ("reverse", []) => Ok(Val::text(text.chars().rev().collect::<String>())),
        ("charAt", [Val::Int(i)]) => match chars().get(at(*i)?) {
            Some(c) => Ok(Val::text(c.to_string())),
            None if *i == text.chars().count() as i64 => Ok(Val::text("")),
            None => Err(EvalError::OutOfBounds(*i)),
        },
        ("indexOf", [Val::Text(part)]) => Ok(position(text, text.find(&**part))),
        ("lastIndexOf", [Val::Text(part)]) => Ok(position(text, text.rfind(&**part))),
        ("substring", [Val::Int(from), rest @ ..]) => {
            let all = chars();
            let to = match rest {
                [] => all.len() as i64,
                [Val::Int(to)] => *to,
                _ => return Err(EvalError::NoOverload),
            };
            let part = all.get(at(*from)?..at(to)?);
            part.map(|p| Val::text(p.iter().collect::<String>())).ok_or(EvalError::OutOfBounds(to))
        }
        ("split", [Val::Text(separator), rest @ ..]) => {
            let parts: Vec<String> = match rest {
                [] => parts(text, separator, usize::MAX),
                [Val::Int(0)] => Vec::new(),
                [Val::Int(n)] => parts(text, separator, usize::try_from(*n).unwrap_or(usize::MAX)),
                _ => return Err(EvalError::NoOverload),
            };
            Ok(list(parts.into_iter()))
        }
        ("replace", [Val::Text(from), Val::Text(to), rest @ ..]) => {
            let most = match rest {
                [] => usize::MAX,
                [Val::Int(n)] => usize::try_from(*n).unwrap_or(usize::MAX),
                _ => return Err(EvalError::NoOverload),
            };
            let count = if from.is_empty() { text.chars().count() + 1 } else { text.matches(&**from).count() }.min(most);
            let length = text.len().saturating_add(count.saturating_mul(to.len()));
            budget.walk(length)?;
            if length > MAX_MADE { Err(EvalError::TooLarge) } else { Ok(Val::text(text.replacen(&**from, to, most))) }
        }
        ("format", [args]) => {
            let args = args.items().ok_or(EvalError::NoOverload)?;
            let made = format(text, &args)?;
            budget.walk(made.len())?;
            Ok(Val::text(made))
        }
        _ => functions::global(name, &[], budget),
    }
}

fn parts(text: &str, separator: &str, most: usize) -> Vec<String> {
    if separator.is_empty() {
        return text.chars().map(String::from).collect();
    }
    text.splitn(most, separator).map(str::to_owned).collect()
}

/// `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o` and `%%`, with a precision.
fn format(text: &str, args: &[Val<'_>]) -> Result<String, EvalError> {
    let malformed = || EvalError::Argument(format!("could not parse formatting clause in {text:?}"));
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if out.len() > MAX_MADE {
            return Err(EvalError::TooLarge);
        }
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut clause = chars.next().ok_or_else(malformed)?;
        if clause == '%' {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if clause == '.' {
            let mut digits = String::new();
            clause = chars.next().ok_or_else(malformed)?;
            while clause.is_ascii_digit() && digits.len() < 3 {
                digits.push(clause);
                clause = chars.next().ok_or_else(malformed)?;
            }
            precision = digits.parse::<usize>().ok();
        }
        let value = args.next().ok_or_else(|| EvalError::Argument("index out of range for formatting argument".to_owned()))?;
        let number = match value {
            Val::Double(d) => Some(*d),
            Val::Int(i) => Some(*i as f64),
            Val::Uint(u) => Some(*u as f64),
            _ => None,
        };
        match (clause, value) {
            ('s', value) => out.push_str(&functions::shown(value)),
            ('d', Val::Int(_) | Val::Uint(_) | Val::Double(_)) => out.push_str(&functions::shown(value)),
            ('f', _) => out.push_str(&format!("{:.*}", precision.unwrap_or(6), number.ok_or(EvalError::NoOverload)?)),
            ('e', _) => out.push_str(&format!("{:.*e}", precision.unwrap_or(6), number.ok_or(EvalError::NoOverload)?)),
            ('b', Val::Int(i)) => out.push_str(&format!("{i:b}")),
            ('b', Val::Bool(b)) => out.push_str(if *b { "1" } else { "0" }),
            ('x', Val::Int(i)) => out.push_str(&format!("{i:x}")),
            ('X', Val::Int(i)) => out.push_str(&format!("{i:X}")),
            ('o', Val::Int(i)) => out.push_str(&format!("{i:o}")),
            ('x' | 'X', Val::Text(t)) => t.bytes().for_each(|b| {
                let hex = format!("{b:02x}");
                out.push_str(&if clause == 'X' { hex.to_uppercase() } else { hex });
            }),
            _ => return Err(malformed()),
        }
    }
    Ok(out)
}
