//! Puts the parts together: store, caches, registry, gate, service.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use wharf_core::api::{ApiError, SharedApi};
use wharf_core::cache::Caches;
use wharf_core::clock::Clock;
use wharf_core::informer::Informers;
use wharf_core::metrics::Metrics;
use wharf_core::node::NodeConnector;
use wharf_core::store::{Fence, SharedStore};

use crate::crd::Definitions;
use crate::gate::admission::{MutatingWebhooks, ValidatingWebhooks, default_plugins};
use crate::gate::authentication::service_account::DEFAULT_ISSUER;
use crate::gate::authentication::{self, Anonymous, ClientCertificates, ServiceAccountTokens, StaticTokens, TokenKey};
use crate::gate::authorization::{self, BootstrapError, Masters, NodeAuthorizer, Rbac, bootstrap};
use crate::gate::late::{LateApi, LateLayers, LateRegistry, Layers};
use crate::gate::{Authenticator, Authorizer, GateReviews};
use crate::local::LocalApi;
use crate::pki::Pki;
use crate::request::User;
use crate::resources::ResourceTable;
use crate::rest::admission::{Admission, AdmissionChain};
use crate::rest::{Registry, RestService, ServiceRanges, status};
use crate::server::{ApiServerParts, ApiServerService, Check, Checks};
use crate::stream::PodStreams;
use crate::stream::proxy::{Dialer, NetworkDialer, Proxy};
use crate::webhook::Webhooks;

/// Builds an [`ApiServer`]. Only a store and a clock are needed.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build`"]
pub struct ApiServerBuilder {
    store: SharedStore,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    metrics: Metrics,
    pki: Option<Arc<Pki>>,
    tokens: Vec<(String, User)>,
    issuer: String,
    nodes: Option<Arc<dyn NodeConnector>>,
    dialer: Arc<dyn Dialer>,
    table: ResourceTable,
    ranges: ServiceRanges,
    admission: Vec<Arc<dyn Admission>>,
    authenticators: Vec<Arc<dyn Authenticator>>,
    authorizers: Vec<Arc<dyn Authorizer>>,
}

impl ApiServerBuilder {
    /// What ends everything that runs.
    pub fn stop(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }
    /// Where measurements go.
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }
    /// The cluster's keys: service-account tokens are signed with its key and hold across restarts. Without it the key is
    /// new each time.
    pub fn pki(mut self, pki: Arc<Pki>) -> Self {
        self.pki = Some(pki);
        self
    }
    /// Knows a bearer token, and whose it is.
    pub fn token(mut self, token: impl Into<String>, user: User) -> Self {
        self.tokens.push((token.into(), user));
        self
    }
    /// Issuer, and audience, of service-account tokens; `https://kubernetes.default.svc.cluster.local` if not given.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = issuer.into();
        self
    }
    /// How to reach into pods; without it logs, exec, attach and port-forward are not implemented.
    pub fn nodes(mut self, nodes: Arc<dyn NodeConnector>) -> Self {
        self.nodes = Some(nodes);
        self
    }
    /// How `proxy` reaches pods and nodes; over the machine's own network if not given.
    pub fn dialer(mut self, dialer: Arc<dyn Dialer>) -> Self {
        self.dialer = dialer;
        self
    }
    /// Where Services get their addresses from.
    pub fn service_ranges(mut self, ranges: ServiceRanges) -> Self {
        self.ranges = ranges;
        self
    }
    /// Adds an admission plugin, after Kubernetes' own and before webhooks.
    pub fn admission(mut self, plugin: Arc<dyn Admission>) -> Self {
        self.admission.push(plugin);
        self
    }
    /// Adds an authenticator, after Kubernetes' own.
    pub fn authenticator(mut self, authenticator: Arc<dyn Authenticator>) -> Self {
        self.authenticators.push(authenticator);
        self
    }
    /// Adds an authorizer, which is asked when `system:masters`, the Node authorizer and RBAC have no opinion.
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizers.push(authorizer);
        self
    }
    /// What is served, to add own types.
    pub fn resources(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Starts to follow the store, and creates the objects that every cluster has. Must be called inside a tokio runtime.
    ///
    /// # Cancellation
    /// A dropped build may have written a part of what every cluster has; the next one writes the rest.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn build(self) -> Result<ApiServer, ApiError> {
        let Self { store, clock, stop, metrics, .. } = self;
        bootstrap(&store, &*clock).await.map_err(|e| match e {
            BootstrapError::Store(error) => status::of_store(error),
            BootstrapError::Encode(error) => ApiError::Encode(error),
        })?;
        let caches = Caches::start(store.clone(), clock.clone(), stop.clone()).await.map_err(status::of_cache)?;

        // Admission and reviews are parts of the registry and read through it, so they get it late.
        let (late, layers) = (LateApi::default(), LateLayers::default());
        let late_api: SharedApi = Arc::new(late.clone());
        let key = match &self.pki {
            Some(pki) => pki.token_key().clone(),
            None => TokenKey::generate().map_err(|e| ApiError::Encode(Box::new(e)))?,
        };
        let tokens = ServiceAccountTokens::new(key, &self.issuer, vec![self.issuer.clone()], late_api.clone(), clock.clone());
        let hooks = Webhooks::new(late_api.clone(), self.dialer.clone(), clock.clone());
        let mut plugins = default_plugins(late_api, layers.clone());
        let late_registry = LateRegistry::default();
        plugins.extend(self.admission);
        plugins.push(Arc::new(MutatingWebhooks::new(late_registry.clone(), hooks.clone())));
        plugins.push(Arc::new(ValidatingWebhooks::new(late_registry.clone(), hooks.clone())));
        let reviews = Arc::new(GateReviews::new(layers.clone(), tokens.clone()));
        let registry = Arc::new(Registry::new(self.table, caches, clock.clone(), AdmissionChain::new(plugins), Some(reviews), self.ranges));
        late_registry.bind(&registry);
        registry.bootstrap().await?;
        Definitions::start(registry.clone(), hooks, stop.clone()).await?;
        tokio::spawn(registry.clone().expire(stop.clone()));
        let internal: SharedApi = Arc::new(LocalApi::new(registry.clone(), Arc::new(Masters), User::master("system:apiserver")));
        late.bind(internal.clone());

        let informers = Informers::new(internal.clone(), clock.clone(), stop.clone());
        let rbac = Rbac::start(&informers, stop.clone());
        // Who asks early would wait for it anyway, beside everything that starts meanwhile.
        stop.run_until_cancelled(rbac.ready()).await;
        let mut authorizers: Vec<Arc<dyn Authorizer>> =
            vec![Arc::new(Masters), Arc::new(NodeAuthorizer::new(&informers, internal.clone())), Arc::new(rbac.clone())];
        authorizers.extend(self.authorizers);
        let authorizer: Arc<dyn Authorizer> = Arc::new(authorization::Union::new(authorizers));
        let mut authenticators: Vec<Arc<dyn Authenticator>> =
            vec![Arc::new(ClientCertificates), Arc::new(StaticTokens::new(self.tokens)), Arc::new(tokens.clone())];
        authenticators.extend(self.authenticators);
        authenticators.push(Arc::new(Anonymous));
        let authenticator: Arc<dyn Authenticator> = Arc::new(authentication::Union::new(authenticators));
        layers.bind(Layers { authenticator: authenticator.clone(), authorizer: authorizer.clone(), rbac: rbac.clone() });

        let rest = RestService::new(registry.clone());
        let service = ApiServerService::new(ApiServerParts {
            handler: Arc::new(rest.clone()),
            authenticator,
            authorizer: authorizer.clone(),
            proxy: Proxy::new(internal.clone(), self.dialer, clock.clone(), stop.clone()),
            streams: self.nodes.map(|nodes| PodStreams::new(internal, nodes, clock.clone(), stop.clone())),
            tokens: Some(tokens.clone()),
            checks: checks(store, rbac.clone()),
            metrics,
            clock,
            stop: stop.clone(),
        });
        Ok(ApiServer { registry, rest, authorizer, service, rbac, tokens, stop })
    }
}

fn checks(store: SharedStore, rbac: Rbac) -> Checks {
    let answers = move || -> futures::future::BoxFuture<'static, Result<(), String>> {
        let store = store.clone();
        Box::pin(async move { store.revision().await.map(|_| ()).map_err(|e| e.to_string()) })
    };
    let synced = move || -> futures::future::BoxFuture<'static, Result<(), String>> {
        let ready = rbac.is_ready();
        Box::pin(std::future::ready(if ready { Ok(()) } else { Err("roles and bindings have not been read yet".into()) }))
    };
    Checks::new(vec![Check::new("store", true, answers), Check::new("informer-sync", false, synced)])
}

/// A running API server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ApiServer {
    registry: Arc<Registry>,
    rest: RestService,
    authorizer: Arc<dyn Authorizer>,
    service: ApiServerService,
    rbac: Rbac,
    tokens: ServiceAccountTokens,
    stop: CancellationToken,
}

impl ApiServer {
    /// Begins to build.
    pub fn builder(store: SharedStore, clock: Arc<dyn Clock>) -> ApiServerBuilder {
        ApiServerBuilder {
            store,
            clock,
            stop: CancellationToken::new(),
            metrics: Metrics::default(),
            pki: None,
            tokens: Vec::new(),
            issuer: DEFAULT_ISSUER.to_owned(),
            nodes: None,
            dialer: Arc::new(NetworkDialer),
            table: ResourceTable::builtin(),
            ranges: ServiceRanges::default(),
            admission: Vec::new(),
            authenticators: Vec::new(),
            authorizers: Vec::new(),
        }
    }
    /// Waits until roles and bindings have been read; requests that come before wait for it themselves.
    pub async fn ready(&self) {
        self.rbac.ready().await;
    }
    /// The whole API behind its gate, to stand behind a listener: see [`ApiServerService::serve`].
    pub fn service(&self) -> &ApiServerService {
        &self.service
    }
    /// A `kube::Client` in this process, as a user.
    pub fn kube_client(&self, user: User, default_namespace: impl Into<String>) -> kube::Client {
        self.service.kube_client(user, default_namespace)
    }
    /// The API for code in this process, as a user.
    pub fn local(&self, user: User) -> SharedApi {
        Arc::new(LocalApi::new(self.registry.clone(), self.authorizer.clone(), user))
    }
    /// The same for one who leads under a lease: see [`LocalApi::fenced`].
    pub fn fenced(&self, user: User, fence: Fence) -> SharedApi {
        Arc::new(LocalApi::new(self.registry.clone(), self.authorizer.clone(), user).fenced(fence))
    }
    /// The verbs, without authorization.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }
    /// The HTTP side of the registry, behind the gate.
    pub fn rest(&self) -> &RestService {
        &self.rest
    }
    /// Issues and checks service-account tokens.
    pub fn tokens(&self) -> &ServiceAccountTokens {
        &self.tokens
    }
    /// Ends watches, streams, listeners and the following of the store.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}
