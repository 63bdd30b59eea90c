//! Puts the parts together.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wharf_core::api::{ApiError, SharedApi};
use wharf_core::cache::Caches;
use wharf_core::clock::Clock;
use wharf_core::store::SharedStore;

use crate::gate::Authorizer;
use crate::gate::authorization::Masters;
use crate::local::LocalApi;
use crate::request::User;
use crate::resources::ResourceTable;
use crate::rest::admission::{Admission, AdmissionChain, Reviews};
use crate::rest::{Registry, RestService, ServiceRanges, status};

/// Builds an [`ApiServer`].
#[derive(Debug)]
pub struct ApiServerBuilder {
    caches: Caches,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    table: ResourceTable,
    ranges: ServiceRanges,
    admission: AdmissionChain,
    reviews: Option<Arc<dyn Reviews>>,
    authorizer: Arc<dyn Authorizer>,
}

impl ApiServerBuilder {
    /// The caches, for what reads while it decides: authorizers and admission plugins.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }
    /// What ends everything that runs.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }
    /// Where Services get their addresses from.
    pub fn service_ranges(mut self, ranges: ServiceRanges) -> Self {
        self.ranges = ranges;
        self
    }
    /// Adds an admission plugin at the end.
    pub fn admission(mut self, plugin: Arc<dyn Admission>) -> Self {
        self.admission.push(plugin);
        self
    }
    /// What answers reviews and token requests; without it they are not allowed.
    pub fn reviews(mut self, reviews: Arc<dyn Reviews>) -> Self {
        self.reviews = Some(reviews);
        self
    }
    /// Who decides what a [`LocalApi`]'s user may do; without it members of `system:masters` may do everything and
    /// others nothing.
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizer = authorizer;
        self
    }
    /// What is served, to add own types.
    pub fn resources(&mut self) -> &mut ResourceTable {
        &mut self.table
    }
    /// Learns from the store what is given out, and creates the objects that every cluster has.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn build(self) -> Result<ApiServer, ApiError> {
        let registry =
            Arc::new(Registry::new(self.table, self.caches, self.clock, self.admission, self.reviews, self.ranges));
        registry.bootstrap().await?;
        let rest = RestService::new(registry.clone());
        Ok(ApiServer { registry, rest, authorizer: self.authorizer, stop: self.stop })
    }
}

/// A running API server: objects, rules and caches; the gate and the listeners stand before [`ApiServer::rest`].
#[derive(Debug, Clone)]
pub struct ApiServer {
    registry: Arc<Registry>,
    rest: RestService,
    authorizer: Arc<dyn Authorizer>,
    stop: CancellationToken,
}

impl ApiServer {
    /// Begins to build; starts to follow the store. Everything ends when `stop` is cancelled.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn builder(store: SharedStore, clock: Arc<dyn Clock>, stop: CancellationToken) -> Result<ApiServerBuilder, ApiError> {
        let caches = Caches::start(store, clock.clone(), stop.clone()).await.map_err(status::of_cache)?;
        Ok(ApiServerBuilder {
            caches,
            clock,
            stop,
            table: ResourceTable::builtin(),
            ranges: ServiceRanges::default(),
            admission: AdmissionChain::default(),
            reviews: None,
            authorizer: Arc::new(Masters),
        })
    }
    /// The verbs, without authorization.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }
    /// The HTTP side, to stand behind the gate.
    pub fn rest(&self) -> &RestService {
        &self.rest
    }
    /// The API for code in this process, as a user.
    pub fn local(&self, user: User) -> SharedApi {
        Arc::new(LocalApi::new(self.registry.clone(), self.authorizer.clone(), user))
    }
    /// Ends watches and the following of the store.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}
