//! `pods/portforward` over WebSocket in the protocol `v4.channel.k8s.io`: two channels a port, data and error.

use std::collections::HashMap;

use bytes::Bytes;
use futures::StreamExt;
use http::Response;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use wharf_core::object::ObjectRef;

use super::websocket::{self, Pending, Received};
use super::{Asked, PodStreams, bad_request, tunnel};
use crate::server::Body;

const V4: &str = "v4.channel.k8s.io";
/// Most ports of one request; channels are numbered in a byte.
pub const MAX_PORTS: usize = 127;
/// How much is read from a port at once, in bytes.
pub(super) const CHUNK: usize = 32 << 10;
/// How many chunks wait for a port or for the client.
pub(super) const CHUNKS: usize = 16;

/// What goes to the client: a channel and data on it.
type Outgoing = (u8, Bytes);

fn ports(asked: &Asked) -> Result<Vec<u16>, Box<Status>> {
    let mut ports = Vec::new();
    for text in asked.query.all("ports").flat_map(|p| p.split(',')) {
        match text.parse::<u16>() {
            Ok(port) if port > 0 => ports.push(port),
            _ => return Err(bad_request(format!("{text:?} is not a port"))),
        }
    }
    if ports.is_empty() || ports.len() > MAX_PORTS {
        return Err(bad_request(format!("query parameter \"ports\" must name 1 to {MAX_PORTS} ports")));
    }
    Ok(ports)
}

pub(super) fn serve(streams: &PodStreams, asked: Asked, parts: &Parts, upgrade: Option<OnUpgrade>) -> Result<Response<Body>, Box<Status>> {
    if asked.node.is_empty() {
        return Err(bad_request(format!("pod {} does not have a host assigned", asked.object.name)));
    }
    let (response, pending) = websocket::accept(parts, upgrade, &[tunnel::PROTOCOL, V4])?;
    let streams = streams.clone();
    if pending.protocol == tunnel::PROTOCOL {
        tokio::spawn(async move {
            let stop = streams.stop.clone();
            stop.run_until_cancelled(Box::pin(tunnel::run(streams, asked, pending))).await;
        });
        return Ok(response);
    }
    let ports = ports(&asked)?;
    tokio::spawn(async move {
        let stop = streams.stop.clone();
        stop.run_until_cancelled(Box::pin(run(streams, asked, ports, pending))).await;
    });
    Ok(response)
}

async fn run(streams: PodStreams, asked: Asked, ports: Vec<u16>, pending: Pending) {
    let (mut sink, mut source) = match pending.socket().await {
        Ok(socket) => socket.split(),
        Err(error) => return tracing::debug!("the client did not follow the upgrade: {error}"),
    };
    let (outgoing, mut outbox) = mpsc::channel::<Outgoing>(CHUNKS);
    let mut inboxes = HashMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (index, port) in (0_u8..).step_by(2).zip(ports) {
        // Each channel begins with the number of its port.
        for channel in [index, index + 1] {
            if websocket::send(&mut sink, channel, &port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        let (inbox, incoming) = mpsc::channel(CHUNKS);
        inboxes.insert(index, inbox);
        let (outgoing, connect) = (outgoing.clone(), Connect { streams: streams.clone(), asked: asked.target(), port });
        tasks.spawn(connect.carry(index, incoming, outgoing));
    }
    drop(outgoing);
    let write = async {
        while let Some((channel, data)) = outbox.recv().await {
            if websocket::send(&mut sink, channel, &data).await.is_err() {
                break;
            }
        }
    };
    let read = async {
        while let Received::Data(channel, data) = websocket::receive(&mut source).await {
            let Some(inbox) = inboxes.get(&channel).filter(|_| !data.is_empty()) else { continue };
            if inbox.send(data).await.is_err() {
                inboxes.remove(&channel);
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    websocket::finish(&mut sink, &mut source, &*streams.clock).await;
}

/// Where a port is.
struct Connect {
    streams: PodStreams,
    asked: Target,
    port: u16,
}

/// The pod, without what the request says besides.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) object: ObjectRef,
    pub(super) uid: String,
    pub(super) node: String,
}

impl Asked {
    pub(super) fn target(&self) -> Target {
        Target { object: self.object.clone(), uid: self.uid.clone(), node: self.node.clone() }
    }
}

impl Connect {
    /// Carries one port's data until either side ends.
    async fn carry(self, channel: u8, mut incoming: mpsc::Receiver<Bytes>, outgoing: mpsc::Sender<Outgoing>) {
        let Target { object, uid, node } = &self.asked;
        let stream = match self.streams.nodes.port_forward(node, object, uid, self.port).await {
            Ok(stream) => stream,
            Err(error) => {
                let message = format!("error forwarding port {} to pod {}, uid {uid}: {error}", self.port, object.name);
                let _ = outgoing.send((channel + 1, message.into())).await;
                return;
            }
        };
        let (mut from, mut to) = tokio::io::split(stream);
        let up = async {
            while let Some(data) = incoming.recv().await {
                if to.write_all(&data).await.is_err() {
                    return;
                }
            }
            let _ = to.shutdown().await;
            // The other direction goes on until the pod ends it.
            std::future::pending().await
        };
        let down = async {
            let mut buffer = vec![0; CHUNK];
            loop {
                match from.read(&mut buffer).await {
                    Ok(n) if n > 0 => {
                        if outgoing.send((channel, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
        }
    }
}
