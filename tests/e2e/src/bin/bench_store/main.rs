//! Measures the stores, side by side with Debian's etcd on the same disk, and prints a table. `cargo xtask bench store` builds it
//! and runs it.

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(not(feature = "etcd"))]
#[path = "no_etcd.rs"]
mod etcd;

use std::error::Error;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Parser, ValueEnum};
use futures::StreamExt;
use wharf_core::clock::SystemClock;
use wharf_core::store::{Expect, Key, ListOptions, ObjectStore, Op, ResourceId, Revision, Scope, SharedStore, Transaction};
use wharf_store_memory::MemoryStore;
use wharf_store_redb::{RedbOptions, RedbStore};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of a value.
const VALUE: usize = 1024;
/// What a commit's record has in a log beside its value, near enough: its key, revisions, lengths and a checksum.
const AROUND: usize = 64;
/// Objects that there are.
const OBJECTS: usize = 100_000;
/// Objects that writers write again and again.
const KEYS: usize = 1_000;
/// Clients of etcd, and writers of redb, that write at a time.
const CLIENTS: usize = 32;
/// Watches of one resource.
const WATCHES: usize = 10_000;
/// Commits of one run of the memory store.
const COMMITS: usize = 500_000;
/// Commits that are timed one by one.
const TIMED: usize = 50_000;
/// Commits, or plain writes, of one writer that are timed one by one.
const SYNCED: usize = 1_000;
/// The file that plain writes go to is as long as this before they begin.
const FILE: u64 = 32 << 20;

/// Measures the stores.
#[derive(Debug, Parser)]
struct Options {
    /// How often each figure is taken.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seconds that each throughput is measured for.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where files go, redb's and etcd's; a temporary folder by default.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Only this figure, printed as numbers; for this program to start itself with, so that nothing else is in the memory measured.
    #[arg(long, hide = true)]
    part: Option<Part>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    MemoryObjects,
    MemoryUpdated,
    MemoryWatches,
    RedbOpen,
}

/// How a figure is judged.
#[derive(Clone, Copy)]
enum Asked {
    AtLeast(f64),
    AtMost(f64),
    /// For comparison only.
    Nothing,
}

struct Row {
    name: &'static str,
    unit: &'static str,
    asked: Asked,
    taken: Vec<f64>,
}

impl Row {
    fn print(mut self) {
        let asked = match self.asked {
            Asked::AtLeast(least) => format!(">= {}", number(least)),
            Asked::AtMost(most) => format!("<= {}", number(most)),
            Asked::Nothing => String::new(),
        };
        if self.taken.is_empty() {
            println!("{:<66} {asked:>10} {:>10} {:>10} {:<10} omitted", self.name, "", "", self.unit);
            return;
        }
        self.taken.sort_by(f64::total_cmp);
        // The worst comes last.
        if matches!(self.asked, Asked::AtLeast(_)) || self.unit.ends_with("/s") {
            self.taken.reverse();
        }
        let (median, worst) = (self.taken[self.taken.len() / 2], self.taken[self.taken.len() - 1]);
        let verdict = match self.asked {
            Asked::AtLeast(least) if median < least => "MISSED",
            Asked::AtMost(most) if median > most => "MISSED",
            Asked::Nothing => "",
            _ => "met",
        };
        println!("{:<66} {asked:>10} {:>10} {:>10} {:<10} {verdict}", self.name, number(median), number(worst), self.unit);
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn main() -> Outcome<()> {
    let options = Options::parse();
    let folder = match &options.folder {
        Some(folder) => tempfile::Builder::new().prefix("wharf-bench-").tempdir_in(folder)?,
        None => tempfile::Builder::new().prefix("wharf-bench-").tempdir()?,
    };
    match options.part {
        Some(part) => measure_part(part, options.folder.as_deref()),
        None => measure(&options, folder.path()),
    }
}

fn measure(options: &Options, folder: &Path) -> Outcome<()> {
    let mut rows = Vec::new();
    let mut row = |name, unit, asked, taken| {
        eprintln!("measured: {name}");
        rows.push(Row { name, unit, asked, taken });
    };
    let runs = || 0..options.runs;
    let many = runtime(2)?;

    let taken = runs().map(|_| memory_commits(false)).collect::<Outcome<Vec<_>>>()?;
    row("memory: commits by one core, 1 KB, to 10,000 objects", "/s", Asked::AtLeast(500_000.0), taken.iter().map(|t| t.0).collect());
    row("memory: the same by the clock, beside whatever else runs here", "/s", Asked::Nothing, taken.iter().map(|t| t.1).collect());
    let taken = runs().map(|_| memory_commits(true)).collect::<Outcome<Vec<_>>>()?;
    row("memory: commits by one core, each creates an object", "/s", Asked::Nothing, taken.iter().map(|t| t.0).collect());
    let alone = latencies(runs().map(|_| memory_writer(0)))?;
    row("memory: p99 of a commit while nobody reads", "us", Asked::Nothing, alone.p99);
    let one = latencies(runs().map(|_| memory_writer(1)))?;
    row("memory: p99 while one reader lists 100,000 objects all the time", "us", Asked::AtMost(100.0), one.p99);
    row("memory: the longest of those commits", "us", Asked::Nothing, one.longest);
    row("memory: lists of 100,000 that were read meanwhile", "/s", Asked::Nothing, one.lists);
    let four = latencies(runs().map(|_| memory_writer(4)))?;
    row("memory: p99 while four such readers share the cores", "us", Asked::Nothing, four.p99);
    row("memory: the longest of those commits, four readers", "us", Asked::Nothing, four.longest);
    let part = |part, folder| runs().map(|_| in_own_process(part, folder)).collect::<Outcome<Vec<_>>>();
    let column = |taken: &[Vec<f64>], n: usize| taken.iter().filter_map(|t| t.get(n).copied()).collect::<Vec<_>>();
    let taken = part(Part::MemoryObjects, folder)?;
    row("memory: resident for 100,000 objects of 1 KB, to their bytes", "x", Asked::AtMost(1.5), column(&taken, 0));
    let taken = part(Part::MemoryUpdated, folder)?;
    row("memory: the same once each was updated, with 16,384 old versions", "x", Asked::Nothing, column(&taken, 0));
    let taken = part(Part::MemoryWatches, folder)?;
    row("memory: resident for a watch with its task, of 10,000", "bytes", Asked::AtMost(4096.0), column(&taken, 0));
    row("memory: an event reaches the last of 10,000 watches", "ms", Asked::AtMost(50.0), column(&taken, 1));
    row("memory: a commit that concerns none of 10,000 watches", "us", Asked::Nothing, column(&taken, 2));

    let (mut etcd, mut etcd_one, mut redb, mut ratio) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut bridged, mut bridged_ratio) = (Vec::new(), Vec::new());
    let time = Duration::from_secs(options.seconds);
    for run in runs() {
        // In turns, for a disk is not the same from one minute to the next.
        let theirs = etcd::puts(&many, &folder.join(format!("etcd-{run}")), CLIENTS, time)?;
        let store = many.block_on(RedbStore::open(folder.join(format!("redb-{run}")), RedbOptions::default(), SystemClock::shared()))?;
        let ours = many.block_on(writers(Arc::new(store.clone()), CLIENTS, time))?;
        many.block_on(store.close())?;
        redb.push(ours);
        if let Some(theirs) = theirs {
            etcd.push(theirs);
            ratio.push(ours / theirs);
            etcd_one.extend(etcd::puts(&many, &folder.join(format!("etcd-one-{run}")), 1, time)?);
        }
        std::fs::remove_dir_all(folder.join(format!("redb-{run}")))?;
        if let Some(through) = etcd::bridged_puts(&many, &folder.join(format!("bridged-{run}")), CLIENTS, time)? {
            bridged.push(through);
            bridged_ratio.extend(theirs.map(|theirs| through / theirs));
        }
    }
    row("etcd: puts of 1 KB with 32 clients", "/s", Asked::Nothing, etcd);
    row("redb: commits of 1 KB with 32 writers", "/s", Asked::Nothing, redb);
    row("redb: with 32 writers, to etcd's puts with 32 clients", "x", Asked::AtLeast(8.0), ratio);
    row("redb behind the etcd bridge: puts of 1 KB with 32 clients", "/s", Asked::Nothing, bridged);
    row("redb behind the etcd bridge: to etcd's, with 32 clients", "x", Asked::Nothing, bridged_ratio);
    row("etcd: puts of 1 KB with one client", "/s", Asked::Nothing, etcd_one);

    let (mut plain, mut ours, mut ratio, mut means) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let store = many.block_on(RedbStore::open(folder.join("redb-one"), RedbOptions::default(), SystemClock::shared()))?;
    let mut file = preallocated(&folder.join("plain"))?;
    for _ in runs() {
        let (mut theirs, mut mine) = (Vec::new(), Vec::new());
        // In turns of a tenth each.
        for _ in 0..10 {
            theirs.extend(synced_writes(&mut file, SYNCED / 10)?);
            let shared: SharedStore = Arc::new(store.clone());
            mine.extend(many.block_on(async move { tokio::spawn(timed_commits(shared, SYNCED / 10)).await })??);
        }
        let mean = |taken: &[f64]| taken.iter().sum::<f64>() / taken.len() as f64;
        means.push(mean(&mine) / mean(&theirs));
        let (theirs, mine) = (percentile(&mut theirs, 0.5), percentile(&mut mine, 0.5));
        plain.push(theirs);
        ours.push(mine);
        ratio.push(mine / theirs);
    }
    many.block_on(store.close())?;
    row("plain write + fdatasync of 1 KB to a preallocated file, median", "us", Asked::Nothing, plain);
    row("redb: one writer's commit of 1 KB, median", "us", Asked::Nothing, ours);
    row("redb: one writer, to plain write + fdatasync, medians", "x", Asked::AtMost(1.3), ratio);
    row("redb: the same, means", "x", Asked::Nothing, means);

    let kept = folder.join("redb-objects");
    let store = many.block_on(RedbStore::open(&kept, RedbOptions::default(), SystemClock::shared()))?;
    many.block_on(load(Arc::new(store.clone())))?;
    many.block_on(store.close())?;
    drop(store);
    let taken = part(Part::RedbOpen, &kept)?;
    row("redb: opening 100,000 objects of 1 KB", "s", Asked::AtMost(1.0), column(&taken, 0));
    row("redb: resident for 100,000 objects of 1 KB, to their bytes", "x", Asked::AtMost(1.5), column(&taken, 1));
    row("redb: the most that was resident while it was opened", "x", Asked::Nothing, column(&taken, 2));

    println!("{:<66} {:>10} {:>10} {:>10}", "FIGURE", "ASKED", "MEDIAN", "WORST");
    rows.into_iter().for_each(Row::print);
    Ok(())
}

fn runtime(threads: usize) -> Outcome<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().build()?)
}

fn pods() -> ResourceId {
    ResourceId::new("", "pods")
}

/// As a client makes it: no string is shared with another key.
fn key(n: usize) -> Key {
    Key::new(pods(), format!("namespace-{}", n % 100), format!("object-{n:06}"))
}

fn value(n: usize) -> Bytes {
    let mut value = vec![b'x'; VALUE];
    value[..8].copy_from_slice(&n.to_le_bytes());
    value.into()
}

fn put(n: usize, value: Bytes) -> Transaction {
    Transaction::new(vec![Op::Put { key: key(n), value, expect: Expect::Any }])
}

/// All objects, by as many writers at a time as a log takes up in one sync.
async fn load(store: SharedStore) -> Outcome<()> {
    let writing = (0..OBJECTS).map(|n| {
        let store = store.clone();
        async move { store.commit(put(n, value(n))).await }
    });
    let mut writing = futures::stream::iter(writing).buffer_unordered(CLIENTS * 8);
    while let Some(committed) = writing.next().await {
        committed?;
    }
    Ok(())
}

/// Nanoseconds that this thread has had a core.
fn core_time() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(stat.split_whitespace().next().ok_or("an empty schedstat")?.parse()?)
}

/// Commits a second, of this thread's time on a core and by the clock.
fn memory_commits(create: bool) -> Outcome<(f64, f64)> {
    let keys: Vec<Key> = (0..if create { COMMITS } else { 10_000 }).map(key).collect();
    runtime(1)?.block_on(async {
        let store: SharedStore = Arc::new(MemoryStore::new());
        if !create {
            for (n, key) in keys.iter().enumerate() {
                store.commit(Transaction::create(key.clone(), value(n))).await?;
            }
        }
        let bytes = [b'x'; VALUE];
        let (on_core, begin) = (core_time()?, Instant::now());
        for n in 0..COMMITS {
            // Not in the order of the keys; the factor is prime to the number of keys.
            let key = keys[n.wrapping_mul(7_919) % keys.len()].clone();
            let op = Op::Put { key, value: Bytes::copy_from_slice(&bytes), expect: Expect::Any };
            store.commit(Transaction::new(vec![op])).await?;
        }
        let (elapsed, on_core) = (begin.elapsed().as_secs_f64(), (core_time()? - on_core) / 1e9);
        Ok((COMMITS as f64 / on_core, COMMITS as f64 / elapsed))
    })
}

#[derive(Default)]
struct Latencies {
    p99: Vec<f64>,
    longest: Vec<f64>,
    lists: Vec<f64>,
}

fn latencies(taken: impl Iterator<Item = Outcome<(Vec<f64>, f64)>>) -> Outcome<Latencies> {
    let mut all = Latencies::default();
    for taken in taken {
        let (mut taken, lists) = taken?;
        all.p99.push(percentile(&mut taken, 0.99));
        all.longest.push(percentile(&mut taken, 1.0));
        all.lists.push(lists);
    }
    Ok(all)
}

fn percentile(taken: &mut [f64], part: f64) -> f64 {
    taken.sort_by(f64::total_cmp);
    let place = (taken.len() as f64 * part) as usize;
    taken.get(place.min(taken.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Microseconds of each commit, while readers with a thread each list everything all the time; and lists a second.
fn memory_writer(readers: usize) -> Outcome<(Vec<f64>, f64)> {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let writer = runtime(1)?;
    writer.block_on(load(store.clone()))?;
    let stop = Arc::new(AtomicBool::new(false));
    let reading: Vec<_> = (0..readers)
        .map(|_| {
            let (store, stop) = (store.clone(), stop.clone());
            std::thread::spawn(move || {
                runtime(1)?.block_on(async {
                    let mut lists = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let listing = store.list(&Scope::Resource(pods()), &ListOptions::default()).await?;
                        if listing.records.len() != OBJECTS {
                            return Err(format!("a list has {} records", listing.records.len()).into());
                        }
                        lists += 1;
                    }
                    Outcome::Ok(lists)
                })
            })
        })
        .collect();
    let begin = Instant::now();
    let taken = writer.block_on(async {
        let mut taken = Vec::with_capacity(TIMED);
        while taken.len() < TIMED || (readers > 0 && begin.elapsed() < Duration::from_secs(1)) {
            let transaction = put(taken.len().wrapping_mul(7_919) % OBJECTS, value(taken.len()));
            let begin = Instant::now();
            store.commit(transaction).await?;
            taken.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        Outcome::Ok(taken)
    });
    stop.store(true, Ordering::Relaxed);
    let elapsed = begin.elapsed().as_secs_f64();
    let mut lists = 0;
    for reader in reading {
        lists += reader.join().map_err(|_| "a reader panicked")??;
    }
    Ok((taken?, f64::from(lists) / elapsed))
}

/// Starts this program for one figure, so that the memory is its own.
fn in_own_process(part: Part, folder: &Path) -> Outcome<Vec<f64>> {
    let name = part.to_possible_value().ok_or("a part has a name")?;
    let output = Command::new(std::env::current_exe()?).args(["--part", name.get_name(), "--folder"]).arg(folder).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("{}: {}", name.get_name(), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?)
}

fn measure_part(part: Part, folder: Option<&Path>) -> Outcome<()> {
    let bytes = (OBJECTS * VALUE) as f64;
    match part {
        Part::MemoryObjects | Part::MemoryUpdated => {
            let runtime = runtime(1)?;
            let before = status("VmRSS")?;
            let store: SharedStore = Arc::new(MemoryStore::new());
            runtime.block_on(load(store.clone()))?;
            if matches!(part, Part::MemoryUpdated) {
                runtime.block_on(load(store.clone()))?;
            }
            println!("{}", (status("VmRSS")? - before) / bytes);
        }
        Part::MemoryWatches => {
            let (resident, last, elsewhere) = runtime(2)?.block_on(async { tokio::spawn(watches()).await })??;
            println!("{resident} {last} {elsewhere}");
        }
        Part::RedbOpen => {
            let folder = folder.ok_or("a folder must be named")?;
            let runtime = runtime(2)?;
            let before = status("VmRSS")?;
            let begin = Instant::now();
            let store = runtime.block_on(RedbStore::open(folder, RedbOptions::default(), SystemClock::shared()))?;
            let listing = runtime.block_on(store.list(&Scope::All, &ListOptions { limit: Some(1), ..ListOptions::default() }))?;
            let took = begin.elapsed().as_secs_f64();
            drop(listing);
            let (after, most) = (status("VmRSS")?, status("VmHWM")?);
            let listing = runtime.block_on(store.list(&Scope::All, &ListOptions::default()))?;
            if listing.records.len() != OBJECTS {
                return Err(format!("{} objects were there", listing.records.len()).into());
            }
            println!("{took} {} {}", (after - before) / bytes, (most - before) / bytes);
            drop(listing);
            runtime.block_on(store.close())?;
        }
    }
    Ok(())
}

/// Bytes of this process, by a line of its status.
fn status(name: &str) -> Outcome<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).ok_or("no such line in the status")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes * 1024.0)
}

/// Bytes for each watch, milliseconds until the last has seen an event, microseconds of a commit that concerns none.
async fn watches() -> Outcome<(f64, f64, f64)> {
    const EVENTS: usize = 20;
    let store: SharedStore = Arc::new(MemoryStore::new());
    let (seen, mut told) = tokio::sync::mpsc::channel::<Revision>(WATCHES);
    let before = status("VmRSS")?;
    let scope = Scope::Resource(pods());
    let mut tasks = Vec::with_capacity(WATCHES);
    for _ in 0..WATCHES {
        let mut watch = store.watch(&scope, Revision(1)).await?;
        let seen = seen.clone();
        tasks.push(tokio::spawn(async move {
            while let Some(item) = watch.next().await {
                let revision = match item? {
                    wharf_core::store::WatchItem::Commit { revision, .. } => revision,
                    _ => continue,
                };
                seen.send(revision).await?;
            }
            Outcome::Ok(())
        }));
    }
    let mut slowest: f64 = 0.0;
    let mut resident = 0.0;
    for n in 0..EVENTS {
        let begin = Instant::now();
        let revision = store.commit(put(n, value(n))).await?;
        for _ in 0..WATCHES {
            if told.recv().await != Some(revision) {
                return Err("a watch has told of another revision".into());
            }
        }
        slowest = slowest.max(begin.elapsed().as_secs_f64() * 1e3);
        resident = (status("VmRSS")? - before) / WATCHES as f64;
    }
    let begin = Instant::now();
    for n in 0..KEYS {
        let key = Key::new(ResourceId::new("", "nodes"), "", format!("node-{n}"));
        store.commit(Transaction::create(key, value(n))).await?;
        tokio::task::yield_now().await;
    }
    let elsewhere = begin.elapsed().as_secs_f64() * 1e6 / KEYS as f64;
    drop(store);
    for task in tasks {
        task.await??;
    }
    Ok((resident, slowest, elsewhere))
}

/// Commits a second of so many writers.
async fn writers(store: SharedStore, writers: usize, time: Duration) -> Outcome<f64> {
    let begin = Instant::now();
    let writing: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut written = 0;
                while begin.elapsed() < time {
                    store.commit(put((written * writers + writer) % KEYS, value(written))).await?;
                    written += 1;
                }
                Outcome::Ok(written)
            })
        })
        .collect();
    let mut written = 0;
    for writer in writing {
        written += writer.await??;
    }
    Ok(written as f64 / begin.elapsed().as_secs_f64())
}

/// Microseconds of each commit of one writer.
async fn timed_commits(store: SharedStore, commits: usize) -> Outcome<Vec<f64>> {
    let mut taken = Vec::with_capacity(commits);
    for n in 0..commits {
        let transaction = put(n % KEYS, value(n));
        let begin = Instant::now();
        store.commit(transaction).await?;
        taken.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    Ok(taken)
}

/// A file of zeros that are on the disk, to be written over.
fn preallocated(path: &Path) -> Outcome<File> {
    let mut file = File::options().create_new(true).read(true).write(true).open(path)?;
    let zeros = vec![0; 1 << 20];
    for _ in 0..FILE >> 20 {
        file.write_all(&zeros)?;
    }
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Microseconds of each write with its fdatasync, one after another in the file.
fn synced_writes(file: &mut File, writes: usize) -> Outcome<Vec<f64>> {
    let bytes = [b'x'; VALUE + AROUND];
    let mut taken = Vec::with_capacity(writes);
    for _ in 0..writes {
        if file.stream_position()? + bytes.len() as u64 > FILE {
            file.seek(SeekFrom::Start(0))?;
        }
        let begin = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        taken.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    Ok(taken)
}
