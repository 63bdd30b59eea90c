//! Nothing: this program was built without the feature `etcd`.

use std::path::Path;
use std::time::Duration;

use crate::Outcome;

pub fn puts(_: &tokio::runtime::Runtime, _: &Path, _: usize, _: Duration) -> Outcome<Option<f64>> {
    Ok(None)
}

pub fn bridged_puts(_: &tokio::runtime::Runtime, _: &Path, _: usize, _: Duration) -> Outcome<Option<f64>> {
    Ok(None)
}
