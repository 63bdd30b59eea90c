//! Cron jobs.

use serde_json::Value;

use super::job::job_spec;
use super::{Causes, invalid, not_negative, required, schedule, unsupported};
use crate::resources::value::{at, text};

/// What a cron job adds to its name to name a job takes eleven of the 63 characters.
const MAX_NAME: usize = 52;
const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];

/// Cron jobs.
pub(crate) fn cron_job(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let zone = at(spec, &["timeZone"]);
    let when = text(spec, &["schedule"]);
    if when.is_empty() {
        required(causes, "spec.schedule", "");
    } else {
        let mut refuse = |why: &str| invalid(causes, "spec.schedule", &when.into(), why);
        if let Err(why) = schedule::check(when) {
            refuse(&why);
        }
        let zoned_before = old.is_some_and(|o| text(o, &["spec", "schedule"]).contains("TZ"));
        match when.contains("TZ") {
            true if !zoned_before => refuse("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
            true if zone.is_some() => refuse("cannot use both timeZone field and TZ or CRON_TZ in schedule"),
            _ => {}
        }
    }
    not_negative(spec, "spec", "startingDeadlineSeconds", causes);
    if let Some(zone) = zone.filter(|z| old.is_none_or(|o| at(o, &["spec", "timeZone"]) != Some(z))) {
        time_zone(zone, causes);
    }
    match text(spec, &["concurrencyPolicy"]) {
        "" => required(causes, "spec.concurrencyPolicy", ""),
        policy if !POLICIES.contains(&policy) => unsupported(causes, "spec.concurrencyPolicy", &policy.into(), POLICIES),
        _ => {}
    }
    let job = at(spec, &["jobTemplate", "spec"]).unwrap_or(&Value::Null);
    job_spec(job, "spec.jobTemplate.spec", causes);
    if let Some(selector) = at(job, &["selector"]) {
        invalid(causes, "spec.jobTemplate.spec.selector", selector, "`selector` will be auto-generated");
    }
    if at(job, &["manualSelector"]) == Some(&Value::Bool(true)) {
        unsupported(causes, "spec.jobTemplate.spec.manualSelector", &true.into(), &["nil", "false"]);
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(spec, "spec", field, causes);
    }
    let name = text(new, &["metadata", "name"]);
    if old.is_none() && name.len() > MAX_NAME {
        invalid(causes, "metadata.name", &name.into(), "must be no more than 52 characters");
    }
}

fn time_zone(zone: &Value, causes: &mut Causes) {
    let name = zone.as_str().unwrap_or_default();
    let mut refuse = |why: &str| invalid(causes, "spec.timeZone", zone, why);
    if name.is_empty() {
        return refuse("timeZone must be nil or non-empty string");
    }
    let letters = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'));
    let good = |part: &str| !matches!(part, "" | "." | "..") && !part.starts_with('-') && part.len() <= 14 && letters(part);
    if !name.split('/').all(good) {
        return refuse(&format!("unknown time zone {name}"));
    }
    if name.eq_ignore_ascii_case("local") {
        refuse("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
    // A machine without the names of the zones cannot tell.
    let known = jiff::tz::db();
    if name != "Local" && !known.is_definitively_empty() && known.get(name).is_err() {
        refuse(&format!("unknown time zone {name}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(name: &str, changes: Value, old: Option<&Value>) -> Vec<String> {
        let mut spec = json!({"schedule":"* * * * *","concurrencyPolicy":"Allow",
            "jobTemplate":{"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"a","image":"x"}]}}}}});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        crate::validation::testing::found(cron_job, &json!({"metadata":{"name":name},"spec":spec}), old)
    }

    #[test]
    fn causes_in_kubernetes_words() {
        assert_eq!(found("c", json!({"timeZone":"Etc/UTC"}), None), Vec::<String>::new());
        for (changes, wanted) in [
            (json!({"schedule":""}), "spec.schedule: Required value"),
            (json!({"schedule":"* *"}), "spec.schedule: Invalid value: \"* *\": expected exactly 5 fields, found 2: [* *]"),
            (
                json!({"schedule":"TZ=UTC * * * * *"}),
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
            ),
            (json!({"timeZone":""}), "spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"),
            (json!({"timeZone":"A/../B"}), "spec.timeZone: Invalid value: \"A/../B\": unknown time zone A/../B"),
            (
                json!({"timeZone":"Local"}),
                "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ),
            (
                json!({"concurrencyPolicy":"X"}),
                "spec.concurrencyPolicy: Unsupported value: \"X\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
            (json!({"failedJobsHistoryLimit":-1}), "spec.failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0"),
        ] {
            assert_eq!(found("c", changes, None), [wanted]);
        }
        let long = "a".repeat(53);
        assert_eq!(
            found(&long, json!({}), None),
            [format!("metadata.name: Invalid value: \"{long}\": must be no more than 52 characters")]
        );
        let zoned = json!({"spec":{"schedule":"TZ=UTC * * * * *"}});
        assert_eq!(found(&long, json!({"schedule":"TZ=UTC 1 * * * *"}), Some(&zoned)), Vec::<String>::new());
    }
}
