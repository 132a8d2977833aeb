//! `bark get`: files from the cluster to here; `-` is standard output.
//!
//! A file is written beside its name first and renamed, so that an interrupted transfer leaves no half file.

use std::ffi::{OsStr, OsString};
use std::fs::{FileTimes, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bark_client::files::Files;
use bark_client::{Client, ClusterPath};
use bark_schema::operation::{Attributes, FileKind, UnixNanos};
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{FILES_AT_ONCE, cluster_path};
use crate::output::Output;
use crate::problem::Problem;
use crate::progress;

#[derive(Debug, Args)]
pub struct Get {
    path: OsString,
    /// A local file, a directory to put it into, or - for standard output.
    local: PathBuf,
    /// Directories with everything below them.
    #[arg(short = 'r', long)]
    recursive: bool,
}

impl Get {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let path = cluster_path(&self.path)?;
        if self.local.as_os_str() == "-" {
            let mut reader = files.read(&path, ..).await?;
            while let Some(chunk) = reader.next_chunk().await? {
                output.content(&chunk)?;
            }
            return Ok(());
        }
        let local = match (self.local.is_dir(), path.name()) {
            (true, Some(name)) => self.local.join(OsStr::from_bytes(name)),
            _ => self.local,
        };
        let attributes = files.stat(&path).await?;
        let is_directory = attributes.kind == FileKind::Directory;
        if is_directory && !self.recursive {
            return Err(Problem::failed(path, "Is a directory (use -r)"));
        }
        let bar = progress::bar((!is_directory).then_some(attributes.size), output.is_json());
        let count = match is_directory {
            true => get_tree(&files, &path, attributes, &local, &bar).await?,
            false => get_file(&files, &path, &local, &bar).await.map(|()| 1)?,
        };
        bar.finish_and_clear();
        output.value(json!({ "local": local.to_string_lossy(), "files": count, "bytes": bar.position() }))
    }
}

async fn get_tree(
    files: &Files,
    path: &ClusterPath,
    attributes: Attributes,
    local: &Path,
    bar: &ProgressBar,
) -> Result<u64, Problem> {
    let mut unvisited = vec![(path.clone(), attributes, local.to_path_buf())];
    let mut visited = Vec::new();
    let mut on_the_way = FuturesUnordered::new();
    let mut count = 0;
    while let Some((path, attributes, local)) = unvisited.pop() {
        std::fs::create_dir_all(&local).map_err(|error| Problem::local(&local, error))?;
        let mut listing = files.list(&path).await?;
        loop {
            let page = listing.next_page_with_attributes().await?;
            if page.is_empty() {
                break;
            }
            for (entry, attributes) in page {
                let child = path.join(&entry.name);
                let local = local.join(OsStr::from_bytes(&entry.name));
                if entry.kind == FileKind::Directory {
                    unvisited.push((child, attributes, local));
                    continue;
                }
                if on_the_way.len() >= FILES_AT_ONCE
                    && let Some(done) = on_the_way.next().await
                {
                    let done: Result<(), Problem> = done;
                    done?;
                }
                count += 1;
                on_the_way.push(async move {
                    match entry.kind {
                        FileKind::Symlink => get_link(files, &child, &local).await,
                        _ => get_file(files, &child, &local, bar).await,
                    }?;
                    bar.set_message(child.to_string());
                    Ok(())
                });
            }
        }
        visited.push((local, attributes));
    }
    while let Some(done) = on_the_way.next().await {
        done?;
    }
    // Children first, and after all files: writing into a directory changes its time, and may need its mode.
    for (local, attributes) in visited.into_iter().rev() {
        let directory = std::fs::File::open(&local);
        directory
            .and_then(|directory| take_attributes(&directory, &attributes))
            .map_err(|error| Problem::local(&local, error))?;
    }
    Ok(count)
}

async fn get_link(files: &Files, path: &ClusterPath, local: &Path) -> Result<(), Problem> {
    let link = files.read_link(path).await?;
    let failed = |error| Problem::local(local, error);
    if local.symlink_metadata().is_ok() {
        std::fs::remove_file(local).map_err(failed)?;
    }
    std::os::unix::fs::symlink(OsStr::from_bytes(&link), local).map_err(failed)
}

async fn get_file(files: &Files, path: &ClusterPath, local: &Path, bar: &ProgressBar) -> Result<(), Problem> {
    let failed = |error| Problem::local(local, error);
    let mut reader = files.read(path, ..).await?;
    let unfinished = unfinished_name(local);
    let mut file = tokio::fs::File::create(&unfinished).await.map_err(failed)?;
    let copied = async {
        while let Some(chunk) = reader.next_chunk().await? {
            file.write_all(&chunk).await.map_err(failed)?;
            bar.inc(chunk.len() as u64);
        }
        file.flush().await.map_err(failed)?;
        let file = file.into_std().await;
        take_attributes(&file, reader.attributes()).map_err(failed)?;
        std::fs::rename(&unfinished, local).map_err(failed)
    };
    let copied = copied.await;
    if copied.is_err() {
        // The first error is the one to tell; the unfinished file is named for what it is.
        let _ = std::fs::remove_file(&unfinished);
    }
    copied
}

/// `a/.NAME.bark-part-PID`.
fn unfinished_name(local: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(local.file_name().unwrap_or(OsStr::new("file")));
    name.push(format!(".bark-part-{}", std::process::id()));
    local.with_file_name(name)
}

fn take_attributes(file: &std::fs::File, attributes: &Attributes) -> std::io::Result<()> {
    file.set_permissions(Permissions::from_mode(attributes.mode & 0o777))?;
    let times = FileTimes::new()
        .set_accessed(system_time(attributes.accessed))
        .set_modified(system_time(attributes.modified));
    file.set_times(times)
}

fn system_time(nanoseconds: UnixNanos) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    match nanoseconds < 0 {
        true => SystemTime::UNIX_EPOCH - distance,
        false => SystemTime::UNIX_EPOCH + distance,
    }
}
