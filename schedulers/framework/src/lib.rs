//! Kubernetes' scheduling framework: its extension points as small traits, profiles put together from named plugins,
//! a scheduler that runs them, and the loop that feeds it from the API.

mod bind;
mod cache;
mod cycle;
mod plugin;
mod profile;
mod queue;
mod run;
mod schedule;
mod status;

pub use bind::DefaultBinder;
pub use cycle::CycleState;
pub use plugin::{
    Bind, BindOutcome, Filter, MAX_SCORE, Permit, Plugin, PostBind, PostFilter, PostFilterOutcome, PreBind, PreEnqueue, PreFilter,
    PreFilterOutcome, PreScore, PreScoreOutcome, QueueSort, Refilter, Reserve, Score,
};
pub use profile::{MAX_WEIGHT, Points, Profile, ProfileBuilder, ProfileError, Registration, Registry};
pub use queue::{BACKOFF_FIRST, BACKOFF_MOST, QueuedPod, UNSCHEDULABLE_MOST};
pub use run::{LoopOptions, MAX_BINDING, MAX_REPORTS, SchedulerLoop};
pub use schedule::{FrameworkScheduler, MIN_FEASIBLE, nodes_to_find};
pub use status::{Reason, Rejection};
