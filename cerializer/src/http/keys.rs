//! `/v1/keys`: keys and values.
//!
//! A value is answered as its bytes, with its version as the entity tag and, if it expires, the time in
//! `Bark-Expires-At` (milliseconds since 1970); to `Accept: application/json` as the schema's `KeyValue`.
//! Everything behind `/v1/keys/` is the key, slashes too; the empty key has no URL.
//!
//! A value is held here as a whole while it is on its way, so large ones take up room (`app`) until they are gone.
//!
//! Invariant: preconditions travel with the change and are decided in one step with it.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use bark_client::keys::SetOptions;
use bark_client::session::Call;
use bark_client::{Client, Error};
use bark_schema::limits::KEY_SIZE_MAX;
use bark_schema::operation::{Command, Condition, Expiry, KeyValue, Refusal, Reply};
use bytes::Bytes;
use serde_json::Value;

use crate::app::App;
use crate::conditions::{Preconditions, Tags, Verdict};
use crate::json::{self, Object};
use crate::problem::{Answer, Problem};
use crate::request::{self, Parameters, Upload};
use crate::text;

const PREFIX: &str = "/v1/keys/";
const EXPIRES: &str = "bark-expires-at";
const INCREMENT: &str = "/incr";
/// Values above this size take up room.
const SMALL_SIZE_MAX: usize = 64 * 1024;
/// Largest value spelled out in JSON: as bytes it takes a tenth of the memory.
const JSON_VALUE_SIZE_MAX: usize = 8 << 20;
/// A value is handed to the connection in pieces of this size.
const PIECE_SIZE: usize = 256 * 1024;
const LIMIT_DEFAULT: u32 = 1000;
const LIMIT_MAX: u32 = bark_schema::limits::PAGE_ENTRIES_MAX;

pub fn list_routes() -> MethodRouter<App> {
    get(list)
}

pub fn routes() -> MethodRouter<App> {
    get(read).put(write).delete(remove).post(increment)
}

async fn list(State(app): State<App>, uri: Uri) -> Answer {
    let mut parameters = Parameters::of(&uri)?;
    let prefix = parameters.take("prefix").unwrap_or_default();
    let after = parameters.take("after").unwrap_or_default();
    let limit = parameters.take_number("limit")?.unwrap_or(LIMIT_DEFAULT);
    parameters.finish()?;
    if limit == 0 || limit > LIMIT_MAX {
        return Err(Problem::field("limit", &format!("must be from 1 to {LIMIT_MAX}")));
    }
    let page = app.client()?.keys().scan(&prefix, &after, limit).await?;
    let next = match page.keys.last() {
        Some(last) if page.more => {
            let (prefix, after) = (text::encode(&prefix, false), text::encode(last, false));
            format!("/v1/keys?prefix={prefix}&limit={limit}&after={after}").into()
        }
        _ => Value::Null,
    };
    let keys = page.keys.iter().map(|key| {
        let mut object = Object::new();
        text::insert(&mut object, "key", key);
        Value::Object(object)
    });
    let mut object = Object::new();
    object.insert("keys".into(), Value::Array(keys.collect()));
    object.insert("next".into(), next);
    Ok(json::respond(StatusCode::OK, object))
}

async fn read(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Answer {
    let key = key(uri.path())?;
    Parameters::of(&uri)?.finish()?;
    let preconditions = Preconditions::of(&headers)?;
    let named = |problem: Problem| problem.key(&key);
    let client = app.client()?;
    let found = {
        let _turn = app.value_read().await?;
        let found = client.keys().get(&key).await;
        found.map_err(|error| named(error.into()))?
    };
    let Some(found) = found else {
        let detail = format!("{}: No such key", String::from_utf8_lossy(&key));
        return Err(named(Problem::new(StatusCode::NOT_FOUND, "ENOENT", detail)));
    };
    let tag = format!("\"{}\"", found.version);
    match preconditions.judge(Some(&tag)) {
        Verdict::Proceed => {}
        Verdict::NotModified => return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response()),
        Verdict::Failed => return Err(named(Problem::precondition(format!("the entity tag is {tag}")))),
    }
    let mut response = match wants_json(&headers) {
        true => described(&key, &found).map_err(named)?,
        false => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'"),
            ];
            let size = [(header::CONTENT_LENGTH, found.value.len().to_string())];
            (headers, size, body(&app, found.value).await?).into_response()
        }
    };
    let headers = response.headers_mut();
    if let Ok(tag) = tag.parse() {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-cache"),
    );
    headers.insert(header::VARY, header::HeaderValue::from_static("accept"));
    if let Some(expires) = found.expires {
        headers.insert(EXPIRES, expires.into());
    }
    Ok(response)
}

/// The value in pieces, with room for it until the last is handed over or the reader has gone away.
async fn body(app: &App, value: Bytes) -> Result<Body, Problem> {
    if value.len() <= SMALL_SIZE_MAX {
        return Ok(value.into());
    }
    let room = app.value_room(value.len()).await?;
    let pieces = futures::stream::unfold((value, room), |(mut rest, room)| async move {
        let piece = rest.split_to(rest.len().min(PIECE_SIZE));
        (!piece.is_empty()).then_some((Ok::<Bytes, Infallible>(piece), (rest, room)))
    });
    Ok(Body::from_stream(pieces))
}

fn described(key: &[u8], found: &KeyValue) -> Answer {
    if found.value.len() > JSON_VALUE_SIZE_MAX {
        let detail = format!(
            "the value has {} bytes, in JSON at most {JSON_VALUE_SIZE_MAX} are answered: ask for application/octet-stream",
            found.value.len()
        );
        return Err(Problem::refused(Refusal::FileTooLarge, detail));
    }
    let mut object = json::key_value(found)?;
    text::insert(&mut object, "key", key);
    Ok(json::respond(StatusCode::OK, object))
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| {
        let mut types = accept
            .split(',')
            .map(|item| item.split(';').next().unwrap_or_default().trim());
        types.any(|media_type| media_type.eq_ignore_ascii_case("application/json"))
    })
}

async fn write(State(app): State<App>, uri: Uri, headers: HeaderMap, body: Body) -> Answer {
    let key = key(uri.path())?;
    let mut parameters = Parameters::of(&uri)?;
    let expiry = match parameters.take_number::<u64>("ttl_ms")? {
        Some(0) => return Err(Problem::field("ttl_ms", "must be at least 1")),
        Some(ttl_ms) => Expiry::After(ttl_ms),
        None => Expiry::Never,
    };
    parameters.finish()?;
    let condition = condition(&Preconditions::of(&headers)?)?;
    let client = app.client()?;
    let written = async {
        let size_max = client.keys().value_size_max();
        // Without an announced size it may become any; one that is too large is refused by `collect`.
        let announced = request::content_length(&headers).and_then(|size| usize::try_from(size).ok());
        let size = announced.unwrap_or(size_max);
        let _room = match size <= SMALL_SIZE_MAX || size > size_max {
            true => None,
            false => Some(app.value_room(size).await?),
        };
        let value = Upload::new(body).collect(&headers, size_max).await?;
        let options = SetOptions {
            expiry,
            condition,
            return_previous: false,
        };
        let outcome = client.keys().set(&key, value, options).await?;
        match outcome.applied {
            true => {
                let tag = format!("\"{}\"", outcome.version);
                Ok((StatusCode::NO_CONTENT, [(header::ETAG, tag)]).into_response())
            }
            false => Err(failed(condition)),
        }
    };
    written.await.map_err(|problem| problem.key(&key))
}

async fn remove(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Answer {
    let key = key(uri.path())?;
    Parameters::of(&uri)?.finish()?;
    let condition = condition(&Preconditions::of(&headers)?)?;
    let client = app.client()?;
    let removed = delete(&client, &key, condition).await;
    match removed.map_err(|problem| problem.key(&key))? {
        0 if condition != Condition::Always => Err(failed(condition).key(&key)),
        0 => {
            let detail = format!("{}: No such key", String::from_utf8_lossy(&key));
            Err(Problem::new(StatusCode::NOT_FOUND, "ENOENT", detail).key(&key))
        }
        _ => Ok(StatusCode::NO_CONTENT.into_response()),
    }
}

async fn delete(client: &Client, key: &[u8], condition: Condition) -> Result<u64, Problem> {
    let subject = String::from_utf8_lossy(key).into_owned();
    let call = Call::Command {
        partition: client.partition_of_key(key),
        command: Command::KeyDelete {
            keys: vec![key.to_vec().into()],
            condition,
        },
    };
    match client.call(call).await {
        Ok(Reply::Count(count)) => Ok(count),
        Ok(other) => Err(Error::protocol(subject, &other).into()),
        Err(failure) => Err(Problem::failure(&subject, failure)),
    }
}

async fn increment(State(app): State<App>, uri: Uri) -> Answer {
    let Some(path) = uri.path().strip_suffix(INCREMENT) else {
        let detail = "POST is for /v1/keys/{key}/incr";
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "EOPNOTSUPP", detail));
    };
    let key = key(path)?;
    let mut parameters = Parameters::of(&uri)?;
    let by = parameters.take_number("by")?.unwrap_or(1);
    parameters.finish()?;
    let sum = app.client()?.keys().increment(&key, by).await;
    let sum = sum.map_err(|error| Problem::from(error).key(&key))?;
    let mut object = Object::new();
    object.insert("value".into(), sum.to_string().into());
    Ok(json::respond(StatusCode::OK, object))
}

fn key(path: &str) -> Result<Vec<u8>, Problem> {
    let key = text::decode(path.strip_prefix(PREFIX).unwrap_or_default())?;
    match key.len() {
        0 => Err(Problem::invalid("the empty key cannot be named in a URL")),
        size if size > KEY_SIZE_MAX => Err(Problem::refused(
            Refusal::NameTooLong,
            format!("a key has at most {KEY_SIZE_MAX} bytes"),
        )),
        _ => Ok(key),
    }
}

/// What must hold of a key, as the cluster decides it in one step with the change.
fn condition(preconditions: &Preconditions) -> Result<Condition, Problem> {
    match (&preconditions.if_match, &preconditions.if_none_match) {
        (None, None) => Ok(Condition::Always),
        (Some(Tags::Any), None) => Ok(Condition::IfPresent),
        (None, Some(Tags::Any)) => Ok(Condition::IfAbsent),
        (Some(Tags::List(tags)), None) => match tags.as_slice() {
            [tag] => {
                let digits = tag.trim_matches('"');
                let version = digits.parse().map_err(|_| {
                    Problem::precondition(format!("{tag} is the entity tag of no version of a key"))
                })?;
                Ok(Condition::IfVersion(version))
            }
            _ => Err(Problem::field("if-match", "can name one entity tag here")),
        },
        (None, Some(Tags::List(_))) => Err(Problem::field("if-none-match", "can only be * here")),
        (Some(_), Some(_)) => Err(Problem::field(
            "if-none-match",
            "cannot be used together with if-match",
        )),
    }
}

fn failed(condition: Condition) -> Problem {
    Problem::precondition(match condition {
        Condition::IfAbsent => "the key is there",
        Condition::IfPresent => "the key is not there",
        Condition::Always | Condition::IfVersion(_) => "the key has another version or is not there",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preconditions_become_conditions_of_the_command() {
        // Goal: whatever can be decided in one step is, the rest is refused. Method: table.
        let list = |tags: &[&str]| Some(Tags::List(tags.iter().map(|tag| tag.to_string()).collect()));
        for (if_match, if_none_match, expected) in [
            (None, None, Some(Condition::Always)),
            (Some(Tags::Any), None, Some(Condition::IfPresent)),
            (None, Some(Tags::Any), Some(Condition::IfAbsent)),
            (list(&["\"7\""]), None, Some(Condition::IfVersion(7))),
            (list(&["W/\"7\""]), None, None),
            (list(&["\"x\""]), None, None),
            (list(&["\"1\"", "\"2\""]), None, None),
            (None, list(&["\"1\""]), None),
            (Some(Tags::Any), Some(Tags::Any), None),
        ] {
            let preconditions = Preconditions {
                if_match,
                if_none_match,
            };
            assert_eq!(condition(&preconditions).ok(), expected, "{preconditions:?}");
        }
    }
}
