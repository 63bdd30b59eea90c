//! Watches of both sides: while requests are made, and of the past.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::proto::{PbEvent, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse};
use futures::channel::mpsc::{SendError, UnboundedReceiver, unbounded};
use futures::{Stream, StreamExt};
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};

use crate::support::Raw;

/// A watch that has said nothing for so long has lost something.
const PATIENCE: Duration = Duration::from_secs(60);
const NO_PUT: i32 = 0;
const NO_DELETE: i32 = 1;

/// What is watched, and how.
#[derive(Debug, Clone)]
pub struct What {
    pub key: &'static [u8],
    pub end: &'static [u8],
    pub prev_kv: bool,
    pub filters: Vec<i32>,
    pub fragment: bool,
}

/// A key that lies in everything that is watched.
pub const LAST: &[u8] = b"kb";

/// Everything, and some of it.
pub fn all() -> Vec<What> {
    let ranges: [(&[u8], &[u8]); 5] = [(b"k", b"l"), (b"k", b"\0"), (b"kb", b""), (b"ka\xff", b"kc"), (b"kb", b"kc")];
    let mut all = Vec::new();
    for (key, end) in ranges {
        for filters in [vec![], vec![NO_PUT], vec![NO_DELETE]] {
            all.push(What { key, end, prev_kv: filters.len() + end.len() != 1, fragment: filters.is_empty(), filters });
        }
    }
    all
}

/// The events of a watch by revision, in order of keys; or where history is gone.
pub type Told = Result<BTreeMap<(i64, Vec<u8>), PbEvent>, i64>;

impl What {
    async fn open(&self, raw: &Raw, from: i64) -> Streaming<PbWatchResponse> {
        let mut union = PbWatchRequestUnion::CreateRequest(Default::default());
        if let PbWatchRequestUnion::CreateRequest(create) = &mut union {
            (create.key, create.range_end, create.start_revision) = (self.key.to_vec(), self.end.to_vec(), from);
            (create.prev_kv, create.fragment, create.filters) = (self.prev_kv, self.fragment, self.filters.clone());
        }
        let request = PbWatchRequest { request_union: Some(union) };
        let requests = futures::stream::once(async { request }).chain(futures::stream::pending());
        let mut answers = raw.stream::<_, PbWatchResponse>("Watch/Watch", requests).await;
        assert!(answers.message().await.unwrap().unwrap().created);
        answers
    }

    /// The revision of the last that is told: the key that all of them watch is put, and then deleted.
    fn upto(&self, put: i64, delete: i64) -> i64 {
        if self.filters.contains(&NO_DELETE) { put } else { delete }
    }

    /// What is told of the time from a revision on.
    pub async fn past(&self, raw: &Raw, from: i64, put: i64, delete: i64) -> Told {
        collect(self.open(raw, from).await.map(Result::unwrap), self.upto(put, delete)).await
    }

    /// Watches from now on.
    pub async fn live(self, raw: &Raw) -> Live {
        let answers = self.open(raw, 0).await;
        let (send, told) = unbounded();
        // Read at once, because etcd lets go of those who are slow.
        let reader = tokio::spawn(answers.map(Ok).forward(send));
        Live { what: self, told, reader }
    }
}

/// A watch that goes on while requests are made.
pub struct Live {
    pub what: What,
    told: UnboundedReceiver<Result<PbWatchResponse, Status>>,
    reader: JoinHandle<Result<(), SendError>>,
}

impl Live {
    pub async fn end(self, put: i64, delete: i64) -> Told {
        let upto = self.what.upto(put, delete);
        let told = collect(self.told.map(Result::unwrap), upto).await;
        self.reader.abort();
        told
    }
}

async fn collect(mut answers: impl Stream<Item = PbWatchResponse> + Unpin, upto: i64) -> Told {
    let mut events = BTreeMap::new();
    let mut reached = 0;
    while reached < upto {
        let answer = tokio::time::timeout(PATIENCE, answers.next()).await.expect("the watch goes on").unwrap();
        if answer.canceled {
            return Err(answer.compact_revision);
        }
        for event in answer.events {
            let kv = event.kv.as_ref().unwrap();
            assert!(kv.mod_revision >= reached, "a watch goes on only");
            reached = kv.mod_revision;
            assert!(events.insert((reached, kv.key.clone()), event).is_none(), "an event is told once");
        }
    }
    Ok(events)
}
