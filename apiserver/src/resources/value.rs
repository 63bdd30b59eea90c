//! Small helpers on JSON values, for code that is generic over kinds.

use serde_json::{Map, Value};

/// A value at a path of object members.
pub fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |v, name| v.get(name)).filter(|v| !v.is_null())
}

/// A string at a path; empty if there is none.
pub fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or_default()
}

/// A number at a path.
pub fn number(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

/// The items of a list at a path; none if there is no list.
pub fn items<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The object at a path, made where it is missing. Whatever is there and no object is replaced.
pub fn object<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut here = value;
    for name in path {
        here = as_map(here).entry(*name).or_insert_with(|| Value::Object(Map::new()));
    }
    as_map(here)
}

/// A value as an object; what is none becomes an empty one.
pub fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        // Made an object above.
        _ => unreachable!("an object"),
    }
}

/// Sets a member that is missing or null.
pub fn default(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if map.get(name).is_none_or(Value::is_null) {
        map.insert(name.to_owned(), value.into());
    }
}

/// Sets a string member that is missing, null or empty.
pub fn default_text(map: &mut Map<String, Value>, name: &str, value: &str) {
    if map.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
        map.insert(name.to_owned(), value.into());
    }
}

/// Calls `each` for every object in a list member.
pub fn each_in(map: &mut Map<String, Value>, name: &str, mut each: impl FnMut(&mut Map<String, Value>)) {
    if let Some(Value::Array(list)) = map.get_mut(name) {
        list.iter_mut().filter_map(Value::as_object_mut).for_each(&mut each);
    }
}

/// Puts back, or takes away, a member as another object has it.
pub fn copy_member(to: &mut Value, from: &Value, name: &str) {
    match from.get(name) {
        Some(value) => {
            as_map(to).insert(name.to_owned(), value.clone());
        }
        None => {
            as_map(to).remove(name);
        }
    }
}
