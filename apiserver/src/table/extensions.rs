//! The columns of what extends the API server, and of who may keep it busy.

use jiff::Timestamp;
use serde_json::Value;

use super::age::age;
use super::printers::{entries, name, or_none, printer, selector};
use super::{AGE, Column, Columns, NAME, col, int};
use crate::resources::value::{at, items, number, text};

fn param_kind(v: &Value) -> Value {
    match at(v, &["spec", "paramKind"]) {
        Some(kind) => format!("{}/{}", text(kind, &["apiVersion"]), text(kind, &["kind"])).into(),
        None => "<unset>".into(),
    }
}

/// Which parameters a binding brings. Whether they are in a namespace cannot be told from here.
fn param_ref(v: &Value) -> Value {
    let at_path = &["spec", "paramRef"];
    match at(v, at_path) {
        Some(param) if !text(param, &["name"]).is_empty() => match text(param, &["namespace"]) {
            "" => format!("*/{}", text(param, &["name"])).into(),
            namespace => format!("{namespace}/{}", text(param, &["name"])).into(),
        },
        Some(param) if at(param, &["selector"]).is_some() => selector(param, &["selector"]),
        _ => "<unset>".into(),
    }
}

printer!(WEBHOOK_CONFIGURATIONS, [NAME, int("Webhooks"), AGE], |v, now| vec![name(v), entries(v, &["webhooks"]).into(), age(v, now)]);
printer!(VALIDATING_ADMISSION_POLICIES, [NAME, int("Validations"), col("ParamKind"), AGE], |v, now| vec![
    name(v),
    entries(v, &["spec", "validations"]).into(),
    param_kind(v),
    age(v, now)
]);
printer!(MUTATING_ADMISSION_POLICIES, [NAME, int("Mutations"), col("ParamKind"), AGE], |v, now| vec![
    name(v),
    entries(v, &["spec", "mutations"]).into(),
    param_kind(v),
    age(v, now)
]);
printer!(ADMISSION_POLICY_BINDINGS, [NAME, col("PolicyName"), col("ParamRef"), AGE], |v, now| vec![
    name(v),
    text(v, &["spec", "policyName"]).into(),
    param_ref(v),
    age(v, now)
]);
printer!(API_SERVICES, [NAME, col("Service"), col("Available"), AGE], |v, now| {
    let service = match at(v, &["spec", "service"]) {
        Some(service) => format!("{}/{}", text(service, &["namespace"]), text(service, &["name"])),
        None => "Local".into(),
    };
    let available = items(v, &["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Available");
    let available = available.map_or_else(
        || "Unknown".to_owned(),
        |c| match (text(c, &["status"]), text(c, &["reason"])) {
            (status @ "True", _) | (status, "") => status.to_owned(),
            (status, reason) => format!("{status} ({reason})"),
        },
    );
    vec![name(v), service.into(), available.into(), age(v, now)]
});
printer!(
    FLOW_SCHEMAS,
    [NAME, col("PriorityLevel"), col("MatchingPrecedence"), col("DistinguisherMethod"), AGE, col("MissingPL")],
    |v, now| {
        let dangling = items(v, &["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Dangling");
        vec![
            name(v),
            text(v, &["spec", "priorityLevelConfiguration", "name"]).into(),
            number(v, &["spec", "matchingPrecedence"]).unwrap_or(0).into(),
            or_none(text(v, &["spec", "distinguisherMethod", "type"])),
            age(v, now),
            dangling.map_or("?", |c| text(c, &["status"])).into(),
        ]
    }
);
printer!(
    PRIORITY_LEVELS,
    [NAME, col("Type"), col("NominalConcurrencyShares"), col("Queues"), col("HandSize"), col("QueueLengthLimit"), AGE],
    |v, now| {
        let amount = |path: &[&str]| number(v, path).map_or_else(|| "<none>".into(), Value::from);
        let queuing = |field: &str| amount(&["spec", "limited", "limitResponse", "queuing", field]);
        vec![
            name(v),
            text(v, &["spec", "type"]).into(),
            amount(&["spec", "limited", "nominalConcurrencyShares"]),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            age(v, now),
        ]
    }
);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cells(columns: &Columns, value: Value) -> Vec<Value> {
        (columns.cells)(&value, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn parameters_of_bindings() {
        let with = |param: Value| cells(&ADMISSION_POLICY_BINDINGS, json!({"spec":{"policyName":"p","paramRef":param}}))[2].clone();
        assert_eq!(with(json!({"name":"a"})), "*/a");
        assert_eq!(with(json!({"name":"a","namespace":"n"})), "n/a");
        assert_eq!(with(Value::Null), "<unset>");
    }

    #[test]
    fn services_behind_groups() {
        let remote = json!({"spec":{"service":{"namespace":"n","name":"s"}},
            "status":{"conditions":[{"type":"Available","status":"False","reason":"FailedDiscoveryCheck"}]}});
        assert_eq!(cells(&API_SERVICES, remote)[1..3], [json!("n/s"), json!("False (FailedDiscoveryCheck)")]);
        let local = json!({"status":{"conditions":[{"type":"Available","status":"True","reason":"Local"}]}});
        assert_eq!(cells(&API_SERVICES, local)[1..3], [json!("Local"), json!("True")]);
        assert_eq!(cells(&API_SERVICES, json!({}))[2], "Unknown");
    }

    #[test]
    fn levels_and_schemas() {
        let level = json!({"spec":{"type":"Exempt","exempt":{"nominalConcurrencyShares":0}}});
        assert_eq!(cells(&PRIORITY_LEVELS, level)[1..4], [json!("Exempt"), json!("<none>"), json!("<none>")]);
        let schema = json!({"spec":{"matchingPrecedence":5,"priorityLevelConfiguration":{"name":"l"}},
            "status":{"conditions":[{"type":"Dangling","status":"False"}]}});
        let found = cells(&FLOW_SCHEMAS, schema);
        assert_eq!((&found[1], &found[2], &found[3], &found[5]), (&json!("l"), &json!(5), &json!("<none>"), &json!("False")));
    }
}
