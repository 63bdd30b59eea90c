"""The Python client: typed, dynamic, watches, server-side apply, custom resources."""

import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.exceptions import ApiException

config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()

# Typed.
assert client.VersionApi().get_code().minor.startswith("36")
made = core.create_namespaced_config_map("default", {"metadata": {"name": "a", "labels": {"x": "y"}}, "data": {"k": "1"}})
assert made.metadata.uid and made.metadata.creation_timestamp
try:
    core.create_namespaced_config_map("default", {"metadata": {"name": "a"}})
    raise SystemExit("a second object of one name")
except ApiException as refused:
    assert (refused.status, '"reason":"AlreadyExists"' in refused.body) == (409, True), refused.body
assert core.patch_namespaced_config_map("a", "default", {"data": {"k": "2"}}).data == {"k": "2"}
made.data = {"k": "stale"}
try:
    core.replace_namespaced_config_map("a", "default", made)
    raise SystemExit("a stale replace")
except ApiException as refused:
    assert refused.status == 409, refused
assert [c.metadata.name for c in core.list_namespaced_config_map("default", label_selector="x=y").items] == ["a"]
page = core.list_config_map_for_all_namespaces(limit=1)
assert len(page.items) == 1 and page.metadata._continue and page.metadata.remaining_item_count >= 1
rest = core.list_config_map_for_all_namespaces(_continue=page.metadata._continue)
assert {c.metadata.uid for c in rest.items}.isdisjoint({c.metadata.uid for c in page.items})
assert rest.metadata.resource_version == page.metadata.resource_version

container = {"name": "main", "image": "example/web:1", "ports": [{"containerPort": 80}]}
deployment = {
    "metadata": {"name": "web"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [container]}},
    },
}
apps.create_namespaced_deployment("default", deployment)
assert apps.read_namespaced_deployment_scale("web", "default").spec.replicas == 1
apps.patch_namespaced_deployment_scale("web", "default", {"spec": {"replicas": 2}})
for event in watch.Watch().stream(apps.list_namespaced_deployment, "default", timeout_seconds=120):
    if event["object"].status.available_replicas == 2:
        break
else:
    raise SystemExit("the deployment did not become available")

# A watch that is told of what happens while it runs, and of the end of what was there.
seen, begun = [], threading.Event()


def follow():
    watcher = watch.Watch()
    for event in watcher.stream(core.list_namespaced_config_map, "default", label_selector="w=1", timeout_seconds=120):
        seen.append((event["type"], event["object"].metadata.name))
        begun.set()
        if event["type"] == "DELETED":
            watcher.stop()


core.create_namespaced_config_map("default", {"metadata": {"name": "w", "labels": {"w": "1"}}})
thread = threading.Thread(target=follow)
thread.start()
assert begun.wait(120)
core.patch_namespaced_config_map("w", "default", {"data": {"n": "1"}})
core.delete_namespaced_config_map("w", "default")
thread.join(120)
assert seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], seen
try:
    list(watch.Watch().stream(core.list_namespaced_config_map, "default", resource_version="999999999", timeout_seconds=1))
except ApiException as refused:
    assert refused.status in (410, 504), refused

# Dynamic: everything by discovery.
dynamic_client = dynamic.DynamicClient(client.ApiClient())
maps = dynamic_client.resources.get(api_version="v1", kind="ConfigMap")
applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "namespace": "default"}, "data": {"k": "1"}}
assert maps.server_side_apply(body=applied, field_manager="one").data.k == "1"
try:
    maps.server_side_apply(body={**applied, "data": {"k": "2"}}, field_manager="two")
    raise SystemExit("a conflict was not told")
except dynamic.exceptions.ConflictError as refused:
    assert "FieldManagerConflict" in str(refused.body), refused.body
assert maps.server_side_apply(body={**applied, "data": {"k": "2"}}, field_manager="two", force_conflicts=True).data.k == "2"
assert maps.get(name="b", namespace="default").metadata.managedFields
deployments = dynamic_client.resources.get(api_version="apps/v1", kind="Deployment")
assert deployments.status.get(name="web", namespace="default").status.replicas == 2
assert len(list(dynamic_client.resources.search(kind="Deployment"))) >= 1

utils.create_from_dict(client.ApiClient(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}})
assert core.read_namespace("n").status.phase == "Active"
core.delete_namespace("n")
core.delete_collection_namespaced_config_map("default", label_selector="x=y")
assert not core.list_namespaced_config_map("default", label_selector="x=y").items
review = client.AuthorizationV1Api().create_self_subject_access_review(
    {"spec": {"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "default"}}}
)
assert review.status.allowed
print("typed, dynamic, watched and applied")
