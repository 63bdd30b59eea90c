//! Which form of an answer a client asks for.

use http::{HeaderMap, header};
use wharf_core::api::ApiError;
use wharf_schema::protobuf::MEDIA_TYPE;

use super::status;

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Json,
    Yaml,
    Protobuf,
}

/// What of the objects is told; with the apiVersion that it is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Whole,
    Table(&'static str),
    Metadata(&'static str),
}

/// What an answer is to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) media: Media,
    pub(super) shape: Shape,
}

impl Form {
    pub(super) const JSON: Self = Self { media: Media::Json, shape: Shape::Whole };
}

/// What there is to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Whole objects have protobuf.
    pub(super) binary: bool,
    /// A stream of events; YAML has none.
    pub(super) stream: bool,
}

/// The Accept header.
pub(super) fn accept(headers: &HeaderMap) -> &str {
    headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// Reads an Accept header: the first form that there is.
///
/// # Errors
/// 406.
pub(super) fn negotiate(accept: &str, offer: Offer) -> Result<Form, ApiError> {
    if accept.trim().is_empty() {
        return Ok(Form::JSON);
    }
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let get = |name: &str| params.iter().find(|(n, _)| *n == name).map(|(_, v)| *v).unwrap_or_default();
        let media = match media.as_str() {
            "application/json" | "*/*" | "application/*" => Media::Json,
            "application/yaml" => Media::Yaml,
            MEDIA_TYPE => Media::Protobuf,
            _ => continue,
        };
        let version = match (get("g"), get("v")) {
            ("meta.k8s.io", "v1") => Some("meta.k8s.io/v1"),
            ("meta.k8s.io", "v1beta1") => Some("meta.k8s.io/v1beta1"),
            _ => None,
        };
        let shape = match (get("as"), version) {
            ("", _) if media != Media::Protobuf || offer.binary => Shape::Whole,
            ("Table", Some(version)) if media != Media::Protobuf => Shape::Table(version),
            ("PartialObjectMetadata" | "PartialObjectMetadataList", Some(version)) => Shape::Metadata(version),
            _ => continue,
        };
        if offer.stream && media == Media::Yaml {
            break;
        }
        return Ok(Form { media, shape });
    }
    Err(if offer.stream { status::not_acceptable_stream() } else { status::not_acceptable() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_there_is_is_taken() {
        let of = |accept: &str, binary| negotiate(accept, Offer { binary, stream: false });
        let form = |media, shape| Form { media, shape };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(of(kubectl, true).unwrap(), form(Media::Json, Shape::Table("meta.k8s.io/v1")));
        let controller = "application/vnd.kubernetes.protobuf, application/json";
        assert_eq!(of(controller, true).unwrap(), form(Media::Protobuf, Shape::Whole));
        assert_eq!(of(controller, false).unwrap(), Form::JSON);
        assert_eq!(of("", true).unwrap(), Form::JSON);
        let older = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1beta1";
        assert_eq!(of(older, true).unwrap(), form(Media::Json, Shape::Metadata("meta.k8s.io/v1beta1")));
        // Metadata has protobuf whatever the kind; a table has none.
        let metadata = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(of(metadata, false).unwrap(), form(Media::Protobuf, Shape::Metadata("meta.k8s.io/v1")));
        assert_eq!(
            of("application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1, application/yaml", true).unwrap().media,
            Media::Yaml
        );
        assert_eq!(of("text/html", true).unwrap_err().code(), Some(406));
        let refused = negotiate("application/yaml", Offer { binary: true, stream: true }).unwrap_err();
        let want =
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(refused.to_string(), want);
    }
}
