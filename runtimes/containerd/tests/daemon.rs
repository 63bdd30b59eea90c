//! What only a real daemon shows: it dies and comes back under us, also in the middle of a call, and it has other users.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use ipnet::Ipv4Net;
use wharf_conformance::system::containerd::{Containerd, ContainerdError, Options, PAUSE_IMAGE};
use wharf_core::clock::SystemClock;
use wharf_core::runtime::{
    ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState, ImageSpec, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata,
    PodSandboxState, Retry, RuntimeError, RuntimeService,
};
use wharf_core::testing::omit;
use wharf_runtime_containerd::{ContainerdOptions, ContainerdRuntime, CriError};

/// Between two looks at the daemon's log.
const POLL: Duration = Duration::from_millis(1);
/// How often a call is made again.
const TRIES: u32 = 100;
/// Between two tries.
const RETRY: Duration = Duration::from_millis(100);

/// Numbers the daemons of this process, whose networks are not to meet.
static DAEMONS: AtomicU8 = AtomicU8::new(0);

async fn containerd(test: &str) -> Option<Containerd> {
    let n = DAEMONS.fetch_add(1, Ordering::Relaxed);
    let mut options = Options::default();
    options.bridge = format!("wcd{}n{n}", std::process::id() % 1_000_000);
    options.subnet = Ipv4Net::new([10, 254, n, 0].into(), 24).unwrap();
    match Containerd::start(options).await {
        Ok(containerd) => Some(containerd),
        Err(ContainerdError::Missing(what)) => {
            omit(test, &what);
            None
        }
        Err(e) => panic!("{e}"),
    }
}

async fn connect(containerd: &Containerd, owner: &str) -> ContainerdRuntime {
    ContainerdRuntime::connect(&containerd.endpoint(), ContainerdOptions::new(owner), SystemClock::shared()).await.unwrap()
}

fn pod(name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "default".into(), attempt: 0 },
        hostname: name.into(),
        ..PodSandboxConfig::default()
    }
}

fn pause(attempt: u32) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata { name: "main".into(), attempt },
        image: ImageSpec::new(PAUSE_IMAGE),
        ..ContainerConfig::default()
    }
}

fn assert_transient<T: std::fmt::Debug>(result: Result<T, RuntimeError>) {
    assert!(matches!(result, Err(RuntimeError::Backend { retry: Retry::Transient, .. })), "{result:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_under_us() {
    let Some(mut containerd) = containerd("daemon.killed_and_started_again_under_us").await else { return };
    let runtime = connect(&containerd, "me").await;
    let pod = pod("survivor");
    let sandbox = runtime.run_pod_sandbox(&pod, "").await.unwrap();
    let running = runtime.create_container(&sandbox, &pause(0), &pod).await.unwrap();
    runtime.start_container(&running).await.unwrap();
    let before = runtime.container_status(&running).await.unwrap();
    let sandbox_before = runtime.pod_sandbox_status(&sandbox).await.unwrap();

    containerd.kill();
    assert_transient(runtime.version().await);
    assert_transient(runtime.container_status(&running).await);
    assert_transient(runtime.run_pod_sandbox(&pod, "").await);
    assert_transient(runtime.exec_sync(&running, &["x".into()], Duration::from_secs(1)).await);

    containerd.start_again().await.unwrap();
    // The very same runtime, with nobody telling it.
    assert_eq!(runtime.container_status(&running).await.unwrap(), before);
    assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap(), sandbox_before);
    assert_eq!(runtime.run_pod_sandbox(&pod, "").await.unwrap(), sandbox);
    assert_eq!(runtime.create_container(&sandbox, &pause(0), &pod).await.unwrap(), running);
    runtime.stop_container(&running, Duration::ZERO).await.unwrap();
    let status = runtime.container_status(&running).await.unwrap();
    assert_eq!((status.container.state, status.exit_code), (ContainerState::Exited, 137));
    runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(runtime.list_containers(&ContainerFilter::default()).await.unwrap(), []);
    containerd.stop().await;
}

/// Waits until the daemon has begun with a call.
async fn begun(containerd: &Containerd, words: &str) {
    while !containerd.log().contains(words) {
        tokio::time::sleep(POLL).await;
    }
}

/// The same call again for as long as that is said to help: a daemon that was killed finds half a snapshot of its own in its way, and
/// collects it a moment later.
async fn again<T, Call: Future<Output = Result<T, RuntimeError>>>(call: impl Fn() -> Call) -> T {
    for _ in 0..TRIES {
        match call().await {
            Ok(value) => return value,
            Err(RuntimeError::Backend { retry: Retry::Transient, .. }) => tokio::time::sleep(RETRY).await,
            Err(e) => panic!("{e:?}"),
        }
    }
    panic!("no try of {TRIES} helped")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_of_a_call() {
    let Some(mut containerd) = containerd("daemon.killed_in_the_middle_of_a_call").await else { return };
    let runtime = connect(&containerd, "me").await;
    for round in 0..4 {
        let mut pod = pod(&format!("mid-{round}"));
        let call = tokio::spawn({
            let (runtime, pod) = (runtime.clone(), pod.clone());
            async move { runtime.run_pod_sandbox(&pod, "").await }
        });
        begun(&containerd, &format!("RunPodSandbox for &PodSandboxMetadata{{Name:mid-{round},")).await;
        // Each round a little later.
        tokio::time::sleep(Duration::from_millis(30 * round)).await;
        containerd.kill();
        let cut = call.await.unwrap();
        containerd.start_again().await.unwrap();
        let mut sandbox = again(|| runtime.run_pod_sandbox(&pod, "")).await;
        if let Ok(id) = cut {
            assert_eq!(sandbox, id);
        }
        assert_eq!(runtime.run_pod_sandbox(&pod, "").await.unwrap(), sandbox);
        let listed = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap();
        assert_eq!(listed.iter().map(|s| &s.id).collect::<Vec<_>>(), [&sandbox]);
        if listed[0].state == PodSandboxState::NotReady {
            // What was left half made is not ready: the pod's next sandbox is.
            pod.metadata.attempt += 1;
            let half = std::mem::replace(&mut sandbox, again(|| runtime.run_pod_sandbox(&pod, "")).await);
            runtime.remove_pod_sandbox(&half).await.unwrap();
        }
        assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap().sandbox.state, PodSandboxState::Ready);

        let call = tokio::spawn({
            let (runtime, sandbox, pod) = (runtime.clone(), sandbox.clone(), pod.clone());
            async move { runtime.create_container(&sandbox, &pause(0), &pod).await }
        });
        begun(&containerd, &format!("CreateContainer within sandbox \\\"{sandbox}")).await;
        tokio::time::sleep(Duration::from_millis(5 * round)).await;
        containerd.kill();
        let cut = call.await.unwrap();
        containerd.start_again().await.unwrap();
        let first = pause(0);
        let mut container = again(|| runtime.create_container(&sandbox, &first, &pod)).await;
        if let Ok(id) = cut {
            assert_eq!(container, id);
        }
        let listed = runtime.list_containers(&ContainerFilter::default()).await.unwrap();
        assert_eq!(listed.iter().map(|c| &c.id).collect::<Vec<_>>(), [&container]);
        if listed[0].state != ContainerState::Created {
            let next = pause(1);
            container = again(|| runtime.create_container(&sandbox, &next, &pod)).await;
        }
        runtime.start_container(&container).await.unwrap();
        assert_eq!(runtime.container_status(&container).await.unwrap().container.state, ContainerState::Running);
        runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        assert_eq!(runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap(), []);
        assert_eq!(runtime.list_containers(&ContainerFilter::default()).await.unwrap(), []);
    }
    containerd.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_another_owners_is_left_alone() {
    let Some(containerd) = containerd("daemon.what_is_another_owners_is_left_alone").await else { return };
    let (theirs, ours) = (connect(&containerd, "them").await, connect(&containerd, "us").await);
    let pod = pod("theirs");
    let sandbox = theirs.run_pod_sandbox(&pod, "").await.unwrap();
    let container = theirs.create_container(&sandbox, &pause(0), &pod).await.unwrap();
    theirs.start_container(&container).await.unwrap();

    assert_eq!(ours.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap(), []);
    assert_eq!(ours.list_containers(&ContainerFilter::default()).await.unwrap(), []);
    assert_eq!(ours.list_container_stats(&ContainerFilter::default()).await.unwrap(), []);
    let by_id = PodSandboxFilter { id: Some(sandbox.clone()), ..PodSandboxFilter::default() };
    assert_eq!(ours.list_pod_sandbox(&by_id).await.unwrap(), []);
    // As with any id that is unknown.
    ours.stop_container(&container, Duration::ZERO).await.unwrap();
    ours.remove_container(&container).await.unwrap();
    ours.stop_pod_sandbox(&sandbox).await.unwrap();
    ours.remove_pod_sandbox(&sandbox).await.unwrap();
    let not_found = |result: Result<(), RuntimeError>| assert!(matches!(result, Err(RuntimeError::NotFound { .. })), "{result:?}");
    not_found(ours.pod_sandbox_status(&sandbox).await.map(drop));
    not_found(ours.container_status(&container).await.map(drop));
    not_found(ours.start_container(&container).await);
    not_found(ours.reopen_container_log(&container).await);
    not_found(ours.update_container_resources(&container, &Default::default()).await);
    not_found(ours.exec_sync(&container, &["x".into()], Duration::from_secs(1)).await.map(drop));
    not_found(ours.exec(&container, &Default::default()).await.map(drop));
    not_found(ours.attach(&container, &Default::default()).await.map(drop));
    not_found(ours.port_forward(&sandbox, 80).await.map(drop));
    not_found(ours.create_container(&sandbox, &pause(1), &pod).await.map(drop));
    // The runtime knows one sandbox of this name, and it is not ours.
    let held = ours.run_pod_sandbox(&pod, "").await;
    let Err(RuntimeError::Backend { retry: Retry::Permanent, source, .. }) = held else { panic!("{held:?}") };
    assert!(matches!(source.downcast_ref(), Some(CriError::NameHeld { holder, .. }) if *holder == sandbox), "{source}");

    assert_eq!(theirs.container_status(&container).await.unwrap().container.state, ContainerState::Running);
    assert_eq!(theirs.pod_sandbox_status(&sandbox).await.unwrap().sandbox.state, PodSandboxState::Ready);
    containerd.stop().await;
}
