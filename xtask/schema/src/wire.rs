//! Reads k8s-pb: the messages, their fields' numbers, and the markers in their comments.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Error, unexpected};

/// A message.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub docs: Docs,
    pub fields: Vec<Field>,
}

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its name with letters and digits only, in lower case: the sources spell it in several ways.
    pub key: String,
    pub number: u32,
    /// `string`, `message`, ..., or `map` for one from strings.
    pub kind: String,
    pub repeated: bool,
    /// The message that it holds, by its key.
    pub message: Option<String>,
    pub docs: Docs,
}

/// A comment.
#[derive(Debug, Default)]
pub(crate) struct Docs {
    pub text: String,
    /// `+name=value`.
    pub markers: Vec<(String, String)>,
}

impl Docs {
    pub(crate) fn marker(&self, name: &str) -> Option<&str> {
        self.markers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.markers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }
}

/// Messages by [`key`].
pub(crate) type Messages = BTreeMap<String, Message>;

/// What a name is found by in both crates: `io.k8s.api.core.v1.Pod` is `api.core.v1.pod`.
pub(crate) fn key(definition: &str) -> String {
    let inside = definition.strip_prefix("io.k8s.").unwrap_or(definition);
    inside.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').map(|c| c.to_ascii_lowercase()).collect()
}

/// The same for a field.
pub(crate) fn field_key(name: &str) -> String {
    name.trim_start_matches("r#").chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

pub(crate) fn read(folder: &Path) -> Result<Messages, Error> {
    let mut messages = BTreeMap::new();
    for path in crate::files(folder)? {
        let inside = path.strip_prefix(folder).unwrap_or(&path);
        let module: Vec<String> = inside.parent().into_iter().flat_map(Path::iter).map(|s| s.to_string_lossy().into_owned()).collect();
        for item in crate::parse(&path)?.items {
            let syn::Item::Struct(item) = item else { continue };
            let fields: Result<Vec<_>, _> = item.fields.iter().filter_map(|f| field(&module, f)).collect();
            let fields = fields.map_err(|what| unexpected(format!("{}: {}", path.display(), item.ident), what))?;
            let name = format!("{}.{}", module.join("."), item.ident);
            messages.insert(key(&name), Message { docs: docs(&item.attrs), fields });
        }
    }
    Ok(messages)
}

fn docs(attributes: &[syn::Attribute]) -> Docs {
    let mut docs = Docs::default();
    let mut lines: Vec<String> = Vec::new();
    for attribute in attributes.iter().filter(|a| a.path().is_ident("doc")) {
        let syn::Meta::NameValue(pair) = &attribute.meta else { continue };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) = &pair.value else { continue };
        let text = text.value();
        match text.trim().strip_prefix('+') {
            Some(marker) => {
                let (name, value) = marker.split_once('=').unwrap_or((marker, ""));
                docs.markers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            None => lines.push(text.trim().to_owned()),
        }
    }
    docs.text = lines.join(" ").trim().to_owned();
    docs
}

fn field(module: &[String], field: &syn::Field) -> Option<Result<Field, String>> {
    let name = field.ident.as_ref()?.to_string();
    let attribute = field.attrs.iter().find(|a| a.path().is_ident("prost"))?;
    let mut kind = String::new();
    let (mut number, mut repeated) = (None, false);
    let read = attribute.parse_nested_meta(|meta| {
        let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
        let value = if meta.input.peek(syn::Token![=]) { meta.value()?.parse::<syn::LitStr>()?.value() } else { String::new() };
        match word.as_str() {
            "optional" | "boxed" | "packed" => {}
            "repeated" => repeated = true,
            "tag" => number = value.parse().ok(),
            "btree_map" => kind = "map".into(),
            _ => kind = word,
        }
        Ok(())
    });
    if let Err(error) = read {
        return Some(Err(format!("{name}: {error}")));
    }
    let Some(number) = number else { return Some(Err(format!("{name}: no tag"))) };
    let message = innermost(&field.ty).map(|path| resolve(module, path));
    Some(Ok(Field { key: field_key(&name), number, kind, repeated, message, docs: docs(&field.attrs) }))
}

/// The path of the type within `Option<Box<..>>`, `Vec<..>` and `BTreeMap<_, ..>`.
fn innermost(ty: &syn::Type) -> Option<&syn::Path> {
    let syn::Type::Path(ty) = ty else { return None };
    if let syn::PathArguments::AngleBracketed(inside) = &ty.path.segments.last()?.arguments
        && let Some(syn::GenericArgument::Type(inner)) = inside.args.last()
    {
        return innermost(inner);
    }
    Some(&ty.path)
}

fn resolve(module: &[String], path: &syn::Path) -> String {
    let mut parts = module.to_vec();
    for segment in &path.segments {
        if segment.ident == "super" {
            parts.pop();
        } else {
            parts.push(segment.ident.to_string());
        }
    }
    key(&parts.join("."))
}
