//! `bark stat`: all attributes; of a symbolic link itself unless told to follow.

use std::ffi::OsString;

use bark_client::Client;
use bark_schema::operation::FileKind;
use clap::Args;

use super::{cluster_paths, policy};
use crate::output::{Output, attributes_json, kind_name, mode_string, time_string};
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Stat {
    /// What a symbolic link points at instead of the link.
    #[arg(short = 'L', long)]
    follow: bool,
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Stat {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let paths = cluster_paths(&self.paths)?;
        let several = paths.len() > 1;
        for path in paths {
            let attributes = match self.follow {
                true => files.stat(&path).await?,
                false => files.stat_link(&path).await?,
            };
            let mut value = attributes_json(&path.to_string(), &attributes);
            let has_policy = matches!(attributes.kind, FileKind::Regular | FileKind::Directory);
            if has_policy {
                value["policy"] = policy::value(client, &attributes.policy);
            }
            match several {
                true => output.element(value)?,
                false => output.value(value)?,
            }
            output.line(format_args!("    path: {path}"))?;
            output.line(format_args!("    kind: {}", kind_name(attributes.kind)))?;
            let mode = mode_string(attributes.kind, attributes.mode);
            output.line(format_args!("    mode: {:04o} {mode}", attributes.mode))?;
            output.line(format_args!(
                "   owner: {}:{}",
                attributes.owner, attributes.group
            ))?;
            output.line(format_args!("    size: {}", attributes.size))?;
            output.line(format_args!("   links: {}", attributes.link_count))?;
            let home = attributes.inode.home();
            output.line(format_args!("   inode: {} ({home})", attributes.inode.0))?;
            output.line(format_args!(" version: {}", attributes.version))?;
            output.line(format_args!("accessed: {}", time_string(attributes.accessed)))?;
            output.line(format_args!("modified: {}", time_string(attributes.modified)))?;
            output.line(format_args!(" changed: {}", time_string(attributes.changed)))?;
            if has_policy {
                policy::lines(client, &attributes.policy, policy::STAT_LABEL_WIDTH, output)?;
            }
        }
        Ok(())
    }
}
