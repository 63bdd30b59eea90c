//! A cluster has keys when something needs them, and says so when it has not.

use std::sync::Arc;

use wharf::runtime_hollow::HollowRuntime;
use wharf::{Cluster, NodeSpec};

#[tokio::test]
async fn a_node_whose_pods_hold_tokens_needs_keys() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let node = |name: &str| NodeSpec::new(name, Arc::new(HollowRuntime::new()), folder.path().join("root"), folder.path().join("logs"));

    let without = Cluster::builder().start().await?;
    let refused = without.add_node(node("late")).await.expect_err("it has no keys");
    assert!(refused.to_string().contains("build the cluster with `listen`"), "{refused}");
    assert!(without.nodes().is_empty());
    without.shutdown().await;

    for builder in [Cluster::builder().node(node("early")), Cluster::builder().data(folder.path().join("data"))] {
        let with = builder.start().await?;
        with.add_node(node("late")).await?;
        assert!(with.nodes().contains(&"late".to_owned()));
        with.shutdown().await;
    }
    Ok(())
}
