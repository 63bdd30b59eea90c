//! The rest of networking.k8s.io: where addresses of Services come from.

use k8s_openapi::api::networking::v1 as networking;

use super::{Resource, split};
use crate::table;

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource::of::<networking::IPAddress>(false).short(&["ip"]).columns(&table::IP_ADDRESSES),
        split(Resource::of::<networking::ServiceCIDR>(false).columns(&table::SERVICE_CIDRS)),
    ]
}
