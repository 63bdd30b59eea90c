//! Good schemas and rules, from which a fuzzer finds its way to bad ones.

use serde_json::{Value, json};

fn schemas() -> Vec<Value> {
    let text = json!({"type": "string"});
    vec![
        json!({"schema": {"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "properties": {
                "replicas": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 10, "default": 3},
                "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 1, "maxLength": 63, "enum": ["a", "b"]},
                "port": {"x-kubernetes-int-or-string": true}, "ratio": {"type": "number", "multipleOf": 0.5},
                "on": {"type": "boolean", "nullable": true, "default": null}}}}},
            "object": {"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a"},
                "spec": {"name": "a", "port": "http", "ratio": 1.5, "on": null, "unknown": 1}}}),
        json!({"schema": {"type": "object", "properties": {
                "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "maxItems": 5,
                    "items": {"type": "object", "required": ["k"], "properties": {"k": text, "v": {"type": "integer", "default": 1}}}},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": text, "uniqueItems": false},
                "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"a": text}}, "maxProperties": 3},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "embedded": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}},
            "object": {"list": [{"k": "a"}, {"k": "b", "v": 2}], "set": ["a", "b"], "map": {"x": {"a": "b"}}, "free": {"x": [1, {}]},
                "embedded": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}}}),
        json!({"schema": {"type": "object", "properties": {"spec": {"type": "object", "maxProperties": 5,
                "x-kubernetes-validations": [{"rule": "self.min <= self.max", "message": "min", "reason": "FieldValueForbidden", "fieldPath": ".min"},
                    {"rule": "!has(self.at) || self.at == oldSelf.at", "messageExpression": "'was ' + string(oldSelf.min)", "optionalOldSelf": false}],
                "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "at": {"type": "string", "format": "date-time"}}}}},
            "object": {"spec": {"min": 1, "max": 2, "at": "2020-01-01T00:00:00Z"}}}),
        json!({"schema": {"type": "object", "properties": {"a": text, "b": text, "mode": {"type": "string", "default": "x"}},
                "allOf": [{"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"not": {"required": ["c"]}}],
                "oneOf": [{"properties": {"mode": {"enum": ["x"]}}}, {"properties": {"mode": {"pattern": "^y"}}}]},
            "object": {"a": "1"}}),
        json!({"schema": {"type": "object", "properties": {
                "formats": {"type": "object", "properties": {"ip": {"type": "string", "format": "ipv4"}, "cidr": {"type": "string", "format": "cidr"},
                    "mail": {"type": "string", "format": "email"}, "bytes": {"type": "string", "format": "byte"},
                    "duration": {"type": "string", "format": "duration"}, "uuid": {"type": "string", "format": "uuid"},
                    "uri": {"type": "string", "format": "uri"}, "date": {"type": "string", "format": "date"}}}}},
            "object": {"formats": {"ip": "1.2.3.4", "cidr": "10.0.0.0/8", "mail": "a@b.c", "bytes": "AA==", "duration": "1h",
                "uuid": "00000000-0000-0000-0000-000000000000", "uri": "https://a/b", "date": "2020-02-29"}}}),
    ]
}

pub(crate) fn crd_schema() -> Vec<Vec<u8>> {
    schemas().iter().map(|seed| seed.to_string().into_bytes()).collect()
}

const RULES: &[&str] = &[
    "self.a + 1 == 2 && self.b.startsWith('x')",
    "self.c.all(i, i > 0) && self.c.exists_one(i, i == 2) && self.c.map(i, i * 2).filter(i, i % 4 == 0).size() == 1",
    "has(self.d.e) ? self.d.e : !has(self.d)",
    "self.b.matches('^[a-z]+$') || self.b in ['x', 'y'] || self.c[0] == 1u",
    "'%s is %d, %.2f, %x, %b'.format([self.b, self.a, 1.5, 255, 3]).size() > 0",
    "quantity('1.5Gi').add(quantity('512Mi')).isGreaterThan(quantity('1Gi'))",
    "duration('1h30m') > duration('90s') && timestamp('2020-01-01T00:00:00Z').getFullYear('America/New_York') == 2019",
    "url('https://a.b:80/c?d=e').getHost() == 'a.b:80' && ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3')",
    "self.b.split('').join('-').replace('x', 'y').upperAscii().indexOf('Y') == 0 && self.b.find('[a-z]') == 'x'",
    "math.greatest(1, 2.5) > math.least([3, 1]) && sets.contains([1, 2], [1]) && self.c.isSorted() && self.c.sum() == 3",
    "oldSelf.a <= self.a && dyn(self.c) == [1, 2] && {'a': 1}.a == 1 && type(self.a) == int",
    "optional.of(1).orValue(2) == 1 && self.?zz.hasValue() == false && 'a\\u0062' == \"ab\" && b'ab' != b'b'",
    "'''a\n'b''' != r'\\d' && 0x1F == 31 && -9223372036854775808 < 9223372036854775807 && 1e308 * 10.0 > 0.0",
];

pub(crate) fn cel() -> Vec<Vec<u8>> {
    let object = json!({"a": 1, "b": "x", "c": [1, 2], "d": {"e": true}});
    let with = |rule: &&str| json!({"rule": rule, "messageExpression": "'no ' + self.b", "self": object, "oldSelf": object}).to_string();
    let all = RULES.iter().map(with).map(String::into_bytes);
    all.chain(RULES.iter().map(|rule| rule.as_bytes().to_vec())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_good() {
        for seed in schemas() {
            let schema = &seed["schema"];
            let refused = [wharf_structural::check_definition("", schema), wharf_structural::non_structural("", schema)].concat();
            assert!(refused.is_empty(), "{schema}: {refused:?}");
        }
        for rule in RULES {
            let rule = wharf_cel::Rule::read(&json!({"rule": rule}));
            assert!(rule.compiled().is_ok(), "{}: {:?}", rule.source(), rule.compiled());
        }
    }
}
