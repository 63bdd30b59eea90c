//! The CA and the token key on disk, under kubeadm's names.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use wharf_core::clock::Clock;

use super::{Identity, Pki, PkiError};

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const TOKEN_KEY: &str = "sa.key";

fn file(path: &Path) -> impl FnOnce(io::Error) -> PkiError + '_ {
    move |source| PkiError::File { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file(path)(error)),
    }
}

/// Writes a file whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        // The mode above is for a new file only.
        out.set_permissions(fs::Permissions::from_mode(0o600))?;
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(file(path))
}

pub(super) fn load(dir: &Path, clock: &dyn Clock) -> Result<Option<Pki>, PkiError> {
    let (certificate, key, token) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY), dir.join(TOKEN_KEY));
    // The certificate is written last: without it nothing has been issued yet.
    if let Some(ca) = read(&certificate)? {
        let missing = |path: &Path| PkiError::Content { path: path.to_owned(), expected: "private key" };
        let ca = Identity { certificate: ca, key: read(&key)?.ok_or_else(|| missing(&key))? };
        let token = read(&token)?.ok_or_else(|| missing(&token))?;
        return Pki::assemble(ca, token, super::random_token(), clock.now(), dir).map(Some);
    }
    Ok(None)
}

pub(super) fn load_or_generate(dir: &Path, clock: &dyn Clock) -> Result<Pki, PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file(dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(file(dir))?;
    if let Some(found) = load(dir, clock)? {
        return Ok(found);
    }
    let (certificate, key, token) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY), dir.join(TOKEN_KEY));
    let made = Pki::generate(clock)?;
    write_private(&key, &made.ca.key)?;
    write_private(&token, &made.token_key_pem)?;
    write_private(&certificate, &made.ca.certificate)?;
    Ok(made)
}
