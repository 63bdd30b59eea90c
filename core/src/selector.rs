//! Label and field selectors: parsed once, matched often.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Longest string form of a selector, in bytes.
pub const MAX_SELECTOR: usize = 64 << 10;
/// Most requirements in one selector.
pub const MAX_REQUIREMENTS: usize = 1024;
const MAX_NAME: usize = 63;
const MAX_PREFIX: usize = 253;

/// A selector that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// The string form is malformed.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// A key is not a qualified name.
    #[error("key: Invalid value: {0:?}: a qualified name is expected")]
    Key(String),
    /// A value cannot be a label's.
    #[error("values: Invalid value: {0:?}: a label value is expected")]
    Value(String),
    /// An operator is unknown.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
    /// An operator has too many or too few values.
    #[error("{operator}: {message}")]
    Arity {
        /// The operator.
        operator: &'static str,
        /// What it wants.
        message: &'static str,
    },
    /// It is larger than [`MAX_SELECTOR`] or [`MAX_REQUIREMENTS`] allow.
    #[error("the selector is too long")]
    TooLong,
    /// A field cannot be selected by.
    #[error("field label not supported: {0}")]
    Field(String),
}

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// The value is one of those given.
    In,
    /// The label is absent, or its value is none of those given.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is there, and a greater integer.
    Gt,
    /// The label is there, and a smaller integer.
    Lt,
}

impl Operator {
    /// From the word in API objects (`In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt`, `Lt`).
    ///
    /// # Errors
    /// When the word is another.
    pub fn parse(word: &str) -> Result<Self, SelectorError> {
        Ok(match word {
            "In" => Self::In,
            "NotIn" => Self::NotIn,
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            "Gt" => Self::Gt,
            "Lt" => Self::Lt,
            _ => return Err(SelectorError::Operator(word.into())),
        })
    }
    fn name(self) -> &'static str {
        match self {
            Self::In => "In",
            Self::NotIn => "NotIn",
            Self::Exists => "Exists",
            Self::DoesNotExist => "DoesNotExist",
            Self::Gt => "Gt",
            Self::Lt => "Lt",
        }
    }
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted and distinct.
    values: Vec<String>,
}

impl Requirement {
    /// A condition, checked.
    ///
    /// # Errors
    /// When the key or a value cannot be a label's, or the operator wants another number of values.
    pub fn new(key: impl Into<String>, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let key = key.into();
        if !is_qualified_name(&key) {
            return Err(SelectorError::Key(key));
        }
        let arity = |message| Err(SelectorError::Arity { operator: operator.name(), message });
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => return arity("values must be given"),
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => return arity("values must not be given"),
            Operator::Gt | Operator::Lt if values.len() != 1 || values[0].parse::<i64>().is_err() => {
                return arity("exactly one integer must be given");
            }
            Operator::In | Operator::NotIn => {
                if let Some(bad) = values.iter().find(|v| !is_label_value(v)) {
                    return Err(SelectorError::Value(bad.clone()));
                }
            }
            _ => {}
        }
        Ok(Self::unchecked(key, operator, values))
    }

    fn unchecked(key: String, operator: Operator, mut values: Vec<String>) -> Self {
        values.sort_unstable();
        values.dedup();
        Self { key, operator, values }
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }
    /// How it compares.
    pub fn operator(&self) -> Operator {
        self.operator
    }
    /// What it compares with.
    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// Whether a label's value (`None` where it is absent) satisfies the condition.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let among = |v: &str| self.values.iter().any(|x| x == v);
        let compare = |v: &str| Some(v.parse::<i64>().ok()?.cmp(&self.values.first()?.parse::<i64>().ok()?));
        match self.operator {
            Operator::In => value.is_some_and(among),
            Operator::NotIn => !value.is_some_and(among),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => value.and_then(compare).is_some_and(|o| o.is_gt()),
            Operator::Lt => value.and_then(compare).is_some_and(|o| o.is_lt()),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, all) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In if self.values.len() == 1 => write!(f, "{key}={all}"),
            Operator::In => write!(f, "{key} in ({all})"),
            Operator::NotIn if self.values.len() == 1 => write!(f, "{key}!={all}"),
            Operator::NotIn => write!(f, "{key} notin ({all})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Gt => write!(f, "{key}>{all}"),
            Operator::Lt => write!(f, "{key}<{all}"),
        }
    }
}

/// Conditions on labels that must all hold.
///
/// ```
/// use wharf_core::selector::Selector;
/// let selector: Selector = "app=web,tier in (a, b),!legacy".parse()?;
/// let labels = [("app", "web"), ("tier", "b")].map(|(k, v)| (k.to_string(), v.to_string())).into();
/// assert!(selector.matches(&labels));
/// # Ok::<(), wharf_core::selector::SelectorError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Selector {
    /// Without requirements, everything matches, unless `nothing` is set.
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self::default()
    }
    /// Matches nothing.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }
    /// Conditions that must all hold.
    pub fn from_requirements(requirements: Vec<Requirement>) -> Self {
        Self { requirements, nothing: false }
    }
    /// Labels that must all be there with these values; an empty map matches everything.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let one = |(k, v): (&String, &String)| Requirement::unchecked(k.clone(), Operator::In, vec![v.clone()]);
        Self::from_requirements(labels.iter().map(one).collect())
    }
    /// From the form in API objects. An empty selector matches everything.
    ///
    /// # Errors
    /// When a requirement is malformed.
    pub fn from_object(selector: &LabelSelector) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key.as_str(), Operator::In, vec![value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = Operator::parse(&expression.operator)?;
            if matches!(operator, Operator::Gt | Operator::Lt) {
                return Err(SelectorError::Operator(expression.operator.clone()));
            }
            requirements.push(Requirement::new(expression.key.as_str(), operator, expression.values.clone().unwrap_or_default())?);
        }
        if requirements.len() > MAX_REQUIREMENTS {
            return Err(SelectorError::TooLong);
        }
        Ok(Self::from_requirements(requirements))
    }
    /// From the form in API objects; an absent selector matches nothing, as Kubernetes has it.
    ///
    /// # Errors
    /// When a requirement is malformed.
    pub fn from_optional(selector: Option<&LabelSelector>) -> Result<Self, SelectorError> {
        selector.map_or_else(|| Ok(Self::nothing()), Self::from_object)
    }

    /// The conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
    /// Adds a condition.
    pub fn push(&mut self, requirement: Requirement) {
        self.requirements.push(requirement);
    }
    /// Whether everything matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
    /// Whether labels match.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches_value(labels.get(&r.key).map(String::as_str)))
    }
    /// Whether labels match, absent labels being none.
    pub fn matches_opt(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        match labels {
            Some(labels) => self.matches(labels),
            None => !self.nothing && self.requirements.iter().all(|r| r.matches_value(None)),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Selector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR {
            return Err(SelectorError::TooLong);
        }
        let tokens = lex(text);
        let mut parser = Parser { text, tokens: &tokens, at: 0 };
        let mut requirements = Vec::new();
        while parser.at < tokens.len() {
            requirements.push(parser.requirement()?);
            if requirements.len() > MAX_REQUIREMENTS {
                return Err(SelectorError::TooLong);
            }
            match parser.take() {
                None => break,
                Some(",") if parser.at < tokens.len() => {}
                Some(_) => return Err(parser.error()),
            }
        }
        Ok(Self::from_requirements(requirements))
    }
}

fn lex(text: &str) -> Vec<&str> {
    let special = |c: char| c.is_whitespace() || "=!(),<>".contains(c);
    let (mut rest, mut tokens) = (text.trim_start(), Vec::new());
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '=' if rest.starts_with("==") => 2,
            '!' if rest.starts_with("!=") => 2,
            c if special(c) => c.len_utf8(),
            _ => rest.find(special).unwrap_or(rest.len()),
        };
        tokens.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    tokens
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [&'a str],
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).copied()
    }
    fn take(&mut self) -> Option<&'a str> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }
    fn error(&self) -> SelectorError {
        SelectorError::Syntax(format!("{:?} at word {}", self.text, self.at))
    }
    fn word(&mut self) -> Result<&'a str, SelectorError> {
        match self.take() {
            Some(token) if !token.starts_with(['=', '!', '(', ')', ',', '<', '>']) => Ok(token),
            _ => Err(self.error()),
        }
    }
    /// A value may be empty: `a=` or `a=,b`.
    fn value(&mut self) -> Result<String, SelectorError> {
        match self.peek() {
            None | Some("," | ")") => Ok(String::new()),
            Some(_) => self.word().map(Into::into),
        }
    }
    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.peek() == Some("!") {
            self.at += 1;
            return Requirement::new(self.word()?, Operator::DoesNotExist, Vec::new());
        }
        let key = self.word()?;
        let operator = match self.peek() {
            None | Some(",") => return Requirement::new(key, Operator::Exists, Vec::new()),
            Some("=" | "==" | "in") => Operator::In,
            Some("!=" | "notin") => Operator::NotIn,
            Some(">") => Operator::Gt,
            Some("<") => Operator::Lt,
            Some(_) => return Err(self.error()),
        };
        let set = matches!(self.take(), Some("in" | "notin"));
        if !set {
            return Requirement::new(key, operator, vec![self.value()?]);
        }
        if self.take() != Some("(") {
            return Err(self.error());
        }
        let mut values = vec![self.value()?];
        loop {
            match self.take() {
                Some(",") => values.push(self.value()?),
                Some(")") => return Requirement::new(key, operator, values),
                _ => return Err(self.error()),
            }
        }
    }
}

fn is_name(text: &str, most: usize, inner: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= most && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || inner.contains(b))
}

/// Whether text can be a label's key: a name of at most 63 characters, with an optional DNS prefix.
pub fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        None => is_name(text, MAX_NAME, b"-_."),
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name(name, MAX_NAME, b"-_."),
    }
}

/// Whether text is a DNS subdomain (RFC 1123): lower case, at most 253 characters.
pub fn is_dns_subdomain(text: &str) -> bool {
    let part = |p: &str| is_name(p, MAX_PREFIX, b"-") && !p.bytes().any(|b| b.is_ascii_uppercase());
    text.len() <= MAX_PREFIX && text.split('.').all(part)
}

/// Whether text can be a label's value: empty, or a name of at most 63 characters.
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_name(text, MAX_NAME, b"-_.")
}

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// The field's path, such as `spec.nodeName`.
    pub field: String,
    /// Whether the value must be equal, or must differ.
    pub equal: bool,
    /// The value.
    pub value: String,
}

/// Conditions on fields that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// The conditions.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }
    /// Whether everything matches.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
    /// Whether an object matches; `value` reads a field of it, and is `None` for a field that cannot be selected by.
    ///
    /// # Errors
    /// [`SelectorError::Field`] names the field that `value` did not know.
    pub fn matches<'a>(&self, value: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>) -> Result<bool, SelectorError> {
        for requirement in &self.requirements {
            let is = value(&requirement.field).ok_or_else(|| SelectorError::Field(requirement.field.clone()))?;
            if (is == requirement.value) != requirement.equal {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl std::str::FromStr for FieldSelector {
    type Err = SelectorError;
    /// Terms are separated by `,` and compare with `=`, `==` or `!=`; `\` takes the special meaning from `,`, `=` and `\`.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.len() > MAX_SELECTOR {
            return Err(SelectorError::TooLong);
        }
        let mut requirements = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let syntax = || SelectorError::Syntax(format!("{term:?} is not a field requirement"));
            let mut found = None;
            let mut escaped = false;
            for (i, c) in term.char_indices() {
                if !escaped && (c == '=' || term[i..].starts_with("!=")) {
                    found = Some(i);
                    break;
                }
                escaped = c == '\\' && !escaped;
            }
            let at = found.ok_or_else(syntax)?;
            let (equal, skip) = match &term[at..] {
                t if t.starts_with("!=") => (false, 2),
                t if t.starts_with("==") => (true, 2),
                _ => (true, 1),
            };
            let value = unescape(&term[at + skip..]).ok_or_else(syntax)?;
            requirements.push(FieldRequirement { field: term[..at].trim().to_owned(), equal, value });
            if requirements.len() > MAX_REQUIREMENTS {
                return Err(SelectorError::TooLong);
            }
        }
        Ok(Self { requirements })
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut from, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        if c == ',' && !escaped {
            parts.push(&text[from..i]);
            from = i + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[from..]);
    parts
}

fn unescape(text: &str) -> Option<String> {
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            c => out.push(c),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn matches_every_operator() {
        let set = labels(&[("a", "b"), ("n", "7"), ("e", "")]);
        for (text, expected) in [
            ("", true),
            ("a=b", true),
            ("a==b", true),
            ("a = c", false),
            ("a!=c", true),
            ("a!=b", false),
            ("missing!=b", true),
            ("a in (x, b)", true),
            ("a in (x,y)", false),
            ("a notin (x,y)", true),
            ("missing notin (x)", true),
            ("missing in (x)", false),
            ("a", true),
            ("missing", false),
            ("!missing", true),
            ("!a", false),
            ("n>6", true),
            ("n>7", false),
            ("n<8,a=b", true),
            ("a>1", false),
            ("e=", true),
            ("e=,a=b", true),
            ("e in (,x)", true),
            ("a=b,c!=d,a in (b,y),!f,n", true),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().matches(&set), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for text in [
            "a=b,",
            ",a",
            "a in",
            "a in (",
            "a in x",
            "a b",
            "=b",
            "a>x",
            "-a=b",
            "a=-b",
            "a=b=c",
            "!a=b",
            "a/b/c=d",
            "(a)",
            "a=(b",
            "é",
            "é in (ü)",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
        assert_eq!("a=b".repeat(40_000).parse::<Selector>(), Err(SelectorError::TooLong));
    }

    #[test]
    fn prints_what_it_parsed() {
        let text = "a=b,c in (d,e),!f,g,h!=i,j notin (k,l),m>1,n<2";
        let selector: Selector = text.parse().unwrap();
        assert_eq!(selector.to_string(), text);
    }

    #[test]
    fn an_absent_object_matches_nothing_and_an_empty_one_everything() {
        assert!(!Selector::from_optional(None).unwrap().matches(&labels(&[])));
        assert!(Selector::from_optional(Some(&LabelSelector::default())).unwrap().matches_opt(None));
        let bad = serde_json::from_value(serde_json::json!({"matchExpressions":[{"key":"a","operator":"In"}]})).unwrap();
        assert!(matches!(Selector::from_object(&bad), Err(SelectorError::Arity { operator: "In", .. })));
    }

    #[test]
    fn field_selectors_parse_and_match() {
        let fields: FieldSelector = r"metadata.name=a\,b\=c,spec.nodeName!=,status.phase==Running".parse().unwrap();
        assert_eq!(fields.requirements()[0].value, "a,b=c");
        let object = |field: &str| match field {
            "metadata.name" => Some("a,b=c".into()),
            "spec.nodeName" => Some("n1".into()),
            "status.phase" => Some("Running".into()),
            _ => None,
        };
        assert_eq!(fields.matches(object), Ok(true));
        let unknown: FieldSelector = "spec.x=1".parse().unwrap();
        assert_eq!(unknown.matches(object), Err(SelectorError::Field("spec.x".into())));
        assert!("spec.nodeName".parse::<FieldSelector>().is_err());
        assert!("a=b=c".parse::<FieldSelector>().is_err());
        assert!("a=b\\".parse::<FieldSelector>().is_err());
    }
}
