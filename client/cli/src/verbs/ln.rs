//! `bark ln`: one more name for a file, or a symbolic link.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use bark_client::Client;
use bytes::Bytes;
use clap::Args;
use serde_json::json;

use super::{cluster_path, target};
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Ln {
    /// A symbolic link, which stores TARGET as it is written.
    #[arg(short = 's', long)]
    symbolic: bool,
    target: OsString,
    /// The new name, or a directory for a name like the target's.
    link: OsString,
}

impl Ln {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let existing = cluster_path(&self.target)?;
        let name = existing.name().map(|name| &name[..]);
        let link = target(&files, cluster_path(&self.link)?, name).await?;
        match self.symbolic {
            true => {
                let target = Bytes::copy_from_slice(self.target.as_bytes());
                files.symlink(target, &link).await?;
            }
            false => files.link(&existing, &link).await?,
        }
        let target = self.target.to_string_lossy();
        output.value(json!({ "target": target, "path": link.to_string() }))
    }
}
