//! The runtime kit: what the contracts of [`RuntimeService`](wharf_core::runtime::RuntimeService) and
//! [`ImageService`](wharf_core::runtime::ImageService) say, case by case.

mod bench;
mod container;
mod image;
mod log;
mod restart;
mod sandbox;
mod service;
mod stream;

use async_trait::async_trait;
use wharf_core::runtime::{ImageSpec, PodSandboxConfig, RuntimeResult, SharedRuntime};

use crate::Harness;

/// Makes runtimes for the kit and knows what its test image can do.
///
/// Commands are program and arguments, as a container's `command`. Those that are `None` leave out the cases that need
/// them; a runtime that declares [`processes`](wharf_core::runtime::RuntimeCapabilities::processes) must give
/// [`exit`](RuntimeHarness::exit), [`print`](RuntimeHarness::print) and [`missing`](RuntimeHarness::missing).
#[async_trait]
pub trait RuntimeHarness: Harness {
    /// A fresh runtime that nobody else uses. The kit removes its sandboxes after each case, also a failed one.
    async fn runtime(&self) -> SharedRuntime;

    /// The reference of the test image. A runtime that declares no [`images`](wharf_core::runtime::RuntimeCapabilities::images)
    /// is given it with every container and may ignore it.
    fn image(&self) -> String;

    /// Makes the test image present; by pulling it unless overridden.
    async fn provide_image(&self, runtime: &SharedRuntime) -> RuntimeResult<()> {
        runtime.pull_image(&ImageSpec::new(self.image()), None).await.map(drop)
    }

    /// Whether [`image`](RuntimeHarness::image) can be pulled, without anything outside this machine.
    fn image_can_be_pulled(&self) -> bool {
        true
    }

    /// A well-formed reference that no pull can find, told without anything outside this machine.
    fn missing_image(&self) -> Option<String> {
        None
    }

    /// A command that runs until it gets SIGTERM.
    fn sleep(&self) -> Vec<String>;

    /// A command that runs and ignores SIGTERM.
    fn ignore_sigterm(&self) -> Option<Vec<String>> {
        None
    }

    /// Whether [`ignore_sigterm`](RuntimeHarness::ignore_sigterm) prints a line once it ignores it, for the kit to wait for.
    fn ignore_sigterm_prints(&self) -> bool {
        false
    }

    /// A command that exits with a code at once.
    fn exit(&self, _code: i32) -> Option<Vec<String>> {
        None
    }

    /// A command that prints one line to standard output and one to standard error, then exits with 0.
    fn print(&self, _stdout: &str, _stderr: &str) -> Option<Vec<String>> {
        None
    }

    /// A command that copies standard input to standard output until that is closed, then exits with 0.
    fn cat(&self) -> Option<Vec<String>> {
        None
    }

    /// A command that accepts TCP connections on a port and sends each the text before it closes it.
    fn serve(&self, _port: u16, _text: &str) -> Option<Vec<String>> {
        None
    }

    /// A command whose program is not in the image.
    fn missing(&self) -> Option<Vec<String>> {
        None
    }

    /// Whether sandboxes have a network of their own; without it the kit asks for none.
    fn pod_network(&self) -> bool {
        true
    }

    /// The last word on a sandbox's configuration, such as its cgroup.
    fn adjust(&self, config: PodSandboxConfig) -> PodSandboxConfig {
        config
    }

    /// Ends the process or object that stands for the agent, abruptly, and makes another over what it left.
    async fn restart(&self, _runtime: SharedRuntime) -> Option<SharedRuntime> {
        None
    }
}

crate::suite!($ runtime_suite, runtime, dyn RuntimeHarness, via bench::with_bench, {
    service {
        version, ready,
    }
    sandbox {
        run_twice, run_concurrently, another_attempt, another_pod, status, addresses_differ, host_network, list_filters, stop,
        stop_ends_containers, stop_unknown, remove, remove_ready, remove_unknown, run_after_remove, status_unknown,
    }
    container {
        create_twice, create_concurrently, another_attempt, create_unknown_sandbox, create_stopped_sandbox, create_absent_image,
        states, status, start_twice, start_unknown, start_exited, start_error, exit_code, stop, stop_twice, stop_created,
        stop_kills, stop_unknown, remove, remove_running, remove_unknown, create_after_remove, list_filters, list_agrees,
        status_unknown, resources, stats,
    }
    log {
        format, path, reopen, reopen_unknown,
    }
    stream {
        exec_sync, exec_sync_timeout, exec_not_running, exec_unknown, exec_streams, attach, port_forward, events,
    }
    image {
        pull, pull_twice, absent, remove, remove_unknown, missing, not_a_reference, fs_info,
    }
    restart {
        adopts, keeps_idempotence, goes_on,
    }
});
