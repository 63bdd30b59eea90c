//! A runtime that only pretends: sandboxes get addresses, containers run until they are stopped, nothing is executed.
//!
//! It is for clusters without root, for large hollow ones, and for tests, which may script how containers end. It is
//! also the plainest implementation of the seam, to copy from. State lives in the process and is lost with it.
//!
//! Pretending goes as follows:
//! - Any image can be pulled, except references that contain one of the builder's missing words.
//! - A container runs for ever unless its [`Script`] says otherwise. A stop signal ends it at once with 128 + signal.
//! - No logs are written; statistics are zero; exec, attach, port forwarding and resource updates are unsupported.

mod addresses;
mod images;
mod service;
mod signal;
mod state;

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use wharf_core::clock::{Clock, SystemClock};
use wharf_core::runtime::{ContainerConfig, ContainerEvent, RuntimeError, RuntimeResult};

use crate::addresses::Addresses;
use crate::images::Images;
use crate::state::{Ended, State};

/// Events that a subscriber may be behind by. Past it the stream ends, and the subscriber lists again.
pub const EVENT_BUFFER: usize = 64;
/// References with this in them cannot be pulled, unless the builder says otherwise.
pub const MISSING_IMAGE: &str = "does-not-exist";

/// What a container does once it is started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Script {
    /// Runs until it is stopped.
    #[default]
    Run,
    /// Ends by itself.
    Exit {
        /// How long after its start, on the runtime's clock.
        after: Duration,
        /// With which code.
        code: i32,
    },
    /// Does not start.
    FailStart {
        /// What the error says.
        message: String,
    },
}

/// Decides what a container does.
pub type ScriptFn = dyn Fn(&ContainerConfig) -> Script + Send + Sync;

/// A runtime that only pretends. Clones share it.
#[derive(Clone)]
pub struct HollowRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    clock: Arc<dyn Clock>,
    script: Arc<ScriptFn>,
    state: Mutex<State>,
    images: Mutex<Images>,
    /// Made for the first subscriber: most hollow nodes of a large cluster are polled.
    events: OnceLock<broadcast::Sender<ContainerEvent>>,
}

/// How a [`HollowRuntime`] is made.
#[derive(Clone)]
pub struct HollowRuntimeBuilder {
    name: String,
    pod_cidr: IpNet,
    clock: Arc<dyn Clock>,
    missing: Vec<String>,
    script: Arc<ScriptFn>,
}

impl fmt::Debug for HollowRuntimeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, pod_cidr, missing, .. } = self;
        f.debug_struct("HollowRuntimeBuilder")
            .field("name", name)
            .field("pod_cidr", pod_cidr)
            .field("missing", missing)
            .finish_non_exhaustive()
    }
}

impl HollowRuntimeBuilder {
    /// The name that its ids begin with, usually the node's.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }
    /// The range that sandboxes get their addresses from, without its network, gateway (`.1`) and broadcast addresses.
    pub fn pod_cidr(mut self, range: impl Into<IpNet>) -> Self {
        self.pod_cidr = range.into();
        self
    }
    /// The clock of timestamps and scripts.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
    /// References that contain one of these words cannot be pulled; replaces [`MISSING_IMAGE`].
    pub fn missing_images(mut self, words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.missing = words.into_iter().map(Into::into).collect();
        self
    }
    /// Decides at start what each container does.
    pub fn script(mut self, script: impl Fn(&ContainerConfig) -> Script + Send + Sync + 'static) -> Self {
        self.script = Arc::new(script);
        self
    }
    /// The runtime, with nothing in it.
    pub fn build(self) -> HollowRuntime {
        // Ids of one runtime never meet those of another that had its name before.
        let instance = self.clock.now().as_nanosecond();
        let state = State::new(format!("{}-{instance:x}", self.name), Addresses::new(self.pod_cidr));
        HollowRuntime {
            inner: Arc::new(Inner {
                name: self.name,
                clock: self.clock,
                script: self.script,
                state: Mutex::new(state),
                images: Mutex::new(Images::new(self.missing)),
                events: OnceLock::new(),
            }),
        }
    }
}

impl HollowRuntime {
    /// A runtime named `hollow` with addresses from 10.244.0.0/24.
    pub fn new() -> Self {
        Self::builder().build()
    }
    /// A runtime made to measure.
    pub fn builder() -> HollowRuntimeBuilder {
        HollowRuntimeBuilder {
            name: "hollow".into(),
            pod_cidr: IpNet::V4(Ipv4Net::new_assert([10, 244, 0, 0].into(), 24)),
            clock: SystemClock::shared(),
            missing: vec![MISSING_IMAGE.into()],
            script: Arc::new(|_| Script::Run),
        }
    }

    /// Ends a running container as if its process had exited with a code.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`]; [`RuntimeError::FailedPrecondition`] when it does not run.
    pub fn exit_container(&self, container_id: &str, code: i32) -> RuntimeResult<()> {
        let reason = if code == 0 { "Completed" } else { "Error" };
        self.inner.end(container_id, Ended { code, signal: 0, reason, message: String::new() })
    }

    /// Ends a running container as the kernel does when it is out of memory.
    ///
    /// # Errors
    /// As [`HollowRuntime::exit_container`].
    pub fn oom_kill_container(&self, container_id: &str) -> RuntimeResult<()> {
        self.inner.end(container_id, Ended { code: 128 + signal::KILL, signal: signal::KILL, reason: "OOMKilled", message: String::new() })
    }
}

impl Default for HollowRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HollowRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HollowRuntime").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

impl Inner {
    /// Tells whoever listens. Called after the state has changed and its lock is free.
    fn tell(&self, events: impl IntoIterator<Item = ContainerEvent>) {
        if let Some(sender) = self.events.get() {
            for event in events {
                // No subscriber left is fine: events are hints.
                let _ = sender.send(event);
            }
        }
    }

    fn end(&self, container_id: &str, ended: Ended) -> RuntimeResult<()> {
        let event = self.state.lock().end_running(container_id, ended, self.clock.now())?;
        self.tell([event]);
        Ok(())
    }

    /// Ends a container after a while, if it and the runtime are still there.
    fn end_later(self: &Arc<Self>, container_id: String, after: Duration, code: i32) -> tokio::task::AbortHandle {
        let sleep = self.clock.sleep(after);
        let inner: Weak<Self> = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            sleep.await;
            let Some(inner) = inner.upgrade() else { return };
            // Stopped meanwhile: then it has ended already.
            let _: Result<(), RuntimeError> = HollowRuntime { inner }.exit_container(&container_id, code);
        });
        task.abort_handle()
    }
}
