//! The stream socket's server: exec and attach, log reopening.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use wharf_core::runtime::SESSION_CHUNKS;

use super::io::{Tap, write_stdin};
use super::service::{Proc, ShimState};
use crate::wire::{Hello, Kind, read_frame, write_frame};

/// Serves for as long as the shim lives.
pub(super) fn serve(state: Arc<ShimState>) -> io::Result<()> {
    let listener = UnixListener::bind(state.sandbox().stream_socket())?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((connection, _)) => {
                    let state = state.clone();
                    tokio::spawn(async move {
                        // A client that goes away has no need of an answer.
                        let _ = connected(&state, connection).await;
                    });
                }
                // Out of descriptors: let others end first.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    });
    Ok(())
}

async fn connected(state: &Arc<ShimState>, connection: UnixStream) -> io::Result<()> {
    let (mut reader, mut writer) = connection.into_split();
    let Some((Kind::Hello, payload)) = read_frame(&mut reader).await? else { return Ok(()) };
    let hello: Hello = serde_json::from_slice(&payload)?;
    match hello {
        Hello::ReopenLog { container } => match state.container(&container).map(|t| t.init.sinks.reopen()) {
            Some(Ok(())) => write_frame(&mut writer, Kind::Ready, &[]).await,
            Some(Err(error)) => write_frame(&mut writer, Kind::Refused, error.to_string().as_bytes()).await,
            None => write_frame(&mut writer, Kind::Refused, b"container not found").await,
        },
        Hello::Attach { container, exec, stdin, stdout, stderr } => {
            let Some(task) = state.container(&container) else {
                return write_frame(&mut writer, Kind::Refused, b"container not found").await;
            };
            let (proc, is_exec) = match &exec {
                Some(id) => match task.execs.lock().get(id) {
                    Some(exec) => (Some(exec.proc.clone()), true),
                    None => (None, true),
                },
                None => (Some(task.init.clone()), false),
            };
            let Some(proc) = proc else { return write_frame(&mut writer, Kind::Refused, b"exec not found").await };
            let (send, receive) = mpsc::channel(SESSION_CHUNKS);
            proc.sinks.add(Tap { send, stdout, stderr, lossless: is_exec });
            write_frame(&mut writer, Kind::Ready, &[]).await?;
            let close_after = is_exec || task.config.stdin_once;
            let ended = tokio::select! {
                result = output(&proc, receive, &mut writer) => { result?; true }
                () = input(&proc, stdin, close_after, &mut reader) => false,
            };
            if !ended && is_exec {
                // Whoever ran it is gone.
                proc.kill();
            }
            Ok(())
        }
    }
}

/// Sends output until the process has ended, then the exit code.
async fn output(proc: &Proc, mut receive: mpsc::Receiver<(Kind, Bytes)>, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut exit = std::pin::pin!(proc.wait());
    let ended = loop {
        tokio::select! {
            biased;
            frame = receive.recv() => match frame {
                Some((kind, bytes)) => write_frame(writer, kind, &bytes).await?,
                // All output is out; the exit follows.
                None => break exit.await,
            },
            ended = &mut exit => {
                while let Ok((kind, bytes)) = receive.try_recv() {
                    write_frame(writer, kind, &bytes).await?;
                }
                break ended;
            }
        }
    };
    write_frame(writer, Kind::Exit, &ended.code.to_le_bytes()).await
}

/// Takes input until the client goes away.
async fn input(proc: &Proc, stdin: bool, close_after: bool, reader: &mut (impl AsyncRead + Unpin)) {
    while let Ok(Some((kind, bytes))) = read_frame(reader).await {
        match kind {
            Kind::Stdin if stdin => write_stdin(&proc.stdin, &bytes).await,
            Kind::CloseStdin if close_after => *proc.stdin.lock().await = None,
            Kind::Resize if bytes.len() == 4 => {
                let terminal = proc.terminal.lock().clone();
                if let Some(pty) = terminal {
                    // A terminal that is gone has no size.
                    let _ = pty.resize(u16::from_le_bytes([bytes[0], bytes[1]]), u16::from_le_bytes([bytes[2], bytes[3]]));
                }
            }
            _ => {}
        }
    }
    if stdin && close_after {
        *proc.stdin.lock().await = None;
    }
}
