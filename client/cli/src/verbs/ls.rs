//! `bark ls`: one entry a line, in byte order.

use std::ffi::OsString;

use bark_client::files::Files;
use bark_client::{Client, ClusterPath};
use bark_schema::operation::{Attributes, FileKind};
use clap::Args;

use super::cluster_paths;
use crate::output::{Output, attributes_json, mode_string, time_string};
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Ls {
    /// One line with all that matters for each entry.
    #[arg(short = 'l', long)]
    long: bool,
    /// Entries whose name starts with a dot, too.
    #[arg(short = 'a', long)]
    all: bool,
    /// Everything below, too.
    #[arg(short = 'R', long)]
    recursive: bool,
    #[arg(default_value = "/")]
    paths: Vec<OsString>,
}

impl Ls {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let paths = cluster_paths(&self.paths)?;
        let headings = self.recursive || paths.len() > 1;
        output.begin_array();
        for path in paths {
            let attributes = files.stat(&path).await?;
            if attributes.kind != FileKind::Directory {
                self.show(&files, &path, &path.to_string(), &attributes, output)
                    .await?;
                continue;
            }
            let mut unvisited = vec![path];
            while let Some(directory) = unvisited.pop() {
                if headings {
                    output.line(format_args!("{directory}:"))?;
                }
                let below = self.list(&files, &directory, output).await?;
                if self.recursive {
                    unvisited.extend(below.into_iter().rev());
                }
                if headings && !unvisited.is_empty() {
                    output.line("")?;
                }
            }
        }
        Ok(())
    }

    /// Shows a directory and answers the directories in it.
    async fn list(
        &self,
        files: &Files,
        path: &ClusterPath,
        output: &mut Output,
    ) -> Result<Vec<ClusterPath>, Problem> {
        let mut directories = Vec::new();
        let mut listing = files.list(path).await?;
        if !self.long && !output.is_json() {
            // Names alone need no attributes.
            let mut entries = Vec::new();
            while let Some(entry) = listing.next_entry().await? {
                if self.shows(&entry.name) {
                    entries.push(entry);
                }
            }
            entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            for entry in entries {
                output.bytes(&entry.name)?;
                output.bytes(b"\n")?;
                if entry.kind == FileKind::Directory && self.recursive {
                    directories.push(path.join(&entry.name));
                }
            }
            return Ok(directories);
        }
        let mut entries = Vec::new();
        loop {
            let page = listing.next_page_with_attributes().await?;
            if page.is_empty() {
                break;
            }
            entries.extend(page.into_iter().filter(|(entry, _)| self.shows(&entry.name)));
        }
        entries.sort_unstable_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        for (entry, attributes) in entries {
            let child = path.join(&entry.name);
            let name = String::from_utf8_lossy(&entry.name);
            self.show(files, &child, &name, &attributes, output).await?;
            if entry.kind == FileKind::Directory && self.recursive {
                directories.push(child);
            }
        }
        Ok(directories)
    }

    fn shows(&self, name: &[u8]) -> bool {
        self.all || !name.starts_with(b".")
    }

    async fn show(
        &self,
        files: &Files,
        path: &ClusterPath,
        name: &str,
        attributes: &Attributes,
        output: &mut Output,
    ) -> Result<(), Problem> {
        output.element(attributes_json(&path.to_string(), attributes))?;
        if !self.long || output.is_json() {
            return output.line(name);
        }
        let target = match attributes.kind {
            FileKind::Symlink => match files.read_link(path).await {
                Ok(target) => format!(" -> {}", String::from_utf8_lossy(&target)),
                Err(_) => " -> ?".into(),
            },
            _ => String::new(),
        };
        output.line(format_args!(
            "{} {:>3} {:>5} {:>5} {:>12} {} {name}{target}",
            mode_string(attributes.kind, attributes.mode),
            attributes.link_count,
            attributes.owner,
            attributes.group,
            attributes.size,
            time_string(attributes.modified),
        ))
    }
}
