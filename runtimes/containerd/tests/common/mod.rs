//! What runs in the containers: this very executable.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use wharf_conformance::system::oci_image::OciImage;

pub const IMAGE: &str = "wharf.local/conformance:v1";
/// Marks a run of this executable as the program in a container.
pub const DEMO: &str = "demo-mode";

pub fn image() -> OciImage {
    OciImage::of_this_executable(IMAGE, "demo").unwrap()
}

/// The words of a command that runs in the image.
pub fn command(words: &[&str]) -> Vec<String> {
    ["/bin/demo", DEMO].iter().chain(words).map(|word| word.to_string()).collect()
}

pub fn demo(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap()),
        ["print", stdout, stderr] => {
            println!("{stdout}");
            eprintln!("{stderr}");
        }
        ["sleep"] => wait_for(Signal::SIGTERM),
        // Blocked and never taken, which is what ignoring comes to.
        ["ignore"] => {
            SigSet::from(Signal::SIGTERM).thread_block().unwrap();
            wait_for(Signal::SIGUSR1);
        }
        ["cat"] => {
            // Without the line buffer of standard output: what came in goes out at once.
            let mut stdout = std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().unwrap());
            std::io::copy(&mut std::io::stdin(), &mut stdout).unwrap();
        }
        ["serve", port, text] => {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse::<u16>().unwrap())).unwrap();
            for stream in listener.incoming() {
                stream.unwrap().write_all(text.as_bytes()).unwrap();
            }
        }
        ref other => {
            eprintln!("what is {other:?}?");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The first process of a PID namespace gets no signal it has no handler for, but one it has blocked stays pending.
fn wait_for(signal: Signal) {
    let set = SigSet::from(signal);
    set.thread_block().unwrap();
    set.wait().unwrap();
}
