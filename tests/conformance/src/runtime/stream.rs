//! Exec, attach, port forwarding and events.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use wharf_core::runtime::{AttachRequest, ContainerEventType, ContainerState, ExecRequest, RuntimeError, Session};

use super::bench::*;
use crate::{CaseResult, ensure, ensure_eq, fail};

pub(super) async fn exec_sync(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    if !b.runtime().capabilities().exec {
        return unsupported(b.runtime().exec_sync(&id, &b.harness.sleep(), GRACE).await, "exec_sync");
    }
    let print = b.need(b.harness.print("out", "err"), "prints")?;
    let result = ok(b.runtime().exec_sync(&id, &print, GRACE).await, "exec_sync")?;
    ensure_eq!((&result.stdout[..], &result.stderr[..], result.exit_code), (&b"out\n"[..], &b"err\n"[..], 0), "what exec_sync gave");
    let exit = b.need(b.harness.exit(7), "exits with a code")?;
    let result = ok(b.runtime().exec_sync(&id, &exit, GRACE).await, "exec_sync of a command that exits with 7")?;
    ensure_eq!(result.exit_code, 7, "the exit code of an exec");
    ensure_eq!(b.status(&id).await?.container.state, ContainerState::Running, "the state of the container after execs");
    Ok(())
}

pub(super) async fn exec_sync_timeout(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let result = b.runtime().exec_sync(&id, &b.harness.sleep(), Duration::from_millis(300)).await;
    if !b.runtime().capabilities().exec {
        return unsupported(result, "exec_sync");
    }
    ensure!(result.is_err(), "an exec past its time gave {result:?}");
    ensure_eq!(b.status(&id).await?.container.state, ContainerState::Running, "the state of the container after an exec past its time");
    Ok(())
}

pub(super) async fn exec_not_running(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let created = b.create(&sandbox, &b.container("created", b.harness.sleep())).await?;
    let exited = b.sleeping(&sandbox, "exited").await?;
    b.stop(&exited).await?;
    for id in [created, exited] {
        let result = b.runtime().exec_sync(&id, &b.harness.sleep(), GRACE).await;
        if !b.runtime().capabilities().exec {
            unsupported(result, "exec_sync")?;
        } else if !matches!(result, Err(RuntimeError::FailedPrecondition { .. })) {
            return fail(format!("exec in a container that does not run: expected FailedPrecondition, got {result:?}"));
        }
    }
    Ok(())
}

pub(super) async fn exec_unknown(b: &Bench<'_>) -> CaseResult {
    let result = b.runtime().exec_sync(UNKNOWN, &b.harness.sleep(), GRACE).await;
    if b.runtime().capabilities().exec { not_found(result, "exec_sync") } else { unsupported(result, "exec_sync") }
}

async fn collect(stream: Option<mpsc::Receiver<Bytes>>, what: &str) -> CaseResult<Vec<u8>> {
    let Some(mut stream) = stream else { return fail(format!("{what} was asked for and is not there")) };
    let mut all = Vec::new();
    while let Some(chunk) = stream.recv().await {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

async fn exit_of(session: Session) -> CaseResult<i32> {
    match session.exit.await {
        Ok(code) => ok(code, "the session"),
        Err(_) => fail("the session ended without an exit code"),
    }
}

pub(super) async fn exec_streams(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let request = |command| ExecRequest { command, stdin: false, stdout: true, stderr: true, tty: false };
    if !b.runtime().capabilities().exec {
        return unsupported(b.runtime().exec(&id, &request(b.harness.sleep())).await, "exec");
    }
    let print = b.need(b.harness.print("out", "err"), "prints")?;
    let mut session = ok(b.runtime().exec(&id, &request(print)).await, "exec")?;
    ensure!(session.stdin.is_none(), "standard input was not asked for and is there");
    let (stdout, stderr) = tokio::join!(collect(session.stdout.take(), "stdout"), collect(session.stderr.take(), "stderr"));
    ensure_eq!((stdout?, stderr?), (b"out\n".to_vec(), b"err\n".to_vec()), "the streams of an exec");
    ensure_eq!(exit_of(session).await?, 0, "its exit code");

    let cat = b.want(b.harness.cat(), "copies its input")?;
    let request = ExecRequest { command: cat, stdin: true, stdout: true, stderr: false, tty: false };
    let mut session = ok(b.runtime().exec(&id, &request).await, "exec")?;
    let Some(stdin) = session.stdin.take() else { return fail("standard input was asked for and is not there") };
    let sent: Vec<u8> = (0..=255u8).cycle().take(200_000).collect();
    let send = async {
        for chunk in sent.chunks(4096) {
            if stdin.send(Bytes::copy_from_slice(chunk)).await.is_err() {
                return fail("standard input closed early");
            }
        }
        drop(stdin);
        Ok(())
    };
    let (sending, received) = tokio::join!(send, collect(session.stdout.take(), "stdout"));
    sending?;
    ensure!(received? == sent, "what went in did not come out");
    ensure_eq!(exit_of(session).await?, 0, "its exit code once its input was closed");
    Ok(())
}

pub(super) async fn attach(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    if !b.runtime().capabilities().attach {
        let id = b.sleeping(&sandbox, "a").await?;
        let request = AttachRequest { stdout: true, ..AttachRequest::default() };
        return unsupported(b.runtime().attach(&id, &request).await, "attach");
    }
    let cat = b.want(b.harness.cat(), "copies its input")?;
    let mut config = b.container("a", cat);
    config.stdin = true;
    let id = b.create(&sandbox, &config).await?;
    b.start(&id).await?;
    let request = AttachRequest { stdin: true, stdout: true, stderr: false, tty: false };
    let mut session = ok(b.runtime().attach(&id, &request).await, "attach")?;
    let (Some(stdin), Some(mut stdout)) = (session.stdin.take(), session.stdout.take()) else {
        return fail("streams were asked for and are not there");
    };
    if stdin.send(Bytes::from_static(b"hello\n")).await.is_err() {
        return fail("standard input closed early");
    }
    let mut received = Vec::new();
    while received.len() < 6 {
        let Some(chunk) = stdout.recv().await else { return fail(format!("standard output closed after {received:?}")) };
        received.extend_from_slice(&chunk);
    }
    ensure_eq!(received, b"hello\n", "what the container answered");
    drop(session);
    ensure_eq!(b.status(&id).await?.container.state, ContainerState::Running, "the state of the container after detaching");
    Ok(())
}

pub(super) async fn port_forward(b: &Bench<'_>) -> CaseResult {
    const PORT: u16 = 18_080;
    const TEXT: &str = "hello from inside";
    let sandbox = b.sandbox().await?;
    if !b.runtime().capabilities().port_forward {
        b.sleeping(&sandbox, "a").await?;
        return unsupported(b.runtime().port_forward(&sandbox.1, PORT).await, "port_forward");
    }
    let serve = b.want(b.harness.serve(PORT, TEXT), "serves a port")?;
    let id = b.started(&sandbox, "a", serve).await?;
    // The server says nothing when it is ready: ask until it answers or has ended. A port that nobody listens on yet fails the call
    // or, where the runtime connects only afterwards, the first read.
    let received = loop {
        let mut received = Vec::new();
        let error = match b.runtime().port_forward(&sandbox.1, PORT).await {
            Ok(mut connection) => match connection.read_to_end(&mut received).await {
                Ok(_) => break received,
                Err(e) => e.to_string(),
            },
            Err(e) => e.to_string(),
        };
        let state = b.status(&id).await?.container.state;
        ensure!(state == ContainerState::Running, "port_forward failed ({error}) and the server is {state:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    ensure_eq!(String::from_utf8_lossy(&received), TEXT, "what the port sent");
    Ok(())
}

pub(super) async fn events(b: &Bench<'_>) -> CaseResult {
    let events = b.runtime().events().await;
    if !b.runtime().capabilities().events {
        return unsupported(events.map(drop), "events");
    }
    let mut events = ok(events, "events")?;
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    b.stop(&id).await?;
    ok(b.runtime().remove_container(&id).await, "remove_container")?;
    let mut seen = Vec::new();
    while !seen.contains(&ContainerEventType::Deleted) {
        let Some(event) = events.next().await else { return fail(format!("the events ended after {seen:?}")) };
        if event.container_id == id {
            ensure_eq!((&event.pod_sandbox_id, &event.pod_uid), (&sandbox.1, &sandbox.0.metadata.uid), "the sandbox and pod of an event");
            seen.push(event.r#type);
        }
    }
    let expected = [ContainerEventType::Created, ContainerEventType::Started, ContainerEventType::Stopped, ContainerEventType::Deleted];
    ensure_eq!(seen, expected, "the events of one container");
    Ok(())
}
