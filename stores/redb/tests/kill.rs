//! kill -9 at random points of a stream of durable writes.
//!
//! This program is its own victim: run with [`VICTIM`] set, it opens the store and writes, telling each acknowledged write on its
//! standard output. 200 lives by default; `WHARF_KILLS=1000` or `--kills 1000` for others, `WHARF_KILL_SEED` for other points.
#![allow(clippy::unwrap_used, reason = "a test in its whole, though not in the eyes of the linter")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use wharf_core::clock::SystemClock;
use wharf_core::store::{Change, Expect, Key, ListOptions, ObjectStore, Op, ResourceId, Revision, Scope, Transaction, WatchItem};
use wharf_store_redb::{RedbOpenError, RedbOptions, RedbStore};

/// The folder of a victim.
const VICTIM: &str = "WHARF_KILL_VICTIM";
/// Where a victim's writers go on counting.
const START: &str = "WHARF_KILL_START";
const KILLS: u64 = 200;
/// Kills in one folder.
const LIVES: usize = 100;
/// A victim's writers, each with keys of its own.
const WRITERS: u64 = 4;
/// Most writes that a victim is given.
const MAX_WRITES: u64 = 60;
const NAME: &str = "kill_nine_loses_nothing";

fn options() -> RedbOptions {
    // Small, so that many kills hit the checkpoint.
    RedbOptions::default().segment_bytes(32 << 10).history_age(None)
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Ok(folder) = std::env::var(VICTIM) {
        let start = std::env::var(START).unwrap().parse().unwrap();
        return runtime.block_on(victim(folder.into(), start));
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|a| a == word);
    if has("--list") {
        if !has("--ignored") {
            println!("{NAME}: test");
        }
        return;
    }
    let value_of = |word: &str| arguments.iter().skip_while(|a| *a != word).nth(1).cloned();
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse().unwrap());
    let kills = value_of("--kills").map(|n| n.parse().unwrap()).or_else(|| number("WHARF_KILLS")).unwrap_or(KILLS);
    let values = ["--kills", "--format", "--test-threads", "--color", "--skip"].map(value_of);
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-') && !values.contains(&Some((*a).clone()))).collect();
    if has("--ignored") || (!filters.is_empty() && !filters.iter().any(|f| NAME.contains(f.as_str()))) {
        return;
    }
    // In folders of some lives each: every life ends with a look at all that was written before.
    let seed = number("WHARF_KILL_SEED").unwrap_or(0);
    for (folder, done) in (0..kills).step_by(LIVES).enumerate() {
        runtime.block_on(torture((kills - done).min(LIVES as u64), seed + folder as u64));
    }
    println!("{kills} kills: every acknowledged write was there");
}

fn key(name: String) -> Key {
    Key::new(ResourceId::new("", "pods"), "default", name)
}

async fn open(folder: &Path) -> RedbStore {
    loop {
        match RedbStore::open(folder, options(), SystemClock::shared()).await {
            // Who had it before is about to end.
            Err(RedbOpenError::InUse { .. }) => tokio::task::yield_now().await,
            store => break store.unwrap(),
        }
    }
}

/// Writes until it is killed.
async fn victim(folder: std::path::PathBuf, start: u64) {
    let store = Arc::new(open(&folder).await);
    say(&format!("open {}", store.revision().await.unwrap()));
    let counter = Arc::new(AtomicU64::new(start));
    let writers = (0..WRITERS).map(|w| {
        let (store, counter) = (store.clone(), counter.clone());
        tokio::spawn(async move {
            loop {
                let n = counter.fetch_add(1, Ordering::Relaxed);
                let put = |name: String, value: Vec<u8>| Op::Put { key: key(name), value: value.into(), expect: Expect::Any };
                let mut value = n.to_string().into_bytes();
                let mut ops = vec![put(format!("w{w}-a"), value.clone()), put(format!("w{w}-b"), value.clone())];
                value.resize(20 + (n as usize * 37) % 1500, b' ');
                match n % 3 {
                    0 => ops.push(Op::Delete { key: key(format!("w{w}-{}", n % 10)), expect: Expect::Any }),
                    _ => ops.push(put(format!("w{w}-{}", n % 10), value)),
                }
                let revision = store.commit(Transaction::new(ops)).await.unwrap();
                say(&format!("ack {w} {n} {revision}"));
            }
        })
    });
    futures::future::join_all(writers.collect::<Vec<_>>()).await;
}

/// One line, in one write.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody listens: the parent is gone.
    if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What one victim was seen to do.
#[derive(Default)]
struct Acknowledged {
    /// The newest number of each writer.
    newest: BTreeMap<u64, u64>,
    revision: u64,
    /// The largest number seen.
    top: u64,
}

fn live_and_die(folder: &Path, start: u64, writes: u64) -> Acknowledged {
    let mut child = Killed(
        Command::new(std::env::current_exe().unwrap())
            .env(VICTIM, folder)
            .env(START, start.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let mut seen = Acknowledged { top: start, ..Acknowledged::default() };
    let mut left = writes;
    let mut killed = false;
    loop {
        if left == 0 && !killed {
            child.0.kill().unwrap();
            killed = true;
        }
        let Some(Ok(line)) = lines.next() else { break };
        left = left.saturating_sub(1);
        let words: Vec<&str> = line.split(' ').collect();
        if let ["ack", writer, n, revision] = words[..] {
            let (writer, n, revision): (u64, u64, u64) = (writer.parse().unwrap(), n.parse().unwrap(), revision.parse().unwrap());
            seen.newest.insert(writer, n);
            seen.revision = seen.revision.max(revision);
            seen.top = seen.top.max(n);
        }
    }
    assert!(killed, "the victim ended by itself: see what it says above");
    seen
}

fn number(value: &Bytes) -> u64 {
    std::str::from_utf8(value).unwrap().trim().parse().unwrap()
}

async fn torture(kills: u64, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut start = 1;
    // What a watch that goes on over all lives has seen.
    let mut position = Revision(1);
    let mut objects: BTreeMap<Key, Bytes> = BTreeMap::new();
    for kill in 0..kills {
        let seen = live_and_die(folder.path(), start, rng.random_range(0..MAX_WRITES));
        // More than were under way.
        start = seen.top + 10 * WRITERS;
        let store = open(folder.path()).await;
        let revision = store.revision().await.unwrap();
        assert!(revision.0 >= seen.revision && revision >= position, "kill {kill}: at {revision}, acknowledged {}", seen.revision);
        let mut watch = store.watch(&Scope::All, position).await.unwrap();
        while position < revision {
            match watch.next().await.unwrap().unwrap() {
                WatchItem::Commit { revision, changes } => {
                    assert_eq!(revision.0, position.0 + 1, "kill {kill}: the watch has a gap");
                    position = revision;
                    for change in changes.iter() {
                        let before = match change {
                            Change::Put { record, .. } => objects.insert(record.key.clone(), record.value.clone()),
                            Change::Delete { previous } => objects.remove(&previous.key),
                        };
                        let told = match change {
                            Change::Put { previous, .. } => previous.as_ref().map(|p| &p.value),
                            Change::Delete { previous } => Some(&previous.value),
                        };
                        assert_eq!(told, before.as_ref(), "kill {kill}: what {} was before {revision}", change.key());
                    }
                }
                WatchItem::Progress(_) => {}
            }
        }
        let listing = store.list(&Scope::All, &ListOptions::default()).await.unwrap();
        let found: BTreeMap<Key, Bytes> = listing.records.into_iter().map(|r| (r.key, r.value)).collect();
        assert_eq!(found, objects, "kill {kill}: the objects, and what the watch saw");
        for (writer, newest) in seen.newest {
            let [a, b] = ["a", "b"].map(|half| number(&found[&key(format!("w{writer}-{half}"))]));
            assert_eq!(a, b, "kill {kill}: half a transaction");
            assert!(a >= newest, "kill {kill}: writer {writer} was acknowledged {newest}, and {a} is there");
        }
        if rng.random_range(0..4) == 0 {
            store.close().await.unwrap();
        }
    }
}
