//! How components are printed.

use jiff::Timestamp;
use serde_json::Value;

use super::{Columns, NAME, col};
use crate::resources::value::{items, text};

pub(crate) static COMPONENT_STATUSES: Columns = Columns { columns: &[NAME, col("Status"), col("Message"), col("Error")], cells };

fn cells(v: &Value, _: Timestamp) -> Vec<Value> {
    let healthy = items(v, &["conditions"]).iter().rfind(|condition| text(condition, &["type"]) == "Healthy");
    let of = |name: &str| Value::from(healthy.map(|condition| text(condition, &[name])).unwrap_or_default());
    let state = match healthy.map(|condition| text(condition, &["status"])) {
        Some("True") => "Healthy",
        Some(_) => "Unhealthy",
        None => "Unknown",
    };
    vec![text(v, &["metadata", "name"]).into(), state.into(), of("message"), of("error")]
}
