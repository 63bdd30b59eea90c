//! From a target to the path that Kubernetes serves it at.

use kube::core::ApiResource;
use wharf_core::api::{ApiError, Query, Target};

/// Percent-encodes all but RFC 3986's unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

pub(crate) fn collection(resource: &ApiResource, namespace: &str) -> String {
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", encode(&resource.group)) };
    let version = encode(&resource.version);
    let plural = encode(&resource.plural);
    if namespace.is_empty() {
        format!("{root}/{version}/{plural}")
    } else {
        format!("{root}/{version}/namespaces/{}/{plural}", encode(namespace))
    }
}

/// The path of one object. A name that would turn it into the path of something else is the name of nothing.
///
/// # Errors
/// 404 for a name that no object can have: DELETE of an empty one would be a delete of the whole collection.
pub(crate) fn object(target: &Target, namespace: &str) -> Result<String, ApiError> {
    let name = &*target.object.name;
    if [name, namespace].iter().any(|part| matches!(*part, "." | "..")) || name.is_empty() {
        let resource = &target.resource;
        let qualified = if resource.group.is_empty() { resource.plural.clone() } else { format!("{}.{}", resource.plural, resource.group) };
        return Err(ApiError::status(404, "NotFound", format!("{qualified} \"{name}\" not found")));
    }
    let mut path = format!("{}/{}", collection(&target.resource, namespace), encode(name));
    if !target.subresource.is_empty() {
        path.push('/');
        path.push_str(&encode(target.subresource));
    }
    Ok(path)
}

pub(crate) fn query_of(query: &Query, more: &[(&str, &str)]) -> String {
    let selectors = [("labelSelector", query.label_selector.as_deref()), ("fieldSelector", query.field_selector.as_deref())];
    let given = selectors.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    given.chain(more.iter().copied()).map(|(name, value)| format!("{name}={}", encode(value))).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
    use wharf_core::object::ObjectRef;

    #[test]
    fn paths_are_those_of_kubernetes() {
        let target = Target::of::<Deployment>(ObjectRef::new("ns", "a")).sub("scale");
        assert_eq!(object(&target, "ns").unwrap(), "/apis/apps/v1/namespaces/ns/deployments/a/scale");
        assert_eq!(collection(&Target::of::<Pod>(ObjectRef::new("", "")).resource, ""), "/api/v1/pods");
    }

    #[test]
    fn no_name_reaches_another_path() {
        for name in ["", ".", ".."] {
            assert!(object(&Target::of::<Pod>(ObjectRef::new("ns", name)), "ns").unwrap_err().is_not_found());
        }
        let target = Target::of::<Pod>(ObjectRef::new("ns", "a/b?x=1"));
        assert_eq!(object(&target, "ns").unwrap(), "/api/v1/namespaces/ns/pods/a%2Fb%3Fx%3D1");
    }

    #[test]
    fn selectors_are_encoded() {
        let query = Query { label_selector: Some("a in (b,c)".into()), ..Query::default() };
        assert_eq!(query_of(&query, &[("limit", "5")]), "labelSelector=a%20in%20%28b%2Cc%29&limit=5");
    }
}
