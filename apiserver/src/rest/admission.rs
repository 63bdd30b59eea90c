//! The admission chain: what may change or refuse a write after it is authorized and before it is stored.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use wharf_core::api::ApiError;

use crate::request::User;
use crate::resources::Resource;

/// What is about to happen to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It comes into being; also a post to a subresource such as `binding`.
    Create,
    /// It changes.
    Update,
    /// It goes.
    Delete,
    /// Somebody connects to it: exec, attach, port-forward, proxy.
    Connect,
}

/// A write as admission sees it. Neither the object nor what was there before has its managedFields, which Kubernetes shows: what a plugin
/// changes is nobody's.
#[derive(Debug, Clone)]
pub struct AdmissionRequest {
    /// Who asks.
    pub user: Arc<User>,
    /// What is about to happen.
    pub operation: Operation,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Kind of the object.
    pub kind: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name; empty while generateName has not been carried out.
    pub name: String,
    /// The object as it is stored, for an update or a delete.
    pub old: Option<Arc<Value>>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Who manages the fields that the request sets.
    pub field_manager: String,
    /// Whether it came as a patch.
    pub patched: bool,
    /// The resource, if the object is one of it and not of a kind of its subresource's own.
    pub row: Option<Arc<Resource>>,
    /// What plugins note for when they are asked again.
    pub rerun: Rerun,
}

impl AdmissionRequest {
    /// A request of a user, about nothing yet.
    pub fn new(user: Arc<User>, operation: Operation) -> Self {
        Self {
            user,
            operation,
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            kind: String::new(),
            subresource: String::new(),
            namespace: String::new(),
            name: String::new(),
            old: None,
            dry_run: false,
            field_manager: String::new(),
            patched: false,
            row: None,
            rerun: Rerun::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Noted {
    second: bool,
    wanted: bool,
    asked: Vec<String>,
    again: HashSet<String>,
    output: Option<Value>,
}

/// What is noted while an object is changed: when a webhook has changed it, who was asked before is asked once more.
#[derive(Debug, Clone, Default)]
pub struct Rerun(Arc<Mutex<Noted>>);

impl Rerun {
    /// Whether everybody is being asked for the second time.
    pub(crate) fn is_second(&self) -> bool {
        self.0.lock().second
    }
    fn begin_second(&self) -> bool {
        let mut noted = self.0.lock();
        noted.second = true;
        noted.wanted
    }
    /// Somebody who wants to be asked again was asked.
    pub(crate) fn note_asked(&self, who: &str) {
        let mut noted = self.0.lock();
        if !noted.second {
            noted.asked.push(who.to_owned());
        }
    }
    /// The object was changed by one: whoever was asked before is asked again, and so are all plugins.
    pub(crate) fn ask_again_others(&self, who: &str) {
        let mut noted = self.0.lock();
        if !noted.second {
            noted.wanted = true;
            let others: Vec<String> = noted.asked.iter().filter(|asked| *asked != who).cloned().collect();
            noted.again.extend(others);
        }
    }
    pub(crate) fn ask_again_all(&self) {
        let mut noted = self.0.lock();
        let all = noted.asked.clone();
        noted.again.extend(all);
    }
    pub(crate) fn is_asked_again(&self, who: &str) -> bool {
        self.0.lock().again.contains(who)
    }
    /// What the object was when the last of them had been asked.
    pub(crate) fn note_output(&self, object: &Value) {
        let mut noted = self.0.lock();
        if noted.wanted {
            noted.output = Some(object.clone());
        }
    }
    pub(crate) fn has_changed_since(&self, object: &Value) -> bool {
        self.0.lock().output.as_ref().is_some_and(|output| output != object)
    }
}

/// Sentences for `Warning` headers.
pub type Warnings = Vec<String>;

/// One admission plugin.
///
/// # Contract
/// `admit` may change the object, and is called for each plugin in order before any `validate`; when a webhook has changed the object it is
/// called a second time. `validate` sees the object as it will be stored. For a delete the object is `Null`. A refusal changes nothing.
///
/// # Cancellation
/// A plugin holds nothing across calls, so that a dropped call leaves nothing behind.
///
/// # Errors
/// What the client is told; usually a 403 `Forbidden`.
///
/// # Panics
/// Never on input.
#[async_trait]
pub trait Admission: Send + Sync + fmt::Debug + 'static {
    /// Its name, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;
    /// Whether this plugin cares for a request at all.
    fn handles(&self, request: &AdmissionRequest) -> bool;
    /// Changes the object.
    async fn admit(&self, request: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError>;
    /// Accepts or refuses.
    async fn validate(&self, request: &AdmissionRequest, object: &Value) -> Result<Warnings, ApiError>;
}

/// The plugins in order.
#[derive(Debug, Clone, Default)]
pub struct AdmissionChain {
    plugins: Vec<Arc<dyn Admission>>,
}

impl AdmissionChain {
    /// A chain of plugins.
    pub fn new(plugins: Vec<Arc<dyn Admission>>) -> Self {
        Self { plugins }
    }
    /// Adds a plugin at the end.
    pub fn push(&mut self, plugin: Arc<dyn Admission>) {
        self.plugins.push(plugin);
    }
    /// Whether any plugin cares for a request.
    pub fn handles(&self, request: &AdmissionRequest) -> bool {
        self.plugins.iter().any(|plugin| plugin.handles(request))
    }
    /// Lets each plugin change the object, in order.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(&self, request: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError> {
        let mut warnings = Warnings::new();
        for plugin in self.plugins.iter().filter(|p| p.handles(request)) {
            warnings.extend(plugin.admit(request, object).await?);
        }
        if request.rerun.begin_second() {
            for plugin in self.plugins.iter().filter(|p| p.handles(request)) {
                warnings.extend(plugin.admit(request, object).await?);
            }
        }
        Ok(warnings)
    }
    /// Asks each plugin.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, request: &AdmissionRequest, object: &Value) -> Result<Warnings, ApiError> {
        let mut warnings = Warnings::new();
        for plugin in self.plugins.iter().filter(|p| p.handles(request)) {
            warnings.extend(plugin.validate(request, object).await?);
        }
        Ok(warnings)
    }
}

/// Answers the creates of resources that are never stored: TokenReview, SubjectAccessReview and their like, and the
/// `token` subresource of service accounts.
#[async_trait]
pub trait Reviews: Send + Sync + fmt::Debug + 'static {
    /// Fills in the status of a review. `resource` is a plural name, with the subresource after a slash if there is one
    /// (`serviceaccounts/token`); `name` is the object's, for a subresource.
    ///
    /// # Errors
    /// What the client is told.
    async fn review(
        &self,
        user: &Arc<User>,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        body: Value,
    ) -> Result<Value, ApiError>;
}
