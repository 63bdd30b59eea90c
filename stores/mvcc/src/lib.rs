//! What stores that hold their objects in memory share: revisions, history, lists in the past and watches.
//!
//! It decides purely and leaves the execution to the store:
//! - [`State`] holds the records and the commits that can still be watched. [`State::plan`] judges a transaction and says what its
//!   commit would be, [`State::apply`] makes that commit visible. In between, a durable store writes it to its log: a batch is
//!   planned over [`Pending`], made durable at once, applied, and acknowledged.
//! - [`Serving`] puts a lock around a state and offers what [`ObjectStore`](wharf_core::store::ObjectStore) asks for, watches
//!   included. A store delegates to it.
//!
//! ```
//! use wharf_core::store::{Key, ResourceId, Revision, Transaction};
//! use wharf_store_mvcc::{HistoryBound, Pending, Planned, Serving, State};
//!
//! let serving = Serving::new(State::new(HistoryBound::default()));
//! let mut pending = Pending::new();
//! let key = Key::new(ResourceId::new("", "pods"), "default", "web");
//! let Planned::Commit(commit) = serving.plan(&mut pending, Transaction::create(key.clone(), "{}".into()))? else { panic!() };
//! // Here it is written to a log. Nobody sees it yet, but a second creation would be a conflict.
//! assert!(serving.get(&key)?.is_none());
//! assert!(serving.plan(&mut pending, Transaction::create(key.clone(), "{}".into())).is_err());
//! serving.apply(&mut pending, [commit]);
//! assert_eq!(serving.get(&key)?.map(|record| record.modified), Some(Revision(2)));
//! # Ok::<_, wharf_core::store::StoreError>(())
//! ```
//!
//! # Reads and writes
//! Reads hold the lock for a few records at a time and give way as soon as a writer waits, so that no list, however long, holds
//! up a commit. A commit wakes the watches of the resources that it touched. Of the others, which are only owed progress, it
//! wakes them all while they are few; see [`CROWD`].

mod history;
mod list;
mod plan;
mod records;
mod restore;
mod serving;
mod signal;
mod state;
mod watch;

pub use crate::history::{Commit, DEFAULT_HISTORY, DEFAULT_HISTORY_BYTES, HistoryBound};
pub use crate::plan::{Pending, Planned};
pub use crate::records::Records;
pub use crate::restore::RestoreError;
pub use crate::serving::{DEFAULT_WATCH_BUFFER, Serving};
pub use crate::signal::CROWD;
pub use crate::state::{FIRST_REVISION, State};
