//! The Python client of Kubernetes.

use wharf_core::testing::omit;
use wharf_e2e::{ControlPlane, PYTHON, python};

#[tokio::test(flavor = "multi_thread")]
async fn typed_dynamic_watches_and_applies() {
    let Some(interpreter) = python() else { return omit("e2e.python.client", &format!("{PYTHON} names no interpreter")) };
    let plane = ControlPlane::start().await;
    assert!(plane.python(&interpreter, "python_client.py", &[]).await.contains("typed, dynamic, watched and applied"));
}
