//! The store kit: what [`ObjectStore`](wharf_core::store::ObjectStore)'s contract says, case by case.

mod commit;
mod compact;
mod fault;
mod kit;
mod list;
mod watch;

use async_trait::async_trait;
use wharf_core::store::SharedStore;

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
}

crate::suite!($ store_suite, store, dyn StoreHarness, {
    commit {
        reads_back, bytes_are_opaque, keys_do_not_mix, revisions_increase, one_revision_for_all, update_keeps_created,
        delete_then_create, same_value_is_a_change, nothing_to_change, expect_absent, expect_present, expect_revision,
        conflict_tells_first, all_or_nothing, judged_on_the_state_before, duplicate_key, operation_limit, value_limit,
        concurrent_creates, concurrent_updates, dropped,
    }
    list {
        empty, key_order, scopes, pages, pages_show_one_revision, exact_limit, after_absent_key, acknowledged_is_visible,
        never_back, past, future, compacted,
    }
    watch {
        resume_exclusive, first_event_of_an_empty_store, list_then_watch, order, tells_previous, whole_commit, only_scope,
        no_event_for_nothing, future_revision, expired_start, compaction_edge, delete_survives_compaction, slow_is_told,
        slow_stalls_nobody, progress_not_early, dropped_next, dropped_watch, error_ends_it,
    }
    compact {
        keeps_current, lower_changes_nothing, future, running_watch_goes_on,
    }
    fault {
        disconnect_leaves_no_gap, restart_keeps_acknowledged, restart_never_goes_back,
    }
});
