//! The readers and writers of the kinds that several crates use, instantiated once.
//!
//! At the optimisation levels at which crates share generic code (0, 1, "s" and "z"), every crate above this one links to
//! these instances and compiles none of its own. That saves minutes of a build and megabytes of a program; nothing else
//! depends on it.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use crate::api::Kind;

/// An object, read from bytes and written to bytes and to a value.
pub type RoundTrip = fn(&[u8]) -> serde_json::Result<(Vec<u8>, Value)>;

fn round_trip<K: Kind>(bytes: &[u8]) -> serde_json::Result<(Vec<u8>, Value)> {
    let object: K = serde_json::from_slice(bytes)?;
    Ok((serde_json::to_vec(&object)?, serde_json::to_value(&object)?))
}

/// The kinds, each with what reads and writes it.
pub static SHARED: &[(&str, RoundTrip)] = &[
    ("ClusterRole", round_trip::<ClusterRole>),
    ("ClusterRoleBinding", round_trip::<ClusterRoleBinding>),
    ("ConfigMap", round_trip::<ConfigMap>),
    ("Deployment", round_trip::<Deployment>),
    ("EndpointSlice", round_trip::<EndpointSlice>),
    ("Event", round_trip::<Event>),
    ("Lease", round_trip::<Lease>),
    ("Namespace", round_trip::<Namespace>),
    ("Node", round_trip::<Node>),
    ("Pod", round_trip::<Pod>),
    ("PriorityClass", round_trip::<PriorityClass>),
    ("ReplicaSet", round_trip::<ReplicaSet>),
    ("Role", round_trip::<Role>),
    ("RoleBinding", round_trip::<RoleBinding>),
    ("Secret", round_trip::<Secret>),
    ("Service", round_trip::<Service>),
    ("ServiceAccount", round_trip::<ServiceAccount>),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_reads_what_it_writes() {
        for (kind, round_trip) in SHARED {
            let group = match *kind {
                "Deployment" | "ReplicaSet" => "apps/v1",
                "Lease" => "coordination.k8s.io/v1",
                "EndpointSlice" => "discovery.k8s.io/v1",
                "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding" => "rbac.authorization.k8s.io/v1",
                "PriorityClass" => "scheduling.k8s.io/v1",
                _ => "v1",
            };
            let given = format!(r#"{{"apiVersion":"{group}","kind":"{kind}","metadata":{{"name":"a","labels":{{"b":"c"}}}}}}"#);
            let (bytes, value) = round_trip(given.as_bytes()).unwrap();
            let again: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((&again, &value["metadata"]["labels"]["b"]), (&value, &Value::from("c")), "{kind}");
            assert!(round_trip(format!(r#"{{"apiVersion":"{group}","kind":"Other"}}"#).as_bytes()).is_err());
        }
    }
}
