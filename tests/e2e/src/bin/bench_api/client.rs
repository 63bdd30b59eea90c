//! Connections to a server, and one thread that keeps requests in flight on them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::Outcome;
use crate::http1::{self, Http1};
use crate::http2::Http2;
use crate::kubeconfig::Target;
use crate::wire::Wire;

/// How long nothing may happen before a measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most of a failure's body that is told.
const MAX_TOLD: usize = 600;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1: a request at a time on each connection.
    #[value(name = "http1")]
    Http1,
    /// HTTP/2, as client-go speaks it: many requests at a time on each connection.
    #[value(name = "http2")]
    Http2,
}

impl Protocol {
    /// Most requests at a time on a connection.
    pub fn streams(self) -> usize {
        // Kubernetes allows 100 streams a connection.
        if self == Self::Http1 { 1 } else { 100 }
    }
}

/// A request.
pub struct Ask<'a> {
    pub method: &'static str,
    pub path: &'a str,
    pub content_type: &'static str,
    pub body: &'a [u8],
}

impl<'a> Ask<'a> {
    pub fn get(path: &'a str) -> Self {
        Self { method: "GET", path, content_type: "", body: &[] }
    }
    pub fn post(path: &'a str, body: &'a str) -> Self {
        Self { method: "POST", path, content_type: "application/json", body: body.as_bytes() }
    }
    pub fn patch(path: &'a str, body: &'a str) -> Self {
        Self { method: "PATCH", path, content_type: "application/merge-patch+json", body: body.as_bytes() }
    }
}

/// A piece of a response.
pub enum Part<'a> {
    Status(u16),
    Data(&'a [u8]),
    End,
}

enum Http {
    One(Http1),
    Two(Http2),
}

struct Connection {
    wire: Wire,
    http: Http,
    out: Vec<u8>,
    in_flight: usize,
    told_blocked: bool,
}

impl Connection {
    fn open(target: &Target, protocol: Protocol, small: bool) -> Outcome<Self> {
        let (wire, http) = match protocol {
            Protocol::Http1 => (Wire::connect(target, b"http/1.1", small)?, Http::One(Http1::default())),
            Protocol::Http2 => (Wire::connect(target, b"h2", small)?, Http::Two(Http2::new())),
        };
        Ok(Self { wire, http, out: Vec::new(), in_flight: 0, told_blocked: false })
    }

    fn ask(&mut self, target: &Target, ask: &Ask<'_>) {
        self.in_flight += 1;
        match &mut self.http {
            Http::One(_) => http1::write(&mut self.out, &target.authority, target.token.as_deref(), ask),
            Http::Two(http) => {
                self.out.append(&mut http.answers);
                http.write(&mut self.out, &target.authority, target.token.as_deref(), ask);
            }
        }
    }

    fn flush(&mut self) -> Outcome<()> {
        if let Http::Two(http) = &mut self.http {
            self.out.append(&mut http.answers);
        }
        if !self.out.is_empty() {
            self.wire.send(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    fn receive(&mut self, parts: &mut dyn FnMut(u32, Part<'_>) -> Outcome<()>) -> Outcome<()> {
        let Self { wire, http, .. } = self;
        wire.receive(&mut |data| match http {
            Http::One(http) => http.receive(data, parts),
            Http::Two(http) => http.receive(data, parts),
        })
    }
}

/// What came of a measurement.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub requests: usize,
    pub bytes: usize,
    pub took: Duration,
}

impl Done {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.took.as_secs_f64()
    }
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.took.as_secs_f64()
    }
}

/// Connections of one thread.
pub struct Fleet<'t> {
    target: &'t Target,
    connections: Vec<Connection>,
    poll: Poll,
    events: Events,
}

/// Remembers what a refusal says until it is whole.
#[derive(Default)]
struct Refusal {
    stream: u32,
    status: u16,
    body: String,
}

impl Refusal {
    /// Takes a piece of a response; an error once a refusal has come whole.
    fn hear(refused: &mut Option<Self>, stream: u32, part: &Part<'_>) -> Outcome<()> {
        match (part, refused.as_mut()) {
            (Part::Status(status), _) if !(200..300).contains(status) => {
                *refused = Some(Self { stream, status: *status, body: String::new() });
            }
            (Part::Data(data), Some(refusal)) if refusal.stream == stream && refusal.body.len() < MAX_TOLD => {
                let _ = write!(refusal.body, "{}", String::from_utf8_lossy(data));
            }
            (Part::End, Some(refusal)) if refusal.stream == stream => {
                return Err(format!("the server answered {}: {}", refusal.status, refusal.body).into());
            }
            _ => {}
        }
        Ok(())
    }
}

impl<'t> Fleet<'t> {
    /// Connects. `small` connections have small buffers.
    pub fn connect(target: &'t Target, protocol: Protocol, connections: usize, small: bool) -> Outcome<Self> {
        let poll = Poll::new()?;
        let connections = (0..connections).map(|_| Connection::open(target, protocol, small)).collect::<Outcome<Vec<_>>>()?;
        for (index, connection) in connections.iter().enumerate() {
            poll.registry().register(&mut SourceFd(&connection.wire.fd()), Token(index), Interest::READABLE)?;
        }
        let mut fleet = Self { target, connections, poll, events: Events::with_capacity(256) };
        for index in 0..fleet.connections.len() {
            fleet.flush(index)?;
        }
        Ok(fleet)
    }

    /// Keeps `in_flight` requests going, spread over the connections, until `next` has no more: it fills in the request and says
    /// whether there is one.
    ///
    /// # Errors
    /// The first refusal, in the server's words.
    pub fn run(&mut self, in_flight: usize, next: &mut dyn FnMut(&mut Request) -> bool) -> Outcome<Done> {
        let mut request = Request::default();
        let (mut done, mut going, mut more) = (Done::default(), 0, true);
        let begin = Instant::now();
        'fill: while going < in_flight {
            for connection in &mut self.connections {
                if going == in_flight || !next(&mut request) {
                    more = going == in_flight;
                    break 'fill;
                }
                connection.ask(self.target, &request.ask());
                going += 1;
            }
        }
        for index in 0..self.connections.len() {
            self.flush(index)?;
        }
        while going > 0 {
            self.poll.poll(&mut self.events, Some(PATIENCE))?;
            let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            if ready.is_empty() {
                return Err("the server has not answered for a minute".into());
            }
            for index in ready {
                let connection = &mut self.connections[index];
                let (mut ended, mut refused) = (0, None);
                connection.receive(&mut |stream, part| {
                    match &part {
                        Part::Data(data) => done.bytes += data.len(),
                        Part::End => ended += 1,
                        Part::Status(_) => {}
                    }
                    Refusal::hear(&mut refused, stream, &part)
                })?;
                done.requests += ended;
                connection.in_flight -= ended;
                going -= ended;
                for _ in 0..ended {
                    more = more && next(&mut request);
                    if more {
                        connection.ask(self.target, &request.ask());
                        going += 1;
                    }
                }
                self.flush(index)?;
            }
        }
        done.took = begin.elapsed();
        Ok(done)
    }

    /// One request, and its answer's body.
    ///
    /// # Errors
    /// A refusal, in the server's words.
    pub fn one(&mut self, ask: &Ask<'_>) -> Outcome<Vec<u8>> {
        self.begin(ask)?;
        self.answer()
    }

    /// Sends one request.
    pub fn begin(&mut self, ask: &Ask<'_>) -> Outcome<()> {
        self.connections[0].ask(self.target, ask);
        self.flush(0)
    }

    /// Waits for the answer of the one sent, and gives its body.
    ///
    /// # Errors
    /// A refusal, in the server's words.
    pub fn answer(&mut self) -> Outcome<Vec<u8>> {
        let (mut body, mut ended, mut refused) = (Vec::new(), false, None);
        while !ended {
            self.poll.poll(&mut self.events, Some(PATIENCE))?;
            self.connections[0].receive(&mut |stream, part| {
                match &part {
                    Part::Data(data) => body.extend_from_slice(data),
                    Part::End => ended = true,
                    Part::Status(_) => {}
                }
                Refusal::hear(&mut refused, stream, &part)
            })?;
            self.flush(0)?;
        }
        self.connections[0].in_flight -= 1;
        Ok(body)
    }

    /// Begins watches on every connection, spread evenly, and waits until each has been accepted.
    ///
    /// # Errors
    /// The first refusal, in the server's words.
    pub fn begin_watches(&mut self, path: &str, count: usize) -> Outcome<()> {
        let connections = self.connections.len();
        for index in 0..count {
            self.connections[index % connections].ask(self.target, &Ask::get(path));
        }
        for index in 0..connections {
            self.flush(index)?;
        }
        let mut accepted = 0;
        while accepted < count {
            self.hear_watches(&mut |part| {
                if matches!(part, Part::Status(_)) {
                    accepted += 1;
                }
            })?;
        }
        Ok(())
    }

    /// Waits for something to come on any watch, and tells of it.
    ///
    /// # Errors
    /// A refusal, or that nothing came.
    pub fn hear_watches(&mut self, heard: &mut dyn FnMut(&Part<'_>)) -> Outcome<()> {
        self.poll.poll(&mut self.events, Some(PATIENCE))?;
        let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
        if ready.is_empty() {
            return Err("no watch has told of anything for a minute".into());
        }
        for index in ready {
            let mut refused = None;
            self.connections[index].receive(&mut |stream, part| {
                heard(&part);
                Refusal::hear(&mut refused, stream, &part)?;
                if matches!(part, Part::End) { Err("the server ended a watch".into()) } else { Ok(()) }
            })?;
            self.flush(index)?;
        }
        Ok(())
    }

    /// Sends what a connection has to send, and waits for room where there is none.
    fn flush(&mut self, index: usize) -> Outcome<()> {
        let connection = &mut self.connections[index];
        connection.flush()?;
        connection.wire.write()?;
        let blocked = connection.wire.is_blocked();
        if blocked != connection.told_blocked {
            connection.told_blocked = blocked;
            let interest = if blocked { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            self.poll.registry().reregister(&mut SourceFd(&connection.wire.fd()), Token(index), interest)?;
        }
        Ok(())
    }
}

/// A request that is made again and again in the same memory.
#[derive(Default)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub content_type: &'static str,
    pub body: String,
}

impl Request {
    fn ask(&self) -> Ask<'_> {
        Ask { method: self.method, path: &self.path, content_type: self.content_type, body: self.body.as_bytes() }
    }

    /// Sets method, path and body.
    pub fn set(&mut self, method: &'static str, path: std::fmt::Arguments<'_>, body: std::fmt::Arguments<'_>) {
        self.method = method;
        self.content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        self.path.clear();
        self.body.clear();
        // Writing to a String does not fail.
        let _ = self.path.write_fmt(path);
        let _ = self.body.write_fmt(body);
    }
}
