//! Real containers: youki's libcontainer, each pod held by a shim built on containerd's.
//!
//! - **Shims.** Each pod has one process that is the parent of its containers, writes their logs and keeps their
//!   exit codes. It outlives the agent; a new [`YoukiRuntime`] on the same root directory finds it again. It is the
//!   embedder's own executable, run from a sealed copy in memory, which is why `main` has to begin with
//!   [`shim_main`]. It speaks containerd's task API.
//! - **Sandboxes.** Network, IPC and UTS namespaces are pinned by bind mounts; there is no pause container. The
//!   network comes from a [`PodNetwork`](wharf_core::runtime::PodNetwork).
//! - **Images.** Pulled from registries or imported from disk into [`ImageStore`], layers verified by digest and
//!   mounted by overlayfs.
//!
//! Needed of the machine: Linux 5.11 or later, root, cgroups version 1 or 2, overlayfs on the root directory's file
//! system.
//!
//! Under systemd the embedder's unit needs `KillMode=process`, or the end of the unit ends its pods too.
//!
//! Not offered: seccomp profiles (libcontainer needs the C library libseccomp for them), PID namespaces shared by
//! the containers of a pod, user namespaces, layers compressed with zstd.

mod cgroup;
mod image;
mod rootfs;
mod runtime;
mod shim;
mod spec;
mod state;
mod sys;
mod user;
mod wire;

pub use image::{ImageError, ImageStore};
pub use runtime::{YoukiRuntime, YoukiRuntimeBuilder};
pub use shim::shim_main;
