//! A snapshot as etcd sends it: the file of its storage engine, and the SHA-256 of that.

use etcd_client::proto::PbSnapshotResponse;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tonic::Status;

use crate::backend::{self, BUCKETS, Backend, KEY_BUCKET, LEASE_BUCKET, LEASE_KEY, META_BUCKET, REVISION_KEY};
use crate::bolt::{self, Bucket, FIRST_PAGE, PAGE, Plan, Tree};
use crate::entry::signed;
use crate::locks::Touches;
use crate::{ETCD_VERSION, Shared, fault};

/// Bytes of one answer, etcd's.
const CHUNK: usize = 32 << 10;
/// Answers that wait for the client to take them.
pub(crate) const MAX_WAITING: usize = 8;

pub(crate) type Answers = mpsc::Sender<Result<PbSnapshotResponse, Status>>;

/// Sends a snapshot of the newest state. It ends early when nobody takes it.
pub(crate) async fn send(shared: &Shared, answers: &Answers) -> Result<(), Status> {
    // Without history the state must stay until all of it was read.
    let _held = if shared.history { None } else { Some(shared.locks.hold(&Touches::Ranges).await) };
    let revision = shared.store.revision().await.map(signed).map_err(fault::of)?;
    let keys = Backend::at(shared, revision).await?;
    let leases = backend::leases(shared, revision).await?;
    let lease_plan = Plan::new(FIRST_PAGE, LEASE_KEY, leases.iter().map(|(_, value)| value.len()));
    let key_plan = Plan::new(lease_plan.end(), REVISION_KEY, keys.sizes());
    let pages = key_plan.end();
    let buckets = BUCKETS.map(|name| {
        let bucket = match name {
            KEY_BUCKET => key_plan.bucket(),
            LEASE_BUCKET => lease_plan.bucket(),
            META_BUCKET => Bucket::Inline(backend::meta(shared, revision)),
            _ => Bucket::Inline(Vec::new()),
        };
        (name, bucket)
    });
    let mut out = Out { shared, revision, answers, buffer: bolt::head(&buckets, pages), digest: Sha256::new(), left: pages * PAGE as u64 };
    let mut tree = Tree::new(lease_plan);
    for (key, value) in leases {
        tree.push(key, value, &mut out.buffer);
        if !out.flush().await {
            return Ok(());
        }
    }
    tree.finish(&mut out.buffer);
    let mut tree = Tree::new(key_plan);
    for part in keys.parts() {
        for (key, value) in backend::elements(keys.read(shared, part).await?) {
            tree.push(key, value, &mut out.buffer);
            if !out.flush().await {
                return Ok(());
            }
        }
    }
    tree.finish(&mut out.buffer);
    out.finish().await;
    Ok(())
}

struct Out<'a> {
    shared: &'a Shared,
    revision: i64,
    answers: &'a Answers,
    /// What was not sent yet.
    buffer: Vec<u8>,
    digest: Sha256,
    /// Bytes to be sent.
    left: u64,
}

impl Out<'_> {
    /// Sends what fills an answer. False when nobody takes it.
    async fn flush(&mut self) -> bool {
        if self.buffer.len() < CHUNK {
            return true;
        }
        let whole = self.buffer.len() / CHUNK * CHUNK;
        let rest = self.buffer.split_off(whole);
        let full = std::mem::replace(&mut self.buffer, rest);
        for chunk in full.chunks(CHUNK) {
            if !self.answer(chunk).await {
                return false;
            }
        }
        true
    }

    async fn answer(&mut self, chunk: &[u8]) -> bool {
        self.digest.update(chunk);
        self.left = self.left.saturating_sub(chunk.len() as u64);
        self.answers.send(Ok(self.message(chunk.to_vec()))).await.is_ok()
    }

    fn message(&self, blob: Vec<u8>) -> PbSnapshotResponse {
        let header = Some(self.shared.header(self.revision));
        PbSnapshotResponse { header, remaining_bytes: self.left, blob, version: ETCD_VERSION.into() }
    }

    /// Sends the rest, and the digest.
    async fn finish(mut self) {
        let rest = std::mem::take(&mut self.buffer);
        for chunk in rest.chunks(CHUNK) {
            if !self.answer(chunk).await {
                return;
            }
        }
        let digest = self.digest.clone().finalize().to_vec();
        // Whoever is gone needs no digest.
        let _ = self.answers.send(Ok(self.message(digest))).await;
    }
}
