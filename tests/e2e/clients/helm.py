"""A chart's life by Helm itself: installed, upgraded, rolled back, removed. The chart's folder is the argument."""

import json
import subprocess
import sys

import helm_python as helm

CHART = sys.argv[1]
TIMEOUT = 120


def kubectl(*words):
    return subprocess.run(["kubectl", *words], check=True, capture_output=True, text=True).stdout


def data(name="demo", namespace="default"):
    return json.loads(kubectl("get", "cm", name, "-n", namespace, "-o", "json"))["data"]


def kinds(kind, namespace="default"):
    return kubectl("get", kind, "-n", namespace, "-o", "name").split()


with helm.Config(namespace="default") as helm_config:
    # A dry run leaves definitions out, so that nothing of their kinds could be built.
    dry = helm_config.install(CHART, "demo", {"custom": False}, dry_run="server")
    assert "kind: Deployment" in dry["manifest"], dry
    assert "deployment.apps/demo" not in kinds("deploy")

    release = helm_config.install(CHART, "demo", wait="watcher", timeout=TIMEOUT)
    assert (release["revision"], release["status"]) == (1, "deployed"), release
    assert data()["greeting"] == "hello"
    # What templates ask discovery for.
    assert data()["api"].startswith("v1.36") and data()["hasDeployments"] == "true", data()
    assert kubectl("get", "deploy", "demo", "-o", "jsonpath={.status.availableReplicas}") == "1"
    # Of a kind that the chart itself defines.
    greeting = json.loads(kubectl("get", "gr", "demo", "-o", "json"))
    assert greeting["spec"] == {"text": "hello", "times": 1}, greeting
    assert "pod/demo-prepare" not in kinds("pod"), "a hook that has succeeded goes"
    assert [r["name"] for r in helm_config.list()] == ["demo"]
    try:
        helm_config.install(CHART, "demo")
        raise SystemExit("the name is in use")
    except helm.HelmError as refused:
        assert "cannot reuse a name" in str(refused) or "exists" in str(refused), refused

    values = {"replicas": 2, "greeting": "good day", "extra": True}
    release = helm_config.upgrade(CHART, "demo", values, wait="watcher", timeout=TIMEOUT)
    assert (release["revision"], release["status"]) == (2, "deployed"), release
    assert kubectl("get", "gr", "demo", "-o", "jsonpath={.spec.text}") == "good day"
    assert data()["greeting"] == "good day" and "secret/demo-extra" in kinds("secret")
    assert kubectl("get", "deploy", "demo", "-o", "jsonpath={.status.availableReplicas}") == "2"
    assert helm_config.get_values("demo") == values

    # An upgrade that the server refuses is told, and what was refused stays as it is.
    try:
        helm_config.upgrade(CHART, "demo", {**values, "image": ""}, timeout=TIMEOUT)
        raise SystemExit("a container without an image was taken")
    except helm.HelmError as refused:
        assert "Required value" in str(refused), refused
    assert kubectl("get", "deploy", "demo", "-o", "jsonpath={..containers[0].image}") == "example/greeter:1"

    helm_config.rollback("demo", version=1, wait="watcher", timeout=TIMEOUT)
    assert data()["greeting"] == "hello" and "secret/demo-extra" not in kinds("secret")
    assert kubectl("get", "deploy", "demo", "-o", "jsonpath={.spec.replicas}") == "1"
    history = helm_config.history("demo")
    assert [h["revision"] for h in history] == [1, 2, 3, 4], history

    helm_config.uninstall("demo", wait="watcher", timeout=TIMEOUT)
    # A definition stays, as Helm wants it, and what was made of it goes.
    assert kinds("crd") == ["customresourcedefinition.apiextensions.k8s.io/greetings.demo.example.com"], kinds("crd")
    for kind in ["deploy", "cm", "svc", "sa", "role", "rolebinding", "secret", "greetings"]:
        assert not [name for name in kinds(kind) if name.endswith("/demo") or "demo" in name], (kind, kinds(kind))

# Into a namespace of its own, which Helm makes.
with helm.Config(namespace="apart") as helm_config:
    release = helm_config.install(CHART, "other", create_namespace=True, wait="watcher", timeout=TIMEOUT)
    assert release["status"] == "deployed" and data("other", "apart")["greeting"] == "hello"
    helm_config.uninstall("other")
print("the chart came and went")
