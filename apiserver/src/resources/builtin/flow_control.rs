//! flowcontrol.apiserver.k8s.io: which requests wait for which.

use k8s_openapi::api::flowcontrol::v1 as flow;

use super::Resource;
use crate::{defaults, table, validation};

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource::of::<flow::FlowSchema>(false)
            .with_status()
            .defaults(defaults::flow_schema)
            .validate(validation::flow_schema)
            .validate_status(validation::flow_schema_status)
            .columns(&table::FLOW_SCHEMAS),
        Resource::of::<flow::PriorityLevelConfiguration>(false)
            .with_status()
            .defaults(defaults::priority_level)
            .validate(validation::priority_level)
            .validate_status(validation::priority_level_status)
            .columns(&table::PRIORITY_LEVELS),
    ]
}
