//! Reads of one state of the store.

use std::ops::ControlFlow;

use tonic::Status;
use wharf_core::store::{Key, ListOptions, Listing, Revision};

use crate::entry::{Entry, signed};
use crate::keys::KeyRange;
use crate::{Shared, fault};

/// Records asked of the store at first.
const FIRST_PAGE: usize = 64;
/// Most records asked of the store at once.
const MAX_PAGE: usize = 1024;
/// Most bytes of keys and values that one answer may have. etcd has no such limit; its clients' default is 2 GiB.
pub const MAX_ANSWER_BYTES: usize = 512 << 20;

/// One state of the store: the one that the first read finds, or one of the past.
pub(crate) struct Snapshot<'a> {
    shared: &'a Shared,
    at: Option<Revision>,
}

impl<'a> Snapshot<'a> {
    /// The newest, as of the first read.
    pub(crate) fn newest(shared: &'a Shared) -> Self {
        Self { shared, at: None }
    }

    /// The state at a revision.
    pub(crate) fn at(shared: &'a Shared, revision: i64) -> Self {
        Self { shared, at: Some(Revision(revision.unsigned_abs())) }
    }

    /// Its revision.
    pub(crate) async fn revision(&mut self) -> Result<i64, Status> {
        let revision = match self.at {
            Some(revision) => revision,
            None => self.shared.store.revision().await.map_err(fault::of)?,
        };
        self.at = Some(revision);
        Ok(signed(revision))
    }

    async fn page(&mut self, after: Key, limit: usize) -> Result<Listing, Status> {
        let shared = self.shared;
        let options = if shared.history {
            ListOptions { limit: Some(limit), after: Some(after), at: self.at }
        } else {
            // Pages could be of different states, so there is one. Who reads more than once has locked writers out.
            ListOptions { limit: (limit == 1).then_some(1), after: Some(after), at: None }
        };
        let listing = shared.store.list(&shared.layout.keys(), &options).await.map_err(fault::of)?;
        match self.at {
            None => self.at = Some(listing.revision),
            Some(at) if !shared.history && listing.revision != at => {
                return Err(if at < listing.revision { fault::compacted() } else { fault::future_revision() });
            }
            Some(_) => {}
        }
        Ok(listing)
    }

    /// One key.
    pub(crate) async fn one(&mut self, key: &[u8]) -> Result<Option<Entry>, Status> {
        let layout = &self.shared.layout;
        let listing = self.page(layout.before(key), 1).await?;
        match listing.records.first().filter(|record| record.key == layout.key(key)) {
            Some(record) => Entry::of(layout, record).map(Some).ok_or_else(|| fault::foreign_record(&record.key.name)),
            None => Ok(None),
        }
    }

    /// Every key of a range in order, until told to stop.
    pub(crate) async fn each(&mut self, range: &KeyRange, mut visit: impl FnMut(Entry) -> ControlFlow<()> + Send) -> Result<(), Status> {
        if range.is_empty() {
            // A state that is not there is refused all the same.
            return self.page(self.shared.layout.before(range.start()), 1).await.map(|_| ());
        }
        if let KeyRange::One(key) = range {
            if let Some(entry) = self.one(key).await? {
                let _ = visit(entry);
            }
            return Ok(());
        }
        let layout = &self.shared.layout;
        let (mut after, mut limit) = (layout.before(range.start()), FIRST_PAGE);
        loop {
            let listing = self.page(after, limit).await?;
            for record in &listing.records {
                let entry = Entry::of(layout, record).ok_or_else(|| fault::foreign_record(&record.key.name))?;
                if range.ends_before(&entry.key) || visit(entry).is_break() {
                    return Ok(());
                }
            }
            match listing.records.last() {
                Some(last) if listing.more => after = last.key.clone(),
                _ => return Ok(()),
            }
            limit = (limit * 4).min(MAX_PAGE);
        }
    }

    /// Every key of a range.
    pub(crate) async fn all(&mut self, range: &KeyRange) -> Result<Vec<Entry>, Status> {
        let (mut entries, mut bytes) = (Vec::new(), 0);
        self.each(range, |entry| {
            bytes += entry.size();
            entries.push(entry);
            if bytes > MAX_ANSWER_BYTES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .await?;
        if bytes > MAX_ANSWER_BYTES { Err(too_much()) } else { Ok(entries) }
    }

    /// Up to so many keys of a range, and how many there are.
    pub(crate) async fn some(&mut self, range: &KeyRange, limit: usize) -> Result<(Vec<Entry>, i64), Status> {
        let (mut entries, mut bytes, mut count) = (Vec::new(), 0, 0);
        self.each(range, |entry| {
            count += 1;
            if entries.len() < limit {
                bytes += entry.size();
                entries.push(entry);
            }
            if bytes > MAX_ANSWER_BYTES { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .await?;
        if bytes > MAX_ANSWER_BYTES { Err(too_much()) } else { Ok((entries, count)) }
    }
}

fn too_much() -> Status {
    Status::resource_exhausted(format!("etcdserver: the range has more than {MAX_ANSWER_BYTES} bytes: ask for it in parts, with a limit"))
}
