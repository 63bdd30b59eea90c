//! What is asked of a store's files, which the seam of stores knows nothing of.

use std::fmt;

use async_trait::async_trait;
use wharf_core::store::StoreResult;

/// The care of a store's files, from whoever puts store and bridge together: see [`EtcdBridgeBuilder::maintenance`].
///
/// # Contract
/// Neither method changes what the store holds.
///
/// # Cancellation
/// A dropped [`Maintenance::defragment`] may still be carried out.
///
/// [`EtcdBridgeBuilder::maintenance`]: crate::EtcdBridgeBuilder::maintenance
#[async_trait]
pub trait Maintenance: Send + Sync + fmt::Debug + 'static {
    /// Gives back the space of what was removed, on `Defragment`.
    ///
    /// # Errors
    /// The store's.
    async fn defragment(&self) -> StoreResult<()>;

    /// Bytes that the store's files take, for `Status`.
    ///
    /// # Errors
    /// The store's.
    async fn size(&self) -> StoreResult<u64>;
}
