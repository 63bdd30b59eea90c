//! `pods/portforward` as kubectl does it: SPDY frames in the messages of a WebSocket, two streams a connection.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::port_forward::{CHUNK, CHUNKS, Target};
use super::spdy::{Frame, REFUSED_STREAM, Spdy};
use super::websocket::{self, Pending, Source};
use super::{Asked, PodStreams};

/// What both sides speak.
pub(super) const PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// Most connections at once over one tunnel.
pub(super) const MAX_CONNECTIONS: usize = 256;

/// Data for a stream of the client; `true` ends it.
type Outgoing = (u32, Bytes, bool);

/// What came of a frame.
enum Answer {
    Send(Bytes),
    Nothing,
    End,
}

struct Tunnel {
    streams: PodStreams,
    target: Target,
    spdy: Spdy,
    /// Error streams that wait for their data stream, by request.
    waiting: HashMap<String, u32>,
    /// Data streams.
    inboxes: HashMap<u32, mpsc::Sender<Bytes>>,
    outgoing: mpsc::Sender<Outgoing>,
    tasks: tokio::task::JoinSet<()>,
}

/// Carries connections until the client goes.
pub(super) async fn run(streams: PodStreams, asked: Asked, pending: Pending) {
    let (mut sink, mut source) = match pending.socket().await {
        Ok(socket) => socket.split(),
        Err(error) => return tracing::debug!("the client did not follow the upgrade: {error}"),
    };
    let (outgoing, mut outbox) = mpsc::channel::<Outgoing>(CHUNKS);
    let clock = streams.clock.clone();
    let mut tunnel = Tunnel {
        streams,
        target: asked.target(),
        spdy: Spdy::default(),
        waiting: HashMap::new(),
        inboxes: HashMap::new(),
        outgoing,
        tasks: tokio::task::JoinSet::new(),
    };
    // Answers go the same way as data, so that a client that does not read stalls both and not the memory.
    let (answers, mut answered) = mpsc::channel::<Bytes>(CHUNKS);
    let write = async {
        loop {
            let frame = tokio::select! {
                frame = answered.recv() => frame,
                data = outbox.recv() => data.map(|(stream, data, last)| Spdy::data(stream, &data, last)),
            };
            let Some(frame) = frame else { return };
            if sink.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
    };
    let read = tunnel.read(&mut source, answers);
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    tunnel.tasks.shutdown().await;
    websocket::finish(&mut sink, &mut source, &*clock).await;
}

impl Tunnel {
    async fn read(&mut self, source: &mut Source, answers: mpsc::Sender<Bytes>) {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) => self.spdy.feed(&bytes),
                Message::Close(_) => return,
                _ => continue,
            }
            loop {
                let frame = match self.spdy.next() {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(error) => return tracing::debug!("a tunnel ended: {error}"),
                };
                match self.take(frame).await {
                    Answer::Send(frame) => {
                        if answers.send(frame).await.is_err() {
                            return;
                        }
                    }
                    Answer::Nothing => {}
                    Answer::End => return,
                }
            }
        }
    }

    async fn take(&mut self, frame: Frame) -> Answer {
        match frame {
            Frame::Open { stream, headers } => return self.open(stream, &headers),
            Frame::Data { stream, data, last } => {
                if let Some(inbox) = self.inboxes.get(&stream).filter(|_| !data.is_empty()) {
                    // A port that takes no more is no reason to end the others.
                    let _ = inbox.send(data).await;
                }
                if last {
                    self.inboxes.remove(&stream);
                }
            }
            Frame::Reset { stream } => {
                self.inboxes.remove(&stream);
            }
            Frame::Ping { id } => return Answer::Send(Spdy::pong(id)),
            Frame::GoAway => return Answer::End,
        }
        Answer::Nothing
    }

    fn open(&mut self, stream: u32, headers: &[(String, String)]) -> Answer {
        let get = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default();
        // The ends of finished connections.
        while self.tasks.try_join_next().is_some() {}
        self.inboxes.retain(|_, inbox| !inbox.is_closed());
        let port = get("port").parse::<u16>().unwrap_or_default();
        let room = self.waiting.len() < MAX_CONNECTIONS && self.tasks.len() < MAX_CONNECTIONS;
        match (get("streamtype"), room && port > 0) {
            ("error", true) => {
                self.waiting.insert(get("requestid").to_owned(), stream);
            }
            ("data", true) => {
                let Some(errors) = self.waiting.remove(get("requestid")) else {
                    return Answer::Send(Spdy::reset(stream, REFUSED_STREAM));
                };
                let (inbox, incoming) = mpsc::channel(CHUNKS);
                self.inboxes.insert(stream, inbox);
                let carried = carry(self.streams.clone(), self.target.clone(), port, (stream, errors), incoming, self.outgoing.clone());
                self.tasks.spawn(carried);
            }
            _ => return Answer::Send(Spdy::reset(stream, REFUSED_STREAM)),
        }
        Answer::Send(self.spdy.reply(stream))
    }
}

/// Carries one connection; ends both its streams.
async fn carry(
    streams: PodStreams,
    target: Target,
    port: u16,
    (data, errors): (u32, u32),
    mut incoming: mpsc::Receiver<Bytes>,
    outgoing: mpsc::Sender<Outgoing>,
) {
    let Target { object, uid, node } = &target;
    match streams.nodes.port_forward(node, object, uid, port).await {
        Ok(stream) => {
            let (mut from, mut to) = tokio::io::split(stream);
            let up = async {
                while let Some(data) = incoming.recv().await {
                    if to.write_all(&data).await.is_err() {
                        return;
                    }
                }
                let _ = to.shutdown().await;
            };
            let down = async {
                let mut buffer = vec![0; CHUNK];
                while let Ok(read @ 1..) = from.read(&mut buffer).await {
                    if outgoing.send((data, Bytes::copy_from_slice(&buffer[..read]), false)).await.is_err() {
                        return;
                    }
                }
            };
            // The pod decides when it is over; a client that has said all it wants still listens.
            let mut down = std::pin::pin!(down);
            tokio::select! {
                () = &mut down => {}
                () = up => down.await,
            }
        }
        Err(error) => {
            let message = format!("error forwarding port {port} to pod {}, uid {uid}: {error}", object.name);
            let _ = outgoing.send((errors, message.into(), false)).await;
        }
    }
    let _ = outgoing.send((data, Bytes::new(), true)).await;
    let _ = outgoing.send((errors, Bytes::new(), true)).await;
}
