//! A connection as a client of etcd 3.4 makes it, whose `:authority` is an URL: also once both sides have it in their header tables.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Served;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A field to be kept in the table, its name from the static one at an index, or as text for 0.
fn field(index: u8, name: &str, value: &str) -> Vec<u8> {
    let string = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let name = if index == 0 { string(name) } else { Vec::new() };
    [&[0x40 | index], name.as_slice(), string(value).as_slice()].concat()
}

#[tokio::test]
async fn an_url_is_taken_for_an_authority_again_and_again() {
    let served = Served::memory().await;
    let mut client = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    let url = format!("http://127.0.0.1:{}", served.port);
    // POST, http; then four fields, of which the newest is at 62.
    let first = [
        &[0x83, 0x86],
        field(4, ":path", "/etcdserverpb.Maintenance/Status").as_slice(),
        &field(1, ":authority", &url),
        &field(31, "content-type", "application/grpc"),
        &field(0, "te", "trailers"),
    ]
    .concat();
    let again = [0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];
    let body = |stream| frame(0, 1, stream, &[0; 5]);
    let sent = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
        &frame(4, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &first),
        &body(1),
        &frame(HEADERS, END_HEADERS, 3, &again),
        &body(3),
    ]
    .concat();
    client.write_all(&sent).await.unwrap();
    let mut answered = Vec::new();
    while answered.len() < 2 {
        let mut head = [0; 9];
        client.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        client.read_exact(&mut payload).await.unwrap();
        assert_ne!(head[3], RST_STREAM, "stream {}: {payload:?}", head[8]);
        // The last of a stream are its trailers.
        if head[3] == HEADERS && head[4] & 1 == 1 {
            assert!(!answered.contains(&head[8]));
            answered.push(head[8]);
        }
    }
}
