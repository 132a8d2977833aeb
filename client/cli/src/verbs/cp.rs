//! `bark cp`: copies inside the cluster; the bytes pass through here.

use std::ffi::OsString;

use bark_client::files::Files;
use bark_client::{Client, ClusterPath};
use bark_schema::operation::{FileKind, Refusal};
use clap::Args;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;

use super::{FILES_AT_ONCE, cluster_path, target};
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Cp {
    from: OsString,
    /// The name of the copy, or a directory to copy into.
    to: OsString,
    /// Directories with everything below them.
    #[arg(short = 'r', long)]
    recursive: bool,
}

impl Cp {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let from = cluster_path(&self.from)?;
        let to = target(&files, cluster_path(&self.to)?, from.name().map(|name| &name[..])).await?;
        let attributes = files.stat(&from).await?;
        let count = match (attributes.kind, self.recursive) {
            (FileKind::Directory, false) => {
                return Err(Problem::failed(from, "Is a directory (use -r)"));
            }
            (FileKind::Directory, true) if from.contains(&to) => {
                return Err(Problem::failed(
                    from,
                    format_args!("Cannot be copied into itself, {to}"),
                ));
            }
            (FileKind::Directory, true) => copy_tree(&files, &from, attributes.mode, &to).await?,
            _ => files.copy(&from, &to).await.map(|()| 1)?,
        };
        output.value(json!({ "from": from.to_string(), "to": to.to_string(), "files": count }))
    }
}

async fn copy_tree(files: &Files, from: &ClusterPath, mode: u32, to: &ClusterPath) -> Result<u64, Problem> {
    let mut unvisited = vec![(from.clone(), mode, to.clone())];
    let mut on_the_way = FuturesUnordered::new();
    let mut count = 0;
    while let Some((from, mode, to)) = unvisited.pop() {
        match files.make_directory(&to, mode).await {
            Err(error) if error.refusal() == Some(Refusal::Exists) => {}
            result => result?,
        }
        let mut listing = files.list(&from).await?;
        loop {
            let page = listing.next_page_with_attributes().await?;
            if page.is_empty() {
                break;
            }
            for (entry, attributes) in page {
                let (source, place) = (from.join(&entry.name), to.join(&entry.name));
                if entry.kind == FileKind::Directory {
                    unvisited.push((source, attributes.mode, place));
                    continue;
                }
                if on_the_way.len() >= FILES_AT_ONCE
                    && let Some(done) = on_the_way.next().await
                {
                    let done: Result<(), bark_client::Error> = done;
                    done?;
                }
                count += 1;
                on_the_way.push(async move {
                    if entry.kind != FileKind::Symlink {
                        return files.copy(&source, &place).await;
                    }
                    let link = files.read_link(&source).await?;
                    files.symlink(link, &place).await.map(|_| ())
                });
            }
        }
    }
    while let Some(done) = on_the_way.next().await {
        done?;
    }
    Ok(count)
}
