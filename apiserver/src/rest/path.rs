//! From a method and a path to a [`RequestInfo`].

use std::borrow::Cow;

use http::{Method, Uri};

use crate::request::RequestInfo;

/// Most parts of a path that are looked at.
const MAX_PARTS: usize = 32;

/// Decodes `%41` and, in queries, `+`.
pub fn percent_decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|b| *b == b'%' || (plus_is_space && *b == b'+')) {
        return text.to_owned();
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// The parameters of a query, decoded, in order.
pub fn query_pairs(uri: &Uri) -> Vec<(String, String)> {
    let query = uri.query().unwrap_or_default();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name, true), percent_decode(value, true))
        })
        .collect()
}

fn is_true(pairs: &[(String, String)], name: &str) -> bool {
    pairs.iter().any(|(n, v)| n == name && matches!(v.as_str(), "" | "1" | "true" | "True" | "TRUE" | "t" | "T"))
}

/// What a request is about, as Kubernetes' RequestInfoFactory reads it.
pub fn parse(method: &Method, uri: &Uri) -> RequestInfo {
    let mut info = RequestInfo { path: uri.path().to_owned(), verb: method.as_str().to_ascii_lowercase(), ..RequestInfo::default() };
    let part = |p| if !str::contains(p, '%') { Cow::Borrowed(p) } else { Cow::Owned(percent_decode(p, false)) };
    let parts: Vec<Cow<'_, str>> = uri.path().split('/').filter(|p| !p.is_empty()).take(MAX_PARTS).map(part).collect();
    let rest = match parts.first().map(AsRef::as_ref) {
        Some("api") if parts.len() >= 3 => {
            info.version.push_str(&parts[1]);
            &parts[2..]
        }
        Some("apis") if parts.len() >= 4 => {
            info.group.push_str(&parts[1]);
            info.version.push_str(&parts[2]);
            &parts[3..]
        }
        _ => return info,
    };
    info.is_resource = true;
    let mut rest = rest;
    let mut legacy_watch = false;
    if rest.len() > 1 && rest[0] == "watch" {
        legacy_watch = true;
        rest = &rest[1..];
    }
    if rest[0] == "namespaces" && rest.len() >= 2 {
        info.namespace.push_str(&rest[1]);
        // A third part is a resource in the namespace, unless it is a subresource of the namespace itself.
        if rest.len() > 2 && !matches!(rest[2].as_ref(), "status" | "finalize") {
            rest = &rest[2..];
        }
    }
    info.resource.push_str(&rest[0]);
    info.name.push_str(rest.get(1).map_or("", AsRef::as_ref));
    info.subresource.push_str(rest.get(2).map_or("", AsRef::as_ref));
    let pairs = query_pairs(uri);
    info.verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if info.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD if legacy_watch => "watch",
        Method::GET | Method::HEAD if info.name.is_empty() && is_true(&pairs, "watch") => "watch",
        Method::GET | Method::HEAD if info.name.is_empty() => "list",
        Method::GET | Method::HEAD => "get",
        _ => "",
    }
    .to_owned();
    if info.name.is_empty() && matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        // Authorization may be for one name only, which a list tells by its field selector.
        let selector = pairs.iter().find(|(n, _)| n == "fieldSelector").map(|(_, v)| v.as_str()).unwrap_or_default();
        if let Some(name) = selector.split(',').find_map(|t| t.strip_prefix("metadata.name=")) {
            name.trim_start_matches('=').clone_into(&mut info.name);
        }
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, uri: &str) -> RequestInfo {
        parse(&method, &uri.parse().unwrap())
    }

    #[test]
    fn resources_and_subresources() {
        let i = info(Method::GET, "/api/v1/namespaces/ns/pods/p/log?follow=true");
        assert_eq!(
            (i.verb.as_str(), i.namespace.as_str(), i.resource.as_str(), i.name.as_str(), i.subresource.as_str()),
            ("get", "ns", "pods", "p", "log")
        );
        let i = info(Method::GET, "/apis/apps/v1/deployments?watch=1");
        assert_eq!((i.verb.as_str(), i.group.as_str(), i.resource.as_str(), i.namespace.as_str()), ("watch", "apps", "deployments", ""));
        let i = info(Method::DELETE, "/apis/apps/v1/namespaces/a/deployments");
        assert_eq!((i.verb.as_str(), i.namespace.as_str()), ("deletecollection", "a"));
    }

    #[test]
    fn a_namespace_is_in_itself() {
        let i = info(Method::PUT, "/api/v1/namespaces/a/finalize");
        assert_eq!(
            (i.resource.as_str(), i.name.as_str(), i.namespace.as_str(), i.subresource.as_str()),
            ("namespaces", "a", "a", "finalize")
        );
        let i = info(Method::GET, "/api/v1/namespaces");
        assert_eq!((i.verb.as_str(), i.name.as_str()), ("list", ""));
    }

    #[test]
    fn other_paths_and_field_selected_names() {
        let i = info(Method::GET, "/apis/apps/v1");
        assert!(!i.is_resource && i.verb == "get");
        let i = info(Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Dn1");
        assert_eq!((i.verb.as_str(), i.name.as_str()), ("list", "n1"));
        assert_eq!(percent_decode("a%2Fb%zz", false), "a/b%zz");
    }
}
