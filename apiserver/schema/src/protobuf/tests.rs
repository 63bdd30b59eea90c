use k8s_openapi::api::core::v1::Pod;
use k8s_pb::api::core::v1 as core_pb;
use prost::Message;
use serde_json::{Map, json};

use super::*;
use crate::{Scalar, Shape};

fn kind(group: &str, version: &str, kind: &str) -> Type {
    builtin().kind(group, version, kind).unwrap()
}

fn message(ty: Type, json: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_object(&mut out, ty, json.to_string().as_bytes()).unwrap();
    out
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "labels": {"x": "y", "empty": ""}, "creationTimestamp": "2026-01-02T03:04:05Z",
            "managedFields": [{"manager": "m", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]},
        "spec": {
            "hostUsers": false,
            "securityContext": {"supplementalGroups": [1, 2, 300]},
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "100m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 3},
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": false}}}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 0
        },
        "status": {"phase": "Running"}
    })
}

#[test]
fn what_we_write_the_crates_messages_read() {
    let written = message(kind("", "v1", "Pod"), &pod());
    let read = core_pb::Pod::decode(&written[..]).unwrap();
    let spec = read.spec.as_ref().unwrap();
    assert_eq!(read.metadata.as_ref().unwrap().labels["x"], "y");
    assert_eq!(read.metadata.as_ref().unwrap().creation_timestamp.as_ref().unwrap().seconds, Some(1_767_323_045));
    assert_eq!(spec.host_users, Some(false));
    assert_eq!(spec.security_context.as_ref().unwrap().supplemental_groups, [1, 2, 300]);
    let container = &spec.containers[0];
    assert_eq!(container.ports[0].container_port, Some(80));
    assert_eq!(container.resources.as_ref().unwrap().limits["cpu"].string.as_deref(), Some("100m"));
    let probe = container.liveness_probe.as_ref().unwrap();
    assert_eq!(probe.handler.as_ref().unwrap().http_get.as_ref().unwrap().port.as_ref().unwrap().str_val.as_deref(), Some("web"));
    let claim = spec.volumes[0].volume_source.as_ref().unwrap().persistent_volume_claim.as_ref().unwrap();
    assert_eq!(claim.claim_name.as_deref(), Some("c"));
}

#[test]
fn what_the_crates_messages_write_we_read() {
    let read = core_pb::Pod::decode(&message(kind("", "v1", "Pod"), &pod())[..]).unwrap();
    let body = seal("v1", "Pod", &read.encode_to_vec());
    let value = to_json(&body).unwrap().unwrap();
    assert_eq!(value, pod());
    // The same as the typed form has.
    let typed: Pod = serde_json::from_value(value.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), value);
}

/// A value of every type, with every field that the wire has.
fn sample(ty: Type, depth: usize) -> Value {
    match ty.shape() {
        Shape::Struct => {
            let fields = ty.fields().filter(|f| !f.numbers().is_empty() && (depth < 9 || f.is_required()));
            fields.map(|f| (f.name().to_owned(), sample(f.of(), depth + 1))).collect::<Map<_, _>>().into()
        }
        Shape::List(item, _) => json!([sample(item, depth + 1), sample(item, depth + 1)]),
        Shape::Map(item) => json!({"a": sample(item, depth + 1), "b": sample(item, depth + 1)}),
        Shape::Scalar(scalar) => match scalar {
            Scalar::String => json!("text"),
            Scalar::Bytes => json!("AAECAw=="),
            Scalar::Int32 => json!(-7),
            Scalar::Int64 => json!(1_i64 << 40),
            Scalar::Double => json!(1.5),
            Scalar::Bool => json!(true),
            Scalar::Quantity => json!("1500m"),
            Scalar::Time => json!("2026-01-02T03:04:05Z"),
            Scalar::MicroTime => json!("2026-01-02T03:04:05.000006Z"),
            Scalar::IntOrString => json!("25%"),
            Scalar::Json | Scalar::RawExtension | Scalar::FieldsV1 => json!({"any": ["thing", 1]}),
            Scalar::SchemaOrArray => json!([{"type": "string"}, {"type": "integer"}]),
            Scalar::SchemaOrBool => json!({"type": "string"}),
            Scalar::SchemaOrStrings => json!(["a", "b"]),
        },
    }
}

#[test]
fn every_kind_goes_over_the_wire_and_back() {
    for kind in builtin().kinds() {
        let value = sample(kind.of(), 0);
        let back = Value::Object(read::object(kind.of(), &message(kind.of(), &value)).unwrap());
        assert_eq!(back, value, "{}", kind.kind);
    }
}

#[test]
fn unions_and_lists_in_maps() {
    let schema = builtin().named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    for value in [
        json!({"items": {"type": "string"}, "additionalProperties": false, "default": 1, "x-kubernetes-preserve-unknown-fields": false}),
        json!({"items": [{"type": "string"}], "additionalProperties": true, "default": "", "dependencies": {"a": ["b"], "c": {"type": "object"}}}),
    ] {
        assert_eq!(Value::Object(read::object(schema, &message(schema, &value)).unwrap()), value);
    }
    let review = json!({"spec": {"user": "u", "extra": {"scopes": ["a", "b"], "none": []}}});
    let ty = kind("authorization.k8s.io", "v1", "SubjectAccessReview");
    let written = message(ty, &review);
    assert_eq!(Value::Object(read::object(ty, &written).unwrap()), review);
    let read = k8s_pb::api::authorization::v1::SubjectAccessReview::decode(&written[..]).unwrap();
    assert_eq!(read.spec.unwrap().extra["scopes"].items, ["a", "b"]);
}

#[test]
fn zeros_are_kept_where_they_count() {
    let ty = kind("apps", "v1", "Deployment");
    let value = json!({"spec": {"replicas": 0, "paused": false, "minReadySeconds": 0,
        "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}});
    let back = Value::Object(read::object(ty, &message(ty, &value)).unwrap());
    assert_eq!(back, json!({"spec": {"replicas": 0, "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}}}));
}

#[test]
fn lists_and_events_are_framed() {
    let pod = kind("", "v1", "Pod");
    let mut list = Vec::new();
    put_field(&mut list, 1, kind("", "v1", "PodList").field("metadata").unwrap().of(), br#"{"resourceVersion":"7"}"#).unwrap();
    for name in ["a", "b"] {
        put_field(&mut list, 2, pod, json!({"metadata": {"name": name}}).to_string().as_bytes()).unwrap();
    }
    let read = core_pb::PodList::decode(&list[..]).unwrap();
    assert_eq!((read.items.len(), read.metadata.unwrap().resource_version.as_deref()), (2, Some("7")));
    let object = from_json("v1", "Pod", pod, br#"{"metadata":{"name":"a"}}"#).unwrap();
    let frame = event("ADDED", &object);
    assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
    let read = k8s_pb::apimachinery::pkg::apis::meta::v1::WatchEvent::decode(&frame[4..]).unwrap();
    assert_eq!((read.r#type.as_deref(), read.object.unwrap().raw.unwrap()), (Some("ADDED"), object));
}

#[test]
fn the_malformed_is_refused_and_the_unknown_told() {
    assert_eq!(to_json(b"{}"), Err(Malformed::Magic));
    assert_eq!(to_json(&seal("v1", "Nothing", &[])), Ok(None));
    let whole = from_json("v1", "Pod", kind("", "v1", "Pod"), pod().to_string().as_bytes()).unwrap();
    // Cut anywhere, it is refused or it is less; nothing panics.
    for end in 0..whole.len() {
        let _ = to_json(&whole[..end]);
    }
    // Every byte changed to anything near: the same.
    for at in 0..whole.len() {
        for change in [1, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            let _ = to_json(&bytes);
        }
    }
    assert_eq!(to_json(&seal("v1", "Secret", &[8, 1])), Err(Malformed::Type));
    // Never ends: every byte says that more follow.
    assert_eq!(to_json(&seal("v1", "Secret", &[0xff; 20])), Err(Malformed::Truncated));
    let mut deep = Vec::new();
    for _ in 0..1000 {
        let inner = std::mem::take(&mut deep);
        // JSONSchemaProps.not.
        put_bytes(&mut deep, 28, &inner);
    }
    let schema = builtin().named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    assert_eq!(read::object(schema, &deep), Err(Malformed::Deep));
}

#[test]
fn json_of_another_type_is_unfit() {
    let ty = kind("", "v1", "Pod");
    let mut out = Vec::new();
    for json in [r#"{"metadata":{"name":1}}"#, r#"{"spec":[]}"#, r#"{"metadata":{"labels":"x"}}"#, "[]", "{"] {
        assert!(put_object(&mut out, ty, json.as_bytes()).is_err(), "{json}");
    }
    assert!(put_object(&mut out, ty, br#"{"metadata":null,"nothing":{"a":[1]}}"#).is_ok());
}
