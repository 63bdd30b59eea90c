//! The seam's words as CRI's messages, and back. Nothing here decides anything.

mod container;
mod image;
mod sandbox;

use std::time::Duration;

use jiff::Timestamp;
use k8s_cri::v1;
use wharf_core::runtime::{NamespaceMode, NamespaceOption};

pub(crate) use container::{container, container_config, container_filter, container_status, resources, stats};
pub(crate) use image::{auth, image, image_spec};
pub(crate) use sandbox::{sandbox, sandbox_config, sandbox_filter, sandbox_status};

/// CRI's time, nanoseconds since 1970, where 0 is none.
fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds == 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(nanoseconds)).ok()
}

/// CRI's whole seconds: never less than asked for.
pub(crate) fn seconds(duration: Duration) -> i64 {
    let whole = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
    i64::try_from(whole).unwrap_or(i64::MAX)
}

fn namespace_options(options: &NamespaceOption) -> v1::NamespaceOption {
    let mode = |mode: NamespaceMode| match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod.into(),
        NamespaceMode::Container => v1::NamespaceMode::Container.into(),
        NamespaceMode::Node => v1::NamespaceMode::Node.into(),
    };
    v1::NamespaceOption { network: mode(options.network), pid: mode(options.pid), ipc: mode(options.ipc), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_rounded_up() {
        assert_eq!(seconds(Duration::ZERO), 0);
        assert_eq!(seconds(Duration::from_millis(1)), 1);
        assert_eq!(seconds(Duration::from_secs(2)), 2);
        assert_eq!(seconds(Duration::MAX), i64::MAX);
    }

    #[test]
    fn no_time_is_none() {
        assert_eq!(time(0), None);
        assert_eq!(time(1_000_000_000), Some(Timestamp::from_second(1).unwrap()));
    }
}
