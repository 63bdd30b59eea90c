//! Sets of fields from text and to it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use super::{Fields, Kind, Node, Step};

/// What stands for the node itself.
const SELF: &str = ".";

impl<'t> Fields<'t> {
    /// Reads a text; `None` if it is no set of fields.
    pub fn read(text: &'t str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Appends it as text.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        write_node(self, false, out);
    }
}

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        self.write(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

fn write_node(below: &Fields<'_>, member: bool, out: &mut Vec<u8>) {
    out.push(b'{');
    if member && !below.is_empty() {
        out.extend_from_slice(b"\".\":{}");
    }
    for (step, node) in below.iter() {
        if out.last() == Some(&b'}') {
            out.push(b',');
        }
        let kind = match step.kind {
            Kind::Member => b'f',
            Kind::Index => b'i',
            Kind::Keys => b'k',
            Kind::Value => b'v',
        };
        write_string(&[kind, b':'], &step.text, out);
        out.push(b':');
        write_node(&node.below, node.member, out);
    }
    out.push(b'}');
}

/// Appends a JSON string that begins with what needs no escaping.
pub(crate) fn write_string(head: &[u8], text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(head);
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    // What follows is a string of its own, whose first quote gives way. Writing to a vector cannot fail.
    let quote = out.len();
    let _ = serde_json::to_writer(&mut *out, text);
    out.remove(quote);
}

/// A string, borrowed where nothing in it is escaped.
#[derive(Default)]
pub(crate) struct Text<'t>(pub Cow<'t, str>);

impl<'de: 't, 't> Deserialize<'de> for Text<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;
        impl<'de> Visitor<'de> for AnyText {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(AnyText)
    }
}

impl<'t> Step<'t> {
    fn read(name: Cow<'t, str>) -> Option<Self> {
        let kind = match name.get(..2)? {
            "f:" => Kind::Member,
            "i:" => Kind::Index,
            "k:" => Kind::Keys,
            "v:" => Kind::Value,
            _ => return None,
        };
        let text = match name {
            Cow::Borrowed(name) => Cow::Borrowed(name.get(2..)?),
            Cow::Owned(mut name) => {
                name.drain(..2);
                Cow::Owned(name)
            }
        };
        Some(Self { kind, text })
    }
}

impl<'de: 't, 't> Deserialize<'de> for Node<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Trie;
        impl<'de> Visitor<'de> for Trie {
            type Value = Node<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a set of fields")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
                let (mut nodes, mut member) = (Vec::new(), false);
                while let Some(Text(name)) = map.next_key()? {
                    let node: Node<'de> = map.next_value()?;
                    if name == SELF {
                        if !node.below.is_empty() {
                            return Err(A::Error::custom("`.` must be empty"));
                        }
                        member = true;
                        continue;
                    }
                    let step = Step::read(name).ok_or_else(|| A::Error::custom("a step begins with f:, i:, k: or v:"))?;
                    nodes.push((step, node));
                }
                if !nodes.is_sorted_by(|(a, _), (b, _)| a < b) {
                    // Of two of the same name the last counts.
                    nodes.reverse();
                }
                let below = Fields::of(nodes);
                member |= below.is_empty();
                Ok(Node { member, below })
            }
        }
        deserializer.deserialize_map(Trie)
    }
}

impl<'de: 't, 't> Deserialize<'de> for Fields<'t> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Node::deserialize(deserializer).map(|node| node.below)
    }
}
