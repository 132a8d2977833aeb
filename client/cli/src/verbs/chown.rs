//! `bark chown`: owner and group, as numbers or as names of this machine.

use std::ffi::OsString;

use bark_client::Client;
use bark_schema::operation::{AttributeChange, FileKind};
use clap::Args;
use serde_json::json;
use uzers::{get_group_by_name, get_user_by_name};

use super::{cluster_paths, each_below};
use crate::output::Output;
use crate::problem::Problem;

/// Set-user and set-group bits, which a new owner must not inherit.
const SET_ID_BITS: u32 = 0o6000;

#[derive(Debug, Args)]
pub struct Chown {
    /// Everything below, too, except what symbolic links point at.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// OWNER, OWNER:GROUP or :GROUP.
    #[arg(value_parser = parse_owners)]
    owner: Owners,
    #[arg(required = true)]
    paths: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owners {
    owner: Option<u32>,
    group: Option<u32>,
}

impl Chown {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let Owners { owner, group } = self.owner;
        let paths = cluster_paths(&self.paths)?;
        output.begin_array();
        each_below(&files, paths, self.recursive, async |path, attributes| {
            let keeps_bits = attributes.kind == FileKind::Directory || attributes.mode & SET_ID_BITS == 0;
            let change = AttributeChange {
                owner,
                group,
                mode: (!keeps_bits).then_some(attributes.mode & !SET_ID_BITS),
                ..AttributeChange::default()
            };
            files.set_inode_attributes(path, attributes.inode, change).await?;
            output.element(json!({ "path": path.to_string(), "owner": owner, "group": group }))
        })
        .await
    }
}

fn parse_owners(text: &str) -> Result<Owners, String> {
    let (owner, group) = text.split_once(':').unwrap_or((text, ""));
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number != u32::MAX);
    let owner = match owner {
        "" => None,
        name => Some(
            number(name)
                .or_else(|| get_user_by_name(name).map(|user| user.uid()))
                .ok_or_else(|| format!("no user {name} on this machine"))?,
        ),
    };
    let group = match group {
        "" => None,
        name => Some(
            number(name)
                .or_else(|| get_group_by_name(name).map(|group| group.gid()))
                .ok_or_else(|| format!("no group {name} on this machine"))?,
        ),
    };
    match (owner, group) {
        (None, None) => Err("neither an owner nor a group; write OWNER, OWNER:GROUP or :GROUP".into()),
        (owner, group) => Ok(Owners { owner, group }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_names() {
        // Goal: what the local chown takes is taken. Method: table; every system has a root.
        for (text, owner, group) in [
            ("1000", Some(1000), None),
            ("root:5", Some(0), Some(5)),
            (":root", None, Some(0)),
            ("7:", Some(7), None),
        ] {
            assert_eq!(parse_owners(text), Ok(Owners { owner, group }), "{text}");
        }
        for text in ["", ":", "4294967295", "no-such-user", "0:no-such-group", "-1"] {
            assert!(parse_owners(text).is_err(), "{text}");
        }
    }
}
