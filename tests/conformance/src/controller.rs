//! The controller kit: what [`Controller`]'s contract says, played over scenarios of yours, in a world that misbehaves.
//!
//! Most bugs of controllers come from states that they did not think of: a cache that is behind, a write of which nobody
//! knows whether it took place, a restart between two writes. So each scenario is played again and again, each time with
//! another of these at another place, and must end in the same state.

mod cache;
mod cancel;
mod fault;
mod faulty;
mod key;
mod owner;
mod play;
mod restart;
mod settle;
mod trigger;
mod watch;
mod world;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kube::core::ApiResource;
use serde_json::Value;
use wharf_core::api::SharedApi;
use wharf_core::clock::Clock;
use wharf_core::controller::Controller;
use wharf_core::object::ObjectRef;

use crate::Harness;

pub use self::world::Objects;

/// Something that somebody else does.
#[derive(Debug, Clone)]
pub enum Change {
    /// Creates an object, given with `apiVersion` and `kind`.
    Create(Value),
    /// Merges a patch into an object (RFC 7386).
    Merge(ApiResource, ObjectRef, Value),
    /// The same into its status.
    MergeStatus(ApiResource, ObjectRef, Value),
    /// Deletes an object.
    Delete(ApiResource, ObjectRef),
}

/// Whether the state is the one that the scenario should end in; the error says what is missing.
pub type Settled = Arc<dyn Fn(&Objects) -> Result<(), String> + Send + Sync>;

/// A story with a known end.
#[derive(Clone)]
pub struct Scenario {
    /// For messages.
    pub name: &'static str,
    /// Every resource that occurs in it.
    pub resources: Vec<ApiResource>,
    /// The object that it is about.
    pub primary: (ApiResource, ObjectRef),
    /// What is there before the controller starts, in order. A string `uid-of:Kind/name` becomes the uid of an object
    /// created before.
    pub initial: Vec<Value>,
    /// What happens then; the controller comes to rest after each.
    pub changes: Vec<Change>,
    /// Whether it ended well.
    pub settled: Settled,
    /// Resources whose objects the controller makes, owns, and makes again when they are gone. Empty if it owns nothing:
    /// the cases of ownership are then skipped.
    pub owned: Vec<ApiResource>,
    /// Objects that look like the controller's own but are not: of another owner. They must stay as they are.
    pub foreign: Vec<Value>,
    /// Most writes that the undisturbed story may take.
    pub max_writes: usize,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Makes controllers for the kit, and the world that they work in.
#[async_trait]
pub trait ControllerHarness: Harness {
    /// A fresh, empty API that nobody else uses; it lives by this clock.
    async fn api(&self, clock: Arc<dyn Clock>) -> SharedApi;
    /// A fresh controller, as a new process would make it.
    fn controller(&self) -> Arc<dyn Controller>;
    /// The stories to play: at least one.
    fn scenarios(&self) -> Vec<Scenario>;
}

crate::suite!($ controller_suite, controller, dyn ControllerHarness, {
    settle {
        converges, rests, bounded_writes, converges_from_the_end,
    }
    key {
        unknown, gone_while_away,
    }
    fault {
        refused, conflict, outcome_unknown, deleted_meanwhile,
    }
    cancel {
        before_each_call, after_each_call,
    }
    restart {
        after_each_write, at_rest,
    }
    cache {
        lags, stands_still,
    }
    trigger {
        duplicated, reordered, unrelated,
    }
    owner {
        references, deletion_is_respected, foreign_untouched,
    }
    watch {
        declares_what_it_reads, child_removed, child_released,
    }
});
