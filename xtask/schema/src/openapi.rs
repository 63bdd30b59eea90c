//! Reads k8s-openapi: the types' names, kinds and JSON schemas, out of the `json_schema!` literals.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::path::Path;

use proc_macro2::token_stream::IntoIter;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use serde_json::{Map, Value, json};

use crate::{Error, unexpected};

/// A type of the API.
#[derive(Debug, Default)]
pub(crate) struct Type {
    /// Its schema, with `$ref` as the name of a type.
    pub schema: Value,
    /// Group, version, kind of one that is a resource or stands by itself.
    pub kind: Option<(String, String, String)>,
    /// The kind of its list.
    pub list: Option<String>,
}

/// Types by the name of their definition: `io.k8s.api.core.v1.Pod`.
pub(crate) type Types = BTreeMap<String, Type>;

pub(crate) fn read(folder: &Path) -> Result<Types, Error> {
    let mut types: BTreeMap<String, Type> = BTreeMap::new();
    for path in crate::files(folder)? {
        let place = path.display().to_string();
        let file = crate::parse(&path)?;
        let inside = path.strip_prefix(folder).unwrap_or(&path);
        let module: Vec<String> = inside.parent().into_iter().flat_map(Path::iter).map(|s| s.to_string_lossy().into_owned()).collect();
        for item in &file.items {
            let syn::Item::Impl(item) = item else { continue };
            let (Some((_, of, _)), syn::Type::Path(this)) = (&item.trait_, &*item.self_ty) else { continue };
            let (Some(of), Some(this)) = (of.segments.last(), this.path.segments.last()) else { continue };
            if !item.generics.params.is_empty() {
                continue;
            }
            let name = definition(module.iter().map(String::as_str).chain([this.ident.to_string().as_str()]));
            let entry = types.entry(name).or_default();
            match of.ident.to_string().as_str() {
                "JsonSchema" => entry.schema = schema(item).ok_or_else(|| unexpected(&place, "not a json_schema! literal"))?,
                "Resource" => {
                    let text = |name| constant(item, name).ok_or_else(|| unexpected(&place, name));
                    entry.kind = Some((text("GROUP")?, text("VERSION")?, text("KIND")?));
                }
                "ListableResource" => entry.list = constant(item, "LIST_KIND"),
                _ => {}
            }
        }
    }
    types.retain(|_, t| !t.schema.is_null());
    Ok(types)
}

/// `io.k8s.api.core.v1.Pod` from the path of a module and a type.
fn definition<'a>(path: impl Iterator<Item = &'a str>) -> String {
    let parts: Vec<String> = path.map(|s| s.trim_start_matches("r#").replace('_', "-")).collect();
    format!("io.k8s.{}", parts.join("."))
}

fn constant(item: &syn::ItemImpl, name: &str) -> Option<String> {
    item.items.iter().find_map(|i| match i {
        syn::ImplItem::Const(c) if c.ident == name => match &c.expr {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

fn schema(item: &syn::ItemImpl) -> Option<Value> {
    let body = item.items.iter().find_map(|i| match i {
        syn::ImplItem::Fn(f) if f.sig.ident == "json_schema" => Some(&f.block),
        _ => None,
    })?;
    match body.stmts.first()? {
        syn::Stmt::Macro(m) => value(&mut m.mac.tokens.clone().into_iter().peekable()),
        syn::Stmt::Expr(syn::Expr::Macro(m), _) => value(&mut m.mac.tokens.clone().into_iter().peekable()),
        _ => None,
    }
}

/// One value of the literal.
fn value(tokens: &mut Peekable<IntoIter>) -> Option<Value> {
    match tokens.next()? {
        TokenTree::Literal(literal) => match syn::Lit::new(literal) {
            syn::Lit::Str(text) => Some(text.value().into()),
            syn::Lit::Int(number) => number.base10_parse::<i64>().ok().map(Value::from),
            syn::Lit::Float(number) => number.base10_parse::<f64>().ok().map(Value::from),
            _ => None,
        },
        TokenTree::Ident(ident) if ident == "__gen" => reference(tokens),
        TokenTree::Ident(ident) => ident.to_string().parse::<bool>().ok().map(Value::from),
        TokenTree::Group(group) => {
            let mut inner = group.stream().into_iter().peekable();
            match group.delimiter() {
                Delimiter::Brace if matches!(inner.peek(), Some(TokenTree::Ident(i)) if i == "let") => block(group.stream()),
                Delimiter::Brace => object(&mut inner),
                Delimiter::Bracket => {
                    let mut items = Vec::new();
                    while inner.peek().is_some() {
                        items.push(value(&mut inner)?);
                        inner.next();
                    }
                    Some(items.into())
                }
                _ => value(&mut inner),
            }
        }
        TokenTree::Punct(_) => None,
    }
}

fn object(tokens: &mut Peekable<IntoIter>) -> Option<Value> {
    let mut map = Map::new();
    while let Some(key) = tokens.next() {
        let TokenTree::Literal(key) = key else { return None };
        let syn::Lit::Str(key) = syn::Lit::new(key) else { return None };
        tokens.next();
        map.insert(key.value(), value(tokens)?);
        tokens.next();
    }
    Some(map.into())
}

/// `.subschema_for::<crate::a::B>()`.
fn reference(tokens: &mut Peekable<IntoIter>) -> Option<Value> {
    let mut path = Vec::new();
    for token in tokens.by_ref() {
        match token {
            TokenTree::Ident(ident) => path.push(ident.to_string()),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => break,
            _ => {}
        }
    }
    let inside = path.strip_prefix(&["subschema_for".to_owned(), "crate".to_owned()])?;
    Some(json!({"$ref": definition(inside.iter().map(String::as_str))}))
}

/// A reference that gets more: `{ let mut s = __gen.subschema_for::<T>(); s.ensure_object().insert("description".into(), "...".into()); s }`.
fn block(stream: TokenStream) -> Option<Value> {
    let mut tokens = stream.into_iter().peekable();
    let mut found = None;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Ident(ident) if ident == "__gen" => found = reference(&mut tokens),
            TokenTree::Ident(ident) if ident == "insert" => {
                let TokenTree::Group(arguments) = tokens.next()? else { return None };
                let texts: Vec<String> = arguments
                    .stream()
                    .into_iter()
                    .filter_map(|t| match t {
                        TokenTree::Literal(l) => match syn::Lit::new(l) {
                            syn::Lit::Str(text) => Some(text.value()),
                            _ => None,
                        },
                        _ => None,
                    })
                    .collect();
                if let ([key, value], Some(Value::Object(map))) = (&texts[..], &mut found) {
                    map.insert(key.clone(), value.clone().into());
                }
            }
            _ => {}
        }
    }
    found
}
