//! The row of CustomResourceDefinitions themselves.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::crd::validation;
use crate::resources::value::{as_map, default, default_text, each_in, items, object, text};
use crate::resources::{DeleteRule, Resource};
use crate::table;

/// The row.
pub(crate) fn row() -> Resource {
    let mut row = Resource::of::<CustomResourceDefinition>(false)
        .with_status()
        .short(&["crd", "crds"])
        .category(&["api-extensions"])
        .defaults(defaults)
        .validate(validation::definition)
        .validate_status(validation::stored_versions)
        .columns(&table::NAME_AND_CREATED);
    row.delete = DeleteRule::Definition;
    row
}

fn defaults(v: &mut Value) {
    let kind = text(v, &["spec", "names", "kind"]).to_owned();
    let spec = object(v, &["spec"]);
    default(spec, "conversion", json!({"strategy": "None"}));
    if !kind.is_empty() {
        let names = as_map(spec.entry("names").or_insert_with(|| json!({})));
        default_text(names, "singular", &kind.to_lowercase());
        default_text(names, "listKind", &format!("{kind}List"));
    }
    if let Some(service) = spec
        .get_mut("conversion")
        .and_then(|c| c.get_mut("webhook"))
        .and_then(|w| w.get_mut("clientConfig"))
        .and_then(|c| c.get_mut("service"))
        .and_then(Value::as_object_mut)
    {
        default(service, "port", 443);
    }
    each_in(spec, "versions", |version| {
        if version.get("additionalPrinterColumns").is_some_and(|c| c.as_array().is_some_and(Vec::is_empty)) {
            version.remove("additionalPrinterColumns");
        }
    });
    let status = object(v, &["status"]);
    default(status, "acceptedNames", json!({"kind": "", "plural": ""}));
    default(status, "conditions", json!([]));
}

/// The version that objects are written in is one that they are stored in.
pub(crate) fn note_stored_version(v: &mut Value) {
    let storage: Vec<String> = items(v, &["spec", "versions"])
        .iter()
        .filter(|version| version.get("storage") == Some(&Value::Bool(true)))
        .map(|version| text(version, &["name"]).to_owned())
        .collect();
    let stored = object(v, &["status"]).entry("storedVersions").or_insert_with(|| json!([]));
    if !stored.is_array() {
        *stored = json!([]);
    }
    if let Value::Array(stored) = stored {
        for version in storage {
            if !stored.iter().any(|s| s.as_str() == Some(&version)) {
                stored.push(version.into());
            }
        }
    }
}
