//! What the store costs on this machine: one writer against a plain write and fdatasync, many writers, opening, memory.
//!
//! `cargo run --release -p wharf-store-redb --example figures [FOLDER]`

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wharf_core::clock::SystemClock;
use wharf_core::store::{Expect, Key, ObjectStore, Op, ResourceId, Transaction};
use wharf_store_redb::{RedbOptions, RedbStore};

type Error = Box<dyn std::error::Error + Send + Sync>;

const VALUE: usize = 1024;
const SINGLE: usize = 4_000;
const WRITERS: usize = 32;
const EACH: usize = 5_000;
const OBJECTS: usize = 100_000;

fn put(name: String) -> Transaction {
    let key = Key::new(ResourceId::new("", "pods"), "default", name);
    Transaction::new(vec![Op::Put { key, value: Bytes::from(vec![b'x'; VALUE]), expect: Expect::Any }])
}

async fn open(folder: &Path) -> Result<RedbStore, Error> {
    Ok(RedbStore::open(folder, RedbOptions::default(), SystemClock::shared()).await?)
}

fn report(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{what}: p50 {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
    at(50)
}

/// The floor: the bytes of a frame, written one after another to a file that is there in full.
fn bare(folder: &Path, count: usize) -> Result<Vec<Duration>, Error> {
    let frame = vec![b'x'; VALUE + 128];
    let path = folder.join("bare");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    for n in 0..32 {
        file.write_all_at(&vec![0; 1 << 20], n << 20)?;
    }
    file.sync_all()?;
    let mut times = Vec::new();
    for n in 0..count {
        let start = Instant::now();
        file.write_all_at(&frame, (n * frame.len()) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    fs::remove_file(path)?;
    Ok(times)
}

fn resident() -> Result<u64, Error> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap_or_default();
    Ok(line.split_whitespace().nth(1).unwrap_or("0").parse::<u64>()? * 1024)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let folder = std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join("wharf-figures"), PathBuf::from);
    fs::create_dir_all(&folder)?;
    let data = folder.join("store");
    if std::env::args().nth(2).as_deref() == Some("open") {
        let start = Instant::now();
        let store = open(&data).await?;
        println!("opening at revision {}: {:?}, {} MB resident", store.revision().await?, start.elapsed(), resident()? / 1_000_000);
        return Ok(());
    }
    let _ = fs::remove_dir_all(&data);
    let store = Arc::new(open(&data).await?);

    let (mut floor, mut single) = (Vec::new(), Vec::new());
    // In turns, since a disk has better and worse moments.
    for round in 0..8 {
        floor.extend(bare(&folder, SINGLE / 8)?);
        let writer = store.clone();
        single.extend(
            tokio::spawn(async move {
                let mut times = Vec::new();
                for n in 0..SINGLE / 8 {
                    let transaction = put(format!("single-{round}-{n}"));
                    let start = Instant::now();
                    writer.commit(transaction).await?;
                    times.push(start.elapsed());
                }
                Ok::<_, Error>(times)
            })
            .await??,
        );
    }
    let floor = report("write + fdatasync", floor);
    let single = report("one writer", single);
    println!("one writer / bare, p50: {:.2}", single.as_secs_f64() / floor.as_secs_f64());

    let start = Instant::now();
    let writers = (0..WRITERS).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..EACH {
                store.commit(put(format!("many-{w}-{}", n % (OBJECTS / WRITERS)))).await?;
            }
            Ok::<_, Error>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    println!("{WRITERS} writers: {:.0} puts/s", (WRITERS * EACH) as f64 / start.elapsed().as_secs_f64());

    let start = Instant::now();
    store.close().await?;
    println!("close: {:?}", start.elapsed());
    let _ = fs::remove_dir_all(&data);
    let store = Arc::new(open(&data).await?);
    let writers = (0..WRITERS).map(|w| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..OBJECTS / WRITERS {
                store.commit(put(format!("object-{w}-{n}"))).await?;
            }
            Ok::<_, Error>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    drop(store);
    println!("run again with FOLDER open, for a process that only opens {OBJECTS} objects");
    Ok(())
}
