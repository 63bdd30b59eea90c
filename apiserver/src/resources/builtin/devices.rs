//! resource.k8s.io: devices that pods claim.

use k8s_openapi::api::resource::v1 as resource;
use wharf_core::object::Object;

use super::{Field, Resource, read, split};
use crate::{defaults, table};

fn slice_fields<'a>(object: &'a Object, field: &str) -> Field<'a> {
    match field {
        "spec.nodeName" => read::<resource::ResourceSlice>(object, |s| s.spec.node_name.clone()),
        "spec.driver" => read::<resource::ResourceSlice>(object, |s| Some(s.spec.driver.clone())),
        _ => None,
    }
}

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource::of::<resource::DeviceClass>(false).with_generation(),
        split(Resource::of::<resource::ResourceClaim>(true).defaults(defaults::resource_claim).columns(&table::RESOURCE_CLAIMS)),
        Resource::of::<resource::ResourceClaimTemplate>(true).defaults(defaults::resource_claim_template),
        Resource::of::<resource::ResourceSlice>(false).with_generation().fields(slice_fields).columns(&table::RESOURCE_SLICES),
    ]
}
