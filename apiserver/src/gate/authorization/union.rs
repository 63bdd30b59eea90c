//! Several authorizers, and the group that needs none.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Authorizer, Decision, MASTERS};
use crate::request::{RequestInfo, User};

/// Asks each authorizer in turn; the first that has an opinion decides.
#[derive(Debug, Clone)]
pub struct Union(Vec<Arc<dyn Authorizer>>);

impl Union {
    /// In this order.
    pub fn new(members: Vec<Arc<dyn Authorizer>>) -> Self {
        Self(members)
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        for member in &self.0 {
            match member.authorize(user, request).await {
                Decision::NoOpinion => {}
                decided => return decided,
            }
        }
        Decision::NoOpinion
    }
}

/// Lets `system:masters` do everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, user: &User, _: &RequestInfo) -> Decision {
        if user.groups.iter().any(|g| g == MASTERS) { Decision::Allow } else { Decision::NoOpinion }
    }
}
