//! Helm itself, as the library that its Python package carries.

use wharf_core::testing::omit;
use wharf_e2e::{ControlPlane, PYTHON, python};

#[tokio::test(flavor = "multi_thread")]
async fn a_chart_is_installed_upgraded_rolled_back_and_removed() {
    let Some(interpreter) = python() else { return omit("e2e.helm.release", &format!("{PYTHON} names no interpreter")) };
    let plane = ControlPlane::start().await;
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/chart");
    assert!(plane.python(&interpreter, "helm.py", &[chart]).await.contains("the chart came and went"));
}
