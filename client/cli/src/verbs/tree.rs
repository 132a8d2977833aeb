//! `bark tree`: a directory and everything below it, drawn.

use std::ffi::OsString;

use bark_client::{Client, ClusterPath};
use bark_schema::operation::FileKind;
use clap::Args;
use serde_json::json;

use super::cluster_path;
use crate::output::{Output, kind_name};
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Tree {
    /// Entries whose name starts with a dot, too.
    #[arg(short = 'a', long)]
    all: bool,
    #[arg(default_value = "/")]
    path: OsString,
}

/// A line yet to be drawn.
struct Branch {
    path: ClusterPath,
    kind: FileKind,
    /// What is drawn before the children of its parent.
    indent: String,
    last: bool,
}

impl Tree {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let root = cluster_path(&self.path)?;
        output.begin_array();
        output.line(&root)?;
        let (mut directories, mut others) = (0_u64, 0_u64);
        let mut branches = self.children(client, &root, "").await?;
        while let Some(branch) = branches.pop() {
            let (elbow, below) = match branch.last {
                true => ("└── ", "    "),
                false => ("├── ", "│   "),
            };
            let name = branch
                .path
                .name()
                .map(|name| String::from_utf8_lossy(name))
                .unwrap_or_default();
            output.line(format_args!("{}{elbow}{name}", branch.indent))?;
            output.element(json!({ "path": branch.path.to_string(), "kind": kind_name(branch.kind) }))?;
            if branch.kind != FileKind::Directory {
                others += 1;
                continue;
            }
            directories += 1;
            let indent = format!("{}{below}", branch.indent);
            branches.extend(self.children(client, &branch.path, &indent).await?);
        }
        output.line(format_args!("\n{directories} directories, {others} files"))
    }

    /// In reverse, so that the first one is popped first.
    async fn children(
        &self,
        client: &Client,
        path: &ClusterPath,
        indent: &str,
    ) -> Result<Vec<Branch>, Problem> {
        let mut listing = client.files().list(path).await?;
        let mut branches = Vec::new();
        while let Some(entry) = listing.next_entry().await? {
            if self.all || !entry.name.starts_with(b".") {
                branches.push(Branch {
                    path: path.join(&entry.name),
                    kind: entry.kind,
                    indent: indent.into(),
                    last: false,
                });
            }
        }
        branches.reverse();
        if let Some(last) = branches.first_mut() {
            last.last = true;
        }
        Ok(branches)
    }
}
