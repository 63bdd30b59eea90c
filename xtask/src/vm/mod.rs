//! A throw-away virtual machine with Debian's own kernel and a pure cgroup v2, for what this machine's kernel lacks.
//!
//! It is emulated in software, so any machine can run it. It sees this machine's files read-only under a memory overlay: what is built here
//! runs there as it is, and nothing that it does stays.

mod cpio;
mod guest;
mod kernel;
mod modules;
mod ports;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::system::root;
pub use guest::quote;
use ports::Outcome;

/// Programs without which there is no machine, and the Debian packages that have them.
pub const NEEDED: &[(&str, &str)] = &[("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"), ("depmod", "kmod")];
/// Exit status when the machine outlived its limit, as the `timeout` program has it.
const TIMED_OUT: u8 = 124;
/// How many last lines of the kernel's console are shown when the machine broke.
const CONSOLE_TAIL: usize = 40;

/// What to boot.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Memory in MiB; half of it is the most that a memory file system in it holds.
    pub memory: u32,
    /// The longest that boot and program together may take.
    pub timeout: Duration,
    /// What the program's environment has besides PATH, HOME and LANG.
    pub env: Vec<(String, String)>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { memory: 3072, timeout: Duration::from_secs(600), env: Vec::new() }
    }
}

/// Where the kernel is kept between runs, and the last console.
fn cache() -> PathBuf {
    root().join("target/vm")
}

/// Why no machine can be booted here; `None` if one can.
pub fn unavailable() -> Option<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("the virtual machine is made for Linux on x86-64 only".into());
    }
    let missing: Vec<_> = NEEDED.iter().filter(|(program, _)| !crate::system::found(program)).map(|(program, _)| *program).collect();
    if !missing.is_empty() {
        return Some(format!("not installed: {}", missing.join(", ")));
    }
    if !kernel::cached(&cache()) && !crate::system::found("apt-get") {
        return Some("the kernel of the virtual machine is fetched with apt-get, which is not here".into());
    }
    None
}

/// A folder that goes when its owner goes.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        // Not below target: the path of a socket must be short.
        let path = std::env::temp_dir().join(format!("wharf-vm-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Machine {
    /// Boots, runs a program as root, shows its output as it comes, and returns its exit status. `watch` gets each line of its standard
    /// output.
    pub fn run(&self, program: &[String], watch: &mut dyn FnMut(&str)) -> Result<u8, String> {
        let kernel = kernel::fetch(&cache())?;
        let scratch = Scratch::new()?;
        let initrd = scratch.0.join("initrd");
        let here = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let image = guest::initrd(&kernel, &self.env, &here, program)?;
        fs::write(&initrd, image).map_err(|e| format!("cannot write {}: {e}", initrd.display()))?;
        let console = cache().join("console.log");
        let ports = ports::Ports::listen(&scratch.0)?;
        let mut command = self.qemu(&kernel.image, &initrd, &console);
        for argument in ports.qemu_arguments() {
            command.arg(argument);
        }
        let limit = Instant::now() + self.timeout;
        let mut child = command.spawn().map_err(|e| format!("cannot run qemu by setpriv: {e}; install qemu-system-x86 and util-linux"))?;
        let outcome = ports.relay(&mut child, limit, watch);
        let status = child.wait().map_err(|e| format!("cannot wait for qemu: {e}"))?;
        match outcome {
            Outcome::Exited(code) => Ok(code),
            Outcome::Late => {
                eprintln!("xtask: the virtual machine was ended after {} s; --timeout allows more", self.timeout.as_secs());
                Ok(TIMED_OUT)
            }
            Outcome::Broke => Err(format!(
                "the virtual machine ended ({status}) before the program did; the end of its console ({}):\n{}",
                console.display(),
                tail(&console)
            )),
        }
    }

    fn qemu(&self, kernel: &Path, initrd: &Path, console: &Path) -> Command {
        // It must not outlive us, however we end.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"])
            .args(["-machine", "q35", "-cpu", "max", "-accel", "tcg,thread=multi", "-smp", "2"])
            .args(["-m", &self.memory.to_string(), "-display", "none", "-no-reboot", "-nic", "none", "-monitor", "none"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on"])
            .arg("-serial")
            .arg(format!("file:{}", console.display().to_string().replace(',', ",,")))
            .args(["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"])
            .args(["-device", &format!("virtio-9p-pci,fsdev=root,mount_tag={}", guest::ROOT_TAG)])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_TAIL)..].join("\n")
}
