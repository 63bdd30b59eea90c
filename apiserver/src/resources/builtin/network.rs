//! The rest of networking.k8s.io: where addresses of Services come from.

use k8s_openapi::api::networking::v1 as networking;

use super::{Resource, split};
use crate::{table, validation};

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource::of::<networking::IPAddress>(false).short(&["ip"]).validate(validation::ip_address).columns(&table::IP_ADDRESSES),
        split(Resource::of::<networking::ServiceCIDR>(false).validate(validation::service_cidr).columns(&table::SERVICE_CIDRS)),
    ]
}
