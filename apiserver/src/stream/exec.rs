//! `pods/exec` and `pods/attach` over WebSocket, in the protocols `v5.channel.k8s.io` and `v4.channel.k8s.io`.

use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use tokio::sync::mpsc;
use wharf_core::api::ApiError;
use wharf_core::clock::Clock;
use wharf_core::runtime::{AttachRequest, ExecRequest, RuntimeError, Session, TerminalSize};

use super::websocket::{self, Received, Sink, Source};
use super::{Asked, PodStreams, bad_request, container};
use crate::server::Body;
use crate::server::body::{failure, status_of};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// Closes the channel that its data names; since version 5.
const CLOSE: u8 = 255;
const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
/// Most arguments of a command.
const MAX_ARGUMENTS: usize = 4096;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Exec,
    Attach,
}

pub(super) fn serve(
    streams: &PodStreams,
    asked: Asked,
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
    what: What,
) -> Result<Response<Body>, Box<Status>> {
    let container = container::choose(&asked.pod, asked.query.get("container"))?;
    let query = &asked.query;
    let tty = query.flag("tty");
    let request = ExecRequest {
        command: query.all("command").take(MAX_ARGUMENTS).map(str::to_owned).collect(),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        // With a terminal there is one output only.
        stderr: query.flag("stderr") && !tty,
        tty,
    };
    if what == What::Exec && request.command.is_empty() {
        return Err(bad_request("you must specify at least one command for the container"));
    }
    if !request.stdin && !request.stdout && !request.stderr {
        return Err(bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    if asked.node.is_empty() {
        return Err(bad_request(format!("pod {} does not have a host assigned", asked.object.name)));
    }
    let (response, pending) = websocket::accept(parts, upgrade, &[V5, V4])?;
    let closable = pending.protocol == V5;
    let streams = streams.clone();
    tokio::spawn(async move {
        let stop = streams.stop.clone();
        let work = async move {
            let (sink, source) = match pending.socket().await {
                Ok(socket) => socket.split(),
                Err(error) => return tracing::debug!("the client did not follow the upgrade: {error}"),
            };
            let Asked { object, uid, node, .. } = &asked;
            let session = match what {
                What::Exec => streams.nodes.exec(node, object, uid, &container, &request).await,
                What::Attach => {
                    let ExecRequest { stdin, stdout, stderr, tty, .. } = request;
                    streams.nodes.attach(node, object, uid, &container, &AttachRequest { stdin, stdout, stderr, tty }).await
                }
            };
            Box::pin(run(sink, source, session, closable, &*streams.clock)).await;
        };
        stop.run_until_cancelled(work).await;
    });
    Ok(response)
}

/// How a session ended, as the error channel tells it.
fn outcome(exit: Result<Result<i32, RuntimeError>, ()>) -> Status {
    match exit {
        Ok(Ok(0)) => Status { status: Some("Success".into()), ..Status::default() },
        Ok(Ok(code)) => {
            let mut status = failure(500, "NonZeroExitCode", format!("command terminated with non-zero exit code: exit status {code}"));
            status.code = None;
            let cause = StatusCause { reason: Some("ExitCode".into()), message: Some(code.to_string()), field: None };
            status.details = Some(StatusDetails { causes: Some(vec![cause]), ..StatusDetails::default() });
            status
        }
        Ok(Err(error)) => failure(500, "InternalError", format!("Internal error occurred: error executing command in container: {error}")),
        Err(()) => failure(500, "InternalError", "Internal error occurred: the connection to the container was lost"),
    }
}

/// Carries a session's streams until the process ends, or the client goes.
async fn run(mut sink: Sink, mut source: Source, session: Result<Session, ApiError>, closable: bool, clock: &dyn Clock) {
    let status = match session {
        Ok(session) => {
            let Session { stdin, stdout, stderr, resize, exit } = session;
            // Reading and writing do not wait for each other, or a process that fills its output before it reads its
            // input would hang.
            let input = input(&mut source, stdin, resize, closable);
            let output = output(&mut sink, stdout, stderr, exit);
            tokio::select! {
                ended = output => ended,
                () = input => None,
            }
        }
        Err(error) => Some(status_of(error)),
    };
    // Without a status the client is gone.
    if let Some(status) = status
        && let Ok(bytes) = serde_json::to_vec(&status)
        && websocket::send(&mut sink, ERROR, &bytes).await.is_ok()
    {
        websocket::finish(&mut sink, &mut source, clock).await;
    }
}

/// From the client to the process; returns when the client is gone.
async fn input(source: &mut Source, mut stdin: Option<mpsc::Sender<Bytes>>, resize: Option<mpsc::Sender<TerminalSize>>, closable: bool) {
    loop {
        match websocket::receive(source).await {
            Received::Data(STDIN, data) => {
                if let Some(to) = &stdin
                    && !data.is_empty()
                    && to.send(data).await.is_err()
                {
                    // The process reads no more; what follows is dropped, as a closed pipe drops it.
                    stdin = None;
                }
            }
            Received::Data(RESIZE, data) => {
                if let (Some(to), Ok(size)) = (&resize, serde_json::from_slice(&data)) {
                    // A size that finds no room is overtaken by the next.
                    let _ = to.try_send(size);
                }
            }
            Received::Data(CLOSE, data) if closable => {
                if data.first() == Some(&STDIN) {
                    stdin = None;
                }
            }
            Received::Data(..) => {}
            Received::End => return,
        }
    }
}

/// From the process to the client; `None` when the client cannot be written to.
async fn output(
    sink: &mut Sink,
    mut stdout: Option<mpsc::Receiver<Bytes>>,
    mut stderr: Option<mpsc::Receiver<Bytes>>,
    mut exit: tokio::sync::oneshot::Receiver<Result<i32, RuntimeError>>,
) -> Option<Status> {
    let mut ended = None;
    loop {
        if ended.is_some() && stdout.is_none() && stderr.is_none() {
            break;
        }
        let (channel, chunk) = tokio::select! {
            // Output first: the exit code comes last.
            biased;
            chunk = recv_or_close(&mut stdout), if stdout.is_some() => (STDOUT, chunk),
            chunk = recv_or_close(&mut stderr), if stderr.is_some() => (STDERR, chunk),
            code = &mut exit, if ended.is_none() => {
                ended = Some(code.map_err(|_| ()));
                continue;
            }
        };
        if let Some(chunk) = chunk {
            websocket::send(sink, channel, &chunk).await.ok()?;
        }
    }
    ended.map(outcome)
}

async fn recv_or_close(stream: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    let chunk = stream.as_mut()?.recv().await;
    if chunk.is_none() {
        *stream = None;
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_read_as_kubectl_expects() {
        assert_eq!(outcome(Ok(Ok(0))).status.as_deref(), Some("Success"));
        let failed = outcome(Ok(Ok(7)));
        assert_eq!(failed.reason.as_deref(), Some("NonZeroExitCode"));
        let cause = &failed.details.unwrap().causes.unwrap()[0];
        assert_eq!((cause.reason.as_deref(), cause.message.as_deref()), (Some("ExitCode"), Some("7")));
        assert_eq!(outcome(Err(())).reason.as_deref(), Some("InternalError"));
    }
}
