//! Revisions of what sets make.

use serde_json::Value;

use super::{Causes, immutable, invalid, required};
use crate::resources::value::at;

/// Controller revisions.
pub(crate) fn controller_revision(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let data = at(new, &["data"]);
    match old {
        None if data.is_none() => required(causes, "data", "data is mandatory"),
        None => {}
        Some(old) => immutable(causes, "data", data, at(old, &["data"])),
    }
    if at(new, &["revision"]).and_then(Value::as_i64).is_some_and(|r| r < 0) {
        invalid(causes, "revision", &new["revision"], "must be greater than or equal to 0");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::testing::found;

    #[test]
    fn data_is_there_and_stays() {
        let first = json!({"revision":1,"data":{"a":1}});
        assert_eq!(found(controller_revision, &first, None), Vec::<String>::new());
        assert_eq!(found(controller_revision, &json!({"revision":2,"data":{"a":1}}), Some(&first)), Vec::<String>::new());
        assert_eq!(
            found(controller_revision, &json!({"revision":-1}), None),
            ["data: Required value: data is mandatory", "revision: Invalid value: -1: must be greater than or equal to 0"]
        );
        assert_eq!(
            found(controller_revision, &json!({"revision":1,"data":{"a":2}}), Some(&first)),
            ["data: Invalid value: {\"a\":2}: field is immutable"]
        );
    }
}
