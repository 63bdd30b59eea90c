//! What a client is told when a request is refused: etcd's own codes and texts, because clients compare them.

use tonic::{Code, Status};
use wharf_core::runtime::Retry;
use wharf_core::store::StoreError;

/// What a watch of an empty range is told.
pub(crate) const EMPTY_WATCH_RANGE: &str = "mvcc: watcher range is empty";
/// What a watch with a number in use is told.
pub(crate) const DUPLICATE_WATCH_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";
/// What a watch from a negative revision is told.
pub(crate) const WATCH_COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
/// What one watch too many is told.
pub(crate) const TOO_MANY_WATCHES: &str = "etcdserver: too many watches on one stream";

pub(crate) fn empty_key() -> Status {
    Status::invalid_argument("etcdserver: key is not provided")
}
pub(crate) fn key_not_found() -> Status {
    Status::invalid_argument("etcdserver: key not found")
}
pub(crate) fn value_provided() -> Status {
    Status::invalid_argument("etcdserver: value is provided")
}
pub(crate) fn lease_provided() -> Status {
    Status::invalid_argument("etcdserver: lease is provided")
}
pub(crate) fn too_many_ops() -> Status {
    Status::invalid_argument("etcdserver: too many operations in txn request")
}
pub(crate) fn duplicate_key() -> Status {
    Status::invalid_argument("etcdserver: duplicate key given in txn request")
}
pub(crate) fn invalid_sort() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}
pub(crate) fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}
pub(crate) fn compacted() -> Status {
    Status::out_of_range(WATCH_COMPACTED)
}
pub(crate) fn future_revision() -> Status {
    Status::out_of_range("etcdserver: mvcc: required revision is a future revision")
}
pub(crate) fn lease_not_found() -> Status {
    Status::not_found("etcdserver: requested lease not found")
}
pub(crate) fn lease_exists() -> Status {
    Status::failed_precondition("etcdserver: lease already exists")
}
pub(crate) fn lease_ttl_too_large() -> Status {
    Status::out_of_range("etcdserver: too large lease TTL")
}
pub(crate) fn too_many_requests() -> Status {
    Status::resource_exhausted("etcdserver: too many requests")
}
pub(crate) fn timed_out() -> Status {
    Status::unavailable("etcdserver: request timed out")
}
pub(crate) fn stopped() -> Status {
    Status::unavailable("etcdserver: server stopped")
}

/// A record of the bridge's resource that the bridge has not written.
pub(crate) fn foreign_record(name: &str) -> Status {
    Status::data_loss(format!("etcdserver: the record of {name:?} was not written by this bridge: nobody else may write to its resource"))
}

/// A store's failure, in etcd's words where it has some.
pub(crate) fn of(error: StoreError) -> Status {
    match error {
        StoreError::Expired { .. } => compacted(),
        StoreError::Future { .. } => future_revision(),
        StoreError::OutcomeUnknown { source } => {
            tracing::warn!("the outcome of a commit is unknown: {source}");
            timed_out()
        }
        StoreError::Closed => stopped(),
        StoreError::Conflict { .. } => too_many_requests(),
        StoreError::Invalid { message } => Status::invalid_argument(format!("etcdserver: {message}")),
        StoreError::Unsupported { .. } => Status::unimplemented(format!("etcdserver: {error}")),
        StoreError::Backend { retry: Retry::Permanent, .. } => Status::internal(format!("etcdserver: {error}")),
        other => Status::unavailable(format!("etcdserver: {other}")),
    }
}

/// Whether it tells that history is gone.
pub(crate) fn is_compacted(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message() == WATCH_COMPACTED
}

#[cfg(test)]
mod tests {
    use wharf_core::store::Revision;

    use super::*;

    #[test]
    fn stores_failures_are_told_in_etcds_words() {
        let expired = of(StoreError::Expired { compacted: Revision(3) });
        assert!(is_compacted(&expired));
        assert_eq!(expired.code(), Code::OutOfRange);
        let future = of(StoreError::Future { asked: Revision(9), current: Revision(3) });
        assert_eq!(future.message(), "etcdserver: mvcc: required revision is a future revision");
        assert!(!is_compacted(&future));
        assert_eq!(of(StoreError::Closed).code(), Code::Unavailable);
    }
}
