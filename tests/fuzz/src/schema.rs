//! Schemas of custom resources with objects of them, and rules in CEL.

use http::Method;
use serde_json::{Value, json};
use wharf_cel::{Budget, Rule, Untyped};
use wharf_structural::{Schema, check_definition, non_structural};

use crate::server;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";

fn definition(schema: &Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.fuzz.example.com"},
        "spec": {"group": "fuzz.example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

/// `{"schema": ..., "object": ...}`: the schema is sent as a part of a definition, and is asked about the object if it is one.
pub(crate) fn crd_schema(input: &[u8]) {
    let Ok(Value::Object(mut input)) = serde_json::from_slice::<Value>(input) else { return };
    let (schema, object) = (input.remove("schema").unwrap_or_default(), input.remove("object").unwrap_or_default());
    let accepted = server::check(Method::POST, DEFINITIONS, &definition(&schema)).is_some();
    let refused = !check_definition("schema", &schema).is_empty() || !non_structural("schema", &schema).is_empty();
    let Ok(compiled) = Schema::compile(&schema) else {
        assert!(!accepted, "a schema that does not compile was accepted: {schema}");
        return;
    };
    if refused {
        assert!(!accepted, "a schema was accepted that is refused: {schema}");
        return;
    }
    let mut stored = object.clone();
    compiled.prune(&mut stored, true, &mut |_| {});
    compiled.fill(&mut stored);
    let mut again = stored.clone();
    compiled.prune(&mut again, true, &mut |path| panic!("{path} was added by defaults, or was not dropped at once: {schema} {object}"));
    compiled.fill(&mut again);
    assert_eq!(again, stored, "defaults were not filled in at once: {schema} {object}");
    let errors = compiled.validate(&stored);
    assert!(errors.iter().all(|e| !e.message.is_empty()), "{schema} {object}");
    for error in &errors {
        // What is as it was is not refused again.
        let _ = compiled.is_ratcheted(error, &stored, &object);
    }
    let _ = compiled.check_keyed_lists(&stored);
    if errors.is_empty() {
        let _ = compiled.run_rules(&stored, None);
        let outcome = compiled.run_rules(&stored, Some(&stored));
        let kinds: Vec<String> = outcome.errors.iter().map(|e| e.message.clone()).collect();
        assert_eq!(kinds, compiled.run_rules(&stored, Some(&stored)).errors.iter().map(|e| e.message.clone()).collect::<Vec<_>>());
    }
}

/// `{"rule": ..., "messageExpression": ..., "self": ..., "oldSelf": ...}`, or a rule alone.
pub(crate) fn cel(input: &[u8]) {
    let input = match serde_json::from_slice::<Value>(input) {
        Ok(Value::Object(map)) => Value::Object(map),
        _ => json!({"rule": String::from_utf8_lossy(input), "self": {"a": 1, "b": "x", "c": [1, 2], "d": {"e": true}}}),
    };
    let rule = Rule::read(&input);
    let (new, old) = (&input["self"], input.get("oldSelf").filter(|old| !old.is_null()));
    let compiles = rule.compiled().is_ok();
    let _ = rule.check_message();
    let mut verdicts = (0..2).map(|_| {
        let mut budget = Budget::object();
        rule.evaluate(&Untyped, true, new, old, &mut budget)
    });
    let (first, second) = (verdicts.next(), verdicts.next());
    assert_eq!(first, second, "the same rule about the same object: {input}");
    if !compiles && !rule.source().is_empty() {
        assert!(!matches!(first, Some(wharf_cel::Verdict::Holds)), "{input}");
    }
}
