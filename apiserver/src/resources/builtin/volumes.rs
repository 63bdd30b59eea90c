//! The rest of storage.k8s.io: drivers and what they report.

use k8s_openapi::api::storage::v1 as storage;

use super::{Resource, split};
use crate::{defaults, table, validation};

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource::of::<storage::CSIDriver>(false)
            .with_generation()
            .defaults(defaults::csi_driver)
            .validate(validation::csi_driver)
            .columns(&table::CSI_DRIVERS),
        Resource::of::<storage::CSINode>(false).validate(validation::csi_node).columns(&table::CSI_NODES),
        Resource::of::<storage::CSIStorageCapacity>(true)
            .validate(validation::csi_storage_capacity)
            .columns(&table::CSI_STORAGE_CAPACITIES),
        split(Resource::of::<storage::VolumeAttachment>(false).validate(validation::volume_attachment).columns(&table::VOLUME_ATTACHMENTS)),
        Resource::of::<storage::VolumeAttributesClass>(false)
            .short(&["vac"])
            .validate(validation::volume_attributes_class)
            .columns(&table::VOLUME_ATTRIBUTES_CLASSES),
    ]
}
