//! Defaults of what extends the API server, and of who may keep it busy.

use serde_json::{Map, Value, json};

use crate::resources::value::{as_map, default, default_text, each_in, object};

const HTTPS: i64 = 443;
const WEBHOOK_SECONDS: i64 = 10;

fn matching(map: &mut Map<String, Value>) {
    default_text(map, "matchPolicy", "Equivalent");
    default(map, "namespaceSelector", json!({}));
    default(map, "objectSelector", json!({}));
    for rules in ["rules", "resourceRules", "excludeResourceRules"] {
        each_in(map, rules, |rule| default_text(rule, "scope", "*"));
    }
}

fn member<'a>(map: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(name).and_then(Value::as_object_mut)
}

fn webhooks(v: &mut Value, more: fn(&mut Map<String, Value>)) {
    each_in(as_map(v), "webhooks", |hook| {
        default_text(hook, "failurePolicy", "Fail");
        default(hook, "timeoutSeconds", WEBHOOK_SECONDS);
        matching(hook);
        if let Some(service) = member(hook, "clientConfig").and_then(|c| member(c, "service")) {
            default(service, "port", HTTPS);
        }
        more(hook);
    });
}

/// Webhooks that validate.
pub(crate) fn validating_webhooks(v: &mut Value) {
    webhooks(v, |_| {});
}

/// Webhooks that change objects.
pub(crate) fn mutating_webhooks(v: &mut Value) {
    webhooks(v, |hook| default_text(hook, "reinvocationPolicy", "Never"));
}

/// Policies in CEL, of both sorts.
pub(crate) fn admission_policy(v: &mut Value) {
    let spec = object(v, &["spec"]);
    default_text(spec, "failurePolicy", "Fail");
    if let Some(constraints) = member(spec, "matchConstraints") {
        matching(constraints);
    }
}

/// Bindings of policies.
pub(crate) fn admission_policy_binding(v: &mut Value) {
    let spec = object(v, &["spec"]);
    if let Some(resources) = member(spec, "matchResources") {
        matching(resources);
    }
}

/// API services.
pub(crate) fn api_service(v: &mut Value) {
    if let Some(service) = member(object(v, &["spec"]), "service") {
        default(service, "port", HTTPS);
    }
}

/// Flow schemas.
pub(crate) fn flow_schema(v: &mut Value) {
    let spec = object(v, &["spec"]);
    if spec.get("matchingPrecedence").and_then(Value::as_i64).unwrap_or(0) == 0 {
        spec.insert("matchingPrecedence".into(), 1000.into());
    }
}

/// Priority levels.
pub(crate) fn priority_level(v: &mut Value) {
    let spec = object(v, &["spec"]);
    for (part, shares) in [("exempt", 0), ("limited", 30)] {
        if let Some(level) = member(spec, part) {
            default(level, "nominalConcurrencyShares", shares);
            default(level, "lendablePercent", 0);
        }
    }
    let queuing = member(spec, "limited").and_then(|l| member(l, "limitResponse")).and_then(|r| member(r, "queuing"));
    if let Some(queuing) = queuing {
        for (name, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
            // A zero is an omission here.
            if queuing.get(name).and_then(Value::as_i64).unwrap_or(0) == 0 {
                queuing.insert(name.into(), value.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_are_filled_in() {
        let mut v = json!({"webhooks":[{"rules":[{"resources":["pods"]}],"clientConfig":{"service":{"name":"a","namespace":"b"}}}]});
        mutating_webhooks(&mut v);
        assert_eq!(
            v["webhooks"][0],
            json!({"rules":[{"resources":["pods"],"scope":"*"}],"clientConfig":{"service":{"name":"a","namespace":"b","port":443}},
                "failurePolicy":"Fail","timeoutSeconds":10,"matchPolicy":"Equivalent","namespaceSelector":{},"objectSelector":{},
                "reinvocationPolicy":"Never"})
        );
        let mut v = json!({"webhooks":[{}]});
        validating_webhooks(&mut v);
        assert!(v["webhooks"][0].get("reinvocationPolicy").is_none());
    }

    #[test]
    fn policies_and_their_bindings() {
        let mut v = json!({"spec":{"matchConstraints":{"resourceRules":[{}]}}});
        admission_policy(&mut v);
        assert_eq!((&v["spec"]["failurePolicy"], &v["spec"]["matchConstraints"]["matchPolicy"]), (&json!("Fail"), &json!("Equivalent")));
        assert_eq!(v["spec"]["matchConstraints"]["resourceRules"][0]["scope"], "*");
        let mut v = json!({"spec":{"policyName":"p"}});
        admission_policy_binding(&mut v);
        assert_eq!(v["spec"], json!({"policyName":"p"}));
        let mut v = json!({"spec":{"matchResources":{}}});
        admission_policy_binding(&mut v);
        assert_eq!(v["spec"]["matchResources"], json!({"matchPolicy":"Equivalent","namespaceSelector":{},"objectSelector":{}}));
    }

    #[test]
    fn priority_levels() {
        let mut v = json!({"spec":{"type":"Limited","limited":{"limitResponse":{"type":"Queue","queuing":{"queues":0}}}}});
        priority_level(&mut v);
        let queuing = json!({"handSize":8,"queues":64,"queueLengthLimit":50});
        let limited = json!({"nominalConcurrencyShares":30,"lendablePercent":0,"limitResponse":{"type":"Queue","queuing":queuing}});
        assert_eq!(v["spec"]["limited"], limited);
        // A share of nothing is said explicitly, and kept.
        let mut v = json!({"spec":{"limited":{"nominalConcurrencyShares":0}}});
        priority_level(&mut v);
        assert_eq!(v["spec"]["limited"]["nominalConcurrencyShares"], 0);
    }
}
