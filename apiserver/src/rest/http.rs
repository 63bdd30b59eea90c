//! From HTTP requests to the verbs, and from their answers to responses.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use serde_json::{Value, json};
use wharf_core::api::{ApiError, PatchKind};
use wharf_core::object::Object;
use wharf_core::runtime::BoxError;

use super::body::{read_object, read_patch};
use super::encoding::Encoding;
use super::frames::{self, Frames};
use super::params::{self, Params, WriteKind};
use super::read::{ListAnswer, ListRequest, Watch, WatchEvent, WatchRequest};
use super::select::Selection;
use super::subresources::ScaleChange;
use super::{FieldValidation, Registry, Written, component_status, parts, protobuf, status};
use crate::openapi;
use crate::patch;
use crate::request::{RequestInfo, User};
use crate::resources::value::{as_map, text};
use crate::resources::{DeleteRule, Resource, StatusRule};
use crate::server::Handler;
use crate::server::body::{Body, typed};
use crate::table::{self, Include};

/// Shortest and longest time after which a watch without a timeout ends, in seconds; Kubernetes' own.
const WATCH_SECONDS: std::ops::Range<u64> = 1800..3600;
/// About how many bytes of a list are handed over at once.
const LIST_CHUNK: usize = 64 << 10;
/// Most events of a watch that are sent in one piece.
pub(super) const EVENTS_CHUNK: usize = 64;
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";

/// What an answer is to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Protobuf,
    Yaml,
    Table,
    Metadata,
}

/// Reads an Accept header: the first form that there is. `binary` tells whether what is asked for has protobuf.
fn negotiate(accept: &str, binary: bool) -> Result<Form, ApiError> {
    if accept.trim().is_empty() {
        return Ok(Form::Json);
    }
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let get = |name: &str| params.iter().find(|(n, _)| *n == name).map(|(_, v)| *v).unwrap_or_default();
        let form = match (media.as_str(), get("as")) {
            ("application/json" | "*/*" | "application/*", "") => Form::Json,
            ("application/yaml", "") => Form::Yaml,
            (wharf_schema::protobuf::MEDIA_TYPE, "") if binary => Form::Protobuf,
            ("application/json", "Table") if get("v") == "v1" && get("g") == "meta.k8s.io" => Form::Table,
            ("application/json", "PartialObjectMetadata" | "PartialObjectMetadataList") if get("v") == "v1" => Form::Metadata,
            _ => continue,
        };
        return Ok(form);
    }
    Err(status::not_acceptable())
}

/// The API over HTTP, behind the gate.
#[derive(Debug, Clone)]
pub struct RestService {
    registry: Arc<Registry>,
    frames: Arc<Frames>,
}

/// What a body says twice: a refusal, warnings, or nothing.
fn told(validation: FieldValidation, duplicates: Vec<String>) -> Result<Vec<String>, ApiError> {
    match validation {
        FieldValidation::Strict if !duplicates.is_empty() => {
            Err(status::bad_request(format!("strict decoding error: {}", duplicates.join(", "))))
        }
        FieldValidation::Ignore => Ok(Vec::new()),
        _ => Ok(duplicates),
    }
}

fn success(row: &Resource, object: &Object) -> Value {
    let mut details = json!({"name": &*object.key().name, "kind": row.plural});
    if !row.group.is_empty() {
        as_map(&mut details).insert("group".into(), row.group.as_ref().into());
    }
    if let Some(uid) = &object.meta().uid {
        as_map(&mut details).insert("uid".into(), uid.as_str().into());
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// The answer that tells of an error.
pub(crate) fn error_response(error: ApiError) -> Response<Body> {
    let found = status::status_of(error);
    let code = found.code.and_then(|c| u16::try_from(c).ok()).and_then(|c| StatusCode::from_u16(c).ok());
    let mut response = typed(code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), JSON, status::render(&found));
    if let Some(seconds) = found.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn stream_body(pieces: impl Stream<Item = Result<Bytes, BoxError>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data))).boxed_unsync()
}

fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let quoted: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
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
        let answer = if info.is_resource { Box::pin(self.resource(&request, info, user)).await } else { self.other(&request, info) };
        Encoding::of(&request, info).apply(answer.unwrap_or_else(error_response)).await
    }

    fn other(&self, request: &Request<Bytes>, info: &RequestInfo) -> Result<Response<Body>, ApiError> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return Err(status::method_not_supported());
        }
        let accept = accept(request);
        let resources = self.registry.table();
        if let Some((content_type, body)) = resources.discovery().answer(&info.path, accept) {
            return Ok(typed(StatusCode::OK, content_type, body));
        }
        if let Some(answer) = openapi::answer(&resources, request) {
            return answer;
        }
        Err(status::no_such_path())
    }

    async fn resource(&self, request: &Request<Bytes>, info: &RequestInfo, user: &Arc<User>) -> Result<Response<Body>, ApiError> {
        let row = &self.registry.row(&info.group, &info.version, &info.resource).ok_or_else(status::no_such_path)?;
        let params = Params::of(request.uri());
        // A scale is an object of another kind than its row's.
        let binary = info.subresource != "scale" && protobuf::type_of(row).is_some();
        let form = negotiate(accept(request), binary)?;
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
            return Err(status::method_not_supported());
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
                self.one(row, form, &params, StatusCode::OK, &object)
            }
            "list" => {
                let params::ListOptions { at, limit, continue_token } = params::list(&params)?;
                let request = ListRequest { selection: selection(row, info, &params)?, at, limit, continue_token };
                let answer = match component_status::is(row) {
                    true => self.registry.component_statuses(row, &request.selection).await?,
                    false => self.registry.list(row, &request).await?,
                };
                self.many(row, form, &params, answer)
            }
            "watch" => self.watch(row, form, info, &params).await,
            "create" => self.create(request, row, form, info, namespace, name, &params, user).await,
            "update" => {
                let ctx = params::write(user, request, &params, WriteKind::Update)?;
                let read = read_object(request, &row.kind)?;
                let (body, warnings) = (read.value, told(ctx.validation, read.duplicates)?);
                let written = match info.subresource.as_str() {
                    "scale" => self.registry.write_scale(&ctx, row, namespace, name, ScaleChange::Replace(body)).await?,
                    sub if sub == "finalize" || parts::is_view(sub) => self.registry.update(&ctx, row, sub, namespace, name, body).await?,
                    _ => return Err(status::method_not_supported()),
                };
                self.written(row, form, &params, written.warned(warnings))
            }
            "patch" => {
                let kind = params::patch_kind(request, &params)?;
                let apply = matches!(kind, PatchKind::Apply { .. });
                let ctx = params::write(user, request, &params, WriteKind::Patch { apply })?;
                patch::check(row, kind)?;
                let (parsed, duplicates) = read_patch(kind, request.body())?;
                let warnings = told(ctx.validation, duplicates)?;
                let written = match info.subresource.as_str() {
                    "scale" => self.registry.write_scale(&ctx, row, namespace, name, ScaleChange::Patch(parsed)).await?,
                    sub if parts::is_view(sub) => self.registry.patch(&ctx, row, sub, namespace, name, &parsed).await?,
                    _ => return Err(status::method_not_supported()),
                };
                self.written(row, form, &params, written.warned(warnings))
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
                    return self.written(row, form, &params, written);
                }
                let mut response = typed(StatusCode::OK, JSON, success(row, &written.object).to_string());
                add_warnings(&mut response, &written.warnings);
                Ok(response)
            }
            "deletecollection" => {
                let mut ctx = params::write(user, request, &params, WriteKind::Delete)?;
                let (options, dry_run) = params::delete(request, &params)?;
                ctx.dry_run |= dry_run;
                params::list(&params)?;
                let items = self.registry.delete_collection(&ctx, row, selection(row, info, &params)?, &options).await?;
                let revision = self.registry.caches().applied();
                self.many(row, form, &params, ListAnswer { items, revision, continue_token: String::new(), remaining: None })
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
        let ctx = params::write(user, request, params, WriteKind::Create)?;
        let read = read_object(request, &row.kind)?;
        let (body, warnings) = (read.value, told(ctx.validation, read.duplicates)?);
        let answer = |value: Value| Ok(typed(StatusCode::CREATED, JSON, value.to_string()));
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
                self.written(row, form, params, written.warned(warnings))
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
        if form == Form::Protobuf {
            let mut response = Response::new(stream_body(protobuf::watch(row.clone(), watch)));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(protobuf::STREAM));
            return Ok(response);
        }
        let now = self.registry.clock.clone();
        let pieces = encode_watch(row.clone(), watch, form, include, self.frames.clone(), move || now.now());
        let mut response = Response::new(stream_body(pieces));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        Ok(response)
    }

    fn written(&self, row: &Resource, form: Form, params: &Params, written: Written) -> Result<Response<Body>, ApiError> {
        let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
        let mut response = self.one(row, form, params, code, &written.object)?;
        add_warnings(&mut response, &written.warnings);
        Ok(response)
    }

    fn one(&self, row: &Resource, form: Form, params: &Params, code: StatusCode, object: &Arc<Object>) -> Result<Response<Body>, ApiError> {
        Ok(match form {
            Form::Json => typed(code, JSON, object.to_bytes()),
            Form::Protobuf => protobuf::one(row, code, &object.to_bytes())?,
            Form::Yaml => {
                let value = super::parse_stored(&object.to_bytes())?;
                typed(code, YAML, serde_yaml_ng::to_string(&value).map_err(status::internal)?)
            }
            Form::Metadata => typed(code, JSON, table::partial(object).to_string()),
            Form::Table => {
                let include = Include::parse(params.get("includeObject"))?;
                let meta = json!({"resourceVersion": object.revision().to_string()});
                let table = table::render(row, std::slice::from_ref(object), include, meta, self.registry.clock.now());
                typed(code, JSON, table.to_string())
            }
        })
    }

    fn many(&self, row: &Resource, form: Form, params: &Params, answer: ListAnswer) -> Result<Response<Body>, ApiError> {
        let mut meta = json!({"resourceVersion": answer.revision.to_string()});
        if !answer.continue_token.is_empty() {
            as_map(&mut meta).insert("continue".into(), answer.continue_token.into());
        }
        if let Some(remaining) = answer.remaining {
            as_map(&mut meta).insert("remainingItemCount".into(), remaining.into());
        }
        let head =
            |kind: &str, version: &str| format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{meta},\"items\":[");
        Ok(match form {
            Form::Json => {
                let head = head(&format!("{}List", row.kind), &row.api_version());
                let mut response = Response::new(stream_body(concatenate(head, answer.items)));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
                response
            }
            Form::Protobuf => protobuf::list(row, &meta, &answer.items)?,
            Form::Yaml => {
                let items = answer.items.iter().map(|o| super::parse_stored(&o.to_bytes())).collect::<Result<Vec<_>, _>>()?;
                let list = json!({"kind": format!("{}List", row.kind), "apiVersion": row.api_version(), "metadata": meta, "items": items});
                typed(StatusCode::OK, YAML, serde_yaml_ng::to_string(&list).map_err(status::internal)?)
            }
            Form::Metadata => {
                let items: Vec<Value> = answer.items.iter().map(|o| table::partial(o)).collect();
                let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items});
                typed(StatusCode::OK, JSON, list.to_string())
            }
            Form::Table => {
                let include = Include::parse(params.get("includeObject"))?;
                let table = table::render(row, &answer.items, include, meta, self.registry.clock.now());
                typed(StatusCode::OK, JSON, table.to_string())
            }
        })
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

/// The items of a list in pieces of about [`LIST_CHUNK`], commas between them.
fn concatenate(head: String, items: Vec<Arc<Object>>) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let mut next = 0;
    let mut head = Some(head);
    futures::stream::iter(std::iter::from_fn(move || {
        if next > items.len() {
            return None;
        }
        // Just the room that the piece takes.
        let (mut room, mut upto) = (head.as_ref().map_or(0, String::len) + 3, next);
        while let Some(item) = items.get(upto).filter(|_| room < LIST_CHUNK) {
            room += item.len_hint() + 1;
            upto += 1;
        }
        let mut piece = BytesMut::with_capacity(room);
        if let Some(head) = head.take() {
            piece.put_slice(head.as_bytes());
        }
        for item in &items[next..upto] {
            if next > 0 {
                piece.put_u8(b',');
            }
            item.write_to(&mut piece);
            next += 1;
        }
        if next < items.len() {
            return Some(Ok(piece.freeze()));
        }
        piece.put_slice(b"]}\n");
        next = items.len() + 1;
        Some(Ok(piece.freeze()))
    }))
}

fn encode_watch(
    row: Arc<Resource>,
    watch: Watch,
    form: Form,
    include: Include,
    frames: Arc<Frames>,
    now: impl Fn() -> jiff::Timestamp + Send + 'static,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    let mut first = true;
    watch.ready_chunks(EVENTS_CHUNK).map(move |events| {
        if let (Form::Json | Form::Yaml, [Ok(event)]) = (form, events.as_slice())
            && let Some((kind, object)) = event.change()
        {
            return Ok(frames.of(kind, object));
        }
        let mut out = BytesMut::new();
        for event in events {
            let (kind, object) = match &event {
                Ok(WatchEvent::Bookmark { revision, initial }) => {
                    put_bookmark(&mut out, &row, form, &revision.to_string(), *initial);
                    continue;
                }
                Ok(change) => match change.change() {
                    Some(change) => change,
                    None => continue,
                },
                Err(_) => {
                    if let Err(error) = event {
                        out.put_slice(br#"{"type":"ERROR","object":"#);
                        out.put_slice(&status::render(&status::status_of(error)));
                        out.put_slice(b"}\n");
                    }
                    continue;
                }
            };
            if matches!(form, Form::Json | Form::Yaml) {
                frames::put(&mut out, kind, object);
                continue;
            }
            out.put_slice(b"{\"type\":\"");
            out.put_slice(kind.as_bytes());
            out.put_slice(b"\",\"object\":");
            match form {
                Form::Json | Form::Yaml | Form::Protobuf => object.write_to(&mut out),
                Form::Metadata => out.put_slice(table::partial(object).to_string().as_bytes()),
                Form::Table => {
                    let meta = json!({"resourceVersion": object.revision().to_string()});
                    let mut table = table::render(&row, std::slice::from_ref(object), include, meta, now());
                    if !std::mem::take(&mut first) {
                        // Columns are told once.
                        as_map(&mut table).insert("columnDefinitions".into(), Value::Null);
                    }
                    out.put_slice(table.to_string().as_bytes());
                }
            }
            out.put_slice(b"}\n");
        }
        Ok(out.freeze())
    })
}

fn put_bookmark(out: &mut BytesMut, row: &Resource, form: Form, revision: &str, initial: bool) {
    let object = bookmark(row, form, revision, initial);
    out.put_slice(json!({"type": "BOOKMARK", "object": object}).to_string().as_bytes());
    out.put_u8(b'\n');
}

/// The object of a bookmark.
pub(super) fn bookmark(row: &Resource, form: Form, revision: &str, initial: bool) -> Value {
    let mut meta = json!({"resourceVersion": revision, "creationTimestamp": null});
    if initial {
        as_map(&mut meta).insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
    }
    match form {
        Form::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": null, "rows": []}),
        Form::Metadata => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta}),
        Form::Json | Form::Yaml | Form::Protobuf => {
            let mut object = json!({"kind": row.kind, "apiVersion": row.api_version(), "metadata": meta});
            // Typed clients want the parts that their types require.
            if row.status == StatusRule::Split {
                as_map(&mut object).insert("spec".into(), json!({}));
            }
            object
        }
    }
}

fn accept(request: &Request<Bytes>) -> &str {
    request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiates() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(negotiate(kubectl, true).unwrap(), Form::Table);
        let controller = "application/vnd.kubernetes.protobuf, application/json";
        assert_eq!(negotiate(controller, true).unwrap(), Form::Protobuf);
        assert_eq!(negotiate(controller, false).unwrap(), Form::Json);
        assert_eq!(negotiate("", true).unwrap(), Form::Json);
        assert_eq!(negotiate("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", true).unwrap(), Form::Metadata);
        assert_eq!(negotiate("text/html", true).unwrap_err().code(), Some(406));
    }
}
