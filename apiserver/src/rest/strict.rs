//! What a body has that its type has not, or has twice: refused, told of, or let be.

use serde_json::Value;
use wharf_core::api::ApiError;

use super::{FieldValidation, WriteContext, status};
use crate::resources::Resource;

/// Judges the fields that a type lacks and those that are told twice; answers what to warn of. `patched` is what a patch has made.
///
/// # Errors
/// 400 for an object, 422 for a patch, where validation is strict.
pub(super) fn judge(ctx: &WriteContext, row: &Resource, patched: Option<&str>, unknown: Vec<String>) -> Result<Vec<String>, ApiError> {
    let unknown = unknown.into_iter().map(|path| format!("unknown field \"{path}\""));
    let texts: Vec<String> = ctx.duplicates.iter().cloned().chain(unknown).collect();
    match ctx.validation {
        _ if texts.is_empty() => Ok(texts),
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Warn => Ok(texts),
        FieldValidation::Strict => {
            let why = format!("strict decoding error: {}", texts.join(", "));
            Err(match patched {
                None => {
                    status::bad_request(format!("{} in version \"{}\" cannot be handled as a {}: {why}", row.kind, row.version, row.kind))
                }
                Some(text) => {
                    let shown = Value::from(text);
                    status::invalid("", "", "", vec![status::cause("FieldValueInvalid", format!("Invalid value: {shown}: {why}"), "patch")])
                }
            })
        }
    }
}
