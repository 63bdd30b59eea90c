//! What is served and should not be used any more, as clients are warned of it.

use crate::request::RequestInfo;

/// Resources of the core group: plural, the release that deprecated them, what to use instead.
const DEPRECATED: [(&str, &str, &str, &str); 2] = [
    ("componentstatuses", "ComponentStatus", "v1.19+", ""),
    ("endpoints", "Endpoints", "v1.33+", "; use discovery.k8s.io/v1 EndpointSlice"),
];

/// The warning that a request is answered with.
pub(super) fn warning(info: &RequestInfo) -> Option<String> {
    if !info.is_resource || !info.group.is_empty() {
        return None;
    }
    let (_, kind, since, instead) = DEPRECATED.iter().find(|(plural, ..)| *plural == info.resource)?;
    Some(format!("v1 {kind} is deprecated in {since}{instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deprecated_is_warned_of() {
        let of = |uri: &str| warning(&crate::rest::path::parse(&http::Method::GET, &uri.parse().unwrap()));
        let want = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
        assert_eq!(of("/api/v1/namespaces/a/endpoints/b").as_deref(), Some(want));
        assert_eq!(of("/api/v1/componentstatuses").as_deref(), Some("v1 ComponentStatus is deprecated in v1.19+"));
        assert_eq!(of("/api/v1/pods"), None);
    }
}
