//! `/v1/meta/{path}`: what is known of a file, directory or link, and changes of it.
//!
//! `GET` answers the schema's `Attributes` with `path`, and with `target` for a symbolic link that is not
//! followed (`?follow=false`). `?usage=true` adds what the path and everything below it take, exactly; of a
//! directory also the quota it is under, if any. `PATCH` changes what its object names, all in one command. `POST` gives names:
//! `{"rename": "/to"}` moves the path, `{"symlink": "target"}` and `{"link": "/existing"}` make it.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use bark_client::ClusterPath;
use bark_client::files::Files;
use bark_schema::operation::{AttributeChange, Attributes, FileKind, SetTime};
use bark_schema::policy::{Allocate, PolicyChange};
use serde_json::Value;

use super::files::tag;
use crate::app::App;
use crate::json::{self, Object};
use crate::problem::{Answer, Problem};
use crate::request::{self, Parameters};
use crate::text;

const PREFIX: &str = "/v1/meta";
const MODE_MAX: u64 = 0o7777;

pub fn routes() -> MethodRouter<App> {
    get(stat).patch(change).post(name)
}

async fn stat(State(app): State<App>, uri: Uri) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    let mut parameters = Parameters::of(&uri)?;
    let follow = parameters.take_bool("follow")?.unwrap_or(true);
    let usage = parameters.take_bool("usage")?.unwrap_or(false);
    parameters.finish()?;
    let files = app.client()?.files();
    let answered = async {
        let (attributes, mut object) = describe(&files, &path, follow).await?;
        if usage {
            add_usage(&files, &path, &attributes, &mut object).await?;
        }
        Ok(respond(&attributes, object))
    };
    let answered: Answer = answered.await;
    answered.map_err(|problem| problem.path(&request::shown(&path)))
}

async fn describe(files: &Files, path: &ClusterPath, follow: bool) -> Result<(Attributes, Object), Problem> {
    let attributes = match follow {
        true => files.stat(path).await?,
        false => files.stat_link(path).await?,
    };
    let mut object = json::attributes(&attributes)?;
    text::insert(&mut object, "path", &request::shown(path));
    if attributes.kind == FileKind::Symlink {
        text::insert(&mut object, "target", &files.read_link(path).await?);
    }
    Ok((attributes, object))
}

fn respond(attributes: &Attributes, object: Object) -> Response {
    let mut response = json::respond(StatusCode::OK, object);
    if let Ok(tag) = tag(attributes).parse() {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Numbers are strings, as 64-bit integers are everywhere; a limit that is none is null.
async fn add_usage(
    files: &Files,
    path: &ClusterPath,
    attributes: &Attributes,
    object: &mut Object,
) -> Result<(), Problem> {
    let usage = files.usage_of(path, attributes).await?;
    let usage = serde_json::json!({
        "bytes": usage.bytes.to_string(),
        "stored": usage.stored.to_string(),
        "inodes": usage.inodes.to_string(),
    });
    object.insert("usage".into(), usage);
    if attributes.kind != FileKind::Directory {
        return Ok(());
    }
    let quota = files.quota(path).await?;
    if let Some(directory) = quota.quota {
        let limit = |limit: u64| (limit != u64::MAX).then(|| limit.to_string());
        let quota = serde_json::json!({
            "inode": directory.0.to_string(),
            "bytes": limit(quota.limits.bytes),
            "inodes": limit(quota.limits.inodes),
            "usedBytes": quota.used_bytes.to_string(),
            "usedInodes": quota.used_inodes.to_string(),
        });
        object.insert("quota".into(), quota);
    }
    Ok(())
}

async fn change(State(app): State<App>, uri: Uri, headers: HeaderMap, body: Body) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    Parameters::of(&uri)?.finish()?;
    let change = attribute_change(request::json_object(&headers, body, request::JSON_SIZE_MAX).await?)?;
    let files = app.client()?.files();
    let changed = async {
        files.set_attributes(&path, change).await?;
        let (attributes, object) = describe(&files, &path, true).await?;
        Ok(respond(&attributes, object))
    };
    let changed: Answer = changed.await;
    changed.map_err(|problem| problem.path(&request::shown(&path)))
}

fn attribute_change(mut object: Object) -> Result<AttributeChange, Problem> {
    let change = AttributeChange {
        mode: number(&mut object, "mode", MODE_MAX)?.map(|mode| mode as u32),
        owner: number(&mut object, "owner", u32::MAX.into())?.map(|owner| owner as u32),
        group: number(&mut object, "group", u32::MAX.into())?.map(|group| group as u32),
        size: number(&mut object, "size", bark_schema::limits::FILE_SIZE_MAX)?,
        accessed: time(&mut object, "accessed")?.map(SetTime::At),
        modified: time(&mut object, "modified")?.map(SetTime::At),
        policy: policy_change(&mut object)?,
    };
    if object.contains_key("xattrs") {
        let detail = "xattrs: extended attributes are not there yet";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "EOPNOTSUPP", detail));
    }
    match object.keys().next() {
        Some(field) => Err(Problem::field(
            field,
            "is none of mode, owner, group, size, accessed, modified, blockSize, replicas, allocate",
        )),
        None if change == AttributeChange::default() => Err(Problem::invalid("nothing to change")),
        None => Ok(change),
    }
}

/// What a directory says of the files made in it: `blockSize`, `replicas` (0: as many as the cluster keeps), `allocate`.
fn policy_change(object: &mut Object) -> Result<PolicyChange, Problem> {
    let number = |object: &mut Object, field| {
        let number = number(object, field, u32::MAX.into())?;
        Ok::<_, Problem>(number.map(|number| number as u32))
    };
    Ok(PolicyChange {
        block_size: number(object, "blockSize")?,
        replicas: number(object, "replicas")?,
        allocate: match object.remove("allocate") {
            None => None,
            Some(allocate) => match allocate.as_str() {
                Some("ring") => Some(Allocate::Ring),
                Some("roundRobin") => Some(Allocate::RoundRobin),
                Some("leastUsed") => Some(Allocate::LeastUsed),
                _ => {
                    return Err(Problem::field(
                        "allocate",
                        "must be ring, roundRobin or leastUsed",
                    ));
                }
            },
        },
    })
}

/// A number, or a string of digits as 64-bit integers are written.
fn number(object: &mut Object, field: &str, max: u64) -> Result<Option<u64>, Problem> {
    let number = match object.remove(field) {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(digits)) => digits.parse().ok(),
        Some(_) => None,
    };
    match number {
        Some(number) if number <= max => Ok(Some(number)),
        _ => Err(Problem::field(
            field,
            &format!("must be an integer from 0 to {max}"),
        )),
    }
}

fn time(object: &mut Object, field: &str) -> Result<Option<i64>, Problem> {
    let time = match object.remove(field) {
        None => return Ok(None),
        Some(Value::Number(number)) => number.as_i64(),
        Some(Value::String(digits)) => digits.parse().ok(),
        Some(_) => None,
    };
    match time {
        Some(time) => Ok(Some(time)),
        None => Err(Problem::field(
            field,
            "must be nanoseconds since 1970 as a string",
        )),
    }
}

async fn name(State(app): State<App>, uri: Uri, headers: HeaderMap, body: Body) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    Parameters::of(&uri)?.finish()?;
    let mut object = request::json_object(&headers, body, request::JSON_SIZE_MAX).await?;
    let rename = text::take(&mut object, "rename")?;
    let link = text::take(&mut object, "link")?;
    let symlink = text::take(&mut object, "symlink")?;
    if let Some(field) = object.keys().next() {
        return Err(Problem::field(field, "is none of rename, link, symlink"));
    }
    let files = app.client()?.files();
    let named = async {
        match (rename, link, symlink) {
            (Some(to), None, None) => {
                let to = absolute(&to, "rename")?;
                files.rename(&path, &to).await?;
                Ok((StatusCode::OK, location(&to)).into_response())
            }
            (None, Some(existing), None) => {
                files.link(&absolute(&existing, "link")?, &path).await?;
                Ok((StatusCode::CREATED, location(&path)).into_response())
            }
            (None, None, Some(target)) if target.is_empty() || target.contains(&0) => {
                Err(Problem::field("symlink", "must be neither empty nor contain NUL"))
            }
            (None, None, Some(target)) => {
                files.symlink(target, &path).await?;
                Ok((StatusCode::CREATED, location(&path)).into_response())
            }
            _ => Err(Problem::invalid("one of rename, link and symlink must be there")),
        }
    };
    let answered: Result<Response, Problem> = named.await;
    answered.map_err(|problem| problem.path(&request::shown(&path)))
}

fn absolute(text: &[u8], field: &str) -> Result<ClusterPath, Problem> {
    match text.starts_with(b"/") {
        true => Ok(ClusterPath::parse(text)?),
        false => Err(Problem::field(
            field,
            "must be a path from the root, with a slash in front",
        )),
    }
}

fn location(path: &ClusterPath) -> [(header::HeaderName, String); 1] {
    let path = text::encode(&request::shown(path), true);
    [(header::LOCATION, format!("{PREFIX}{path}"))]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attribute_changes_are_checked_field_by_field() {
        // Goal: nothing is changed that was not understood. Method: sound changes, then one fault each.
        let change = |value: Value| match value {
            Value::Object(object) => attribute_change(object),
            other => panic!("{other}"),
        };
        let sound =
            change(json!({"mode": 0o600, "size": "1099511627776", "modified": "-5", "owner": 7})).unwrap();
        assert_eq!(
            (sound.mode, sound.owner, sound.group),
            (Some(0o600), Some(7), None)
        );
        assert_eq!(
            (sound.size, sound.modified),
            (Some(1 << 40), Some(SetTime::At(-5)))
        );
        let policy = change(json!({"blockSize": 65536, "replicas": 0, "allocate": "leastUsed"})).unwrap();
        let expected = PolicyChange {
            block_size: Some(65_536),
            replicas: Some(0),
            allocate: Some(Allocate::LeastUsed),
        };
        assert_eq!(policy.policy, expected);
        for faulty in [
            json!({}),
            json!({"mode": 0o10000}),
            json!({"mode": -1}),
            json!({"mode": 1.5}),
            json!({"owner": "4294967296"}),
            json!({"size": true}),
            json!({"modified": "soon"}),
            json!({"replicas": -1}),
            json!({"blockSize": "64K"}),
            json!({"allocate": "round-robin"}),
            json!({"allocate": 1}),
            json!({"mood": 1}),
            json!({"mode": 1, "xattrs": {}}),
        ] {
            assert!(change(faulty.clone()).is_err(), "{faulty}");
        }
    }
}
