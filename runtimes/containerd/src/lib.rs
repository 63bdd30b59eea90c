//! A [`Runtime`](wharf_core::runtime::Runtime) over any CRI v1 socket: containerd, CRI-O, Docker through cri-dockerd.
//!
//! Building this crate runs protoc (Debian: `protobuf-compiler`), because CRI's messages are generated from their definition.
//!
//! ```no_run
//! use wharf_core::clock::SystemClock;
//! use wharf_runtime_containerd::{ContainerdOptions, ContainerdRuntime};
//! # async fn example() -> Result<(), wharf_runtime_containerd::ConnectError> {
//! let options = ContainerdOptions::new("node-1");
//! let runtime = ContainerdRuntime::connect("unix:///run/containerd/containerd.sock", options, SystemClock::shared()).await?;
//! # Ok(()) }
//! ```
//!
//! The runtime behind the socket may have other users: everything made here carries the label [`OWNER_LABEL`], and what does not
//! carry it, with this owner, is unknown here.

mod client;
mod error;
mod image;
mod owner;
mod runtime;
mod streaming;
mod translate;

pub use client::{
    CALL_TIMEOUT, CONNECT_TIMEOUT, CREATE_CONTAINER_TIMEOUT, PULL_IMAGE_TIMEOUT, RUN_POD_SANDBOX_TIMEOUT, START_CONTAINER_TIMEOUT,
    STOP_MARGIN, STREAM_TIMEOUT,
};
pub use error::{ConnectError, CriError};
pub use owner::OWNER_LABEL;
pub use runtime::{ContainerdOptions, ContainerdRuntime};

/// [`ContainerdRuntime`] under the name of what it speaks: nothing in it is containerd's own.
pub type CriRuntime = ContainerdRuntime;
