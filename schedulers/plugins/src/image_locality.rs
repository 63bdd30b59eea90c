//! Nodes that have the pod's images start it sooner.

use std::collections::HashMap;
use std::sync::Arc;

use wharf_core::scheduler::{NodeInfo, PodInfo, Snapshot};
use wharf_scheduler_framework::{CycleState, MAX_SCORE, PreScore, PreScoreOutcome, Rejection, Score};

const MIB: i64 = 1 << 20;
const MIN_THRESHOLD: i64 = 23 * MIB;
const MAX_CONTAINER_THRESHOLD: i64 = 1000 * MIB;

/// The more of the pod's images by size a node has, the better; images that few nodes have count less, so that not all
/// pods go to the same node.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImageLocality;

struct Wanted {
    /// Image to the share of nodes that have it.
    images: HashMap<String, f64>,
    containers: i64,
}

/// With its tag spelled out.
fn normalized(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || name.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

impl PreScore for ImageLocality {
    fn pre_score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        _: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Result<PreScoreOutcome, Rejection> {
        let Some(spec) = &pod.pod.spec else { return Ok(PreScoreOutcome::Skip) };
        let containers: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
        let total = snapshot.nodes().len() as f64;
        let mut images = HashMap::new();
        for image in containers.iter().filter_map(|c| c.image.as_deref()) {
            let image = normalized(image);
            let having = snapshot.nodes().iter().filter(|n| n.images.contains_key(&image)).count();
            if having > 0 {
                images.insert(image, having as f64 / total);
            }
        }
        if images.is_empty() {
            return Ok(PreScoreOutcome::Skip);
        }
        state.set(Wanted { images, containers: i64::try_from(containers.len()).unwrap_or(i64::MAX) });
        Ok(PreScoreOutcome::Continue)
    }
}

impl Score for ImageLocality {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
        let Some(wanted) = state.get::<Wanted>() else { return Ok(0) };
        let size = |(image, share): (&String, &f64)| Some((*node.images.get(image)? as f64 * share) as i64);
        let sum = wanted.images.iter().filter_map(size).fold(0, i64::saturating_add);
        let most = MAX_CONTAINER_THRESHOLD.saturating_mul(wanted.containers.max(1));
        let sum = sum.clamp(MIN_THRESHOLD, most);
        Ok((sum - MIN_THRESHOLD).saturating_mul(MAX_SCORE) / (most - MIN_THRESHOLD))
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], _: &mut [i64]) -> Result<(), Rejection> {
        // Scores are in range already.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{alone, cluster, node, pod};
    use serde_json::json;

    #[test]
    fn the_node_with_the_image_is_better() {
        let mut with = (*node("b", json!({}), json!({}))).clone();
        let images = json!([{"names":["x.io/a:latest"],"sizeBytes":900 * MIB}]);
        with.status.as_mut().unwrap().images = serde_json::from_value(images).unwrap();
        let nodes = cluster(&[node("a", json!({}), json!({})), Arc::new(with), node("c", json!({}), json!({}))], &[]);
        let wants = pod("p", json!({}), json!({"containers":[{"name":"c","image":"x.io/a"}]}));
        assert_eq!(alone("ImageLocality", &wants, &nodes), Ok("b".into()));
    }

    #[test]
    fn names_get_their_tag() {
        for (image, expected) in [("a", "a:latest"), ("h:5000/a", "h:5000/a:latest"), ("a:v1", "a:v1"), ("a@sha256:0", "a@sha256:0")] {
            assert_eq!(normalized(image), expected);
        }
    }
}
