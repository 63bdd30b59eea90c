//! Exec, attach and port forwarding.

use std::time::Duration;

use k8s_cri::v1;
use tokio::sync::oneshot;
use wharf_core::runtime::{
    AttachRequest, ContainerState, Duplex, ExecRequest, ExecResult, PodSandboxState, RuntimeError, RuntimeResult, Session,
};

use super::{ContainerdRuntime, container, sandbox};
use crate::client::{CALL_TIMEOUT, is_deadline};
use crate::error::{CriError, Failure};
use crate::streaming::{self, Wanted};
use crate::translate;

const EXEC: &str = "exec";
const EXEC_SYNC: &str = "exec_sync";
const ATTACH: &str = "attach";
const PORT_FORWARD: &str = "port_forward";
/// What an exec may take beyond its own time, for the command to be killed.
const EXEC_MARGIN: Duration = Duration::from_secs(30);
/// How often a container is asked whether it has exited, once its streams have ended.
const EXIT_LOOKS: u32 = 50;
/// Between two of them.
const EXIT_POLL: Duration = Duration::from_millis(100);
/// How the low-level runtime says that a command never began.
const NEVER_BEGAN: [&str; 3] = ["unable to start container process", "executable file not found", "no such file or directory"];

/// What a failed exec means: a command that cannot be started is the caller's.
fn exec_failed(id: &str, message: &str) -> Option<RuntimeError> {
    let never = NEVER_BEGAN.iter().any(|words| message.contains(words));
    never.then(|| RuntimeError::StartFailed { id: id.to_string(), message: message.to_string() })
}

fn refused(id: &str, failure: Failure) -> RuntimeError {
    exec_failed(id, failure.message()).unwrap_or_else(|| failure.about("container", id))
}

pub(super) async fn exec_sync(runtime: &ContainerdRuntime, id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult> {
    container::running(runtime, id, EXEC_SYNC).await?;
    let mut client = runtime.cri.runtime();
    let request = v1::ExecSyncRequest { container_id: id.to_string(), cmd: command.to_vec(), timeout: translate::seconds(timeout) };
    let call = client.exec_sync(request);
    let answer = match timeout.is_zero() {
        true => runtime.cri.endless(EXEC_SYNC, call).await,
        false => runtime.cri.call(EXEC_SYNC, timeout.saturating_add(EXEC_MARGIN), call).await,
    };
    match answer {
        Ok(response) => Ok(ExecResult { stdout: response.stdout, stderr: response.stderr, exit_code: response.exit_code }),
        Err(failure) if is_deadline(&failure) => Err(RuntimeError::transient(EXEC_SYNC, CriError::ExecTimeout(timeout))),
        Err(failure) => Err(refused(id, failure)),
    }
}

pub(super) async fn exec(runtime: &ContainerdRuntime, id: &str, request: &ExecRequest) -> RuntimeResult<Session> {
    container::running(runtime, id, EXEC).await?;
    let wanted = Wanted::new(request.stdin, request.stdout, request.stderr, request.tty);
    let mut client = runtime.cri.runtime();
    let call = client.exec(v1::ExecRequest {
        container_id: id.to_string(),
        cmd: request.command.clone(),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    });
    let url = runtime.cri.call(EXEC, CALL_TIMEOUT, call).await.map_err(|failure| refused(id, failure))?.url;
    let (session, end) = streaming::session(&runtime.cri, EXEC, &url, wanted).await?;
    let (exited, exit) = oneshot::channel();
    let id = id.to_string();
    streaming::when_ended(end, exited, move |end| async move {
        Some(match end {
            Ok(code) => Ok(code),
            Err(message) => Err(exec_failed(&id, &message).unwrap_or_else(|| RuntimeError::transient(EXEC, CriError::Streaming(message)))),
        })
    });
    Ok(streaming::visible(session, exit, request.stdout))
}

pub(super) async fn attach(runtime: &ContainerdRuntime, id: &str, request: &AttachRequest) -> RuntimeResult<Session> {
    container::running(runtime, id, ATTACH).await?;
    let wanted = Wanted::new(request.stdin, request.stdout, request.stderr, request.tty);
    let mut client = runtime.cri.runtime();
    let call = client.attach(v1::AttachRequest {
        container_id: id.to_string(),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
    });
    let answer = runtime.cri.call(ATTACH, CALL_TIMEOUT, call).await;
    let url = answer.map_err(|failure| failure.about("container", id))?.url;
    let (session, end) = streaming::session(&runtime.cri, ATTACH, &url, wanted).await?;
    let (exited, exit) = oneshot::channel();
    let (runtime, id) = (runtime.clone(), id.to_string());
    // The end of an attach says nothing of how the container ended: ask it.
    streaming::when_ended(end, exited, move |end| async move {
        if let Err(message) = end {
            return Some(Err(RuntimeError::transient(ATTACH, CriError::Streaming(message))));
        }
        for _ in 0..EXIT_LOOKS {
            match container::status(&runtime, &id).await {
                Ok(status) if status.container.state == ContainerState::Exited => return Some(Ok(status.exit_code)),
                Ok(_) => runtime.cri.clock.sleep(EXIT_POLL).await,
                Err(e) => return Some(Err(e)),
            }
        }
        None
    });
    Ok(streaming::visible(session, exit, request.stdout))
}

pub(super) async fn port_forward(runtime: &ContainerdRuntime, id: &str, port: u16) -> RuntimeResult<Box<dyn Duplex>> {
    let not_found = || RuntimeError::NotFound { kind: "sandbox", id: id.to_string() };
    if port == 0 {
        return Err(RuntimeError::InvalidArgument { field: "port", message: "0 is no port".into() });
    }
    let sandbox = sandbox::owned(runtime, id).await?.ok_or_else(not_found)?;
    if sandbox.state != PodSandboxState::Ready {
        let state = format!("{:?}", sandbox.state);
        return Err(RuntimeError::FailedPrecondition { id: sandbox.id, state, operation: PORT_FORWARD });
    }
    let mut client = runtime.cri.runtime();
    let call = client.port_forward(v1::PortForwardRequest { pod_sandbox_id: id.to_string(), port: vec![port.into()] });
    let answer = runtime.cri.call(PORT_FORWARD, CALL_TIMEOUT, call).await;
    let url = answer.map_err(|failure| failure.about("sandbox", id))?.url;
    Ok(Box::new(streaming::port(&runtime.cri, PORT_FORWARD, &url, port).await?))
}
