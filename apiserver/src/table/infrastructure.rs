//! The columns of drivers, devices and addresses: what cluster administrators look at.

use jiff::Timestamp;
use serde_json::Value;

use super::age::age;
use super::printers::{entries, name, or_none, printer};
use super::{AGE, Column, Columns, NAME, col, flag, int};
use crate::resources::value::{at, items, text};

fn truth(v: &Value, path: &[&str], otherwise: bool) -> Value {
    at(v, path).and_then(Value::as_bool).unwrap_or(otherwise).into()
}
fn joined(v: &Value, path: &[&str]) -> String {
    items(v, path).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")
}

printer!(
    CSI_DRIVERS,
    [
        NAME,
        flag("AttachRequired"),
        flag("PodInfoOnMount"),
        flag("StorageCapacity"),
        col("TokenRequests"),
        flag("RequiresRepublish"),
        col("Modes"),
        AGE
    ],
    |v, now| {
        let tokens = at(v, &["spec", "tokenRequests"]).map(|_| items(v, &["spec", "tokenRequests"]));
        let tokens =
            tokens.map_or_else(|| "<unset>".to_owned(), |list| list.iter().map(|t| text(t, &["audience"])).collect::<Vec<_>>().join(","));
        vec![
            name(v),
            truth(v, &["spec", "attachRequired"], true),
            truth(v, &["spec", "podInfoOnMount"], false),
            truth(v, &["spec", "storageCapacity"], false),
            tokens.into(),
            truth(v, &["spec", "requiresRepublish"], false),
            or_none(&joined(v, &["spec", "volumeLifecycleModes"])),
            age(v, now),
        ]
    }
);
printer!(CSI_NODES, [NAME, int("Drivers"), AGE], |v, now| vec![name(v), entries(v, &["spec", "drivers"]).into(), age(v, now)]);
printer!(CSI_STORAGE_CAPACITIES, [NAME, col("StorageClassName"), col("Capacity")], |v, _now| {
    let capacity = text(v, &["capacity"]);
    vec![name(v), text(v, &["storageClassName"]).into(), if capacity.is_empty() { "<unset>" } else { capacity }.into()]
});
printer!(VOLUME_ATTACHMENTS, [NAME, col("Attacher"), col("PV"), col("Node"), flag("Attached"), AGE], |v, now| vec![
    name(v),
    text(v, &["spec", "attacher"]).into(),
    text(v, &["spec", "source", "persistentVolumeName"]).into(),
    text(v, &["spec", "nodeName"]).into(),
    truth(v, &["status", "attached"], false),
    age(v, now),
]);
printer!(VOLUME_ATTRIBUTES_CLASSES, [NAME, col("DriverName"), AGE], |v, now| {
    let default = text(v, &["metadata", "annotations", "volumeattributesclass.kubernetes.io/is-default-class"]) == "true";
    let shown = format!("{}{}", text(v, &["metadata", "name"]), if default { " (default)" } else { "" });
    vec![shown.into(), text(v, &["driverName"]).into(), age(v, now)]
});
printer!(SERVICE_CIDRS, [NAME, col("CIDRs"), AGE], |v, now| vec![name(v), joined(v, &["spec", "cidrs"]).into(), age(v, now)]);
printer!(IP_ADDRESSES, [NAME, col("ParentRef")], |v, _now| {
    let parent = at(v, &["spec", "parentRef"]).map(|parent| {
        let part = |field: &str, before: &str| match text(parent, &[field]) {
            "" => String::new(),
            found => format!("{before}{found}"),
        };
        let resource = format!("{}{}", part("resource", ""), part("group", ".")).to_lowercase();
        format!("{resource}{}/{}", part("namespace", "/"), text(parent, &["name"]))
    });
    vec![name(v), or_none(&parent.unwrap_or_default())]
});
printer!(RESOURCE_CLAIMS, [NAME, col("State"), AGE], |v, now| {
    let (deleted, allocated) = (at(v, &["metadata", "deletionTimestamp"]).is_some(), at(v, &["status", "allocation"]).is_some());
    let reserved = allocated && !items(v, &["status", "reservedFor"]).is_empty();
    let states = [(deleted, "deleted"), (!deleted && !allocated, "pending"), (allocated, "allocated"), (reserved, "reserved")];
    let states: Vec<&str> = states.into_iter().filter_map(|(holds, state)| holds.then_some(state)).collect();
    vec![name(v), states.join(",").into(), age(v, now)]
});
printer!(RESOURCE_SLICES, [NAME, col("Node"), col("Driver"), col("Pool"), AGE], |v, now| vec![
    name(v),
    text(v, &["spec", "nodeName"]).into(),
    text(v, &["spec", "driver"]).into(),
    text(v, &["spec", "pool", "name"]).into(),
    age(v, now),
]);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(columns: &Columns, value: Value) -> Vec<Value> {
        (columns.cells)(&value, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn states_of_claims() {
        let state = |meta: Value, status: Value| cells(&RESOURCE_CLAIMS, json!({"metadata":meta,"status":status}))[1].clone();
        let gone = json!({"deletionTimestamp":"2026-01-01T00:00:00Z"});
        assert_eq!(state(json!({}), json!({})), "pending");
        assert_eq!(state(json!({}), json!({"allocation":{}})), "allocated");
        assert_eq!(state(json!({}), json!({"allocation":{},"reservedFor":[{}]})), "allocated,reserved");
        assert_eq!(state(gone.clone(), json!({})), "deleted");
        assert_eq!(state(gone, json!({"allocation":{}})), "deleted,allocated");
    }

    #[test]
    fn parents_of_addresses() {
        let parent = |parent: Value| cells(&IP_ADDRESSES, json!({"spec":{"parentRef":parent}}))[1].clone();
        assert_eq!(parent(json!({"resource":"services","namespace":"n","name":"s"})), "services/n/s");
        assert_eq!(parent(json!({"group":"a.b","resource":"Gateways","name":"g"})), "gateways.a.b/g");
        assert_eq!(parent(Value::Null), "<none>");
    }

    #[test]
    fn drivers() {
        let found = cells(
            &CSI_DRIVERS,
            json!({"spec":{"tokenRequests":[{"audience":"a"},{"audience":"b"}],"volumeLifecycleModes":["Persistent"]}}),
        );
        assert_eq!(found[1..7], [json!(true), json!(false), json!(false), json!("a,b"), json!(false), json!("Persistent")]);
        assert_eq!(cells(&CSI_DRIVERS, json!({}))[4..7], [json!("<unset>"), json!(false), json!("<none>")]);
    }
}
