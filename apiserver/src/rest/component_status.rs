//! `componentstatuses`: deprecated, computed, and asked for all the same.

use std::sync::Arc;

use serde_json::{Value, json};
use wharf_core::api::ApiError;
use wharf_core::object::Object;
use wharf_core::store::Revision;

use super::read::ListAnswer;
use super::select::Selection;
use super::{Registry, status};
use crate::resources::Resource;

/// What Kubernetes calls its store. Of other components this server knows nothing: they may run anywhere.
const STORE: &str = "etcd-0";

/// Whether this is the row.
pub(super) fn is(row: &Resource) -> bool {
    row.kind == "ComponentStatus"
}

fn render(healthy: &Result<(), String>) -> Value {
    let condition = match healthy {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "message": why, "error": why}),
    };
    json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": STORE}, "conditions": [condition]})
}

impl Registry {
    /// The components that there are.
    ///
    /// # Errors
    /// None: a failure is what a status tells.
    pub(super) async fn component_statuses(&self, row: &Resource, selection: &Selection) -> Result<ListAnswer, ApiError> {
        let healthy = self.store().revision().await.map(|_| ()).map_err(|e| e.to_string());
        let key = Self::key(row, "", STORE);
        let store = Arc::new(Object::from_served(key, Revision(0), render(&healthy).to_string().into()));
        let items = std::iter::once(store).filter(|object| selection.matches(row, object)).collect();
        Ok(ListAnswer { items, revision: Revision(0), continue_token: String::new(), remaining: None })
    }

    /// One component.
    ///
    /// # Errors
    /// 404.
    pub(super) async fn component_status(&self, row: &Resource, name: &str) -> Result<Arc<Object>, ApiError> {
        let everything = Selection::parse(row, None, "", "")?;
        let found = self.component_statuses(row, &everything).await?.items.into_iter().find(|object| &*object.key().name == name);
        found.ok_or_else(|| status::not_found(&row.group, &row.plural, name))
    }
}
