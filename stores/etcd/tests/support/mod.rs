//! A way to etcd that can be cut, and turned to another.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on to a port of loopback. Gone when dropped.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    target: Arc<AtomicU16>,
    cuts: watch::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Wire {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cuts, target) = (watch::Sender::new(()), Arc::new(AtomicU16::new(target)));
        let (subscribe, to) = (cuts.clone(), target.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = subscribe.subscribe();
                let to = to.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await else { return };
                    // Small answers must not wait for more.
                    for end in [&near, &far] {
                        end.set_nodelay(true).unwrap();
                    }
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, target, cuts, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends every connection. New ones are passed on, to the port given if one is.
    pub fn cut(&self, turn_to: Option<u16>) {
        if let Some(target) = turn_to {
            self.target.store(target, Ordering::Relaxed);
        }
        self.cuts.send_replace(());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
        self.cut(None);
    }
}
