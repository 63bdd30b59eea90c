//! The rest of storage.k8s.io: drivers and what they report.

use k8s_openapi::api::storage::v1 as storage;

use super::{Resource, split};
use crate::{defaults, table};

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource::of::<storage::CSIDriver>(false).with_generation().defaults(defaults::csi_driver).columns(&table::CSI_DRIVERS),
        Resource::of::<storage::CSINode>(false).columns(&table::CSI_NODES),
        Resource::of::<storage::CSIStorageCapacity>(true).columns(&table::CSI_STORAGE_CAPACITIES),
        split(Resource::of::<storage::VolumeAttachment>(false).columns(&table::VOLUME_ATTACHMENTS)),
        Resource::of::<storage::VolumeAttributesClass>(false).short(&["vac"]).columns(&table::VOLUME_ATTRIBUTES_CLASSES),
    ]
}
