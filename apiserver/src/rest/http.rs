//! From HTTP requests to the verbs, and from their answers to responses.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use wharf_core::api::{ApiError, PatchKind};
use wharf_core::object::Object;

use super::answer::{self, JSON, add_warnings, refusal, stream_body};
use super::body::{read_object, read_patch};
use super::encoding::Encoding;
use super::form::{Form, Media, Offer, Shape, accept, negotiate};
use super::frames::Frames;
use super::params::{self, Params, WriteKind};
use super::read::{ListRequest, WatchRequest};
use super::select::Selection;
use super::subresources::ScaleChange;
use super::{Registry, Written, component_status, creation, deprecated, events, parts, protobuf, status};
use crate::openapi;
use crate::patch;
use crate::request::{RequestInfo, User};
use crate::resources::value::text;
use crate::resources::{DeleteRule, Resource};
use crate::server::Handler;
use crate::server::body::{Body, typed};
use crate::table::Include;

/// Shortest and longest time after which a watch without a timeout ends, in seconds; Kubernetes' own.
const WATCH_SECONDS: std::ops::Range<u64> = 1800..3600;

/// The API over HTTP, behind the gate.
#[derive(Debug, Clone)]
pub struct RestService {
    registry: Arc<Registry>,
    frames: Arc<Frames>,
}

impl RestService {
    /// Serves a registry.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, frames: Arc::default() }
    }

    /// The verbs below.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Carries a request out, which has been authenticated and authorized.
    pub async fn handle(&self, request: Request<Bytes>, info: &RequestInfo, user: &Arc<User>) -> Response<Body> {
        let row = info.is_resource.then(|| self.registry.row(&info.group, &info.version, &info.resource)).flatten();
        let answer = match &row {
            Some(row) => Box::pin(self.resource(&request, row, info, user)).await,
            None if info.is_resource => Err(status::no_such_path()),
            None => self.other(&request, info),
        };
        let own = row.as_ref().and_then(|row| row.custom.as_ref()?.deprecation().map(str::to_owned));
        let outdated = own.or_else(|| deprecated::warning(info));
        let mut answer = answer.unwrap_or_else(|error| refusal(&status::status_of(error), accept(request.headers())));
        add_warnings(&mut answer, outdated.as_slice());
        Encoding::of(&request, info).apply(answer).await
    }

    fn other(&self, request: &Request<Bytes>, info: &RequestInfo) -> Result<Response<Body>, ApiError> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Err(status::method_not_supported());
        }
        let accept = accept(request.headers());
        let resources = self.registry.table();
        if let Some(found) = resources.discovery().answer(&info.path, accept) {
            let document = || typed(StatusCode::OK, found.content_type, found.body.clone());
            let Some(etag) = found.etag else { return Ok(document()) };
            let mut response = openapi::unless_known(request, etag, document);
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
            return Ok(response);
        }
        if let Some(answer) = openapi::answer(&resources, request) {
            return answer;
        }
        Err(status::no_such_path())
    }

    async fn resource(
        &self,
        request: &Request<Bytes>,
        row: &Arc<Resource>,
        info: &RequestInfo,
        user: &Arc<User>,
    ) -> Result<Response<Body>, ApiError> {
        let params = Params::of(request.uri());
        // A scale is an object of another kind than its row's.
        let binary = info.subresource == "scale" || protobuf::type_of(row).is_some();
        let form = negotiate(accept(request.headers()), Offer { binary, stream: info.verb == "watch" })?;
        if row.namespaced && info.namespace.is_empty() && !matches!(info.verb.as_str(), "list" | "watch") {
            return Err(status::no_such_path());
        }
        if !row.namespaced && !info.namespace.is_empty() && row.plural != "namespaces" {
            return Err(status::no_such_path());
        }
        let by_name = !path_is_collection(info, row);
        if !info.subresource.is_empty() && !row.subresources.contains(&info.subresource.as_str()) {
            return Err(status::no_such_path());
        }
        if info.subresource.is_empty() && !row.verbs.contains(&info.verb.as_str()) {
            match row.custom.as_ref().filter(|custom| custom.is_terminating()) {
                // What holds an object can be taken away.
                Some(_) if matches!(info.verb.as_str(), "update" | "patch") => {}
                Some(_) => return Err(status::terminating_definition(&info.verb)),
                None => return Err(status::method_not_supported()),
            }
        }
        let namespace = if row.namespaced { info.namespace.as_str() } else { "" };
        let name = if by_name { info.name.as_str() } else { "" };
        match info.verb.as_str() {
            "get" => {
                let at = params::get_at(&params)?;
                let object = match info.subresource.as_str() {
                    "" if component_status::is(row) => self.registry.component_status(row, name).await?,
                    sub if parts::is_view(sub) => self.registry.get(row, namespace, name, at).await?,
                    "scale" => self.registry.get_scale(row, namespace, name).await?,
                    _ => return Err(status::method_not_supported()),
                };
                self.one(row, &info.subresource, form, &params, StatusCode::OK, &object)
            }
            "list" => {
                let params::ListOptions { at, limit, continue_token } = params::list(&params)?;
                let request = ListRequest { selection: selection(row, info, &params)?, at, limit, continue_token };
                let answer = match component_status::is(row) {
                    true => self.registry.component_statuses(row, &request.selection).await?,
                    false => self.registry.list(row, &request).await?,
                };
                answer::many(row, form, &params, answer, self.registry.clock.now())
            }
            "watch" => self.watch(row, form, info, &params).await,
            "create" => self.create(request, row, form, info, namespace, name, &params, user).await,
            "update" => {
                let mut ctx = params::write(user, request, &params, WriteKind::Update)?;
                let read = read_object(request, &row.kind)?;
                let body = read.value;
                ctx.duplicates = read.duplicates;
                let written = match info.subresource.as_str() {
                    "scale" => self.registry.write_scale(&ctx, row, namespace, name, ScaleChange::Replace(body)).await?,
                    "" if request.extensions().get::<creation::MayCreate>().is_some() => {
                        self.registry.update_or_create(&ctx, row, namespace, name, body).await?
                    }
                    sub if sub == "finalize" || parts::is_view(sub) => self.registry.update(&ctx, row, sub, namespace, name, body).await?,
                    _ => return Err(status::method_not_supported()),
                };
                self.written(row, &info.subresource, form, &params, written)
            }
            "patch" => {
                let kind = params::patch_kind(request, &params)?;
                let apply = matches!(kind, PatchKind::Apply { .. });
                let mut ctx = params::write(user, request, &params, WriteKind::Patch { apply })?;
                patch::check(row, kind)?;
                let (parsed, duplicates) = read_patch(kind, request.body())?;
                (ctx.duplicates, ctx.patched) = (duplicates, !apply);
                let written = match info.subresource.as_str() {
                    "scale" => self.registry.write_scale(&ctx, row, namespace, name, ScaleChange::Patch(parsed)).await?,
                    sub if parts::is_view(sub) => self.registry.patch(&ctx, row, sub, namespace, name, &parsed).await?,
                    _ => return Err(status::method_not_supported()),
                };
                self.written(row, &info.subresource, form, &params, written)
            }
            "delete" => {
                let mut ctx = params::write(user, request, &params, WriteKind::Delete)?;
                let (options, dry_run) = params::delete(request, &params)?;
                ctx.dry_run |= dry_run;
                let written = self.registry.delete(&ctx, row, namespace, name, &options).await?;
                let shows_object = !written.gone
                    || row.delete != DeleteRule::Plain
                    || (row.group.is_empty()
                        && matches!(
                            &*row.plural,
                            "services" | "serviceaccounts" | "persistentvolumes" | "persistentvolumeclaims" | "podtemplates"
                        ));
                if shows_object {
                    return self.written(row, "", form, &params, written);
                }
                let mut response = answer::value(form.media, StatusCode::OK, &answer::success(row, &written.object))?;
                add_warnings(&mut response, &written.warnings);
                Ok(response)
            }
            "deletecollection" => {
                let mut ctx = params::write(user, request, &params, WriteKind::Delete)?;
                let (options, dry_run) = params::delete(request, &params)?;
                ctx.dry_run |= dry_run;
                let list = params::list(&params)?;
                let request = ListRequest {
                    selection: selection(row, info, &params)?,
                    at: list.at,
                    limit: list.limit,
                    continue_token: list.continue_token,
                };
                let answer = self.registry.delete_collection(&ctx, row, &request, &options).await?;
                answer::many(row, form, &params, answer, self.registry.clock.now())
            }
            _ => Err(status::method_not_supported()),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the pieces of one request")]
    async fn create(
        &self,
        request: &Request<Bytes>,
        row: &Arc<Resource>,
        form: Form,
        info: &RequestInfo,
        namespace: &str,
        name: &str,
        params: &Params,
        user: &Arc<User>,
    ) -> Result<Response<Body>, ApiError> {
        let mut ctx = params::write(user, request, params, WriteKind::Create)?;
        let read = read_object(request, &row.kind)?;
        let body = read.value;
        ctx.duplicates = read.duplicates;
        let answer = |value: Value| answer::value(form.media, StatusCode::CREATED, &value);
        let done = || json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        match info.subresource.as_str() {
            "" if !name.is_empty() => Err(status::method_not_supported()),
            "" if row.kind == "Binding" => {
                let pods = self.registry.row("", "v1", "pods").ok_or_else(status::no_such_path)?;
                self.registry.bind(&ctx, &pods, namespace, text(&body, &["metadata", "name"]), &body).await?;
                answer(done())
            }
            "" if row.is_review() => answer(self.registry.review(user, row, "", namespace, "", body).await?),
            "" => {
                let written = self.registry.create(&ctx, row, namespace, body).await?;
                self.written(row, "", form, params, written)
            }
            "binding" => {
                self.registry.bind(&ctx, row, namespace, name, &body).await?;
                answer(done())
            }
            "eviction" => {
                self.registry.evict(&ctx, row, namespace, name, &body).await?;
                answer(done())
            }
            "token" => answer(self.registry.review(user, row, "token", namespace, name, body).await?),
            _ => Err(status::method_not_supported()),
        }
    }

    async fn watch(&self, row: &Arc<Resource>, form: Form, info: &RequestInfo, params: &Params) -> Result<Response<Body>, ApiError> {
        let options = params::watch(params)?;
        let timeout = options.timeout.unwrap_or_else(|| rand::random_range(WATCH_SECONDS));
        let watch = WatchRequest {
            selection: selection(row, info, params)?,
            after: options.after,
            initial_events: options.initial_events,
            bookmarks: options.bookmarks,
            timeout: Some(Duration::from_secs(timeout)),
        };
        let include = Include::parse(params.get("includeObject"))?;
        let watch = match self.registry.watch(row, watch).await {
            Ok(watch) => watch,
            // A watch that has begun tells of this as an event, and so does one that has not: clients look there.
            Err(error) if error.is_expired() => Box::pin(futures::stream::iter([Err(error)])),
            Err(error) => return Err(error),
        };
        if form.media == Media::Protobuf {
            let mut response = Response::new(stream_body(protobuf::watch(row.clone(), watch, form.shape)));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(protobuf::STREAM));
            return Ok(response);
        }
        let now = self.registry.clock.clone();
        let pieces = events::encode(row.clone(), watch, form.shape, include, self.frames.clone(), move || now.now());
        let mut response = Response::new(stream_body(pieces));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        Ok(response)
    }

    fn written(&self, row: &Resource, sub: &str, form: Form, params: &Params, written: Written) -> Result<Response<Body>, ApiError> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = self.one(row, sub, form, params, code, &written.object)?;
        add_warnings(&mut response, &written.warnings);
        Ok(response)
    }

    fn one(
        &self,
        row: &Resource,
        sub: &str,
        form: Form,
        params: &Params,
        code: StatusCode,
        object: &Arc<Object>,
    ) -> Result<Response<Body>, ApiError> {
        if sub == "scale" && form.shape == Shape::Whole {
            return answer::value(form.media, code, &super::parse_stored(&object.to_bytes())?);
        }
        answer::one(row, form, params, code, object, self.registry.clock.now())
    }
}

impl Registry {
    pub(super) async fn review(
        &self,
        user: &Arc<User>,
        row: &Resource,
        sub: &str,
        namespace: &str,
        name: &str,
        mut body: Value,
    ) -> Result<Value, ApiError> {
        let reviews = self.reviews.as_ref().ok_or_else(status::method_not_supported)?;
        let resource = if sub.is_empty() { row.plural.to_string() } else { format!("{}/{sub}", row.plural) };
        if sub.is_empty() {
            super::write::check_kind(row, &mut body)?;
        }
        reviews.review(user, &row.group, &resource, namespace, name, body).await
    }
}

#[async_trait]
impl Handler for RestService {
    async fn handle(&self, user: &Arc<User>, info: &RequestInfo, request: Request<Bytes>) -> Response<Body> {
        Box::pin(RestService::handle(self, request, info, user)).await
    }
}

fn path_is_collection(info: &RequestInfo, row: &Resource) -> bool {
    // A list by `metadata.name` carries the name for authorization.
    info.name.is_empty() || matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") || (row.plural.is_empty())
}

fn selection(row: &Resource, info: &RequestInfo, params: &Params) -> Result<Selection, ApiError> {
    let mut fields = params.get("fieldSelector").to_owned();
    // `watch/namespaces/x/pods/name` and a watch of one object by its path.
    let by_path = !info.name.is_empty() && !fields.split(',').any(|term| term.starts_with("metadata.name="));
    if by_path {
        if fields.contains("metadata.name") {
            return Err(status::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        fields = if fields.is_empty() { format!("metadata.name={}", info.name) } else { format!("{fields},metadata.name={}", info.name) };
    }
    let namespace = Some(info.namespace.as_str().into());
    Selection::parse(row, namespace, params.get("labelSelector"), &fields)
}
