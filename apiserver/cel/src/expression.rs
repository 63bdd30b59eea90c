//! An expression, parsed once and shared.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr};
use cel::parser::Parser;

use crate::eval::Eval;
use crate::{Budget, EvalError, MAX_DEPTH, MAX_EXPRESSION, Val};

/// Why an expression cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// It is none.
    #[error("compilation failed: {0}")]
    Syntax(String),
    /// It is longer than [`MAX_EXPRESSION`].
    #[error("compilation failed: the expression is longer than {MAX_EXPRESSION} bytes")]
    TooLong,
    /// It is nested too deeply, or has too many operators.
    #[error("compilation failed: the expression is nested deeper than {MAX_DEPTH}, or has more than {MAX_OPERATORS} operators")]
    TooDeep,
    /// It names something that does not exist.
    #[error("compilation failed: undeclared reference to '{0}' (in container '')")]
    Undeclared(String),
}

/// What names stand for in an expression: `self` and `oldSelf`, or those of an admission policy, such as `object`, `oldObject`,
/// `request`, `params`, `namespaceObject` and `variables`.
pub type Variables<'a> = Vec<(String, Val<'a>)>;

/// A compiled expression.
#[derive(Debug)]
pub struct Compiled {
    root: IdedExpr,
    names: Vec<String>,
}

/// Libraries whose functions are called on a name.
const LIBRARIES: &[&str] =
    &["optional", "math", "sets", "base64", "ip", "cidr", "int", "uint", "double", "bool", "string", "bytes", "list", "map", "type"];

impl Compiled {
    /// Parses an expression over some variables.
    ///
    /// # Errors
    /// What is malformed, too long, or names something else than the variables.
    pub fn new(source: &str, variables: &[&str]) -> Result<Self, CompileError> {
        if source.len() > MAX_EXPRESSION {
            return Err(CompileError::TooLong);
        }
        let root = parse(source)?;
        let mut names = Vec::new();
        let mut bound = Vec::new();
        free(&root, &mut bound, &mut names);
        if let Some(unknown) = names.iter().find(|n| !variables.contains(&n.as_str()) && !LIBRARIES.contains(&n.as_str())) {
            return Err(CompileError::Undeclared(unknown.clone()));
        }
        Ok(Self { root, names })
    }

    /// Whether the expression speaks of a variable.
    pub fn uses(&self, name: &str) -> bool {
        self.names.iter().any(|n| n == name)
    }

    /// Evaluates it.
    ///
    /// # Errors
    /// Whatever CEL knows as an error, and a budget that is used up.
    pub fn evaluate<'a>(&self, variables: Variables<'a>, budget: &mut Budget) -> Result<Val<'a>, EvalError> {
        budget.begin();
        Eval { scope: variables, budget }.eval(&self.root)
    }
}

/// Stack of the thread that parses, in bytes: the parser recurses for each operator, and its frames are large.
const PARSE_STACK: usize = 64 << 20;
/// Most operators, selections and brackets of an expression.
const MAX_OPERATORS: usize = 1024;

/// Parses on a stack of its own, so that an expression made for that cannot overflow the server's; a parser that panics is an error.
fn parse(source: &str) -> Result<IdedExpr, CompileError> {
    check_nesting(source)?;
    let source = source.to_owned();
    let work = move || {
        let parser = Parser::new().max_recursion_depth(MAX_DEPTH).enable_optional_syntax(true).enable_ident_escape_syntax(true);
        let root = parser.parse(&source).map_err(|e| CompileError::Syntax(e.to_string()))?;
        if depth(&root) > usize::from(MAX_DEPTH) * 2 {
            return Err(CompileError::TooDeep);
        }
        Ok(root)
    };
    let failed = || CompileError::Syntax("the parser could not be run".to_owned());
    let thread = std::thread::Builder::new().name("cel-parser".to_owned()).stack_size(PARSE_STACK).spawn(work).map_err(|_| failed())?;
    thread.join().unwrap_or_else(|_| Err(failed()))
}

/// Refuses what is nested too deeply before the parser sees it.
fn check_nesting(source: &str) -> Result<(), CompileError> {
    let (mut open, mut conditions, mut operators) = (0_usize, 0_usize, 0_usize);
    let mut quote = None;
    let mut escaped = false;
    for c in source.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => {
                open += 1;
                operators += 1;
            }
            (None, ')' | ']' | '}') => open = open.saturating_sub(1),
            (None, '?') => conditions += 1,
            (None, '.' | '+' | '-' | '*' | '/' | '%' | '!' | '&' | '|' | '=' | '<' | '>' | ',') => operators += 1,
            _ => {}
        }
        if open > usize::from(MAX_DEPTH) || conditions > usize::from(MAX_DEPTH) || operators > MAX_OPERATORS {
            return Err(CompileError::TooDeep);
        }
    }
    Ok(())
}

fn depth(expr: &IdedExpr) -> usize {
    let deepest = |exprs: &mut dyn Iterator<Item = &IdedExpr>| exprs.map(depth).max().unwrap_or(0);
    1 + match &expr.expr {
        Expr::Select(select) => depth(&select.operand),
        Expr::List(list) => deepest(&mut list.elements.iter()),
        Expr::Map(map) => {
            let of = |e: &cel::common::ast::IdedEntryExpr| match &e.expr {
                EntryExpr::MapEntry(part) => depth(&part.key).max(depth(&part.value)),
                EntryExpr::StructField(part) => depth(&part.value),
            };
            map.entries.iter().map(of).max().unwrap_or(0)
        }
        Expr::Call(call) => deepest(&mut call.args.iter().chain(call.target.as_deref())),
        Expr::Comprehension(c) => deepest(&mut [&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result].into_iter()),
        Expr::Struct(s) => s.entries.len(),
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => 0,
    }
}

/// Collects the names that an expression does not bind itself.
fn free(expr: &IdedExpr, bound: &mut Vec<String>, names: &mut Vec<String>) {
    match &expr.expr {
        Expr::Ident(name) => {
            if !bound.contains(name) && !names.contains(name) {
                names.push(name.clone());
            }
        }
        Expr::Select(select) => free(&select.operand, bound, names),
        Expr::List(list) => list.elements.iter().for_each(|e| free(e, bound, names)),
        Expr::Map(map) => {
            for part in &map.entries {
                if let EntryExpr::MapEntry(part) = &part.expr {
                    free(&part.key, bound, names);
                    free(&part.value, bound, names);
                }
            }
        }
        Expr::Call(CallExpr { target, args, .. }) => {
            target.iter().for_each(|t| free(t, bound, names));
            args.iter().for_each(|a| free(a, bound, names));
        }
        Expr::Comprehension(c) => {
            free(&c.iter_range, bound, names);
            free(&c.accu_init, bound, names);
            let depth = bound.len();
            bound.extend([c.accu_var.clone(), c.iter_var.clone()]);
            bound.extend(c.iter_var2.clone());
            free(&c.loop_cond, bound, names);
            free(&c.loop_step, bound, names);
            free(&c.result, bound, names);
            bound.truncate(depth);
        }
        Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may")]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn eval(source: &str, value: &Value) -> Result<bool, EvalError> {
        let compiled = Compiled::new(source, &["self"]).unwrap();
        let mut budget = Budget::object();
        match compiled.evaluate(vec![("self".to_owned(), Val::of(value, None, true))], &mut budget)? {
            Val::Bool(b) => Ok(b),
            other => panic!("{source}: {other:?}"),
        }
    }

    #[test]
    fn what_kubernetes_documents() {
        let value = json!({"minReplicas": 1, "replicas": 2, "maxReplicas": 3, "names": ["a", "b"], "map": {"x": 1}, "health": "ok",
            "widgets": [{"key": "x", "foo": 5}, {"key": "y", "foo": 20}], "when": "2026-01-02T03:04:05Z", "x-prop": 1, "namespace": "n"});
        for source in [
            "self.minReplicas <= self.replicas && self.replicas <= self.maxReplicas",
            "'x' in self.map",
            "self.names.all(n, n.size() == 1) && self.names.exists(n, n == 'b') && self.names.exists_one(n, n == 'a')",
            "has(self.replicas) && !has(self.missing)",
            "self.widgets.exists(w, w.key == 'x' && w.foo < 10)",
            "self.widgets.map(w, w.foo).sum() == 25",
            "self.widgets.filter(w, w.foo > 10).size() == 1",
            "self.health.startsWith('o') && self.health.matches('^o.$')",
            "timestamp(self.when).getFullYear() == 2026",
            "self.x__dash__prop == 1 && self.__namespace__ == 'n'",
            "self.?missing.orValue(3) == 3",
            "quantity('1.5Gi').isGreaterThan(quantity('1G'))",
            "ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3')",
            "'%s-%d'.format(['a', 3]) == 'a-3'",
            "self.names == ['a', 'b'] && self.names + ['c'] == ['a', 'b', 'c']",
            "false || (self.missing == 1 || true)",
            "duration('90s').getMinutes() == 1 && duration('1h') > duration('59m')",
            "sets.contains([1, 2, 3], [2]) && [1, 2].isSorted() && math.greatest(1, 2) == 2",
            "'a,b'.split(',')[1] == 'b' && 'abc'.substring(1) == 'bc' && 'AbC'.lowerAscii() == 'abc'",
            "self.minReplicas == 1.0 && dyn(1) != 'a'",
            "[1, 0].exists(i, 4 / i == 4)",
        ] {
            assert_eq!(eval(source, &value), Ok(true), "{source}");
        }
        assert_eq!(eval("self.missing == 1", &value), Err(EvalError::NoKey("missing".into())));
        assert_eq!(eval("1 / (self.minReplicas - 1) == 1", &value), Err(EvalError::DivisionByZero));
        assert_eq!(eval("self.health > 1", &value), Err(EvalError::NoOverload));
    }

    #[test]
    fn malformed_ones_are_refused() {
        assert!(matches!(Compiled::new("self.a ==", &["self"]), Err(CompileError::Syntax(_))));
        assert_eq!(Compiled::new("other == 1", &["self"]).unwrap_err(), CompileError::Undeclared("other".into()));
        for hostile in ["(", "[", "!", "-", "self.", "self+", "true?true:", "{1:"] {
            assert!(Compiled::new(&hostile.repeat(2000), &["self"]).is_err(), "{hostile}");
            assert!(
                Compiled::new(&format!("{}true", hostile.repeat(60)), &["self"]).is_err() || !hostile.contains(['(', '[', '{']),
                "{hostile}"
            );
        }
        assert_eq!(Compiled::new(&"1".repeat(MAX_EXPRESSION + 1), &["self"]).unwrap_err(), CompileError::TooLong);
    }

    #[test]
    fn hostile_rules_end() {
        let long: Vec<u32> = (0..5000).collect();
        let value = json!({"a": long});
        let nested = "self.a.all(x, self.a.all(y, self.a.all(z, x + y + z >= 0)))";
        assert_eq!(eval(nested, &value), Err(EvalError::CallLimit));
        let grows = "self.a.map(x, self.a).map(y, y.map(z, self.a)).size() > 0";
        assert!(eval(grows, &value).is_err());
        let text = "self.a.map(x, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa').join('b').matches('(a*)*(b|c)*$') && self.a.all(x, self.a.map(y, string(y)).join(',') != 'x')";
        assert_eq!(eval(text, &value), Err(EvalError::CallLimit));
    }
}
