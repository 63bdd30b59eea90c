//! One served version of a custom resource.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, StatusCause};
use serde_json::{Value, json};
use wharf_core::object::Object;
use wharf_core::store::ResourceId;
use wharf_structural::{FieldError, Schema};

use crate::crd::conversion::WebhookConverter;
use crate::crd::jsonpath::JsonPath;
use crate::crd::validation::to_cause;
use crate::resources::custom::{Converter, CustomColumn, CustomKind, ScalePaths};
use crate::resources::value::{as_map, at, items, number, text};
use crate::resources::views::Views;
use crate::resources::{Resource, StatusRule, version_priority};
use crate::rest::status::cause;
use crate::table::age;
use crate::webhook::Webhooks;

/// What discovery tells of objects whose definition is going.
const TERMINATING_VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "watch"];

#[derive(Debug)]
struct Version {
    api_version: String,
    kind: String,
    /// What objects are stored as.
    storage_version: String,
    schema: Schema,
    /// What is stored has no more than this; none where it is this version that is stored.
    storage_schema: Option<Schema>,
    converter: Option<Arc<dyn Converter>>,
    deprecation: Option<String>,
    terminating: bool,
    views: Views,
    columns: Vec<CustomColumn>,
    paths: Vec<JsonPath>,
    scale: Option<ScalePaths>,
    /// Selectable fields, as they are asked for and as members.
    fields: Vec<(String, Vec<String>)>,
    openapi: Value,
}

/// The rows of a definition whose names are accepted: one for each served version, the preferred first.
pub(super) fn rows(definition: &Value, hooks: &Webhooks) -> Vec<Resource> {
    let versions = items(definition, &["spec", "versions"]);
    let Some(storage) = versions.iter().find(|v| v.get("storage") == Some(&Value::Bool(true))) else { return Vec::new() };
    let converter: Option<Arc<dyn Converter>> = match text(definition, &["spec", "conversion", "strategy"]) {
        "Webhook" => Some(Arc::new(WebhookConverter::new(hooks, definition))),
        _ => None,
    };
    let mut rows: Vec<Resource> = versions
        .iter()
        .filter(|v| v.get("served") == Some(&Value::Bool(true)))
        .filter_map(|version| row(definition, version, storage, converter.clone()))
        .collect();
    rows.sort_by(|a, b| version_priority(&b.version).cmp(&version_priority(&a.version)).then_with(|| a.version.cmp(&b.version)));
    rows
}

/// The schema of a version. A definition from before its rules were what they are now may have one that is refused today.
fn compile(definition: &Value, openapi: &Value) -> Option<Schema> {
    Schema::compile(openapi).inspect_err(|error| tracing::warn!("{}: {error}", text(definition, &["metadata", "name"]))).ok()
}

fn openapi(version: &Value) -> Value {
    version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_else(|| json!({"type": "object"}))
}

fn row(definition: &Value, version: &Value, storage: &Value, converter: Option<Arc<dyn Converter>>) -> Option<Resource> {
    let group = text(definition, &["spec", "group"]);
    let name = text(version, &["name"]);
    let stored = text(storage, &["name"]);
    let names = at(definition, &["status", "acceptedNames"])?;
    let shown = openapi(version);
    let schema = compile(definition, &shown)?;
    let storage_schema = if name == stored { None } else { compile(definition, &openapi(storage)) };
    let columns = columns(version);
    let paths = columns.iter().map(|(_, path)| path.clone()).collect();
    let scale = at(version, &["subresources", "scale"]).and_then(|scale| {
        Some(ScalePaths {
            spec_replicas: JsonPath::members(text(scale, &["specReplicasPath"]))?,
            status_replicas: JsonPath::members(text(scale, &["statusReplicasPath"]))?,
            selector: JsonPath::members(text(scale, &["labelSelectorPath"])),
        })
    });
    let fields = items(version, &["selectableFields"])
        .iter()
        .filter_map(|field| {
            let members = JsonPath::members(text(field, &["jsonPath"]))?;
            Some((members.join("."), members))
        })
        .collect();
    let status = at(version, &["subresources", "status"]).is_some();
    let subresources: &'static [&'static str] = match (scale.is_some(), status) {
        (true, true) => &["scale", "status"],
        (true, false) => &["scale"],
        (false, true) => &["status"],
        (false, false) => &[],
    };
    let plural = text(names, &["plural"]).to_owned();
    let kind = text(names, &["kind"]).to_owned();
    let list = |name: &str| -> Vec<Cow<'static, str>> {
        items(names, &[name]).iter().filter_map(Value::as_str).map(|n| Cow::Owned(n.to_owned())).collect()
    };
    let mut row = Resource::of::<k8s_openapi::api::core::v1::ConfigMap>(text(definition, &["spec", "scope"]) == "Namespaced");
    row.storage = ResourceId::new(group, plural.as_str());
    row.group = group.to_owned().into();
    row.version = name.to_owned().into();
    row.singular = text(names, &["singular"]).to_owned().into();
    row.short_names = list("shortNames");
    row.categories = list("categories");
    row.plural = plural.into();
    row.kind = kind.clone().into();
    row.generation = true;
    row.strategic = false;
    row.status = if status { StatusRule::Split } else { StatusRule::None };
    row.subresources = subresources;
    let terminating = at(definition, &["metadata", "deletionTimestamp"]).is_some();
    if terminating {
        row.verbs = TERMINATING_VERBS;
    }
    let deprecation =
        at(version, &["deprecated"]).filter(|d| **d == Value::Bool(true)).map(|_| match text(version, &["deprecationWarning"]) {
            "" => format!("{group}/{name} {kind} is deprecated"),
            own => own.to_owned(),
        });
    row.custom = Some(Arc::new(Version {
        api_version: format!("{group}/{name}"),
        kind,
        storage_version: format!("{group}/{stored}"),
        schema,
        storage_schema,
        converter,
        deprecation,
        terminating,
        views: Views::default(),
        columns: columns.into_iter().map(|(column, _)| column).collect(),
        paths,
        scale,
        fields,
        openapi: shown,
    }));
    Some(row)
}

fn columns(version: &Value) -> Vec<(CustomColumn, JsonPath)> {
    let of = |column: &Value| {
        let read = |name: &str| text(column, &[name]).to_owned();
        let found = CustomColumn {
            name: read("name"),
            kind: read("type"),
            format: read("format"),
            description: if read("description").is_empty() {
                format!("Custom resource definition column (in JSONPath format): {}", read("jsonPath"))
            } else {
                read("description")
            },
            priority: number(column, &["priority"]).unwrap_or(0),
        };
        Some((found, JsonPath::parse(text(column, &["jsonPath"]))?))
    };
    let own = items(version, &["additionalPrinterColumns"]);
    if own.is_empty() {
        return of(&json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"})).into_iter().collect();
    }
    own.iter().filter_map(of).collect()
}

fn along<'a>(value: &'a Value, members: &[String]) -> Option<&'a Value> {
    members.iter().try_fold(value, |v, name| v.get(name)).filter(|v| !v.is_null())
}

impl Version {
    /// Metadata has a type of its own, whatever the schema says.
    fn metadata(value: &mut Value, unknown: &mut dyn FnMut(String)) -> Result<(), String> {
        let Some(metadata) = value.get_mut("metadata") else { return Ok(()) };
        let names: Vec<String> = metadata.as_object().map(|m| m.keys().cloned().collect()).unwrap_or_default();
        let typed: ObjectMeta = serde_json::from_value(metadata.take()).map_err(|e| format!("metadata: {e}"))?;
        *metadata = serde_json::to_value(typed).map_err(|e| e.to_string())?;
        const KNOWN: &[&str] = &[
            "annotations",
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generateName",
            "generation",
            "labels",
            "managedFields",
            "name",
            "namespace",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        ];
        names.iter().filter(|n| !KNOWN.contains(&n.as_str())).for_each(|n| unknown(format!("metadata.{n}")));
        Ok(())
    }

    fn scale_errors(&self, value: &Value) -> Vec<FieldError> {
        let Some(scale) = &self.scale else { return Vec::new() };
        let mut errors = Vec::new();
        for path in [&scale.spec_replicas, &scale.status_replicas] {
            let Some(replicas) = along(value, path).and_then(Value::as_i64) else { continue };
            let field = format!(".{}", path.join("."));
            if replicas < 0 {
                errors.push(FieldError::invalid(&field, &replicas.into(), "should be a non-negative integer"));
            } else if replicas > i64::from(i32::MAX) {
                errors.push(FieldError::invalid(&field, &replicas.into(), &format!("should be less than or equal to {}", i32::MAX)));
            }
        }
        errors
    }
}

impl CustomKind for Version {
    fn served_version(&self) -> &str {
        &self.api_version
    }
    fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }
    fn is_terminating(&self) -> bool {
        self.terminating
    }
    fn converter(&self) -> Option<&dyn Converter> {
        self.converter.as_deref()
    }
    fn views(&self) -> &Views {
        &self.views
    }
    fn stored_version(&self) -> &str {
        &self.storage_version
    }
    fn read(&self, mut value: Value, unknown: &mut dyn FnMut(String)) -> Result<Value, String> {
        Self::metadata(&mut value, unknown)?;
        self.schema.prune(&mut value, true, unknown);
        Ok(value)
    }

    fn fill(&self, value: &mut Value) {
        self.schema.fill(value);
    }

    fn validate(&self, _: &str, new: &Value, old: Option<&Value>, causes: &mut Vec<StatusCause>) {
        let mut errors = self.schema.validate(new);
        if let Some(old) = old {
            errors.retain(|error| !self.schema.is_ratcheted(error, new, old));
        }
        errors.extend(self.scale_errors(new));
        // What was there twice before may stay so.
        if old.is_none_or(|old| self.schema.check_keyed_lists(old).is_empty()) {
            errors.extend(self.schema.check_keyed_lists(new));
        }
        let blocked = self.schema.has_rules() && errors.iter().any(|e| e.reason.blocks_rules());
        let runs = self.schema.has_rules() && !blocked;
        causes.extend(errors.into_iter().map(to_cause));
        if blocked {
            let why =
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            causes.push(cause("FieldValueInvalid", format!("Invalid value: \"null\": {why}"), "<nil>"));
        } else if runs {
            causes.extend(self.schema.run_rules(new, old).errors.into_iter().map(to_cause));
        }
    }

    fn field<'a>(&self, object: &'a Object, field: &str) -> Option<Cow<'a, str>> {
        let (_, members) = self.fields.iter().find(|(name, _)| name == field)?;
        let value = object.decode::<Value>().ok();
        let found = value.as_deref().and_then(|v| along(v, members));
        Some(Cow::Owned(match found {
            None => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }))
    }

    fn columns(&self) -> &[CustomColumn] {
        &self.columns
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = Value::from(text(object, &["metadata", "name"]));
        let cell = |(column, path): (&CustomColumn, &JsonPath)| {
            let found = path.find(object);
            let Some(first) = found.first() else { return Value::Null };
            match (column.kind.as_str(), first) {
                (_, Value::Null) => Value::Null,
                ("integer", Value::Number(n)) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from),
                ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
                ("integer" | "number" | "boolean", _) => Value::Null,
                ("date", Value::String(time)) => age::since(time, now).into(),
                ("date", _) => Value::Null,
                _ => {
                    let texts: Vec<String> = found.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
                    texts.join(" ").into()
                }
            }
        };
        std::iter::once(name).chain(self.columns.iter().zip(&self.paths).map(cell)).collect()
    }

    fn scale(&self) -> Option<&ScalePaths> {
        self.scale.as_ref()
    }

    fn serve(&self, stored: &mut Value) -> bool {
        let mut changed = text(stored, &["apiVersion"]) != self.api_version;
        as_map(stored).insert("apiVersion".into(), self.api_version.as_str().into());
        self.schema.prune(stored, true, &mut |_| changed = true);
        if self.schema.has_defaults() {
            let before = stored.clone();
            self.schema.fill(stored);
            changed |= before != *stored;
        }
        changed
    }

    fn store(&self, mut written: Value) -> Value {
        let map = as_map(&mut written);
        map.insert("apiVersion".into(), self.storage_version.as_str().into());
        map.insert("kind".into(), self.kind.as_str().into());
        if let Some(schema) = &self.storage_schema {
            schema.prune(&mut written, true, &mut |_| {});
        }
        written
    }

    fn schema(&self) -> &Value {
        &self.openapi
    }
}
