//! The store kit: what [`ObjectStore`](wharf_core::store::ObjectStore)'s contract says, case by case.

mod cache;
mod commit;
mod compact;
mod expiry;
mod fault;
mod faulty;
mod kit;
mod list;
pub mod model;
mod watch;

use std::time::Duration;

use async_trait::async_trait;
use wharf_core::store::SharedStore;

pub use self::faulty::{Call, Faulty, Injected, MAX_SCRIPT, Odds, StoreFault};
use crate::Harness;

/// Makes stores for the kit, and breaks them where it can.
#[async_trait]
pub trait StoreHarness: Harness {
    /// A fresh, empty store that nobody else writes to.
    async fn store(&self) -> SharedStore;

    /// A fresh store that forgets history by itself beyond about this many commits. `None` if it cannot be made so.
    async fn bounded(&self, _commits: usize) -> Option<SharedStore> {
        None
    }

    /// Loses every connection of a store once. False if it has none to lose.
    async fn disconnect(&self, _store: &SharedStore) -> bool {
        false
    }

    /// Ends a store as a crash would and opens it again over what it left. `None` if it cannot be.
    async fn restart(&self, _store: SharedStore) -> Option<SharedStore> {
        None
    }

    /// Makes a store's next write fail when it is synced to the disk. False if that cannot be brought about.
    async fn fail_sync(&self, _store: &SharedStore) -> bool {
        false
    }

    /// Bytes that a store takes, once it has given back what it can. `None` if that is not known.
    async fn size(&self, _store: &SharedStore) -> Option<u64> {
        None
    }

    /// The shortest time to live that a store heeds as it is; asked only where expiry is declared.
    fn shortest_ttl(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Lets time pass for a store. By default it is waited for; a harness whose stores have a clock of their own moves that.
    async fn pass_time(&self, _store: &SharedStore, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

crate::suite!($ store_suite, store, dyn StoreHarness, {
    commit {
        reads_back, bytes_are_opaque, keys_do_not_mix, revisions_increase, one_revision_for_all, update_keeps_created,
        delete_then_create, same_value_is_a_change, nothing_to_change, expect_absent, expect_present, expect_revision,
        conflict_tells_first, all_or_nothing, judged_on_the_state_before, duplicate_key, operation_limit, value_limit,
        fence, concurrent_creates, concurrent_updates, dropped,
    }
    list {
        empty, key_order, scopes, pages, pages_show_one_revision, exact_limit, after_absent_key, acknowledged_is_visible,
        never_back, index_and_data_agree, past, future, compacted,
    }
    watch {
        resume_exclusive, first_event_of_an_empty_store, list_then_watch, order, tells_previous, whole_commit, only_scope,
        no_event_for_nothing, future_revision, expired_start, compaction_edge, delete_survives_compaction, slow_is_told,
        slow_stalls_nobody, progress_not_early, dropped_next, dropped_watch, error_ends_it, expired_on_every_path,
        starved_loses_nothing,
    }
    compact {
        keeps_current, lower_changes_nothing, future, running_watch_goes_on,
    }
    fault {
        disconnect_leaves_no_gap, restart_keeps_acknowledged, restart_never_goes_back, crash_beside_writers, failed_sync_stops,
    }
    expiry {
        undeclared, deletes_by_a_commit, not_before_its_time, rewrite_renews, rewrite_without_keeps, whole_transaction,
        survives_restart, renewals_take_no_room,
    }
    cache {
        never_back_after_reconnect, lost_delete_heals, too_large_revision_does_not_wedge, starts_beside_writers,
    }
});

#[cfg(test)]
mod tests {
    #[test]
    fn every_lesson_names_a_case_that_there_is() {
        let readme = include_str!("../README.md");
        let lessons = readme.split("### Lessons and their cases").nth(1).and_then(|rest| rest.split("\n### ").next()).unwrap();
        let named: Vec<&str> = lessons.split('`').filter(|word| word.starts_with("store.")).collect();
        let ids: Vec<&str> = super::cases().iter().map(|case| case.id).collect();
        assert!(named.len() >= 17, "{named:?}");
        assert!(named.iter().all(|id| ids.contains(id)), "{:?}", named.iter().filter(|id| !ids.contains(*id)).collect::<Vec<_>>());
    }
}
