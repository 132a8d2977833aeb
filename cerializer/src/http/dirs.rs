//! `/v1/dirs/{path}`: directories, page by page.
//!
//! An entry is `name`, `inode`, `kind` and the schema's `attributes`. `next` is the URL of the next page, null
//! at the end. Entries made or removed while pages are read may or may not be seen.

use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use bark_client::ClusterPath;
use bark_client::files::Files;
use bark_schema::operation::{DirectoryEntry, FileKind};
use futures::StreamExt;
use serde_json::Value;

use crate::app::App;
use crate::json::{self, Object};
use crate::problem::{Answer, Problem};
use crate::request::{self, Parameters};
use crate::text;

const PREFIX: &str = "/v1/dirs";
const LIMIT_DEFAULT: u32 = 1000;
const LIMIT_MAX: u32 = 10_000;
const MODE_DEFAULT: u32 = 0o755;
/// Attributes that the directory's partition does not have are asked for this many at a time.
const ATTRIBUTES_AT_ONCE: usize = 32;

pub fn routes() -> MethodRouter<App> {
    get(list).put(make).delete(remove)
}

async fn list(State(app): State<App>, uri: Uri) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    let mut parameters = Parameters::of(&uri)?;
    let limit = parameters.take_number("limit")?.unwrap_or(LIMIT_DEFAULT);
    let after = parameters.take("after").unwrap_or_default();
    parameters.finish()?;
    if limit == 0 || limit > LIMIT_MAX {
        return Err(Problem::field("limit", &format!("must be from 1 to {LIMIT_MAX}")));
    }
    let files = app.client()?.files();
    let page = page(&files, &path, limit as usize, after).await;
    let object = page.map_err(|problem| problem.path(&request::shown(&path)))?;
    Ok(json::respond(StatusCode::OK, object))
}

async fn page(files: &Files, path: &ClusterPath, limit: usize, after: Vec<u8>) -> Result<Object, Problem> {
    let mut listing = files.list(path).await?.after(after.into());
    let mut found = Vec::new();
    // One more than wanted tells whether there is more.
    while found.len() <= limit
        && let Some(entry) = listing.next_entry().await?
    {
        found.push(entry);
    }
    let more = found.len() > limit;
    found.truncate(limit);
    let next = match found.last() {
        Some(last) if more => {
            let path = text::encode(&request::shown(path), true);
            let after = text::encode(&last.name, false);
            format!("{PREFIX}{path}?limit={limit}&after={after}").into()
        }
        _ => Value::Null,
    };
    // The cluster lists in an order of its own, in which pages go on; people like names in order.
    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let mut described = futures::stream::iter(found)
        .map(|entry| describe(files, entry))
        .buffered(ATTRIBUTES_AT_ONCE);
    let mut entries = Vec::new();
    while let Some(entry) = described.next().await {
        if let Some(entry) = entry? {
            entries.push(Value::Object(entry));
        }
    }
    let mut object = Object::new();
    text::insert(&mut object, "path", &request::shown(path));
    object.insert("entries".into(), Value::Array(entries));
    object.insert("next".into(), next);
    Ok(object)
}

/// None for an entry that was removed meanwhile.
async fn describe(files: &Files, entry: DirectoryEntry) -> Result<Option<Object>, Problem> {
    let attributes = match entry.attributes {
        Some(attributes) => attributes,
        None => match files.attributes(entry.inode).await {
            Ok(attributes) => attributes,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        },
    };
    let attributes = json::attributes(&attributes)?;
    let mut object = Object::new();
    text::insert(&mut object, "name", &entry.name);
    for field in ["inode", "kind"] {
        object.insert(field.into(), attributes.get(field).cloned().unwrap_or_default());
    }
    object.insert("attributes".into(), Value::Object(attributes));
    Ok(Some(object))
}

async fn make(State(app): State<App>, uri: Uri) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    let mut parameters = Parameters::of(&uri)?;
    let parents = parameters.take_bool("parents")?.unwrap_or(false);
    parameters.finish()?;
    let files = app.client()?.files();
    let made = async {
        if !parents {
            files.make_directory(&path, MODE_DEFAULT).await?;
            return Ok(StatusCode::CREATED);
        }
        match files.stat(&path).await {
            Ok(attributes) if attributes.kind == FileKind::Directory => Ok(StatusCode::OK),
            _ => {
                files.make_directories(&path, MODE_DEFAULT).await?;
                Ok(StatusCode::CREATED)
            }
        }
    };
    let status = made
        .await
        .map_err(|problem: Problem| problem.path(&request::shown(&path)))?;
    let location = format!("{PREFIX}{}", text::encode(&request::shown(&path), true));
    Ok((status, [(header::LOCATION, location)]).into_response())
}

async fn remove(State(app): State<App>, uri: Uri) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    let mut parameters = Parameters::of(&uri)?;
    let recursive = parameters.take_bool("recursive")?.unwrap_or(false);
    parameters.finish()?;
    let named = |problem: Problem| problem.path(&request::shown(&path));
    if path.is_root() {
        return Err(named(Problem::invalid("the root cannot be removed")));
    }
    let files = app.client()?.files();
    let removed = async {
        if recursive {
            if files.stat_link(&path).await?.kind != FileKind::Directory {
                let refusal = bark_schema::operation::Refusal::NotDirectory;
                return Err(Problem::refused(refusal, format!("{path}: Not a directory")));
            }
            files.remove_tree(&path).await?;
        } else {
            files.remove_directory(&path).await?;
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    removed.await.map_err(named)
}
