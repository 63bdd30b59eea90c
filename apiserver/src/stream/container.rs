//! Which container of a pod is meant.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use super::bad_request;

/// The container asked for, or the only one.
///
/// # Errors
/// 400 in Kubernetes' words.
pub(super) fn choose(pod: &Pod, asked: Option<&str>) -> Result<String, Box<Status>> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    let containers: Vec<String> = spec.containers.into_iter().map(|c| c.name).collect();
    let init: Vec<String> = spec.init_containers.into_iter().flatten().map(|c| c.name).collect();
    let ephemeral = spec.ephemeral_containers.into_iter().flatten().map(|c| c.name);
    match asked {
        Some(asked) if containers.iter().chain(&init).cloned().chain(ephemeral).any(|c| c == asked) => Ok(asked.to_owned()),
        Some(asked) => Err(bad_request(format!("container {asked} is not valid for pod {name}"))),
        None => match containers.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(bad_request(format!("a container name must be specified for pod {name}"))),
            several => {
                let mut message = format!("a container name must be specified for pod {name}, choose one of: [{}]", several.join(" "));
                if !init.is_empty() {
                    message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(bad_request(message))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: &[&str], init: &[&str]) -> Pod {
        let named = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": named(containers), "initContainers": named(init)}}))
            .unwrap()
    }

    #[test]
    fn one_is_taken_and_several_are_asked_for() {
        assert_eq!(choose(&pod(&["a"], &["i"]), None).unwrap(), "a");
        assert_eq!(choose(&pod(&["a", "b"], &["i"]), Some("i")).unwrap(), "i");
        let message = |r: Result<String, Box<Status>>| r.unwrap_err().message.unwrap();
        assert_eq!(message(choose(&pod(&["a", "b"], &[]), None)), "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(
            message(choose(&pod(&["a", "b"], &["i"]), None)),
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]"
        );
        assert_eq!(message(choose(&pod(&["a"], &[]), Some("x"))), "container x is not valid for pod p");
    }
}
