//! A gRPC server on a unix socket that answers as it is told.

// Each of the tests uses its own part.
#![allow(dead_code)]

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_cri::v1;
use prost::Message;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// What a call gets.
pub enum Answer {
    /// Messages, then success.
    Messages(Vec<Bytes>),
    /// A gRPC status.
    Error(u8, &'static str),
    /// Nothing, ever.
    Hang,
}

pub struct Fake {
    folder: TempDir,
    server: JoinSet<()>,
}

/// One message as gRPC frames it.
pub fn encode(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

pub fn version() -> Answer {
    Answer::Messages(vec![encode(&v1::VersionResponse { runtime_name: "fake".into(), ..Default::default() })])
}

impl Fake {
    /// Starts one; `answer` is given the name of each call.
    pub fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let folder = tempfile::Builder::new().prefix("wf-").tempdir().unwrap();
        let server = serve(&folder.path().join("cri.sock"), answer);
        Self { folder, server }
    }

    pub fn path(&self) -> &'static Path {
        // For the length of a test.
        Box::leak(self.folder.path().join("cri.sock").into_boxed_path())
    }

    /// Ends it, with its connections and its socket.
    pub fn gone(mut self) -> Gone {
        self.server.abort_all();
        std::fs::remove_file(self.path()).unwrap();
        Gone(self.folder)
    }
}

/// A server that has ended.
pub struct Gone(TempDir);

impl Gone {
    pub fn back(self, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Fake {
        let server = serve(&self.0.path().join("cri.sock"), answer);
        Fake { folder: self.0, server }
    }
}

fn serve(path: &PathBuf, answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> JoinSet<()> {
    let listener = UnixListener::bind(path).unwrap();
    let answer = Arc::new(answer);
    let mut server = JoinSet::new();
    server.spawn(async move {
        // With the listener end its connections.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            let service = service_fn(move |request: Request<Incoming>| {
                let call = request.uri().path().rsplit('/').next().unwrap_or_default().to_string();
                let answer = answer(&call);
                async move { respond(answer).await }
            });
            connections.spawn(async move {
                let _ =
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    server
}

type Body = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

async fn respond(answer: Answer) -> Result<Response<Body>, Infallible> {
    let (messages, code, text) = match answer {
        Answer::Messages(messages) => (messages, 0, ""),
        Answer::Error(code, text) => (Vec::new(), code, text),
        Answer::Hang => std::future::pending().await,
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", u16::from(code).into());
    trailers.insert("grpc-message", text.parse().unwrap());
    let mut frames: Vec<_> = messages.into_iter().map(|message| Ok(Frame::data(message))).collect();
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(stream::iter(frames));
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}
