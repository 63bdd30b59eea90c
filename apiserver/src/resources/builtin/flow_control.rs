//! flowcontrol.apiserver.k8s.io: which requests wait for which.

use k8s_openapi::api::flowcontrol::v1 as flow;

use super::Resource;
use crate::{defaults, table};

pub(super) fn rows() -> Vec<Resource> {
    vec![
        Resource::of::<flow::FlowSchema>(false).with_status().defaults(defaults::flow_schema).columns(&table::FLOW_SCHEMAS),
        Resource::of::<flow::PriorityLevelConfiguration>(false)
            .with_status()
            .defaults(defaults::priority_level)
            .columns(&table::PRIORITY_LEVELS),
    ]
}
