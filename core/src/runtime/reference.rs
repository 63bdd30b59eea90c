//! The names of images.

use std::fmt;
use std::str::FromStr;

/// Longest registry and repository together, in bytes.
pub const MAX_NAME: usize = 255;
/// Longest tag, in bytes.
pub const MAX_TAG: usize = 128;

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_LEGACY: &str = "index.docker.io";
const OFFICIAL: &str = "library";
const LATEST: &str = "latest";

/// Why a name is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image reference {given:?}: {message}")]
pub struct InvalidReference {
    /// What was given.
    pub given: String,
    /// What is wrong with it, and what would be right.
    pub message: &'static str,
}

/// The name of an image, normalised as Docker and containerd do: `nginx` is `docker.io/library/nginx:latest`.
///
/// The grammar is that of the reference implementation (github.com/distribution/reference). It is read by hand: the same
/// grammar as a regular expression takes 8 MB of memory for as long as the process lives.
///
/// ```
/// use wharf_core::runtime::ImageReference;
///
/// let image: ImageReference = "nginx:1.27".parse()?;
/// assert_eq!((image.registry(), image.repository(), image.tag()), ("docker.io", "library/nginx", Some("1.27")));
/// assert_eq!(image.to_string(), "docker.io/library/nginx:1.27");
/// # Ok::<(), wharf_core::runtime::InvalidReference>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageReference {
    /// The registry's host and port.
    pub fn registry(&self) -> &str {
        &self.registry
    }
    /// The repository in the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }
    /// The tag; `None` where only a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }
    /// The digest, with its algorithm.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }
    /// The same repository by digest alone.
    pub fn at_digest(&self, digest: impl Into<String>) -> Self {
        Self { tag: None, digest: Some(digest.into()), ..self.clone() }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageReference {
    type Err = InvalidReference;

    fn from_str(given: &str) -> Result<Self, InvalidReference> {
        let invalid = |message| InvalidReference { given: given.to_owned(), message };
        if given.is_empty() {
            return Err(invalid("it is empty; name an image, as in docker.io/library/nginx:1.27"));
        }
        if given.len() == 64 && given.bytes().all(is_hex) {
            return Err(invalid("64 hexadecimal digits are an image's id, not its name"));
        }
        let (name, digest) = match given.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (given, None),
        };
        // A colon after the last slash begins a tag; one before it, a port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
            _ => (DOCKER_HUB, name.to_owned()),
        };
        let registry = if registry == DOCKER_HUB_LEGACY { DOCKER_HUB } else { registry };
        let official = registry == DOCKER_HUB && !repository.contains('/');
        let repository = if official { format!("{OFFICIAL}/{repository}") } else { repository };
        if !valid_registry(registry) {
            return Err(invalid("the part before the first slash is not the host of a registry"));
        }
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(invalid("repository name must be lowercase"));
        }
        if !repository.split('/').all(valid_component) {
            return Err(invalid("a repository is words of a-z and 0-9, with '.', '_', '__' or '-' inside, between slashes"));
        }
        if registry.len() + 1 + repository.len() > MAX_NAME {
            return Err(invalid("repository name must not be more than 255 characters"));
        }
        if !tag.is_none_or(valid_tag) {
            return Err(invalid("a tag is 1 to 128 of a-z, A-Z, 0-9, '_', '.' and '-', and begins with none of the last two"));
        }
        if !digest.is_none_or(valid_digest) {
            return Err(invalid("a digest is an algorithm and hexadecimal digits, as in sha256: and 64 of them"));
        }
        let tag = tag.or(if digest.is_none() { Some(LATEST) } else { None });
        Ok(Self { registry: registry.to_owned(), repository, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// Whether the first of several parts names a registry and not a folder of Docker Hub.
fn is_registry(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost" || part.bytes().any(|b| b.is_ascii_uppercase())
}

fn valid_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if !port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        let all = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        all && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    })
}

/// Alphanumeric words with a `.`, `_`, `__` or any number of `-` between them.
fn valid_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|b| word(*b)) || !bytes.last().is_some_and(|b| word(*b)) {
        return false;
    }
    bytes.split(|b| word(*b)).all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
}

fn valid_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG && text.bytes().next().is_some_and(word) && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn valid_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let wanted = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == wanted && hex.bytes().all(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_normalised_as_docker_does() {
        for (given, normal) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("Upper/a", "Upper/a:latest"),
            ("localhost:5000/a/b:V1", "localhost:5000/a/b:V1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("wharf.local/demo:v1", "wharf.local/demo:v1"),
            ("a__b_c---d/e.f", "docker.io/a__b_c---d/e.f:latest"),
            ("sha256:abc", "docker.io/library/sha256:abc"),
        ] {
            let reference: ImageReference = given.parse().unwrap();
            assert_eq!(reference.to_string(), normal);
            assert_eq!(normal.parse(), Ok(reference), "what is normal stays as it is");
        }
        for (given, normal) in [("nginx", "docker.io/library/nginx"), ("nginx:1", "docker.io/library/nginx:1")] {
            assert_eq!(format!("{given}@{DIGEST}").parse::<ImageReference>().unwrap().to_string(), format!("{normal}@{DIGEST}"));
        }
        let nginx: ImageReference = "nginx:1".parse().unwrap();
        assert_eq!(nginx.at_digest(DIGEST).to_string(), format!("docker.io/library/nginx@{DIGEST}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        let upper = DIGEST.to_uppercase();
        for bad in [
            "",
            "Nginx",
            "a b",
            "nginx:",
            "nginx:-a",
            "nginx@",
            "nginx@sha256:12",
            "nginx@md5:0",
            "a//b",
            "/a",
            "a/",
            "a:b:c",
            "../x",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "-x.y/a",
            "x.y:z/a",
            "x.y/A",
            "a\n",
            "é",
            &long,
            &format!("a:{long}"),
            &DIGEST[7..],
            &format!("a@{upper}"),
        ] {
            let refused = bad.parse::<ImageReference>().unwrap_err();
            assert!(refused.given == bad && !refused.message.is_empty(), "{bad:?}");
        }
    }
}
