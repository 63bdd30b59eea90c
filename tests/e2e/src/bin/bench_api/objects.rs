//! What is created.

/// Bytes of a ConfigMap as it is sent.
pub const SIZE: usize = 1024;

/// A ConfigMap's data, of which the whole becomes about [`SIZE`].
pub fn filling() -> String {
    // Text, as configuration is, and nothing that compresses to nothing.
    let words = ["listen", "address", "timeout", "replicas", "namespace", "enabled", "threshold", "endpoint"];
    (0..)
        .map(|i| format!("{}={} ", words[i % words.len()], i * 7919 % 1009))
        .flat_map(|w| w.into_bytes())
        .map(char::from)
        .take(SIZE - 190)
        .collect()
}

/// A node as a kubelet registers it, with what it reports.
pub fn node(index: usize) -> (String, String) {
    let name = format!("bench-node-{index}");
    let quantities = r#"{"cpu":"32","memory":"131072000Ki","pods":"110","ephemeral-storage":"102625208Ki","hugepages-2Mi":"0"}"#;
    let conditions: Vec<String> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .iter()
        .map(|kind| {
            let status = if *kind == "Ready" { "True" } else { "False" };
            format!(
                r#"{{"type":"{kind}","status":"{status}","lastHeartbeatTime":"2026-01-01T00:00:00Z","lastTransitionTime":"2026-01-01T00:00:00Z","reason":"KubeletHas{kind}","message":"kubelet reports {kind}"}}"#
            )
        })
        .collect();
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}","labels":{{"kubernetes.io/hostname":"{name}","kubernetes.io/os":"linux","kubernetes.io/arch":"amd64","topology.kubernetes.io/zone":"zone-{zone}"}},"annotations":{{"volumes.kubernetes.io/controller-managed-attach-detach":"true"}}}},"spec":{{"podCIDR":"10.{a}.{b}.0/24","podCIDRs":["10.{a}.{b}.0/24"]}}}}"#,
        zone = index % 3,
        a = 128 + index / 256,
        b = index % 256,
    );
    let status = format!(
        r#"{{"status":{{"capacity":{quantities},"allocatable":{quantities},"conditions":[{}],"addresses":[{{"type":"InternalIP","address":"172.16.{}.{}"}},{{"type":"Hostname","address":"{name}"}}],"nodeInfo":{{"machineID":"0123456789abcdef0123456789abcdef","systemUUID":"0123456789abcdef","bootID":"0123456789abcdef","kernelVersion":"6.12.0","osImage":"Debian GNU/Linux","containerRuntimeVersion":"containerd://2.1.0","kubeletVersion":"v1.36.0","kubeProxyVersion":"","operatingSystem":"linux","architecture":"amd64"}}}}}}"#,
        conditions.join(","),
        index / 256,
        index % 256
    );
    (body, status)
}

/// A pod as a ReplicaSet makes it, bound already, and what a kubelet reports of it.
pub fn pod(index: usize, nodes: usize) -> (String, String) {
    let (name, node) = (format!("web-7d4b9c6f5-{index:05}"), index % nodes);
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"app":"web","pod-template-hash":"7d4b9c6f5","tier":"front"}},"annotations":{{"prometheus.io/scrape":"true","prometheus.io/port":"9090"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-7d4b9c6f5","uid":"5d3f6c1e-8a52-4c0e-9f43-1c2b7a9d0e11","controller":true,"blockOwnerDeletion":true}}]}},"spec":{{"nodeName":"bench-node-{node}","containers":[{{"name":"web","image":"registry.example.com/shop/web:1.24.3","ports":[{{"name":"http","containerPort":8080}}],"env":[{{"name":"MODE","value":"production"}},{{"name":"LOG_LEVEL","value":"info"}},{{"name":"POD_IP","valueFrom":{{"fieldRef":{{"fieldPath":"status.podIP"}}}}}}],"resources":{{"requests":{{"cpu":"100m","memory":"128Mi"}},"limits":{{"cpu":"1","memory":"512Mi"}}}},"volumeMounts":[{{"name":"config","mountPath":"/etc/web"}}],"readinessProbe":{{"httpGet":{{"path":"/ready","port":"http"}},"periodSeconds":5}},"livenessProbe":{{"httpGet":{{"path":"/live","port":"http"}},"initialDelaySeconds":10}}}}],"volumes":[{{"name":"config","configMap":{{"name":"web"}}}}]}}}}"#
    );
    let conditions: Vec<String> = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .iter()
        .map(|kind| format!(r#"{{"type":"{kind}","status":"True","lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z"}}"#))
        .collect();
    let status = format!(
        r#"{{"status":{{"phase":"Running","conditions":[{}],"hostIP":"172.16.0.{}","hostIPs":[{{"ip":"172.16.0.{}"}}],"podIP":"10.128.{}.{}","podIPs":[{{"ip":"10.128.{}.{}"}}],"startTime":"2026-01-01T00:00:00Z","containerStatuses":[{{"name":"web","state":{{"running":{{"startedAt":"2026-01-01T00:00:01Z"}}}},"lastState":{{}},"ready":true,"restartCount":0,"image":"registry.example.com/shop/web:1.24.3","imageID":"registry.example.com/shop/web@sha256:2f1c9b1c1f0c4f6b7b1d8f4f3c1d7b9a6b6f1c9b1c1f0c4f6b7b1d8f4f3c1d7b","containerID":"containerd://8b1d8f4f3c1d7b9a6b6f1c9b1c1f0c4f6b7b1d8f4f3c1d7b2f1c9b1c1f0c4f6b","started":true}}]}}}}"#,
        conditions.join(","),
        node % 256,
        node % 256,
        index / 256,
        index % 256,
        index / 256,
        index % 256
    );
    (body, status)
}
