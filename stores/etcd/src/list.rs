//! Reads: one key, and pages of keys at one revision.

use std::ops::Range;

use etcd_client::GetOptions;
use wharf_core::store::{Key, ListOptions, Listing, MAX_PAGE, Record, Revision, Scope, StoreError, StoreResult};

use crate::Shared;
use crate::fault::EtcdFault;
use crate::keys::Keys;
use crate::record::record;
use crate::watch;

/// Records asked for at first; Kubernetes begins with as many.
const FIRST_CHUNK: usize = 500;
/// Most records asked for at once, as Kubernetes.
const MAX_CHUNK: usize = 10_000;
/// Bytes of values that an answer should have.
const CHUNK_BYTES: usize = 4 << 20;
/// How often a list of the newest state is begun when compaction overtakes it.
const ATTEMPTS: usize = 3;

/// One record of the newest state.
pub(crate) async fn get(shared: &Shared, key: &Key) -> StoreResult<Option<Record>> {
    read(shared, key, GetOptions::new()).await.map_err(|fault| fault.failed("get"))
}

/// One record as of a revision just told; as of now if that has been compacted already.
pub(crate) async fn get_at(shared: &Shared, key: &Key, at: u64) -> StoreResult<Option<Record>> {
    match read(shared, key, GetOptions::new().with_revision(at.cast_signed())).await {
        Err(fault) if fault.is_compacted() => get(shared, key).await,
        answer => answer.map_err(|fault| fault.failed("get")),
    }
}

async fn read(shared: &Shared, key: &Key, options: GetOptions) -> Result<Option<Record>, EtcdFault> {
    let (answer, _) = shared.etcd.range(&(shared.keys.encode(key)..Vec::new()), options).await?;
    Ok(answer.kvs.into_iter().next().map(|kv| record(key.clone(), kv)))
}

/// A page. A long one is read in chunks of one revision.
pub(crate) async fn list(shared: &Shared, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
    let limit = options.limit.unwrap_or(MAX_PAGE).min(MAX_PAGE);
    let mut range = shared.keys.range(scope);
    if let Some(after) = &options.after {
        let after = Keys::after(shared.keys.encode(after));
        range.start = range.start.max(after).min(range.end.clone());
    }
    let mut attempt = 1;
    loop {
        match page(shared, &range, scope, limit, options.at).await {
            Ok(listing) => return Ok(listing),
            Err(Stopped::Fault(fault)) => return Err(fault.failed("list")),
            Err(Stopped::Future) => {
                let asked = options.at.unwrap_or_default();
                let current = shared.etcd.revision(&shared.keys).await.map_err(|fault| fault.failed("list"))?;
                return Err(StoreError::Future { asked, current: Revision(current) });
            }
            Err(Stopped::Compacted(_)) if options.at.is_none() && attempt < ATTEMPTS => attempt += 1,
            Err(Stopped::Compacted(at)) => {
                let compacted = watch::compacted(shared, at).await.map_err(|fault| fault.failed("list"))?;
                return Err(StoreError::Expired { compacted });
            }
        }
    }
}

/// Why a page was not read.
enum Stopped {
    Fault(EtcdFault),
    Future,
    /// This revision is gone.
    Compacted(i64),
}

async fn page(shared: &Shared, range: &Range<Vec<u8>>, scope: &Scope, limit: usize, at: Option<Revision>) -> Result<Listing, Stopped> {
    // To etcd 0 is the newest. Nothing was there at 0, nor is there at 1.
    let mut asked = match at.map(|at| i64::try_from(at.0)) {
        Some(Ok(at)) => Some(at.max(1)),
        Some(Err(_)) => return Err(Stopped::Future),
        None => None,
    };
    let mut range = range.clone();
    let mut chunk = FIRST_CHUNK;
    let mut records: Vec<Record> = Vec::new();
    let more = loop {
        // etcd takes 0 for no limit.
        let wanted = (limit - records.len()).clamp(1, chunk);
        let options = GetOptions::new().with_limit(wanted as i64).with_revision(asked.unwrap_or_default());
        let (answer, newest) = match shared.etcd.range(&range, options).await {
            Ok(answer) => answer,
            Err(fault) if fault.is_too_much() && wanted > 1 => {
                chunk = wanted / 2;
                continue;
            }
            Err(fault) if fault.is_future() => return Err(Stopped::Future),
            Err(fault) if fault.is_compacted() => return Err(Stopped::Compacted(asked.unwrap_or_default())),
            Err(fault) => return Err(Stopped::Fault(fault)),
        };
        asked.get_or_insert(newest.cast_signed());
        let Some(last) = answer.kvs.last() else { break false };
        if limit == 0 {
            break true;
        }
        range.start = Keys::after(last.key.clone());
        let bytes: usize = answer.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        chunk = next_chunk(answer.kvs.len(), bytes);
        records.reserve(answer.kvs.len());
        for kv in answer.kvs {
            match shared.keys.decode(&kv.key, records.last().map(|r| &r.key)) {
                Some(key) if scope.contains(&key) => records.push(record(key, kv)),
                _ => tracing::debug!("a key that is not one of ours: {:?}", String::from_utf8_lossy(&kv.key)),
            }
        }
        if !answer.more {
            break false;
        }
        if records.len() >= limit {
            break true;
        }
    };
    let revision = at.unwrap_or_else(|| crate::record::revision(asked.unwrap_or_default()));
    Ok(Listing { records, revision, more })
}

/// As many as should fit, by those that came.
fn next_chunk(records: usize, bytes: usize) -> usize {
    (CHUNK_BYTES / (bytes / records.max(1)).max(1)).clamp(1, MAX_CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_the_size_of_records() {
        assert_eq!(next_chunk(500, 500 * 4096), 1024);
        assert_eq!(next_chunk(500, 500), MAX_CHUNK);
        assert_eq!(next_chunk(1, 3 << 20), 1);
        assert_eq!(next_chunk(1, 30 << 20), 1);
        assert_eq!(next_chunk(0, 0), MAX_CHUNK);
    }
}
