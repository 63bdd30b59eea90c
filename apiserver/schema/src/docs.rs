//! The documentation of types and fields.

use std::borrow::Cow;

use crate::{Field, Type};

static DEFLATED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/docs.z"));
/// Larger than the text, which a test looks at.
const MAX_TEXT: usize = 4 << 20;

/// The documentation, inflated: about 0.7 MB, which go when it is dropped.
#[derive(Debug)]
pub struct Docs {
    text: String,
    /// Where each line of the text begins, and its end.
    lines: Vec<u32>,
}

impl Docs {
    /// Inflates the documentation, in some milliseconds.
    pub fn load() -> Self {
        let bytes = miniz_oxide::inflate::decompress_to_vec_with_limit(DEFLATED, MAX_TEXT).unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| u32::try_from(at + 1).unwrap_or(u32::MAX));
        let lines = std::iter::once(0).chain(ends).collect();
        Self { text, lines }
    }

    /// What a type is; empty for plain ones, lists and maps.
    pub fn of_type(&self, ty: Type) -> Cow<'_, str> {
        ty.docs_line().map_or(Cow::Borrowed(""), |line| self.line(line))
    }

    /// What a field is for.
    pub fn of_field(&self, field: Field) -> Cow<'_, str> {
        self.line(field.docs_line())
    }

    fn line(&self, line: usize) -> Cow<'_, str> {
        let at = |index: usize| self.lines.get(index).map(|at| *at as usize);
        let text = at(line).zip(at(line + 1)).and_then(|(from, to)| self.text.get(from..to - 1)).unwrap_or_default();
        let text = text.split_once(' ').map_or("", |(_, text)| text);
        if !text.contains('\\') {
            return text.into();
        }
        let mut plain = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => plain.push(if chars.next() == Some('n') { '\n' } else { '\\' }),
                c => plain.push(c),
            }
        }
        plain.into()
    }

    #[cfg(test)]
    pub(crate) fn raw_lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;

    #[test]
    fn tells_of_types_and_fields() {
        let docs = Docs::load();
        let pod = builtin().kind("", "v1", "Pod").unwrap();
        assert!(docs.of_type(pod).starts_with("Pod is a collection of containers"));
        let spec = pod.field("spec").unwrap();
        assert!(docs.of_field(spec).starts_with("Specification of the desired behavior of the pod."));
        let host_users = spec.of().field("hostUsers").unwrap();
        assert!(docs.of_field(host_users).starts_with("Use the host's user namespace."));
        let app_protocol = builtin().named("io.k8s.api.core.v1.ServicePort").unwrap().field("appProtocol").unwrap();
        assert!(docs.of_field(app_protocol).contains("either:\n\n* Un-prefixed"));
    }

    #[test]
    fn has_a_line_for_each_of_the_table() {
        let docs = Docs::load();
        let table = include_str!("../table.txt");
        assert_eq!(docs.raw_lines().count(), table.lines().count());
        for (docs, line) in docs.raw_lines().zip(table.lines()) {
            let (docs, line) = (docs.split(' ').next().unwrap(), line.split(' ').next().unwrap());
            assert!(line.ends_with(docs), "{line} is {docs}");
        }
    }
}
