//! Work on a thread of its own, in a network namespace if one is named.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

/// Runs `work` on a new thread, which enters the network namespace at `netns` first and ends afterwards: no other work can
/// ever find itself there. Child processes of the work live in that namespace too.
///
/// If the returned future is dropped, the work goes on to its end.
///
/// # Errors
/// When the namespace cannot be opened or entered, or the work panicked.
pub async fn in_netns<T: Send + 'static>(netns: Option<PathBuf>, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (send, receive) = oneshot::channel();
    std::thread::Builder::new().name("wharf-netns".into()).spawn(move || {
        let entered = netns.map_or(Ok(()), |path| setns(File::open(path)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        // Nobody waits for it any more if the future was dropped.
        let _ = send.send(entered.map(|()| work()));
    })?;
    receive.await.map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}
