//! `/v1/files/{path}`: the bytes of files.
//!
//! A file's entity tag is its inode and version. An upload is seen by nobody before all of it has arrived and
//! been stored; one that breaks off leaves the file as it was. No tag is sent after an upload: by then it
//! could be a later writer's.
//!
//! Invariants:
//! - Memory does not grow with the size of a file, in either direction.
//! - A reply's bytes are of the version its tag names; a file that changes on the way breaks the reply off.
//! - Preconditions of an upload are checked before its bytes are read and hold in the very step that makes them
//!   the file's. Those of a removal are checked just before it only: a writer in between is removed.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use bark_client::files::{FileReader, OnlyIf};
use bark_client::{Client, ClusterPath, Error};
use bark_schema::limits::FILE_SIZE_MAX;
use bark_schema::operation::{Attributes, FileKind, Refusal};
use bytes::Bytes;
use futures::Stream;

use crate::app::App;
use crate::conditions::{self, Preconditions, Range, Verdict};
use crate::problem::{Answer, Problem};
use crate::request::{self, Parameters, Upload};

const PREFIX: &str = "/v1/files";
const MODE_DEFAULT: u32 = 0o644;
/// A range of a file that keeps changing is tried this often.
const RANGE_ATTEMPTS: u32 = 4;
/// Replies up to this size do not take up room for transfers.
const SMALL_SIZE_MAX: u64 = 64 * 1024;

pub fn routes() -> MethodRouter<App> {
    get(read).put(write).delete(remove)
}

pub fn tag(attributes: &Attributes) -> String {
    format!("\"{:x}-{:x}\"", attributes.inode.0, attributes.version)
}

async fn read(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    Parameters::of(&uri)?.finish()?;
    let preconditions = Preconditions::of(&headers)?;
    let client = app.client()?;
    let named = |problem: Problem| problem.path(&request::shown(&path));
    let answered = match conditions::asks_for_range(&headers) {
        true => read_range(&app, &client, &path, &headers, &preconditions).await,
        false => read_whole(&app, &client, &path, &preconditions).await,
    };
    answered.map_err(named)
}

async fn read_whole(app: &App, client: &Client, path: &ClusterPath, preconditions: &Preconditions) -> Answer {
    let reader = client.files().read(path, ..).await?;
    let tag = tag(reader.attributes());
    if let Some(ended) = judged(preconditions, &tag)? {
        return Ok(ended);
    }
    let size = reader.attributes().size;
    let headers = file_headers(tag, size);
    Ok((headers, body(app, reader, size).await?).into_response())
}

async fn read_range(
    app: &App,
    client: &Client,
    path: &ClusterPath,
    headers: &HeaderMap,
    preconditions: &Preconditions,
) -> Answer {
    for _ in 0..RANGE_ATTEMPTS {
        let attributes = client.files().stat(path).await?;
        if attributes.kind == FileKind::Directory {
            return Err(Error::refused(path.to_string(), Refusal::IsDirectory).into());
        }
        let (tag, size) = (tag(&attributes), attributes.size);
        if let Some(ended) = judged(preconditions, &tag)? {
            return Ok(ended);
        }
        let (start, end) = match conditions::range(headers, &tag, size) {
            Range::Whole => return read_whole(app, client, path, preconditions).await,
            Range::Part { start, end } => (start, end),
            Range::Unsatisfiable => return Ok(unsatisfiable(path, size)),
        };
        let reader = client.files().read(path, start..end).await?;
        if self::tag(reader.attributes()) != tag {
            continue;
        }
        let content_range = [(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1))];
        let body = body(app, reader, end - start).await?;
        let headers = file_headers(tag, end - start);
        return Ok((StatusCode::PARTIAL_CONTENT, headers, content_range, body).into_response());
    }
    Err(Error::refused(path.to_string(), Refusal::Conflict).into())
}

fn judged(preconditions: &Preconditions, tag: &str) -> Result<Option<Response>, Problem> {
    match preconditions.judge(Some(tag)) {
        Verdict::Proceed => Ok(None),
        Verdict::NotModified => {
            let headers = [(header::ETAG, tag.to_string())];
            Ok(Some((StatusCode::NOT_MODIFIED, headers).into_response()))
        }
        Verdict::Failed => Err(Problem::precondition(format!("the entity tag is {tag}"))),
    }
}

/// What somebody stored must not run as a page of this gateway, hence the sandbox.
fn file_headers(tag: String, size: u64) -> [(HeaderName, String); 7] {
    [
        (header::ETAG, tag),
        (header::CONTENT_LENGTH, size.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".into()),
        (header::ACCEPT_RANGES, "bytes".into()),
        (header::CACHE_CONTROL, "no-cache".into()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
        (
            header::CONTENT_SECURITY_POLICY,
            "sandbox; default-src 'none'".into(),
        ),
    ]
}

fn unsatisfiable(path: &ClusterPath, size: u64) -> Response {
    let detail = format!("the file has {size} bytes");
    let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "EINVAL", detail);
    let content_range = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
    (content_range, problem.path(&request::shown(path))).into_response()
}

async fn body(app: &App, reader: FileReader, size: u64) -> Result<Body, Problem> {
    let permit = match size > SMALL_SIZE_MAX {
        true => Some(app.transfer().await?),
        false => None,
    };
    Ok(Body::from_stream(chunks(app.clone(), reader, permit)))
}

/// `room` is kept until the last byte is handed over or the reader has gone away.
fn chunks<T: Send>(app: App, reader: FileReader, room: T) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    futures::stream::try_unfold((app, reader, room), |(app, mut reader, room)| async move {
        match reader.next_chunk().await {
            Ok(None) => Ok(None),
            Ok(Some(chunk)) => {
                // Relaxed: counters order nothing.
                app.metrics()
                    .bytes_sent
                    .fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Ok(Some((chunk, (app, reader, room))))
            }
            Err(error) => {
                tracing::warn!(%error, "a download breaks off");
                Err(error)
            }
        }
    })
}

async fn write(State(app): State<App>, uri: Uri, headers: HeaderMap, request: Request) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    Parameters::of(&uri)?.finish()?;
    let shown = request::shown(&path);
    let upload = Upload::new(request.into_body());
    // A task of its own: it ends in order even when the connection does not wait for it.
    let task = tokio::spawn(async move { store(app, &path, &headers, upload).await });
    match task.await {
        Ok(result) => result.map_err(|problem| problem.path(&shown)),
        Err(_) => Err(Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "UNKNOWN",
            "the upload ended early",
        )),
    }
}

async fn store(app: App, path: &ClusterPath, headers: &HeaderMap, mut upload: Upload) -> Answer {
    if headers.contains_key(header::CONTENT_RANGE) {
        // RFC 9110, 14.5: part of a file must not be taken for all of it.
        return Err(Problem::field("content-range", "a file is replaced as a whole"));
    }
    if request::content_length(headers).is_some_and(|size| size > FILE_SIZE_MAX) {
        return Err(Error::refused(path.to_string(), Refusal::FileTooLarge).into());
    }
    let preconditions = Preconditions::of(headers)?;
    let client = app.client()?;
    let found = check(&client, path, &preconditions).await?;
    let _room = app.transfer().await?;
    let mut writer = client.files().writer(path, MODE_DEFAULT).await?;
    if !preconditions.is_empty() {
        writer = writer.only_if(match &found {
            None => OnlyIf::Absent,
            Some(Attributes { inode, version, .. }) => OnlyIf::Unchanged {
                inode: *inode,
                version: *version,
            },
        });
    }
    loop {
        let piece = match upload.next().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(problem) => {
                writer.abort().await;
                return Err(problem);
            }
        };
        // Relaxed: counters order nothing.
        app.metrics()
            .bytes_received
            .fetch_add(piece.len() as u64, Ordering::Relaxed);
        if let Err(error) = writer.write(piece).await {
            writer.abort().await;
            return Err(error.into());
        }
    }
    match writer.finish().await {
        Ok(_) if found.is_some() => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(_) => Ok(StatusCode::CREATED.into_response()),
        Err(error)
            if !preconditions.is_empty()
                && matches!(error.refusal(), Some(Refusal::Conflict | Refusal::Exists)) =>
        {
            Err(Problem::precondition(format!(
                "{path}: changed during the upload"
            )))
        }
        Err(error) => Err(error.into()),
    }
}

/// The file that is there, if it or its absence is as the request wants it.
async fn check(
    client: &Client,
    path: &ClusterPath,
    preconditions: &Preconditions,
) -> Result<Option<Attributes>, Problem> {
    let attributes = match client.files().stat(path).await {
        Ok(attributes) if attributes.kind == FileKind::Directory => {
            return Err(Error::refused(path.to_string(), Refusal::IsDirectory).into());
        }
        Ok(attributes) => Some(attributes),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    preconditions.check(attributes.as_ref().map(tag).as_deref())?;
    Ok(attributes)
}

async fn remove(State(app): State<App>, uri: Uri, headers: HeaderMap) -> Answer {
    let path = request::cluster_path(&uri, PREFIX)?;
    Parameters::of(&uri)?.finish()?;
    let preconditions = Preconditions::of(&headers)?;
    let files = app.client()?.files();
    let removed = async {
        if !preconditions.is_empty() {
            let attributes = files.stat_link(&path).await?;
            preconditions.check(Some(&tag(&attributes)))?;
        }
        files.remove_file(&path).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    removed
        .await
        .map_err(|problem: Problem| problem.path(&request::shown(&path)))
}
