//! What the server serves, for clients that ask: per group, and aggregated.

#[cfg(test)]
mod facts;

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::resources::{Resource, ResourceTable};

const JSON: &str = "application/json";
const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Discovery documents, made once.
#[derive(Debug)]
pub struct Discovery {
    plain: HashMap<String, Bytes>,
    /// Path, then version of the discovery API.
    aggregated: HashMap<(&'static str, &'static str), Aggregated>,
}

/// A document that clients keep for as long as its tag is the same.
#[derive(Debug)]
struct Aggregated {
    body: Bytes,
    etag: String,
}

/// A document that was found.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its type.
    pub content_type: &'static str,
    /// Its bytes.
    pub body: Bytes,
    /// What changes when it does; of aggregated ones alone.
    pub etag: Option<&'a str>,
}

/// Kubernetes' short name for the version that objects of a row are stored in; rows that store nothing have none.
fn storage_version_hash(table: &ResourceTable, row: &Resource) -> Option<String> {
    if !row.verbs.contains(&"watch") {
        return None;
    }
    let stored = table.iter().find(|other| other.storage == row.storage && other.stored_as.is_none() && other.custom.is_none());
    let (group, version) = match (&row.custom, stored) {
        (Some(custom), _) => custom.stored_version().split_once('/')?,
        (None, Some(stored)) => (&*stored.group, &*stored.version),
        (None, None) => (&*row.group, &*row.version),
    };
    let digest = Sha256::digest(format!("{group}/{version}/{}", row.kind));
    Some(STANDARD.encode(&digest[..8]))
}

/// Group, version and kind of what a subresource takes, and its verbs.
fn subresource(row: &Resource, name: &str) -> (String, String, String, &'static [&'static str]) {
    let of = |group: &str, version: &str, kind: &str, verbs: &'static [&'static str]| {
        (group.to_owned(), version.to_owned(), kind.to_owned(), verbs)
    };
    match name {
        "scale" => of("autoscaling", "v1", "Scale", &["get", "patch", "update"]),
        "binding" => of("", "v1", "Binding", &["create"]),
        "eviction" => of("policy", "v1", "Eviction", &["create"]),
        "token" => of("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
        "exec" => of("", "v1", "PodExecOptions", &["create", "get"]),
        "attach" => of("", "v1", "PodAttachOptions", &["create", "get"]),
        "portforward" => of("", "v1", "PodPortForwardOptions", &["create", "get"]),
        "log" => of("", "v1", "Pod", &["get"]),
        "proxy" => {
            let kind = format!("{}ProxyOptions", row.kind);
            of("", "v1", &kind, &["create", "delete", "get", "patch", "update"])
        }
        "finalize" => of(&row.group, &row.version, &row.kind, &["update"]),
        _ => of(&row.group, &row.version, &row.kind, &["get", "patch", "update"]),
    }
}

fn resource_list(table: &ResourceTable, group: &str, version: &str) -> Value {
    let mut resources = Vec::new();
    for row in table.iter().filter(|r| r.group == group && r.version == version) {
        let mut entry = json!({
            "name": row.plural, "singularName": row.singular, "namespaced": row.namespaced, "kind": row.kind, "verbs": row.verbs,
        });
        if let Some(map) = entry.as_object_mut() {
            if !row.short_names.is_empty() {
                map.insert("shortNames".into(), json!(row.short_names));
            }
            if !row.categories.is_empty() {
                map.insert("categories".into(), json!(row.categories));
            }
            if let Some(hash) = storage_version_hash(table, row) {
                map.insert("storageVersionHash".into(), hash.into());
            }
        }
        resources.push(entry);
        for name in row.subresources {
            let (sub_group, sub_version, kind, verbs) = subresource(row, name);
            let mut entry = json!({
                "name": format!("{}/{name}", row.plural), "singularName": "", "namespaced": row.namespaced, "kind": kind, "verbs": verbs,
            });
            if (sub_group.as_str(), sub_version.as_str()) != (group, version)
                && let Some(map) = entry.as_object_mut()
            {
                map.insert("group".into(), sub_group.into());
                map.insert("version".into(), sub_version.into());
            }
            resources.push(entry);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
}

fn aggregated_version(table: &ResourceTable, group: &str, version: &str) -> Value {
    let resources: Vec<Value> = table
        .iter()
        .filter(|r| r.group == group && r.version == version)
        .map(|row| {
            let subresources: Vec<Value> = row
                .subresources
                .iter()
                .map(|name| {
                    let (group, version, kind, verbs) = subresource(row, name);
                    json!({"subresource": name, "responseKind": {"group": group, "version": version, "kind": kind}, "verbs": verbs})
                })
                .collect();
            let mut entry = json!({
                "resource": row.plural,
                "responseKind": {"group": row.group, "version": row.version, "kind": row.kind},
                "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
                "singularResource": row.singular,
                "verbs": row.verbs,
            });
            if let Some(map) = entry.as_object_mut() {
                for (name, list) in [("shortNames", &row.short_names), ("categories", &row.categories)] {
                    if !list.is_empty() {
                        map.insert(name.into(), json!(list));
                    }
                }
                if !subresources.is_empty() {
                    map.insert("subresources".into(), subresources.into());
                }
            }
            entry
        })
        .collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

/// Groups in order, each with its versions, the preferred one first.
fn versions_by_group(table: &ResourceTable) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (group, version) in table.groups() {
        match groups.last_mut() {
            Some((last, versions)) if *last == group => versions.push(version),
            _ => groups.push((group, vec![version])),
        }
    }
    groups
}

impl Discovery {
    /// The documents of a table.
    pub fn new(table: &ResourceTable) -> Self {
        let groups = versions_by_group(table);
        let mut plain = HashMap::new();
        let mut put = |path: String, value: Value| {
            plain.insert(path, Bytes::from(value.to_string()));
        };
        put("/api".into(), json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}));
        let mut list = Vec::new();
        for (group, versions) in &groups {
            if group.is_empty() {
                for version in versions {
                    put(format!("/api/{version}"), resource_list(table, group, version));
                }
                continue;
            }
            let entries: Vec<Value> =
                versions.iter().map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version})).collect();
            let entry = json!({"name": group, "versions": entries, "preferredVersion": entries.first()});
            for version in versions {
                put(format!("/apis/{group}/{version}"), resource_list(table, group, version));
            }
            let mut alone = entry.clone();
            if let Some(map) = alone.as_object_mut() {
                map.insert("kind".into(), "APIGroup".into());
                map.insert("apiVersion".into(), "v1".into());
            }
            put(format!("/apis/{group}"), alone);
            list.push(entry);
        }
        put("/apis".into(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}));
        let mut aggregated = HashMap::new();
        for (path, core) in [("/api", true), ("/apis", false)] {
            let of = |(group, versions): &(String, Vec<String>)| {
                let versions: Vec<Value> = versions.iter().map(|version| aggregated_version(table, group, version)).collect();
                json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": versions})
            };
            let items: Vec<Value> = groups.iter().filter(|(g, _)| g.is_empty() == core).map(of).collect();
            for version in ["v2", "v2beta1"] {
                let api_version = format!("apidiscovery.k8s.io/{version}");
                let value = json!({"kind": "APIGroupDiscoveryList", "apiVersion": api_version, "metadata": {}, "items": items});
                let body = Bytes::from(value.to_string());
                let etag = format!("\"{:X}\"", Sha256::digest(&body));
                aggregated.insert((path, version), Aggregated { body, etag });
            }
        }
        Self { plain, aggregated }
    }

    /// The document at a path.
    pub fn answer(&self, path: &str, accept: &str) -> Option<Found<'_>> {
        let path = path.trim_end_matches('/');
        if let "/api" | "/apis" = path
            && let Some(found) = accept.split(',').find_map(|range| self.aggregated(path, range))
        {
            return Some(found);
        }
        self.plain.get(path).map(|body| Found { content_type: JSON, body: body.clone(), etag: None })
    }

    fn aggregated(&self, path: &str, range: &str) -> Option<Found<'_>> {
        let has = |part: &str| range.split(';').any(|p| p.trim() == part);
        if !has("as=APIGroupDiscoveryList") {
            return None;
        }
        let (version, content_type) = match () {
            () if has("v=v2") => ("v2", AGGREGATED_V2),
            () if has("v=v2beta1") => ("v2beta1", AGGREGATED_V2BETA1),
            () => return None,
        };
        let (_, found) = self.aggregated.iter().find(|((at, of), _)| *at == path && *of == version)?;
        Some(Found { content_type, body: found.body.clone(), etag: Some(&found.etag) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents() {
        let discovery = Discovery::new(&ResourceTable::builtin());
        let read = |path: &str, accept: &str| -> Value { serde_json::from_slice(&discovery.answer(path, accept).unwrap().body).unwrap() };
        let core = read("/api/v1", "application/json");
        let names: Vec<&str> = core["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
        for name in ["pods", "pods/status", "pods/log", "services", "nodes"] {
            assert!(names.contains(&name), "{name}");
        }
        let all = read("/apis", AGGREGATED_V2);
        assert!(all["items"].as_array().unwrap().iter().any(|g| g["metadata"]["name"] == "apps"));
        assert_eq!(read("/apis/apps/", "")["kind"], "APIGroup");
        assert!(discovery.answer("/apis/none", "").is_none());
    }
}
