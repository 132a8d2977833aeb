//! `bark put`: local files into the cluster; `-` is standard input.
//!
//! Permission bits, modification times and symbolic links are kept. With `-r` directories are made first and
//! FILES_AT_ONCE files are on their way at a time.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bark_client::files::Files;
use bark_client::{Client, ClusterPath};
use bark_schema::limits::BLOCK_SIZE_DEFAULT;
use bark_schema::operation::{AttributeChange, Refusal, SetTime};
use bytes::{Bytes, BytesMut};
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{FILES_AT_ONCE, cluster_path, target};
use crate::output::Output;
use crate::problem::Problem;
use crate::progress;

const MODE_OF_STREAM: u32 = 0o644;

#[derive(Debug, Args)]
pub struct Put {
    /// A local file or directory, or - for standard input.
    local: PathBuf,
    /// Where to; into it if it is a directory.
    path: OsString,
    /// Directories with everything below them.
    #[arg(short = 'r', long)]
    recursive: bool,
}

impl Put {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let path = cluster_path(&self.path)?;
        let json = output.is_json();
        if self.local.as_os_str() == "-" {
            let bar = progress::bar(None, json);
            let mut writer = files.writer(&path, MODE_OF_STREAM).await?;
            let read = copy(&mut tokio::io::stdin(), &self.local, &mut writer, &bar).await;
            end(writer, read).await?;
            return answer(output, &path, 1, bar.position());
        }
        let name = self
            .local
            .canonicalize()
            .map_err(|error| Problem::local(&self.local, error))?;
        let path = target(&files, path, name.file_name().map(OsStrExt::as_bytes)).await?;
        let metadata = std::fs::metadata(&self.local).map_err(|error| Problem::local(&self.local, error))?;
        if metadata.is_dir() && !self.recursive {
            return Err(Problem::failed(self.local.display(), "Is a directory (use -r)"));
        }
        let bar = progress::bar(metadata.is_file().then_some(metadata.len()), json);
        let count = match metadata.is_dir() {
            true => put_tree(&files, &self.local, &path, &bar).await?,
            false => put_file(&files, &self.local, &path, &bar).await.map(|()| 1)?,
        };
        bar.finish_and_clear();
        answer(output, &path, count, bar.position())
    }
}

fn answer(output: &mut Output, path: &ClusterPath, files: u64, bytes: u64) -> Result<(), Problem> {
    output.value(json!({ "path": path.to_string(), "files": files, "bytes": bytes }))
}

async fn put_tree(
    files: &Files,
    local: &Path,
    path: &ClusterPath,
    bar: &ProgressBar,
) -> Result<u64, Problem> {
    let mut unvisited = vec![(local.to_path_buf(), path.clone())];
    let mut on_the_way = FuturesUnordered::new();
    let mut count = 0;
    while let Some((local, path)) = unvisited.pop() {
        let failed = |error| Problem::local(&local, error);
        let mode = std::fs::metadata(&local).map_err(failed)?.mode();
        match files.make_directory(&path, mode).await {
            Err(error) if error.refusal() == Some(Refusal::Exists) => {}
            result => result?,
        }
        for entry in std::fs::read_dir(&local).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let child = path.join(&Bytes::copy_from_slice(entry.file_name().as_bytes()));
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                unvisited.push((entry.path(), child));
                continue;
            }
            if on_the_way.len() >= FILES_AT_ONCE
                && let Some(done) = on_the_way.next().await
            {
                count += done?;
            }
            let is_link = kind.is_symlink();
            let is_special = !kind.is_file() && !is_link;
            on_the_way.push(async move {
                let local = entry.path();
                match (is_link, is_special) {
                    (true, _) => put_link(files, &local, &child).await?,
                    (_, true) => {
                        tracing::warn!(path = %local.display(), "neither file, directory nor link: left out");
                        return Ok::<u64, Problem>(0);
                    }
                    _ => put_file(files, &local, &child, bar).await?,
                }
                bar.set_message(child.to_string());
                Ok(1)
            });
        }
    }
    while let Some(done) = on_the_way.next().await {
        count += done?;
    }
    Ok(count)
}

async fn put_link(files: &Files, local: &Path, path: &ClusterPath) -> Result<(), Problem> {
    let link = std::fs::read_link(local).map_err(|error| Problem::local(local, error))?;
    let link = Bytes::copy_from_slice(link.as_os_str().as_bytes());
    match files.symlink(link.clone(), path).await {
        Err(error) if error.refusal() == Some(Refusal::Exists) => {
            files.remove_file(path).await?;
            files.symlink(link, path).await?;
        }
        result => {
            result?;
        }
    }
    Ok(())
}

async fn put_file(files: &Files, local: &Path, path: &ClusterPath, bar: &ProgressBar) -> Result<(), Problem> {
    let failed = |error| Problem::local(local, error);
    let mut file = tokio::fs::File::open(local).await.map_err(failed)?;
    let metadata = file.metadata().await.map_err(failed)?;
    let mut writer = files.writer(path, metadata.mode()).await?;
    let read = copy(&mut file, local, &mut writer, bar).await;
    let inode = end(writer, read).await?;
    let modified = metadata
        .mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(metadata.mtime_nsec());
    let change = AttributeChange {
        mode: Some(metadata.mode() & 0o7777),
        modified: Some(SetTime::At(modified)),
        ..AttributeChange::default()
    };
    files.set_inode_attributes(path, inode, change).await?;
    Ok(())
}

async fn copy(
    reader: &mut (impl AsyncRead + Unpin),
    local: &Path,
    writer: &mut bark_client::files::FileWriter,
    bar: &ProgressBar,
) -> Result<(), Problem> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(BLOCK_SIZE_DEFAULT);
        let size = reader
            .read_buf(&mut buffer)
            .await
            .map_err(|error| Problem::local(local, error))?;
        if size == 0 {
            return Ok(());
        }
        writer.write(buffer.split().freeze()).await?;
        bar.inc(size as u64);
    }
}

async fn end(
    mut writer: bark_client::files::FileWriter,
    read: Result<(), Problem>,
) -> Result<bark_schema::ids::InodeId, Problem> {
    if let Err(problem) = read {
        writer.abort().await;
        return Err(problem);
    }
    Ok(writer.finish().await?)
}
