//! The table as OpenAPI schemas, with Kubernetes' extensions.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{Docs, Field, Granularity, Kind, ListRule, PatchStrategy, Scalar, Shape, Type, builtin};

/// Changes whenever the schemas may have changed: it is made of the table and the documentation.
pub const REVISION: &str = env!("WHARF_SCHEMA_REVISION");

/// A version of OpenAPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Swagger 2.0.
    V2,
    /// OpenAPI 3.0.
    V3,
}

impl Dialect {
    /// What the name of a definition stands behind in a `$ref`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }

    /// A `$ref` to a definition.
    pub fn reference(self, definition: &str) -> Value {
        json!({"$ref": format!("{}{definition}", self.prefix())})
    }
}

/// Schemas of types, and of all types that they refer to.
///
/// ```
/// use wharf_schema::{Definitions, Dialect, builtin};
///
/// let mut definitions = Definitions::new(Dialect::V3);
/// definitions.add(builtin().kind("apps", "v1", "Deployment").expect("a built-in kind"));
/// let schemas = definitions.finish();
/// assert_eq!(schemas["io.k8s.api.core.v1.Container"]["required"], serde_json::json!(["name"]));
/// ```
#[derive(Debug)]
pub struct Definitions {
    dialect: Dialect,
    docs: Docs,
    kinds: BTreeMap<&'static str, Vec<Kind>>,
    done: BTreeMap<&'static str, Value>,
    /// Referred to, not yet made.
    waiting: Vec<Type>,
}

impl Definitions {
    /// None yet. Holds the documentation, so it is not to be kept.
    pub fn new(dialect: Dialect) -> Self {
        let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for kind in builtin().kinds() {
            kinds.entry(kind.of().name()).or_default().push(kind);
        }
        Self { dialect, docs: Docs::load(), kinds, done: BTreeMap::new(), waiting: Vec::new() }
    }

    /// Adds a type and what it refers to.
    pub fn add(&mut self, ty: Type) {
        self.waiting.push(ty);
        while let Some(ty) = self.waiting.pop() {
            let name = ty.name();
            if !name.is_empty() && !self.done.contains_key(name) {
                // Before its fields, for types that contain themselves.
                self.done.insert(name, Value::Null);
                let schema = self.definition(ty);
                self.done.insert(name, schema);
            }
        }
    }

    /// The schemas by the names of their definitions.
    pub fn finish(self) -> Map<String, Value> {
        self.done.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect()
    }

    fn definition(&mut self, ty: Type) -> Value {
        let mut schema = Map::new();
        let description = self.docs.of_type(ty).into_owned();
        if !description.is_empty() {
            schema.insert("description".into(), description.into());
        }
        match ty.shape() {
            Shape::Scalar(scalar) => schema.extend(self.scalar(scalar)),
            Shape::Struct => {
                schema.insert("type".into(), "object".into());
                let required: Vec<&str> = ty.fields().filter(|f| f.is_required()).map(Field::name).collect();
                if !required.is_empty() {
                    schema.insert("required".into(), required.into());
                }
                let properties: Map<String, Value> = ty.fields().map(|f| (f.name().to_owned(), self.field(f))).collect();
                if !properties.is_empty() {
                    schema.insert("properties".into(), properties.into());
                }
            }
            Shape::Map(_) | Shape::List(..) => {}
        }
        if ty.granularity() == Granularity::Atomic {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        if let Some(kinds) = self.kinds.get(ty.name()) {
            let kinds = kinds.iter().map(|k| json!({"group": k.group, "kind": k.kind, "version": k.version})).collect();
            schema.insert("x-kubernetes-group-version-kind".into(), kinds);
        }
        schema.into()
    }

    fn scalar(&self, scalar: Scalar) -> Map<String, Value> {
        let v3 = self.dialect == Dialect::V3;
        let value = match scalar {
            Scalar::String => json!({"type": "string"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Double => json!({"type": "number", "format": "double"}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Time | Scalar::MicroTime => json!({"type": "string", "format": "date-time"}),
            Scalar::Quantity if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Scalar::Quantity => json!({"type": "string"}),
            Scalar::IntOrString if v3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            Scalar::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Scalar::RawExtension | Scalar::FieldsV1 => json!({"type": "object"}),
            Scalar::Json | Scalar::SchemaOrArray | Scalar::SchemaOrBool | Scalar::SchemaOrStrings => json!({}),
        };
        if let Value::Object(map) = value { map } else { Map::new() }
    }

    /// The schema of a value of a type, referring to it where it has a definition.
    fn value(&mut self, ty: Type) -> Map<String, Value> {
        let mut schema = Map::new();
        if !ty.name().is_empty() {
            self.waiting.push(ty);
            schema.insert("$ref".into(), format!("{}{}", self.dialect.prefix(), ty.name()).into());
            return schema;
        }
        match ty.shape() {
            Shape::Scalar(scalar) => return self.scalar(scalar),
            Shape::List(item, _) => {
                schema.insert("type".into(), "array".into());
                schema.insert("items".into(), self.value(item).into());
            }
            Shape::Map(item) => {
                schema.insert("type".into(), "object".into());
                schema.insert("additionalProperties".into(), self.value(item).into());
            }
            Shape::Struct => {}
        }
        schema
    }

    fn field(&mut self, field: Field) -> Value {
        let mut schema = self.value(field.of());
        if self.dialect == Dialect::V3 && schema.contains_key("$ref") {
            // Beside a $ref, version 3 ignores everything.
            schema = Map::from_iter([("allOf".to_owned(), json!([schema]))]);
        }
        let mut put = |name: &str, value: Value| schema.insert(name.to_owned(), value);
        let description = self.docs.of_field(field);
        if !description.is_empty() {
            put("description", description.into_owned().into());
        }
        if let Some(default) = field.default().and_then(|d| serde_json::from_str(d).ok()) {
            put("default", default);
        }
        match field.list_rule() {
            Some(ListRule::Atomic) => drop(put("x-kubernetes-list-type", "atomic".into())),
            Some(ListRule::Set) => drop(put("x-kubernetes-list-type", "set".into())),
            Some(ListRule::Map(keys)) => {
                put("x-kubernetes-list-type", "map".into());
                put("x-kubernetes-list-map-keys", keys.iter().collect());
            }
            None => {}
        }
        match field.granularity() {
            Some(Granularity::Atomic) => drop(put("x-kubernetes-map-type", "atomic".into())),
            Some(Granularity::Granular) => drop(put("x-kubernetes-map-type", "granular".into())),
            None => {}
        }
        let (strategy, key) = match field.patch_strategy() {
            PatchStrategy::None => return schema.into(),
            PatchStrategy::Replace => ("replace", None),
            PatchStrategy::Merge { key } => ("merge", key),
            PatchStrategy::RetainKeys => ("retainKeys", None),
            PatchStrategy::MergeRetainKeys { key } => ("merge,retainKeys", key),
        };
        put("x-kubernetes-patch-strategy", strategy.into());
        if let Some(key) = key {
            put("x-kubernetes-patch-merge-key", key.into());
        }
        schema.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(dialect: Dialect) -> Map<String, Value> {
        let mut definitions = Definitions::new(dialect);
        builtin().kinds().for_each(|kind| definitions.add(kind.of()));
        definitions.finish()
    }

    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| references(v, found));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        for dialect in [Dialect::V2, Dialect::V3] {
            let schemas = Value::from(all(dialect));
            let mut found = Vec::new();
            references(&schemas, &mut found);
            assert!(found.len() > 500, "{}", found.len());
            for reference in found {
                let name = reference.strip_prefix(dialect.prefix()).unwrap();
                assert!(schemas[name].is_object(), "{name}");
            }
        }
    }

    #[test]
    fn looks_as_kubernetes_has_it() {
        let schemas = all(Dialect::V3);
        let ports = &schemas["io.k8s.api.core.v1.Container"]["properties"]["ports"];
        assert_eq!(ports["items"], Dialect::V3.reference("io.k8s.api.core.v1.ContainerPort"));
        assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
        assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
        let selector = &schemas["io.k8s.api.apps.v1.DeploymentSpec"]["properties"]["selector"];
        assert_eq!(selector["allOf"][0], Dialect::V3.reference("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"));
        assert!(selector["description"].as_str().unwrap().starts_with("Label selector for pods."));
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([{"group": "apps", "kind": "Deployment", "version": "v1"}]));
        assert!(deployment.get("required").is_none());
        assert_eq!(all(Dialect::V2)["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"], "string");
    }
}
