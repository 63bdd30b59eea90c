//! Endpoints that are no runtime: each gives an error that says what to do, in bounded time.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod fake;

use std::path::Path;
use std::sync::Arc;

use fake::{Answer, Fake};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use wharf_core::clock::{Clock, ManualClock, SystemClock};
use wharf_core::runtime::{ImageService, Retry, RuntimeError, RuntimeService};
use wharf_runtime_containerd::{CALL_TIMEOUT, CONNECT_TIMEOUT, ConnectError, ContainerdOptions, ContainerdRuntime, CriError};

async fn connect(path: &Path, clock: Arc<dyn Clock>) -> Result<ContainerdRuntime, ConnectError> {
    ContainerdRuntime::connect(&format!("unix://{}", path.display()), ContainerdOptions::new("me"), clock).await
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("we-").tempdir().unwrap()
}

/// Moves time on as soon as somebody waits for it.
async fn advance(clock: &ManualClock, by: std::time::Duration) {
    while clock.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(by);
}

#[tokio::test]
async fn what_is_no_address_or_owner_is_refused() {
    let connect = |endpoint, owner| ContainerdRuntime::connect(endpoint, ContainerdOptions::new(owner), SystemClock::shared());
    assert!(matches!(connect("tcp://127.0.0.1:1", "me").await, Err(ConnectError::InvalidEndpoint { .. })));
    assert!(matches!(connect("unix:///x", "not an owner").await, Err(ConnectError::InvalidOwner { .. })));
}

#[tokio::test]
async fn a_socket_that_is_absent() {
    let folder = folder();
    let error = connect(&folder.path().join("absent.sock"), SystemClock::shared()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("start the runtime, or give the path of its socket"), "{error}");
}

#[tokio::test]
async fn a_socket_that_nobody_listens_on() {
    let folder = folder();
    let path = folder.path().join("left.sock");
    drop(UnixListener::bind(&path).unwrap());
    let error = connect(&path, SystemClock::shared()).await.unwrap_err();
    assert!(error.to_string().contains("the socket is left over"), "{error}");
}

#[tokio::test]
async fn a_socket_that_hangs() {
    let folder = folder();
    let path = folder.path().join("hangs.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let clock = ManualClock::default();
    let (result, ()) = tokio::join!(connect(&path, Arc::new(clock.clone())), advance(&clock, CONNECT_TIMEOUT));
    let error = result.unwrap_err();
    assert!(matches!(error, ConnectError::Unanswered { limit: CONNECT_TIMEOUT, .. }), "{error}");
}

#[tokio::test]
async fn a_socket_that_speaks_something_else() {
    let folder = folder();
    let path = folder.path().join("http.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 16];
            // The first probe says nothing and goes.
            if stream.read(&mut some).await.is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    });
    let error = connect(&path, SystemClock::shared()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotGrpc { .. }), "{error}");
    assert!(error.to_string().contains("give the CRI socket of"), "{error}");
}

#[tokio::test]
async fn a_containerd_without_cri() {
    let fake = Fake::start(|_| Answer::Error(12, "unknown service runtime.v1.RuntimeService"));
    let error = connect(fake.path(), SystemClock::shared()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NoCri { .. }), "{error}");
    assert!(error.to_string().contains("disabled_plugins"), "{error}");
}

#[tokio::test]
async fn a_runtime_that_hangs_later() {
    let fake = Fake::start(|call| match call {
        "Version" => fake::version(),
        "ListImages" => Answer::Hang,
        _ => Answer::Error(12, "no"),
    });
    let clock = ManualClock::default();
    let runtime = connect(fake.path(), Arc::new(clock.clone())).await.unwrap();
    assert!(!runtime.capabilities().events);
    let (result, ()) = tokio::join!(runtime.list_images(), advance(&clock, CALL_TIMEOUT));
    let Err(RuntimeError::Backend { op: "list_images", retry: Retry::Transient, source }) = result else { panic!("{result:?}") };
    assert!(matches!(source.downcast_ref(), Some(CriError::Unanswered { limit: CALL_TIMEOUT, .. })), "{source}");
}

#[tokio::test]
async fn a_runtime_that_goes_and_comes_back() {
    let answer = |call: &str| match call {
        "Version" => fake::version(),
        _ => Answer::Error(12, "no"),
    };
    let fake = Fake::start(answer);
    let runtime = connect(fake.path(), SystemClock::shared()).await.unwrap();
    let fake = fake.gone();
    let gone = runtime.version().await;
    let Err(RuntimeError::Backend { retry: Retry::Transient, source, .. }) = gone else { panic!("{gone:?}") };
    assert!(source.to_string().contains("see whether the runtime is running"), "{source}");
    let _fake = fake.back(answer);
    assert_eq!(runtime.version().await.unwrap().runtime_name, "fake");
}
