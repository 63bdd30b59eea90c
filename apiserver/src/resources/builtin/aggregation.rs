//! apiregistration.k8s.io: which server answers for a group and version.

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

use super::{Resource, split};
use crate::{defaults, table, validation};

pub(super) fn rows() -> Vec<Resource> {
    vec![split(
        Resource::of::<APIService>(false)
            .category(&["api-extensions"])
            .defaults(defaults::api_service)
            .validate(validation::api_service)
            .columns(&table::API_SERVICES),
    )]
}
