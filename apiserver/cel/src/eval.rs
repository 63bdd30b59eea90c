//! Evaluates what the parser made, a step at a time.

use std::rc::Rc;

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as op};
use jiff::{SignedDuration, Timestamp};

use crate::compare::{contains, entry, equal, scalars};
use crate::{Budget, MAX_MADE, Val, functions};

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A function that does not exist, or not for values of these types.
    #[error("no such overload")]
    NoOverload,
    /// A map has no such key.
    #[error("no such key: {0}")]
    NoKey(String),
    /// A name that stands for nothing.
    #[error("undeclared reference to '{0}' (in container '')")]
    Undeclared(String),
    /// A list is not that long.
    #[error("index out of bounds: {0}")]
    OutOfBounds(i64),
    /// A number became too large.
    #[error("integer overflow")]
    Overflow,
    /// A division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A remainder by zero.
    #[error("modulus by zero")]
    ModulusByZero,
    /// What a function was given is malformed.
    #[error("{0}")]
    Argument(String),
    /// What is made would be too large.
    #[error("the value is too large")]
    TooLarge,
    /// The evaluation took more steps than one may.
    #[error("operation cancelled: actual cost limit exceeded")]
    CallLimit,
    /// All evaluations took more steps than they may.
    #[error("running out of cost budget")]
    OutOfBudget,
}

impl EvalError {
    /// Whether nothing may go on after it.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::CallLimit | Self::OutOfBudget)
    }
}

/// What names stand for, innermost last.
pub(crate) type Scope<'a> = Vec<(String, Val<'a>)>;

/// One evaluation.
#[derive(Debug)]
pub(crate) struct Eval<'a, 'b> {
    pub(crate) scope: Scope<'a>,
    pub(crate) budget: &'b mut Budget,
}

type Found<'a> = Result<Val<'a>, EvalError>;

impl<'a> Eval<'a, '_> {
    pub(crate) fn eval(&mut self, expr: &IdedExpr) -> Found<'a> {
        match &expr.expr {
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(b) => Val::Bool(*b.inner()),
                LiteralValue::Bytes(b) => Val::Bytes(b.inner().into()),
                LiteralValue::Double(d) => Val::Double(*d.inner()),
                LiteralValue::Int(i) => Val::Int(*i.inner()),
                LiteralValue::Null => Val::Null,
                LiteralValue::String(s) => Val::text(s.inner()),
                LiteralValue::UInt(u) => Val::Uint(*u.inner()),
            }),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                self.budget.pay(1)?;
                let operand = self.eval(&select.operand)?;
                let found = field(&operand, &select.field);
                if select.test {
                    return match operand {
                        Val::Map(_) | Val::Json(..) => Ok(Val::Bool(found.is_some())),
                        Val::Optional(inner) => Ok(Val::Bool(inner.is_some_and(|v| field(&v, &select.field).is_some()))),
                        _ => Err(EvalError::NoOverload),
                    };
                }
                if let Val::Optional(inner) = operand {
                    return Ok(Val::Optional(inner.and_then(|v| field(&v, &select.field)).map(Rc::new)));
                }
                found.ok_or_else(|| EvalError::NoKey(select.field.clone()))
            }
            Expr::List(list) => {
                self.budget.pay(10)?;
                let mut items = Vec::new();
                for (i, element) in list.elements.iter().enumerate() {
                    let value = self.eval(element)?;
                    match value {
                        Val::Optional(inner) if list.optional_indices.contains(&i) => items.extend(inner.map(|v| (*v).clone())),
                        value => items.push(value),
                    }
                }
                Ok(Val::List(Rc::new(items)))
            }
            Expr::Map(map) => {
                self.budget.pay(30)?;
                let mut entries = Vec::new();
                for part in &map.entries {
                    let EntryExpr::MapEntry(part) = &part.expr else { return Err(EvalError::NoOverload) };
                    let (key, value) = (self.eval(&part.key)?, self.eval(&part.value)?);
                    match value {
                        Val::Optional(inner) if part.optional => entries.extend(inner.map(|v| (key, (*v).clone()))),
                        value => entries.push((key, value)),
                    }
                }
                Ok(Val::Map(Rc::new(entries)))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Call(call) => self.call(call),
            Expr::Struct(_) | Expr::Unspecified => Err(EvalError::NoOverload),
        }
    }

    fn name(&mut self, name: &str) -> Found<'a> {
        self.budget.pay(1)?;
        if let Some((_, value)) = self.scope.iter().rev().find(|(n, _)| n == name) {
            return Ok(value.clone());
        }
        for kind in ["int", "uint", "double", "bool", "string", "bytes", "list", "map", "type"] {
            if kind == name {
                return Ok(Val::Type(kind));
            }
        }
        Err(EvalError::Undeclared(name.to_owned()))
    }

    fn comprehension(&mut self, c: &ComprehensionExpr) -> Found<'a> {
        self.budget.pay(1)?;
        let range = self.eval(&c.iter_range)?;
        self.budget.walk(range.size().unwrap_or(0))?;
        let start = self.eval(&c.accu_init)?;
        let depth = self.scope.len();
        let steps: Vec<(Val<'a>, Option<Val<'a>>)> = match (range.keys(), range.items(), &c.iter_var2) {
            (Some(keys), _, None) => keys.into_iter().map(|k| (k, None)).collect(),
            (Some(keys), _, Some(_)) => {
                let mut both = Vec::new();
                for key in keys {
                    let value = entry(&range, &key, self.budget)?;
                    both.push((key, value));
                }
                both
            }
            (None, Some(items), None) => items.into_iter().map(|v| (v, None)).collect(),
            (None, Some(items), Some(_)) => items.into_iter().enumerate().map(|(i, v)| (Val::Int(i as i64), Some(v))).collect(),
            (None, None, _) => return Err(EvalError::NoOverload),
        };
        self.scope.push((c.accu_var.clone(), start));
        let mut outcome = Ok(());
        let mut failed = None;
        for (first, second) in steps {
            self.scope.push((c.iter_var.clone(), first));
            if let (Some(name), Some(value)) = (&c.iter_var2, second) {
                self.scope.push((name.clone(), value));
            }
            let step = self.step(c);
            self.scope.truncate(depth + 1);
            match step {
                // What decides outweighs errors of other items.
                Ok(None) => {
                    failed = None;
                    break;
                }
                Ok(Some(value)) => {
                    // A list that grows is walked by what follows.
                    if value.size().is_some_and(|s| s > MAX_MADE) {
                        outcome = Err(EvalError::TooLarge);
                        break;
                    }
                    if let Some((_, accumulated)) = self.scope.last_mut() {
                        *accumulated = value;
                    }
                }
                Err(error) if error.is_final() => {
                    outcome = Err(error);
                    break;
                }
                Err(error) => failed = Some(error),
            }
        }
        if let (Ok(()), Some(error)) = (&outcome, failed) {
            // The last item may have decided as well.
            let decided = matches!(self.eval(&c.loop_cond), Ok(Val::Bool(false)));
            outcome = if decided { Ok(()) } else { Err(error) };
        }
        let result = outcome.and_then(|()| self.eval(&c.result));
        self.scope.truncate(depth);
        result
    }

    fn step(&mut self, c: &ComprehensionExpr) -> Result<Option<Val<'a>>, EvalError> {
        self.budget.pay(1)?;
        match self.eval(&c.loop_cond) {
            Ok(Val::Bool(false)) => return Ok(None),
            Err(error) if error.is_final() => return Err(error),
            _ => {}
        }
        self.eval(&c.loop_step).map(Some)
    }

    fn call(&mut self, call: &CallExpr) -> Found<'a> {
        self.budget.pay(1)?;
        let name = call.func_name.as_str();
        let args = &call.args;
        match (name, args.as_slice()) {
            (op::LOGICAL_AND, [a, b]) => return self.junction(a, b, false),
            (op::LOGICAL_OR, [a, b]) => return self.junction(a, b, true),
            (op::CONDITIONAL, [condition, yes, no]) => {
                return match self.eval(condition)? {
                    Val::Bool(true) => self.eval(yes),
                    Val::Bool(false) => self.eval(no),
                    _ => Err(EvalError::NoOverload),
                };
            }
            (op::NOT_STRICTLY_FALSE, [value]) => {
                return match self.eval(value) {
                    Err(error) if error.is_final() => Err(error),
                    Ok(Val::Bool(false)) => Ok(Val::Bool(false)),
                    _ => Ok(Val::Bool(true)),
                };
            }
            (op::OPT_SELECT, [target, select]) => {
                let target = self.eval(target)?;
                let Val::Text(name) = self.eval(select)? else { return Err(EvalError::NoOverload) };
                let inner = match &target {
                    Val::Optional(None) => return Ok(Val::Optional(None)),
                    Val::Optional(Some(inner)) => (**inner).clone(),
                    other => other.clone(),
                };
                return Ok(Val::Optional(field(&inner, &name).map(Rc::new)));
            }
            _ => {}
        }
        // `optional.of(x)` and the like parse as calls on a name that is none.
        if let Some(target) = &call.target
            && let Expr::Ident(namespace) = &target.expr
            && !self.scope.iter().any(|(n, _)| n == namespace)
        {
            let values = self.all(args)?;
            return functions::namespaced(namespace, name, &values, self.budget);
        }
        let target = call.target.as_ref().map(|t| self.eval(t)).transpose()?;
        let values = self.all(args)?;
        match (target, values.as_slice()) {
            (None, [a]) => unary(name, a, self.budget),
            (None, [a, b]) => binary(name, a, b, self.budget),
            (None, values) => functions::global(name, values, self.budget),
            (Some(target), values) => functions::method(name, &target, values, self.budget),
        }
    }

    fn all(&mut self, exprs: &[IdedExpr]) -> Result<Vec<Val<'a>>, EvalError> {
        exprs.iter().map(|e| self.eval(e)).collect()
    }

    /// `&&` and `||`: what decides outweighs an error of the other side.
    fn junction(&mut self, a: &IdedExpr, b: &IdedExpr, decides: bool) -> Found<'a> {
        let left = self.eval(a);
        match &left {
            Ok(Val::Bool(value)) if *value == decides => return Ok(Val::Bool(decides)),
            Err(error) if error.is_final() => return left,
            _ => {}
        }
        match (left, self.eval(b)) {
            (_, Ok(Val::Bool(value))) if value == decides => Ok(Val::Bool(decides)),
            (Ok(Val::Bool(_)), right @ Ok(Val::Bool(_))) => right,
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            _ => Err(EvalError::NoOverload),
        }
    }
}

/// A field by its name in an expression, where what is no identifier, or reserved, is escaped.
fn field<'a>(value: &Val<'a>, name: &str) -> Option<Val<'a>> {
    value.member(name).or_else(|| if name.contains("__") { value.member(&unescape(name)) } else { None })
}

/// Words of CEL that name nothing.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Whether a text can be the name of a variable.
pub fn is_identifier(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !name.is_empty() && name.bytes().all(inner) && !name.starts_with(|c: char| c.is_ascii_digit()) && !RESERVED.contains(&name)
}

fn unescape(name: &str) -> String {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return word.to_owned();
    }
    name.replace("__dot__", ".").replace("__dash__", "-").replace("__slash__", "/").replace("__underscores__", "__")
}

fn unary<'a>(name: &str, a: &Val<'a>, budget: &mut Budget) -> Found<'a> {
    match (name, a) {
        (op::LOGICAL_NOT, Val::Bool(b)) => Ok(Val::Bool(!b)),
        (op::NEGATE, Val::Int(i)) => i.checked_neg().map(Val::Int).ok_or(EvalError::Overflow),
        (op::NEGATE, Val::Double(d)) => Ok(Val::Double(-d)),
        (op::NEGATE, Val::Duration(d)) => d.checked_neg().map(Val::Duration).ok_or(EvalError::Overflow),
        (op::LOGICAL_NOT | op::NEGATE, _) => Err(EvalError::NoOverload),
        _ => functions::global(name, std::slice::from_ref(a), budget),
    }
}

fn binary<'a>(name: &str, a: &Val<'a>, b: &Val<'a>, budget: &mut Budget) -> Found<'a> {
    let overflow = EvalError::Overflow;
    match name {
        op::EQUALS => return Ok(Val::Bool(equal(a, b, budget)?)),
        op::NOT_EQUALS => return Ok(Val::Bool(!equal(a, b, budget)?)),
        op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
            if let (Val::Text(a), Val::Text(b)) = (a, b) {
                budget.walk(a.len().min(b.len()))?;
            }
            let order = scalars(a, b).ok_or(EvalError::NoOverload)?;
            let holds = order.is_some_and(|order| match name {
                op::LESS => order.is_lt(),
                op::LESS_EQUALS => order.is_le(),
                op::GREATER => order.is_gt(),
                _ => order.is_ge(),
            });
            return Ok(Val::Bool(holds));
        }
        op::IN => {
            budget.walk(b.size().unwrap_or(0))?;
            if let Some(items) = b.items() {
                return Ok(Val::Bool(contains(&items, a, budget)?));
            }
            return match b.keys() {
                Some(_) => Ok(Val::Bool(entry(b, a, budget)?.is_some())),
                None => Err(EvalError::NoOverload),
            };
        }
        op::INDEX => return index(a, b, budget),
        op::OPT_INDEX => {
            let inner = match a {
                Val::Optional(None) => return Ok(Val::Optional(None)),
                Val::Optional(Some(inner)) => (**inner).clone(),
                other => other.clone(),
            };
            return match index(&inner, b, budget) {
                Ok(value) => Ok(Val::Optional(Some(Rc::new(value)))),
                Err(EvalError::NoKey(_) | EvalError::OutOfBounds(_)) => Ok(Val::Optional(None)),
                Err(error) => Err(error),
            };
        }
        _ => {}
    }
    match (name, a, b) {
        (op::ADD, Val::Int(a), Val::Int(b)) => a.checked_add(*b).map(Val::Int).ok_or(overflow),
        (op::SUBSTRACT, Val::Int(a), Val::Int(b)) => a.checked_sub(*b).map(Val::Int).ok_or(overflow),
        (op::MULTIPLY, Val::Int(a), Val::Int(b)) => a.checked_mul(*b).map(Val::Int).ok_or(overflow),
        (op::DIVIDE, Val::Int(_), Val::Int(0)) | (op::DIVIDE, Val::Uint(_), Val::Uint(0)) => Err(EvalError::DivisionByZero),
        (op::MODULO, Val::Int(_), Val::Int(0)) | (op::MODULO, Val::Uint(_), Val::Uint(0)) => Err(EvalError::ModulusByZero),
        (op::DIVIDE, Val::Int(a), Val::Int(b)) => a.checked_div(*b).map(Val::Int).ok_or(overflow),
        (op::MODULO, Val::Int(a), Val::Int(b)) => a.checked_rem(*b).map(Val::Int).ok_or(overflow),
        (op::ADD, Val::Uint(a), Val::Uint(b)) => a.checked_add(*b).map(Val::Uint).ok_or(overflow),
        (op::SUBSTRACT, Val::Uint(a), Val::Uint(b)) => a.checked_sub(*b).map(Val::Uint).ok_or(overflow),
        (op::MULTIPLY, Val::Uint(a), Val::Uint(b)) => a.checked_mul(*b).map(Val::Uint).ok_or(overflow),
        (op::DIVIDE, Val::Uint(a), Val::Uint(b)) => Ok(Val::Uint(a / b)),
        (op::MODULO, Val::Uint(a), Val::Uint(b)) => Ok(Val::Uint(a % b)),
        (op::ADD, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (op::SUBSTRACT, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        (op::MULTIPLY, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        (op::DIVIDE, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        (op::ADD, Val::Text(a), Val::Text(b)) => {
            budget.walk(a.len() + b.len())?;
            if a.len() + b.len() > MAX_MADE {
                return Err(EvalError::TooLarge);
            }
            Ok(Val::text(format!("{a}{b}")))
        }
        (op::ADD, Val::Bytes(a), Val::Bytes(b)) => {
            budget.walk(a.len() + b.len())?;
            Ok(Val::Bytes([&**a, &**b].concat().into()))
        }
        (op::ADD, Val::Time(t), Val::Duration(d)) | (op::ADD, Val::Duration(d), Val::Time(t)) => moved(*t, *d),
        (op::SUBSTRACT, Val::Time(t), Val::Duration(d)) => moved(*t, d.checked_neg().ok_or(overflow)?),
        (op::SUBSTRACT, Val::Time(a), Val::Time(b)) => Ok(Val::Duration(a.duration_since(*b))),
        (op::ADD, Val::Duration(a), Val::Duration(b)) => a.checked_add(*b).map(Val::Duration).ok_or(overflow),
        (op::SUBSTRACT, Val::Duration(a), Val::Duration(b)) => a.checked_sub(*b).map(Val::Duration).ok_or(overflow),
        (op::ADD, a, b) => {
            let (Some(mut left), Some(right)) = (a.items(), b.items()) else { return Err(EvalError::NoOverload) };
            budget.walk(left.len() + right.len())?;
            add_lists(a, &mut left, right, budget)?;
            Ok(Val::List(Rc::new(left)))
        }
        (op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, ..) => Err(EvalError::NoOverload),
        _ => functions::global(name, &[a.clone(), b.clone()], budget),
    }
}

/// Sets hold each item once, and of map-like lists the right one replaces what has the same keys.
fn add_lists<'a>(shape: &Val<'a>, left: &mut Vec<Val<'a>>, right: Vec<Val<'a>>, budget: &mut Budget) -> Result<(), EvalError> {
    let Val::Json(_, Some(list), _) = shape else {
        left.extend(right);
        return Ok(());
    };
    for item in right {
        let mut place = None;
        if list.is_set() || !list.map_keys().is_empty() {
            for (i, old) in left.iter().enumerate() {
                budget.pay(1)?;
                let same = if list.is_set() {
                    equal(old, &item, budget)?
                } else {
                    list.map_keys().iter().all(|key| match (old.member(key), item.member(key)) {
                        (Some(a), Some(b)) => equal(&a, &b, budget).unwrap_or(false),
                        (a, b) => a.is_none() && b.is_none(),
                    })
                };
                if same {
                    place = Some(i);
                    break;
                }
            }
        }
        match place.and_then(|i| left.get_mut(i)) {
            Some(old) => *old = item,
            None => left.push(item),
        }
    }
    Ok(())
}

fn moved<'a>(time: Timestamp, by: SignedDuration) -> Found<'a> {
    time.checked_add(by).map(Val::Time).map_err(|_| EvalError::Overflow)
}

fn index<'a>(a: &Val<'a>, b: &Val<'_>, budget: &mut Budget) -> Found<'a> {
    if a.keys().is_some() {
        let missing = || EvalError::NoKey(functions::shown(b));
        return entry(a, b, budget)?.ok_or_else(missing);
    }
    let at = match b {
        Val::Int(i) => *i,
        Val::Uint(u) => i64::try_from(*u).map_err(|_| EvalError::OutOfBounds(i64::MAX))?,
        Val::Double(d) if d.fract() == 0.0 => *d as i64,
        _ => return Err(EvalError::NoOverload),
    };
    let found = match a {
        Val::List(items) => usize::try_from(at).ok().and_then(|i| items.get(i).cloned()),
        Val::Json(serde_json::Value::Array(items), shape, _) => {
            let item = usize::try_from(at).ok().and_then(|i| items.get(i));
            item.map(|v| Val::of(v, shape.and_then(|s| s.items()), false))
        }
        _ => return Err(EvalError::NoOverload),
    };
    found.ok_or(EvalError::OutOfBounds(at))
}
