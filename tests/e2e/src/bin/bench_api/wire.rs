//! A TLS connection with large buffers of its own: rustls without its buffers, over a socket that does not block.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};

use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};

use crate::Outcome;
use crate::kubeconfig::Target;

/// Bytes read at a time: few calls of the system a list.
const READ: usize = 512 << 10;
/// Bytes of a small connection's buffer, of which watches may need many.
const READ_SMALL: usize = 32 << 10;
/// Most plaintext of a TLS record.
const RECORD: usize = 16 << 10;
/// What encryption adds to a record, and more.
const OVERHEAD: usize = 256;

pub struct Wire {
    socket: TcpStream,
    tls: UnbufferedClientConnection,
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    outgoing: Vec<u8>,
    sent: usize,
    closed: bool,
}

/// What is to be done with decrypted bytes.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Outcome<()>;

impl Wire {
    /// Connects and shakes hands, blocking; afterwards nothing blocks.
    pub fn connect(target: &Target, protocol: &[u8], small: bool) -> Outcome<Self> {
        let socket = TcpStream::connect(target.address).map_err(|e| format!("cannot connect to {}: {e}", target.address))?;
        socket.set_nodelay(true)?;
        let mut tls = (*target.tls).clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let tls = UnbufferedClientConnection::new(tls.into(), target.name.clone())?;
        let incoming = vec![0; if small { READ_SMALL } else { READ }];
        let mut wire = Self { socket, tls, incoming, start: 0, end: 0, outgoing: Vec::new(), sent: 0, closed: false };
        loop {
            wire.drive(&[], &mut |_| Ok(()))?;
            wire.write()?;
            if !wire.tls.is_handshaking() {
                break;
            }
            if wire.fill()? == Some(0) {
                return Err("the server closed the connection during the handshake".into());
            }
        }
        if wire.tls.alpn_protocol() != Some(protocol) {
            return Err(format!("the server does not speak {}", String::from_utf8_lossy(protocol)).into());
        }
        wire.socket.set_nonblocking(true)?;
        Ok(wire)
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Encrypts and sends; what the socket does not take stays for [`write`](Self::write).
    pub fn send(&mut self, plaintext: &[u8]) -> Outcome<()> {
        self.drive(plaintext, &mut |_| Err("data came out of turn".into()))?;
        self.write()
    }

    /// Whether something waits for the socket.
    pub fn is_blocked(&self) -> bool {
        self.sent < self.outgoing.len()
    }

    /// Sends what waits.
    pub fn write(&mut self) -> Outcome<()> {
        while self.is_blocked() {
            match self.socket.write(&self.outgoing[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("cannot send: {error}").into()),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    /// Takes what has come.
    pub fn receive(&mut self, sink: Sink<'_>) -> Outcome<()> {
        loop {
            let Some(read) = self.fill()? else { return Ok(()) };
            self.drive(&[], sink)?;
            if read == 0 || self.closed {
                return Err("the server closed the connection".into());
            }
            // A read that was not filled has emptied the socket.
            if self.end < self.incoming.len() {
                return self.write();
            }
        }
    }

    fn fill(&mut self) -> Outcome<Option<usize>> {
        if self.start > 0 {
            self.incoming.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match self.socket.read(&mut self.incoming[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    return Ok(Some(read));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("cannot receive: {error}").into()),
            }
        }
    }

    fn drive(&mut self, plaintext: &[u8], sink: Sink<'_>) -> Outcome<()> {
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut self.incoming[self.start..self.end]);
            let mut more = true;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        sink(record.payload)?;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let from = self.outgoing.len();
                    self.outgoing.resize(from + RECORD + OVERHEAD, 0);
                    let mut written = data.encode(&mut self.outgoing[from..]);
                    if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) = written {
                        self.outgoing.resize(from + required_size, 0);
                        written = data.encode(&mut self.outgoing[from..]);
                    }
                    self.outgoing.truncate(from + written.map_err(|e| e.to_string())?);
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::WriteTraffic(mut traffic) => {
                    for piece in plaintext.chunks(RECORD) {
                        let from = self.outgoing.len();
                        self.outgoing.resize(from + piece.len() + OVERHEAD, 0);
                        let written = traffic.encrypt(piece, &mut self.outgoing[from..]).map_err(|e: EncryptError| e.to_string())?;
                        self.outgoing.truncate(from + written);
                    }
                    more = false;
                }
                ConnectionState::BlockedHandshake => more = false,
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.closed = true;
                    more = false;
                }
                _ => return Err("TLS is in a state that is not known".into()),
            }
            self.start += discard;
            if self.start == self.end {
                (self.start, self.end) = (0, 0);
            }
            if !more {
                return Ok(());
            }
        }
    }
}
