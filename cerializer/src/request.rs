//! What a request names and carries: paths and keys out of its URL, parameters, bodies within bounds.
//!
//! Invariants:
//! - A body is never collected beyond its limit, and one that stops arriving is given up.
//! - A slash in a file's name cannot come in: `%2F` is refused, not read as a separator.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use bark_client::ClusterPath;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde_json::Value;
use tokio::time::timeout;

use crate::json::Object;
use crate::problem::Problem;
use crate::text;

/// Largest JSON body.
pub const JSON_SIZE_MAX: usize = 1 << 20;
/// Time between two pieces of a body.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// The path behind `prefix`, decoded.
pub fn cluster_path(uri: &Uri, prefix: &str) -> Result<ClusterPath, Problem> {
    let encoded = uri.path().strip_prefix(prefix).unwrap_or_default();
    let mut bytes = Vec::new();
    for component in encoded.split('/') {
        let name = text::decode(component)?;
        if name.contains(&b'/') || name.contains(&0) {
            return Err(Problem::invalid("a name can hold neither '/' nor NUL").path(encoded.as_bytes()));
        }
        bytes.push(b'/');
        bytes.extend_from_slice(&name);
    }
    ClusterPath::parse(&bytes).map_err(|error| Problem::from(error).path(&bytes))
}

/// The bytes a path is written with, for errors and answers.
pub fn shown(path: &ClusterPath) -> Vec<u8> {
    [b"/".as_slice(), &path.relative_to_root()].concat()
}

/// The query of a URL. What nobody asked for is an error: a misspelt parameter must not be ignored.
pub struct Parameters {
    pairs: Vec<(String, Vec<u8>)>,
}

impl Parameters {
    pub fn of(uri: &Uri) -> Result<Parameters, Problem> {
        let query = uri.query().unwrap_or_default();
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = text::decode(&value.replace('+', " "))?;
            pairs.push((name.to_string(), value));
        }
        Ok(Parameters { pairs })
    }

    pub fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let place = self.pairs.iter().position(|(known, _)| known == name)?;
        Some(self.pairs.swap_remove(place).1)
    }

    pub fn take_number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = std::str::from_utf8(&value)
            .ok()
            .and_then(|text| text.parse().ok());
        number
            .map(Some)
            .ok_or_else(|| Problem::field(name, "must be a number that fits"))
    }

    pub fn take_bool(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.take(name).as_deref() {
            None => Ok(None),
            Some(b"true" | b"") => Ok(Some(true)),
            Some(b"false") => Ok(Some(false)),
            Some(_) => Err(Problem::field(name, "must be true or false")),
        }
    }

    pub fn finish(self) -> Result<(), Problem> {
        match self.pairs.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::field(name, "no such parameter, or given twice")),
        }
    }
}

/// A body, piece by piece.
pub struct Upload {
    stream: BodyDataStream,
}

impl Upload {
    pub fn new(body: Body) -> Upload {
        Upload {
            stream: body.into_data_stream(),
        }
    }

    /// The next piece; none at the end. Errors: 408 if none arrives, 400 if the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match timeout(BODY_PAUSE_MAX, self.stream.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(Some(Err(error))) => Err(Problem::invalid(format!("the body broke off: {error}"))),
            Err(_) => Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "ETIMEDOUT",
                format!("no byte of the body for {} s", BODY_PAUSE_MAX.as_secs()),
            )),
        }
    }

    /// All of it, at most `size_max` bytes.
    pub async fn collect(mut self, headers: &HeaderMap, size_max: usize) -> Result<Bytes, Problem> {
        let too_large = || {
            let detail = format!("the body is larger than {size_max} bytes");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "EFBIG", detail)
        };
        // Refused before it is sent, where the sender says how much it will be.
        if content_length(headers).is_some_and(|length| length > size_max as u64) {
            return Err(too_large());
        }
        let mut collected = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if collected.len() + piece.len() > size_max {
                return Err(too_large());
            }
            collected.extend_from_slice(&piece);
        }
        Ok(collected.freeze())
    }
}

pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A JSON object. `Content-Type` must say so: pages of other sites can send everything else unasked.
pub async fn json_object(headers: &HeaderMap, body: Body, size_max: usize) -> Result<Object, Problem> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = content_type
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let media_type = media_type.trim().to_ascii_lowercase();
    if !matches!(
        media_type.as_str(),
        "application/json" | "application/merge-patch+json"
    ) {
        let detail = "Content-Type must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "EINVAL", detail));
    }
    let bytes = Upload::new(body).collect(headers, size_max).await?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::invalid("the body must be a JSON object")),
        Err(error) => Err(Problem::invalid(format!("the body is not JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bytes_behind_percent_signs() {
        // Goal: any name can be reached and no slash smuggled. Method: table.
        let path = |text: &str| cluster_path(&text.parse().unwrap(), "/v1/files");
        for (text, expected) in [
            ("/v1/files", b"/".as_slice()),
            ("/v1/files/", b"/"),
            ("/v1/files/a/b%20c", b"/a/b c"),
            ("/v1/files/%ff%fe", b"/\xff\xfe"),
            ("/v1/files/a+b", b"/a+b"),
        ] {
            assert_eq!(shown(&path(text).unwrap()), expected, "{text}");
        }
        for text in [
            "/v1/files/a%2Fb",
            "/v1/files/a%00",
            "/v1/files/%",
            "/v1/files/%zz",
        ] {
            assert!(path(text).is_err(), "{text}");
        }
    }

    #[test]
    fn misspelt_parameters_are_refused() {
        // Goal: `?recursiv=true` does not silently do something else. Method: known, unknown, doubled, malformed.
        let parameters = |text: &str| Parameters::of(&text.parse().unwrap()).unwrap();
        let mut known = parameters("/?limit=5&prefix=a%20b+c");
        assert_eq!(known.take_number::<u32>("limit").unwrap(), Some(5));
        assert_eq!(known.take("prefix").unwrap(), b"a b c");
        known.finish().unwrap();
        let mut doubled = parameters("/?limit=1&limit=2");
        doubled.take_number::<u32>("limit").unwrap();
        assert!(doubled.finish().is_err());
        assert!(parameters("/?recursiv=true").finish().is_err());
        assert!(parameters("/?limit=-1").take_number::<u32>("limit").is_err());
        assert!(parameters("/?recursive=1").take_bool("recursive").is_err());
    }
}
