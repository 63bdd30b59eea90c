//! Folders that cannot be opened: each told by an error of its own, and left as it was.
#![allow(clippy::unwrap_used, reason = "helpers of tests, which may")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use wharf_core::clock::SystemClock;
use wharf_core::store::{Expect, Key, ListOptions, ObjectStore, Op, ResourceId, Scope, StoreError, Transaction};
use wharf_store_redb::{RedbOpenError, RedbOptions, RedbStore};

/// The folder that [`child`] opens.
const CHILD: &str = "WHARF_REDB_CHILD";
const SEGMENT: u64 = 16 << 10;
const NOBODY: u32 = 65534;

async fn open(folder: &Path) -> Result<RedbStore, RedbOpenError> {
    RedbStore::open(folder, RedbOptions::default().segment_bytes(SEGMENT), SystemClock::shared()).await
}

/// Opens once whoever had it has ended.
async fn reopen(folder: &Path) -> Result<RedbStore, RedbOpenError> {
    loop {
        match open(folder).await {
            Err(RedbOpenError::InUse { .. }) => tokio::task::yield_now().await,
            other => return other,
        }
    }
}

async fn put(store: &RedbStore, n: usize, len: usize) {
    let key = Key::new(ResourceId::new("", "pods"), "default", n.to_string());
    let op = Op::Put { key, value: Bytes::from(vec![b'a' + (n % 26) as u8; len]), expect: Expect::Any };
    store.commit(Transaction::new(vec![op])).await.unwrap();
}

/// Every file but the lock.
fn image(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| !p.ends_with("lock"));
    files.map(|p| (p.clone(), fs::read(p).unwrap())).collect()
}

/// A folder whose log has five frames, and whose checkpoint has forty objects.
async fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    for n in 0..40 {
        put(&store, n, 1000).await;
    }
    store.close().await.unwrap();
    let store = open(folder.path()).await.unwrap();
    for n in 0..5 {
        put(&store, n, 100).await;
    }
    drop(store);
    // Its threads make the next segment.
    drop(reopen(folder.path()).await.unwrap());
    drop(reopen(folder.path()).await.unwrap());
    settled(folder.path()).await;
    let log = tail(folder.path());
    (folder, log)
}

/// Waits for the threads of a dropped store, which give the folder back last.
async fn settled(folder: &Path) {
    let lock = fs::File::open(folder.join("lock")).unwrap();
    while lock.try_lock().is_err() {
        tokio::task::yield_now().await;
    }
    lock.unlock().unwrap();
}

/// The segment that is written to.
fn tail(folder: &Path) -> PathBuf {
    let mut logs: Vec<PathBuf> = image(folder).into_keys().filter(|p| p.to_string_lossy().contains("log-")).collect();
    logs.sort();
    logs.into_iter().rfind(|p| mark(&fs::read(p).unwrap()).is_some()).unwrap()
}

/// Where the mark is: the last frame of this segment. What is behind it may be left from the segment that the file was before.
fn mark(log: &[u8]) -> Option<u64> {
    let (frames, header) = (log.as_chunks::<8>().0, 8);
    let (magic, number) = (&frames[header][..4], frames[4]);
    let ours = |place: &usize| frames[*place][..4] == *magic && frames[*place + 1] == number;
    (header..frames.len() - 1).rfind(ours).map(|place| place as u64 * 8)
}

/// Opening fails, twice in the same way, and changes nothing.
async fn refused(folder: &Path) -> RedbOpenError {
    let settled = reopen(folder).await.unwrap_err();
    let before = image(folder);
    let error = reopen(folder).await.unwrap_err();
    assert_eq!(error.to_string(), settled.to_string());
    assert!(image(folder) == before, "{error}: the folder is not as it was");
    println!("{error}");
    error
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
}

#[tokio::test]
async fn a_corrupt_log_is_told_with_its_place() {
    let (folder, log) = folder().await;
    let first = 64;
    for offset in [first + 3, first + 20, first + 100] {
        flip(&log, offset);
        match refused(folder.path()).await {
            RedbOpenError::Corrupt { file, offset: Some(at), .. } => assert_eq!((file, at), (log.clone(), first)),
            e => panic!("{e}"),
        }
        flip(&log, offset);
    }
    flip(&log, 20);
    assert!(matches!(refused(folder.path()).await, RedbOpenError::Corrupt { .. }));
    flip(&log, 20);
    reopen(folder.path()).await.unwrap();
}

#[tokio::test]
async fn damage_to_an_acknowledged_frame_is_told_the_last_included() {
    let (folder, log) = folder().await;
    let whole = fs::read(&log).unwrap();
    let mark = mark(&whole).unwrap();
    let end = mark + 32;
    let mut refusals = 0;
    for offset in (64..end).step_by(11) {
        flip(&log, offset);
        match reopen(folder.path()).await {
            Ok(store) => {
                // Zeros between frames, or the mark.
                assert_eq!(store.list(&Scope::All, &ListOptions::default()).await.unwrap().records.len(), 40, "byte {offset}");
                drop(store);
                settled(folder.path()).await;
            }
            Err(RedbOpenError::Corrupt { .. }) => refusals += 1,
            Err(e) => panic!("byte {offset}: {e}"),
        }
        // The mark, if that was damaged, is a new one.
        fs::write(&log, &whole).unwrap();
    }
    assert!(refusals > (end - 64) / 11 * 9 / 10, "{refusals} of {}", (end - 64) / 11);
    flip(&log, mark - 16);
    match refused(folder.path()).await {
        RedbOpenError::Corrupt { detail, .. } => assert!(detail.contains("damaged"), "{detail}"),
        e => panic!("{e}"),
    }
}

#[tokio::test]
async fn a_truncated_log_is_told() {
    let (folder, log) = folder().await;
    for size in [SEGMENT - 1, 300, 10, 0] {
        fs::File::options().write(true).open(&log).unwrap().set_len(size).unwrap();
        match refused(folder.path()).await {
            RedbOpenError::Truncated { file, size: found, .. } => assert_eq!((file, found), (log.clone(), size)),
            e => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn a_missing_log_or_checkpoint_is_told() {
    let (folder, log) = folder().await;
    let aside = tempfile::tempdir().unwrap();
    for file in [log, folder.path().join("checkpoint.redb")] {
        fs::copy(&file, aside.path().join("x")).unwrap();
        fs::remove_file(&file).unwrap();
        match refused(folder.path()).await {
            RedbOpenError::Missing { file: named } => assert_eq!(named, file),
            e => panic!("{e}"),
        }
        fs::copy(aside.path().join("x"), &file).unwrap();
    }
    reopen(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_corrupt_checkpoint_never_gives_wrong_objects() {
    let (folder, _) = folder().await;
    let checkpoint = folder.path().join("checkpoint.redb");
    let store = reopen(folder.path()).await.unwrap();
    let right = store.list(&Scope::All, &ListOptions::default()).await.unwrap().records;
    store.close().await.unwrap();
    let whole = fs::read(&checkpoint).unwrap();
    let mut refusals = 0;
    // A prime, so that all parts of pages are met.
    for offset in (0..whole.len() as u64).step_by(4_999) {
        flip(&checkpoint, offset);
        match reopen(folder.path()).await {
            Ok(store) => {
                assert_eq!(store.list(&Scope::All, &ListOptions::default()).await.unwrap().records, right, "byte {offset}");
                store.close().await.unwrap();
            }
            Err(e) => {
                assert!(
                    matches!(e, RedbOpenError::Corrupt { .. } | RedbOpenError::Truncated { .. } | RedbOpenError::Database { .. }),
                    "byte {offset}: {e}"
                );
                refusals += 1;
                assert_eq!(image(folder.path())[&checkpoint].len(), whole.len());
            }
        }
        fs::write(&checkpoint, &whole).unwrap();
    }
    assert!(refusals > 0, "some of it must matter");
    fs::write(&checkpoint, b"these are not the bytes of a database, whatever they are, and there are more than enough of them here")
        .unwrap();
    assert!(matches!(refused(folder.path()).await, RedbOpenError::Corrupt { .. }));
}

#[tokio::test]
async fn a_truncated_checkpoint_is_told() {
    let (folder, _) = folder().await;
    let checkpoint = folder.path().join("checkpoint.redb");
    let whole = fs::read(&checkpoint).unwrap();
    for size in [whole.len() / 2, 4096, 100, 0] {
        fs::write(&checkpoint, &whole[..size]).unwrap();
        assert!(matches!(refused(folder.path()).await, RedbOpenError::Truncated { .. }), "{size}");
    }
    fs::write(&checkpoint, whole).unwrap();
    reopen(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_newer_format_is_told() {
    let (folder, log) = folder().await;
    let newer = 7u32;
    let file = fs::File::options().write(true).open(&log).unwrap();
    file.write_all_at(&newer.to_le_bytes(), 8).unwrap();
    assert!(matches!(refused(folder.path()).await, RedbOpenError::NewerFormat { found: 7, supported: 1, .. }));
    {
        let database = redb::Database::open(folder.path().join("checkpoint.redb")).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("meta");
        transaction.open_table(meta).unwrap().insert("format", 9).unwrap();
        transaction.commit().unwrap();
    }
    assert!(matches!(refused(folder.path()).await, RedbOpenError::NewerFormat { found: 9, supported: 1, .. }));
}

#[tokio::test]
async fn a_path_that_is_no_folder_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "mine").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open(&path).await.unwrap_err();
        assert!(matches!(error, RedbOpenError::NotAFolder { .. }), "{error}");
    }
    assert_eq!(fs::read(file).unwrap(), b"mine");
}

#[tokio::test]
async fn a_second_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await.unwrap();
    assert!(matches!(open(folder.path()).await, Err(RedbOpenError::InUse { .. })));
    store.close().await.unwrap();
    assert!(matches!(store.revision().await, Err(StoreError::Closed)));
    open(folder.path()).await.unwrap();
}

/// Not a test of its own: it opens a folder in another process, says what came of it, and holds it until its input ends.
#[tokio::test]
#[ignore = "run by other tests"]
async fn child() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let opened = open(Path::new(&folder)).await;
    match &opened {
        Ok(_) => println!("\nresult: open"),
        Err(RedbOpenError::Permission { .. }) => println!("\nresult: permission"),
        Err(e) => println!("\nresult: {e}"),
    }
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn child_of(folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--ignored", "--nocapture"]).env(CHILD, folder).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn result_of(out: impl std::io::Read) -> String {
    let lines = BufReader::new(out).lines();
    let found = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("result: ").map(str::to_owned));
    found.unwrap_or_default()
}

#[tokio::test]
async fn a_folder_that_another_process_has_open_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = child_of(folder.path()).spawn().unwrap();
    assert_eq!(result_of(child.stdout.take().unwrap()), "open");
    let error = open(folder.path()).await.unwrap_err();
    assert!(matches!(error, RedbOpenError::InUse { .. }), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(folder.path()).await.unwrap();
}

#[tokio::test]
async fn a_folder_without_permission_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).unwrap();
    if !nix::unistd::geteuid().is_root() {
        assert!(matches!(open(&closed).await, Err(RedbOpenError::Permission { .. })));
        return;
    }
    // Root may do anything.
    let exe = folder.path().join("exe");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).unwrap();
    let mut child = Command::new(&exe)
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, &closed)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .spawn()
        .unwrap();
    let result = result_of(child.stdout.take().unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(result, "permission");
    assert_eq!(fs::read_dir(&closed).unwrap().count(), 0);
}
