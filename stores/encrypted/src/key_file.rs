//! Keys on disk: a text file of mode 0600.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::error::{KeyError, KeyLineError};
use crate::key_ring::{KEY_LENGTH, KeyRing, MAX_KEYS, RingKey};

/// Largest key file.
const MAX_FILE: u64 = 64 << 10;
const ALGORITHM: &str = "xchacha20poly1305";
const HEAD: &str = "# Encryption keys, one a line: id, algorithm, key in base64. The first encrypts, all decrypt.\n\
                    # Keep a copy elsewhere than the backups of the store: without it, what is encrypted is lost.\n";

fn io(op: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeyError {
    move |source| KeyError::Io { op, path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let mut file = File::open(path).map_err(io("open", path))?;
    let metadata = file.metadata().map_err(io("look at", path))?;
    if !metadata.is_file() {
        return Err(KeyError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Permissions { path: path.to_owned(), mode });
    }
    if metadata.len() > MAX_FILE {
        return Err(KeyError::TooLarge { path: path.to_owned(), most: MAX_FILE });
    }
    // Room for all of it at once: a String that grows would leave copies of keys behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_FILE as usize + 1));
    Read::by_ref(&mut file).take(MAX_FILE).read_to_string(&mut text).map_err(io("read", path))?;
    Ok(text)
}

fn parse(text: &str, path: &Path) -> Result<KeyRing, KeyError> {
    let mut keys: Vec<(usize, RingKey)> = Vec::new();
    for (line, text) in text.lines().enumerate().map(|(n, text)| (n + 1, text.trim())) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let of = |problem| KeyError::Line { path: path.to_owned(), line, problem };
        let key = parse_line(text).map_err(of)?;
        if let Some((same, _)) = keys.iter().find(|(_, k)| k.id == key.id) {
            return Err(of(KeyLineError::Duplicate(*same)));
        }
        if keys.len() == MAX_KEYS {
            return Err(of(KeyLineError::TooMany));
        }
        keys.push((line, key));
    }
    KeyRing::of(keys.into_iter().map(|(_, key)| key).collect()).ok_or_else(|| KeyError::Empty { path: path.to_owned() })
}

fn parse_line(text: &str) -> Result<RingKey, KeyLineError> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [id, algorithm, key] = words[..] else { return Err(KeyLineError::Words) };
    if algorithm != ALGORITHM {
        return Err(KeyLineError::Algorithm);
    }
    let key = Zeroizing::new(STANDARD.decode(key).map_err(|_| KeyLineError::Encoding)?);
    RingKey::new(id, &key)
}

/// A line with a new key under an id of its own.
fn new_line() -> Result<Zeroizing<String>, KeyError> {
    let mut key = Zeroizing::new([0; KEY_LENGTH]);
    getrandom::fill(key.as_mut()).map_err(|_| KeyError::NoRandom)?;
    let id = getrandom::u64().map_err(|_| KeyError::NoRandom)?;
    let key = Zeroizing::new(STANDARD.encode(key.as_slice()));
    Ok(Zeroizing::new(format!("key-{id:016x} {ALGORITHM} {}\n", key.as_str())))
}

pub(crate) fn load(path: &Path) -> Result<KeyRing, KeyError> {
    parse(&read(path)?, path)
}

pub(crate) fn load_or_generate(path: &Path) -> Result<KeyRing, KeyError> {
    match load(path) {
        Err(KeyError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        other => return other,
    }
    let text = Zeroizing::new(format!("{HEAD}{}", new_line()?.as_str()));
    let fresh = Fresh::write(path, &text)?;
    // Unlike a rename, a link never replaces what another process has made meanwhile.
    match std::fs::hard_link(&fresh.path, path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
        linked => linked.map_err(io("create", path))?,
    }
    drop(fresh);
    sync_folder(path)?;
    load(path)
}

pub(crate) fn rotate(path: &Path) -> Result<KeyRing, KeyError> {
    let old = read(path)?;
    parse(&old, path)?;
    let text = Zeroizing::new(format!("{}{}", new_line()?.as_str(), old.as_str()));
    // Not even a file that would be refused later.
    parse(&text, path)?;
    let fresh = Fresh::write(path, &text)?;
    std::fs::rename(&fresh.path, path).map_err(io("replace", path))?;
    sync_folder(path)?;
    load(path)
}

/// A whole file beside its place; removed when it is dropped.
struct Fresh {
    path: PathBuf,
}

impl Fresh {
    fn write(beside: &Path, text: &str) -> Result<Self, KeyError> {
        let number = getrandom::u64().map_err(|_| KeyError::NoRandom)?;
        let mut name = beside.as_os_str().to_owned();
        name.push(format!(".new-{number:016x}"));
        let path = PathBuf::from(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io("create", &path))?;
        let fresh = Self { path };
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write", &fresh.path))?;
        Ok(fresh)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // It is gone already where it has been renamed.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn sync_folder(path: &Path) -> Result<(), KeyError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("sync the folder of", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn wrong(text: &str) -> (usize, KeyLineError) {
        match parse(text, Path::new("keys")) {
            Err(KeyError::Line { line, problem, .. }) => (line, problem),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn several_keys_in_order() {
        let ring = parse(&format!("# new\nb {ALGORITHM} {KEY}\n\n  a\t{ALGORITHM}  {KEY}\r\n"), Path::new("keys")).unwrap();
        assert_eq!(ring.ids().collect::<Vec<_>>(), ["b", "a"]);
    }

    #[test]
    fn each_wrong_line_is_named() {
        let good = format!("a {ALGORITHM} {KEY}\n");
        assert_eq!(wrong(&format!("{good}b {ALGORITHM}\n")), (2, KeyLineError::Words));
        assert_eq!(wrong(&format!("\n# x\nb aes {KEY}")), (3, KeyLineError::Algorithm));
        assert_eq!(wrong(&format!("b {ALGORITHM} *{KEY}")), (1, KeyLineError::Encoding));
        assert_eq!(wrong(&format!("b {ALGORITHM} AAAA")), (1, KeyLineError::Length(3)));
        assert_eq!(wrong(&format!("{good}\n{good}")), (3, KeyLineError::Duplicate(1)));
        assert_eq!(wrong(&format!("ä {ALGORITHM} {KEY}")), (1, KeyLineError::Id));
        assert!(matches!(parse("# nothing\n", Path::new("keys")), Err(KeyError::Empty { .. })));
        // A mistake in a line is told without the line.
        let error = parse(&format!("b {ALGORITHM} {KEY}AAAA"), Path::new("keys")).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("AAECAw"), "{error:?}");
    }

    #[test]
    fn a_generated_file_is_private_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let first = load_or_generate(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let again = load_or_generate(&path).unwrap();
        assert!(first.ids().eq(again.ids()) && first.newest().check == again.newest().check);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn many_at_once_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let checks: std::collections::HashSet<[u8; 8]> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| load_or_generate(&path).unwrap().newest().check)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(checks.len(), 1);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        load_or_generate(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = load_or_generate(&path).unwrap_err();
            assert!(matches!(error, KeyError::Permissions { mode: told, .. } if told == mode), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
        assert!(matches!(load_or_generate(folder.path()), Err(KeyError::NotAFile { .. })));
    }

    #[test]
    fn an_empty_file_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
        assert!(matches!(load_or_generate(&path), Err(KeyError::Empty { .. })));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn rotation_puts_a_new_key_first_and_keeps_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let old = load_or_generate(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let new = rotate(&path).unwrap();
        assert_eq!(new.ids().nth(1), old.ids().next());
        assert_ne!(new.newest().check, old.newest().check);
        assert!(std::fs::read_to_string(&path).unwrap().ends_with(&text));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }
}
