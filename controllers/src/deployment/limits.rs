//! maxSurge and maxUnavailable.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How many pods a rollout may have too many and too few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Above the wanted number.
    pub surge: i32,
    /// Below the wanted number.
    pub unavailable: i32,
}

/// The wanted number of pods.
pub fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1).max(0)
}

/// Whether the strategy is Recreate.
pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

fn scaled(value: Option<&IntOrString>, total: i32, up: bool) -> i32 {
    let number = match value {
        None => return scaled(Some(&IntOrString::String("25%".into())), total, up),
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) else { return 0 };
            let product = percent.saturating_mul(i64::from(total));
            let rounded = if up { product.saturating_add(99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    };
    number.max(0)
}

/// Resolves percentages as Kubernetes does: surge is rounded up, unavailable down, and not both may be zero.
pub fn limits(deployment: &Deployment) -> Limits {
    let total = wanted(deployment);
    if is_recreate(deployment) {
        return Limits { surge: 0, unavailable: 0 };
    }
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), total, true);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), total, false);
    // With both at zero nothing could ever move.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Limits { surge, unavailable: unavailable.min(total) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rounding() {
        for (replicas, surge, unavailable, want) in [
            (3, json!("25%"), json!("25%"), (1, 0)),
            (10, json!("25%"), json!("25%"), (3, 2)),
            (4, json!("25%"), json!("25%"), (1, 1)),
            (5, json!(0), json!("10%"), (0, 1)),
            (5, json!(0), json!(0), (0, 1)),
            (5, json!(2), json!(9), (2, 5)),
            (0, json!("25%"), json!("25%"), (0, 0)),
            (3, json!("x"), json!(-4), (0, 1)),
        ] {
            let deployment: Deployment = serde_json::from_value(json!({"spec":{"replicas":replicas,"selector":{},"template":{},
                "strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":surge,"maxUnavailable":unavailable}}}}))
            .unwrap();
            let got = limits(&deployment);
            assert_eq!((got.surge, got.unavailable), want, "{replicas} {surge} {unavailable}");
        }
    }
}
