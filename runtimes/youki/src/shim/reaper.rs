//! Reaping: the shim is the parent of every container process and helper, and the one who learns their exit codes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How many exits are kept for which nobody has asked yet.
const MAX_UNCLAIMED: usize = 256;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit {
    /// The process's own code, or 128 + signal.
    pub(crate) code: i32,
    /// The signal, or 0.
    pub(crate) signal: i32,
    pub(crate) at: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    unclaimed: VecDeque<(i32, Exit)>,
}

/// Dispatches exits by process id.
#[derive(Debug, Default)]
pub(crate) struct Reaper {
    state: Mutex<State>,
}

impl Reaper {
    /// The exit of a process that was just spawned by this process; an older exit under its id is another's.
    pub(crate) fn spawned(&self, pid: i32) -> oneshot::Receiver<Exit> {
        self.state.lock().unclaimed.retain(|(p, _)| *p != pid);
        self.adopted(pid)
    }

    /// The exit of a process that was reparented to this one and may be gone already.
    pub(crate) fn adopted(&self, pid: i32) -> oneshot::Receiver<Exit> {
        let (send, receive) = oneshot::channel();
        let mut state = self.state.lock();
        if let Some(at) = state.unclaimed.iter().position(|(p, _)| *p == pid) {
            if let Some((_, exit)) = state.unclaimed.remove(at) {
                // The receiver is in our hands.
                let _ = send.send(exit);
            }
        } else {
            state.waiting.insert(pid, send);
        }
        receive
    }

    fn ended(&self, pid: i32, exit: Exit) {
        let mut state = self.state.lock();
        match state.waiting.remove(&pid) {
            Some(waiter) => {
                // Whoever asked may have lost interest.
                let _ = waiter.send(exit);
            }
            None => {
                if state.unclaimed.len() == MAX_UNCLAIMED {
                    state.unclaimed.pop_front();
                }
                state.unclaimed.push_back((pid, exit));
            }
        }
    }

    fn reap_all(&self) {
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => self.ended(pid.as_raw(), Exit { code, signal: 0, at: Timestamp::now() }),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    self.ended(pid.as_raw(), Exit { code: 128 + signal as i32, signal: signal as i32, at: Timestamp::now() });
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    /// Reaps for as long as the shim lives.
    pub(crate) fn run(self: &Arc<Self>) -> std::io::Result<()> {
        let mut children = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        let reaper = self.clone();
        tokio::spawn(async move {
            loop {
                reaper.reap_all();
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Exit {
        Exit { code, signal: 0, at: Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn an_exit_before_the_question_is_kept_for_an_adopted_process_only() {
        let reaper = Reaper::default();
        reaper.ended(7, exit(3));
        assert_eq!(reaper.adopted(7).try_recv().unwrap(), exit(3));
        reaper.ended(7, exit(4));
        assert!(reaper.spawned(7).try_recv().is_err());
    }

    #[test]
    fn unclaimed_exits_are_bounded() {
        let reaper = Reaper::default();
        for pid in 0..(MAX_UNCLAIMED as i32 + 10) {
            reaper.ended(pid, exit(0));
        }
        assert_eq!(reaper.state.lock().unclaimed.len(), MAX_UNCLAIMED);
    }
}
