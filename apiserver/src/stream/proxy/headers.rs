//! What of a head goes on to the other side, and how a `Location` is told to the client.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Headers that are about one connection.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What a backend says to browsers of other origins would be said in the name of this server.
const CORS: [HeaderName; 4] = [
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
];

/// Takes away what is about one connection.
pub(super) fn strip_hops(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let trailers = headers.get(header::TE).is_some_and(|te| te.as_bytes().windows(8).any(|w| w.eq_ignore_ascii_case(b"trailers")));
    for name in named.iter().map(String::as_str).chain(HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// What a backend's answer may say.
pub(super) fn strip_answer(headers: &mut HeaderMap) {
    for name in CORS {
        headers.remove(name);
    }
}

/// A path without `.`, `..` and empty parts; it begins with a slash and ends with none.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// A path of the backend as the client reaches it.
pub(super) fn behind(prefix: &str, path: &str) -> String {
    let mut joined = clean(&format!("{prefix}/{path}"));
    if path.ends_with('/') && joined != "/" {
        joined.push('/');
    }
    joined
}

/// A `Location` as the client can follow it through this server; one that leads elsewhere stays.
pub(super) fn rewrite(location: &str, backend: &str, asked: &str, prefix: &str) -> String {
    let (origin, rest) = match location.split_once("//") {
        Some((scheme, rest)) if scheme.is_empty() || (scheme.ends_with(':') && !scheme.contains(['/', '?', '#'])) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            (Some((scheme, &rest[..end])), &rest[end..])
        }
        _ => (None, location),
    };
    let host = origin.map(|(_, host)| host).unwrap_or_default();
    let (path, tail) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    if !path.starts_with('/') || (!host.is_empty() && host != backend && host != asked) {
        return location.to_owned();
    }
    let kept = origin.filter(|(_, host)| *host == asked).map(|(scheme, host)| format!("{scheme}//{host}")).unwrap_or_default();
    let path = if path.starts_with(prefix) { path.to_owned() } else { behind(prefix, path) };
    format!("{kept}{path}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_behind_the_proxy() {
        let prefix = "/api/v1/namespaces/n/pods/p/proxy";
        for (location, want) in [
            ("/login?x=1#a", format!("{prefix}/login?x=1#a")),
            ("/a/../b/", format!("{prefix}/b/")),
            ("http://10.0.0.1:80/login", format!("{prefix}/login")),
            ("//10.0.0.1:80/", format!("{prefix}/")),
            ("https://api.example/x", format!("https://api.example{prefix}/x")),
            ("http://elsewhere/login", "http://elsewhere/login".into()),
            ("relative/path", "relative/path".into()),
            ("?only=query", "?only=query".into()),
            (&format!("{prefix}/x"), format!("{prefix}/x")),
            ("http://10.0.0.1:80", "http://10.0.0.1:80".into()),
        ] {
            assert_eq!(rewrite(location, "10.0.0.1:80", "api.example", prefix), want, "{location}");
        }
    }

    #[test]
    fn what_is_about_a_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Own"), ("x-own", "1"), ("te", "gzip, trailers"), ("upgrade", "h2c"), ("cookie", "c")]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hops(&mut headers);
        let mut left: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("cookie", "c"), ("te", "trailers")]);
    }
}
