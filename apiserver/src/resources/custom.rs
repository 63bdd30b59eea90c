//! What a row asks of a custom resource: everything that built-in kinds answer by functions fixed at build time.

use std::borrow::Cow;
use std::fmt;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause;
use serde_json::Value;
use wharf_core::api::ApiError;
use wharf_core::object::Object;

use super::views::Views;

/// A column of a custom resource's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomColumn {
    /// Heading.
    pub name: String,
    /// `integer`, `number`, `string`, `boolean` or `date`.
    pub kind: String,
    /// Format, or empty.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0 for what is always shown, more for `-o wide`.
    pub priority: i64,
}

/// Where the scale of a custom resource stands, as paths of members.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScalePaths {
    /// Within spec: the wanted number.
    pub spec_replicas: Vec<String>,
    /// Within status: the number there is.
    pub status_replicas: Vec<String>,
    /// Of the label selector in its string form; none if the kind has none.
    pub selector: Option<Vec<String>>,
}

/// Converts objects of a custom resource between its versions.
///
/// # Contract
/// Answers as many objects as it is given, in their order, each in the version `wanted` (`example.com/v2`). Of metadata only labels and
/// annotations may differ. The objects need not be of one version; none is of the wanted one.
///
/// # Cancellation
/// A dropped call leaves nothing behind.
///
/// # Errors
/// What the client is told.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// No defaults need to be filled in, and what the schema of the wanted version lacks may stay: the caller sees to both.
#[async_trait]
pub trait Converter: fmt::Debug + Send + Sync {
    /// Converts objects.
    async fn convert(&self, objects: Vec<Value>, wanted: &str) -> Result<Vec<Value>, ApiError>;
}

/// One served version of a custom resource.
pub trait CustomKind: fmt::Debug + Send + Sync {
    /// Group and version that objects are served in: `example.com/v2`.
    fn served_version(&self) -> &str;
    /// Group and version that objects are stored in: `example.com/v1`.
    fn stored_version(&self) -> &str;
    /// What clients of this version are warned of, if it should not be used any more.
    fn deprecation(&self) -> Option<&str>;
    /// Whether its definition is going: nothing new comes, and what is there may be changed until it goes.
    fn is_terminating(&self) -> bool;
    /// What converts objects between versions; without it they differ in nothing but the version's name.
    fn converter(&self) -> Option<&dyn Converter>;
    /// What is known of stored objects already.
    fn views(&self) -> &Views;
    /// Drops the fields that the schema lacks; `unknown` is told their paths.
    ///
    /// # Errors
    /// Metadata of a wrong type, with its place.
    fn read(&self, value: Value, unknown: &mut dyn FnMut(String)) -> Result<Value, String>;
    /// Fills in defaults.
    fn fill(&self, value: &mut Value);
    /// Finds what is wrong with an object, given the one it replaces; `sub` is the subresource that is written.
    fn validate(&self, sub: &str, new: &Value, old: Option<&Value>, causes: &mut Vec<StatusCause>);
    /// A selectable field; `None` for one that cannot be selected by.
    fn field<'a>(&self, object: &'a Object, field: &str) -> Option<Cow<'a, str>>;
    /// Columns behind the one of names.
    fn columns(&self) -> &[CustomColumn];
    /// The cells of one object, one for each column and the name.
    fn cells(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value>;
    /// Where its scale stands.
    fn scale(&self) -> Option<&ScalePaths>;
    /// From what is stored, converted, to what is served. Answers whether anything had to be changed.
    fn serve(&self, stored: &mut Value) -> bool;
    /// From what was written, converted, to what is stored.
    fn store(&self, written: Value) -> Value;
    /// The schema as OpenAPI v3 shows it, of the kind as a whole.
    fn schema(&self) -> &Value;
}
