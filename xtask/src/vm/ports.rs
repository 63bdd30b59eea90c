//! How the machine speaks to us: a serial port each for the program's output, its errors and its exit status. The kernel's messages go
//! elsewhere, and nothing that a program prints can pass for a status.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The ports' names in the machine.
pub const OUT: &str = "wharf.out";
pub const ERR: &str = "wharf.err";
pub const STATUS: &str = "wharf.status";
/// By number.
const NAMES: [&str; 3] = [OUT, ERR, STATUS];
/// How often the machine's process is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How long what was printed before the end may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Lines that wait to be shown; a faster program waits.
const BACKLOG: usize = 256;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The program ended with this status.
    Exited(u8),
    /// The machine ended before the program did.
    Broke,
    /// It was ended at its limit.
    Late,
}

enum Said {
    Out(Vec<u8>),
    Err(Vec<u8>),
    Status(Option<u8>),
    End,
}

/// Our side.
pub struct Ports {
    sockets: Vec<PathBuf>,
    said: Receiver<Said>,
}

impl Ports {
    /// Waits for the machine in a folder.
    pub fn listen(folder: &Path) -> Result<Self, String> {
        let (sender, said) = sync_channel(BACKLOG);
        let mut sockets = Vec::new();
        for (number, name) in NAMES.into_iter().enumerate() {
            let path = folder.join(name);
            let listener = UnixListener::bind(&path).map_err(|e| format!("cannot listen on {}: {e}", path.display()))?;
            let sender = sender.clone();
            std::thread::spawn(move || {
                if let Ok((stream, _)) = listener.accept() {
                    listen(number, stream, &sender);
                }
                let _ = sender.send(Said::End);
            });
            sockets.push(path);
        }
        Ok(Self { sockets, said })
    }

    /// What qemu has to be told.
    pub fn qemu_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-device".to_string(), "virtio-serial-pci".to_string()];
        for (index, path) in self.sockets.iter().enumerate() {
            let (name, number) = (NAMES[index], index + 1);
            let path = path.display().to_string().replace(',', ",,");
            arguments.extend(["-chardev".into(), format!("socket,id={name},path={path},server=off")]);
            arguments.extend(["-device".into(), format!("virtserialport,chardev={name},nr={number},name={name}")]);
        }
        arguments
    }

    /// Shows what the program prints until its status is known, the machine ends or `limit` has come; then the machine is ended, and what
    /// was under way is shown.
    pub fn relay(self, machine: &mut Child, limit: Instant, watch: &mut dyn FnMut(&str)) -> Outcome {
        let mut open = NAMES.len();
        let mut outcome = None;
        let mut last = None;
        while open > 0 {
            match self.said.recv_timeout(POLL) {
                Ok(Said::Out(line)) => {
                    watch(&String::from_utf8_lossy(&line));
                    show(&mut std::io::stdout().lock(), &line);
                }
                Ok(Said::Err(line)) => show(&mut std::io::stderr().lock(), &line),
                // A whole line: the beginning of one is from a machine that was cut off.
                Ok(Said::Status(code)) => outcome = outcome.or(Some(code.map_or(Outcome::Broke, Outcome::Exited))),
                Ok(Said::End) => open -= 1,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if outcome.is_none() {
                outcome = if Instant::now() > limit {
                    Some(Outcome::Late)
                } else if !matches!(machine.try_wait(), Ok(None)) {
                    Some(Outcome::Broke)
                } else {
                    None
                };
            }
            if outcome.is_some() {
                // Nothing in it is worth an orderly end.
                let _ = machine.kill();
                let last = *last.get_or_insert_with(|| Instant::now() + LAST_WORDS);
                if Instant::now() > last {
                    break;
                }
            }
        }
        outcome.unwrap_or(Outcome::Broke)
    }
}

fn show(to: &mut dyn Write, line: &[u8]) {
    // Whoever reads it may have gone.
    let _ = to.write_all(line).and_then(|()| to.flush());
}

fn listen(number: usize, stream: UnixStream, sender: &SyncSender<Said>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let said = match number {
            0 => Said::Out(line),
            1 => Said::Err(line),
            _ => Said::Status(String::from_utf8_lossy(&line).trim().parse().ok()),
        };
        if sender.send(said).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Child {
        std::process::Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("wharf-ports-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn output_is_passed_on_and_the_status_ends_it() {
        let folder = folder("status");
        let ports = Ports::listen(&folder).unwrap();
        let connect = |name| UnixStream::connect(folder.join(name)).unwrap();
        let (mut out, err, mut status) = (connect(OUT), connect(ERR), connect(STATUS));
        out.write_all(b"a line\n7\nunfinished").unwrap();
        status.write_all(b"3\n").unwrap();
        drop((out, err, status));
        let (mut lines, mut machine) = (Vec::new(), idle());
        let far = Instant::now() + Duration::from_secs(1000);
        assert_eq!(ports.relay(&mut machine, far, &mut |line| lines.push(line.to_string())), Outcome::Exited(3));
        lines.sort();
        assert_eq!(lines, ["7\n", "a line\n", "unfinished"]);
        assert!(!machine.wait().unwrap().success(), "the machine was ended");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_machine_that_never_speaks_is_ended() {
        let folder = folder("late");
        let mut machine = idle();
        assert_eq!(Ports::listen(&folder).unwrap().relay(&mut machine, Instant::now(), &mut |_| {}), Outcome::Late);
        machine.wait().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
