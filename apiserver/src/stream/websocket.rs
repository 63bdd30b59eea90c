//! The upgrade to a WebSocket, and Kubernetes' channels on it.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use wharf_core::clock::Clock;

use super::bad_request;
use crate::server::Body;
use crate::server::body::empty;

/// Largest message taken from a client, in bytes.
const MAX_MESSAGE: usize = 4 << 20;
/// What waits to be written before the writer waits too, in bytes.
const WRITE_BUFFER: usize = 64 << 10;

/// How long a client may take to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A WebSocket over an upgraded connection.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;
/// Its writing half.
pub(super) type Sink = SplitSink<Socket, Message>;
/// Its reading half.
pub(super) type Source = SplitStream<Socket>;

/// An upgrade that was agreed on and has yet to take place.
#[derive(Debug)]
pub(super) struct Pending {
    upgrade: OnUpgrade,
    /// What both sides speak on it.
    pub(super) protocol: &'static str,
}

fn token(parts: &Parts, name: header::HeaderName, wanted: &str) -> bool {
    let values = parts.headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case(wanted))
}

/// Agrees on an upgrade: the answer for the client, and what comes after it. `protocols` are in order of preference.
///
/// # Errors
/// 400 when the request is no WebSocket handshake that can be answered.
pub(super) fn accept(
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
    protocols: &[&'static str],
) -> Result<(Response<Body>, Pending), Box<Status>> {
    if !token(parts, header::UPGRADE, "websocket") || !token(parts, header::CONNECTION, "upgrade") {
        return Err(bad_request("Upgrade request required: this server streams over WebSocket"));
    }
    let key = parts.headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| bad_request("Sec-WebSocket-Key is missing"))?;
    if !token(parts, header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(bad_request("Sec-WebSocket-Version must be 13"));
    }
    let protocol = protocols.iter().find(|p| token(parts, header::SEC_WEBSOCKET_PROTOCOL, p)).copied();
    let protocol = protocol.ok_or_else(|| bad_request(format!("Sec-WebSocket-Protocol must name one of {}", protocols.join(", "))))?;
    let upgrade = upgrade.ok_or_else(|| bad_request("this connection cannot be upgraded"))?;
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| bad_request("bad Sec-WebSocket-Key"))?;
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok((response, Pending { upgrade, protocol }))
}

impl Pending {
    /// Waits until the client has the answer.
    pub(super) async fn socket(self) -> Result<Socket, hyper::Error> {
        let upgraded = self.upgrade.await?;
        let config = WebSocketConfig::default()
            .read_buffer_size(WRITE_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_MESSAGE + WRITE_BUFFER)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
    }
}

/// Sends data on a channel.
pub(super) async fn send(sink: &mut Sink, channel: u8, data: &[u8]) -> Result<(), Error> {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel);
    message.put_slice(data);
    sink.send(Message::Binary(message.freeze())).await
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Data on a channel.
    Data(u8, Bytes),
    /// It will send nothing more.
    End,
}

/// The next data, past pings and empty messages.
pub(super) async fn receive(source: &mut Source) -> Received {
    while let Some(Ok(message)) = source.next().await {
        let mut data: Bytes = match message {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return Received::End,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        if !data.is_empty() {
            let channel = data.split_to(1)[0];
            return Received::Data(channel, data);
        }
    }
    Received::End
}

/// Closes in good order: a client that gets no code takes it for an error, and a connection that is dropped with unread
/// data may take the last words with it.
pub(super) async fn finish(sink: &mut Sink, source: &mut Source, clock: &dyn Clock) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    if sink.send(Message::Close(Some(frame))).await.is_err() {
        return;
    }
    let drain = async { while receive(source).await != Received::End {} };
    tokio::select! {
        () = drain => {}
        () = clock.sleep(CLOSE_TIMEOUT) => {}
    }
}
