//! Where a page of a list ended: the tokens that clients bring back.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use wharf_core::api::ApiError;
use wharf_core::store::{Key, Revision};

use super::status;
use crate::resources::Resource;

const VERSION: &str = "meta.k8s.io/v1";
/// Stands for whatever state is newest, where the one that the list began with is forgotten.
const NEWEST: i64 = -1;

#[derive(Debug, Serialize, Deserialize)]
struct Token {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Continuation {
    /// The state to go on in; `None` for the newest.
    pub(super) revision: Option<Revision>,
    /// The last object of the page before.
    pub(super) after: Key,
}

impl Continuation {
    /// As a client is given it.
    pub(super) fn encode(&self) -> String {
        let Key { namespace, name, .. } = &self.after;
        let start = if namespace.is_empty() { format!("{name}\0") } else { format!("{namespace}/{name}\0") };
        let rv = self.revision.map_or(NEWEST, |r| i64::try_from(r.0).unwrap_or(i64::MAX));
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&Token { v: VERSION.into(), rv, start }).unwrap_or_default())
    }

    /// Reads one that a client has brought.
    ///
    /// # Errors
    /// 400 for what this server has not made for such a list.
    pub(super) fn decode(text: &str, row: &Resource, namespace: Option<&str>) -> Result<Self, ApiError> {
        let refuse = |why: &str| status::bad_request(format!("invalid continue token: continue key is not valid{why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| refuse(&format!(": illegal base64 data: {e}")))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| refuse(&format!(": {e}")))?;
        if token.v != VERSION {
            return Err(refuse(&format!(": server does not recognize this encoded version {}", token.v)));
        }
        let revision = match token.rv {
            0 => return Err(refuse(&format!(": incorrect encoded start resourceVersion (version {VERSION})"))),
            rv => u64::try_from(rv).ok().map(Revision),
        };
        if token.start.is_empty() {
            return Err(refuse(&format!(": encoded start key empty (version {VERSION})")));
        }
        // The key is made of parts that are checked, so that none leads out of the list.
        let start = token.start.trim_end_matches('\0');
        let (found, name) = if row.namespaced { start.split_once('/').unwrap_or_default() } else { ("", start) };
        let is_part = |part: &str| !part.is_empty() && !matches!(part, "." | "..") && !part.contains(['/', '\0']);
        if !is_part(name) || (row.namespaced && !is_part(found)) || namespace.is_some_and(|n| n != found) {
            return Err(refuse(&format!(": {start}")));
        }
        Ok(Self { revision, after: Key::new(row.storage.clone(), found, name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::ResourceTable;

    #[test]
    fn tokens_come_back_and_what_was_tampered_with_does_not() {
        let table = ResourceTable::builtin();
        let (pods, nodes) = (table.get("", "v1", "pods").unwrap(), table.get("", "v1", "nodes").unwrap());
        for (row, key) in [(pods, Key::new(pods.storage.clone(), "a", "b")), (nodes, Key::new(nodes.storage.clone(), "", "n"))] {
            for revision in [Some(Revision(7)), None] {
                let token = Continuation { revision, after: key.clone() };
                assert_eq!(Continuation::decode(&token.encode(), row, None).unwrap(), token);
            }
        }
        let made = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for (token, why) in [
            ("???".to_owned(), "illegal base64 data"),
            (made("{"), "EOF"),
            (made(r#"{"v":"v9","rv":1,"start":"a/b"}"#), "server does not recognize this encoded version v9"),
            (made(r#"{"v":"meta.k8s.io/v1","start":"a/b"}"#), "incorrect encoded start resourceVersion"),
            (made(r#"{"v":"meta.k8s.io/v1","rv":1}"#), "encoded start key empty"),
            (made(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../secrets"}"#), "../secrets"),
            (made(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"other/b"}"#), "other/b"),
        ] {
            let refused = Continuation::decode(&token, pods, Some("a")).unwrap_err();
            assert_eq!(refused.code(), Some(400));
            assert!(refused.to_string().starts_with("invalid continue token: continue key is not valid"), "{refused}");
            assert!(refused.to_string().contains(why), "{refused} lacks {why}");
        }
    }
}
