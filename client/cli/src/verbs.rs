//! The verbs, one file each, and what they share: cluster paths from arguments, targets inside directories.

mod cat;
mod chmod;
mod chown;
mod cp;
mod df;
mod doctor;
mod du;
mod explain;
mod gc;
mod get;
mod key;
mod ln;
mod locate;
mod ls;
mod mkdir;
pub(crate) mod mount;
mod mv;
mod node;
mod nodes;
mod partitions;
mod policy;
mod put;
mod quota;
mod rm;
mod scrub;
mod stat;
mod status;
mod touch;
mod tree;
mod truncate;
pub(crate) mod umount;
mod xattr;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use bark_client::files::Files;
use bark_client::{Client, ClusterPath};
use bark_schema::operation::{Attributes, FileKind};
use bytes::Bytes;
use clap::Subcommand;

use crate::output::Output;
use crate::problem::Problem;

/// Files on their way at once in recursive transfers.
const FILES_AT_ONCE: usize = 16;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List a directory.
    Ls(ls::Ls),
    /// Show all attributes of files.
    Stat(stat::Stat),
    /// Write files to standard output.
    Cat(cat::Cat),
    /// Copy local files into the cluster.
    Put(put::Put),
    /// Copy files from the cluster to here.
    Get(get::Get),
    /// Make directories.
    Mkdir(mkdir::Mkdir),
    /// Remove files, or with -r directories.
    Rm(rm::Rm),
    /// Rename or move.
    Mv(mv::Mv),
    /// Copy inside the cluster.
    Cp(cp::Cp),
    /// Give a file another name, or with -s make a symbolic link.
    Ln(ln::Ln),
    /// Change permission bits.
    Chmod(chmod::Chmod),
    /// Change owner and group.
    Chown(chown::Chown),
    /// Set modification times to now, making files that are not there.
    Touch(touch::Touch),
    /// Make files this long, cutting them or adding zeros.
    Truncate(truncate::Truncate),
    /// Work with extended attributes.
    #[command(subcommand)]
    Xattr(xattr::Xattr),
    /// Show a directory and everything below it.
    Tree(tree::Tree),
    /// Show what the cluster stores and what its disks have left.
    Df(df::Df),
    /// Show what directories take, with everything below them.
    Du(du::Du),
    /// Limit what directories take, with everything below them.
    #[command(subcommand)]
    Quota(quota::Quota),
    /// Say how the files of directories are cut into blocks, and where those go.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Mount the cluster on a directory.
    Mount(mount::Mount),
    /// Unmount it.
    Umount(umount::Umount),
    /// Work with keys.
    #[command(subcommand)]
    Key(key::Key),
    /// Show how the cluster is.
    Status(status::Status),
    /// List the nodes.
    Nodes(nodes::Nodes),
    /// Take a node out of leading, or let one back in with another disk.
    #[command(subcommand)]
    Node(node::Node),
    /// List the partitions with their leaders.
    Partitions(partitions::Partitions),
    /// Say where a path or key lives.
    Locate(locate::Locate),
    /// Check that everything the cluster keeps agrees.
    Doctor(doctor::Doctor),
    /// Do something once and show where its time went.
    Explain(explain::Explain),
    /// Read every copy of every block, name the bad ones and wait until they are made anew.
    Scrub(scrub::Scrub),
    /// Show blocks that nobody needs, and drop those that may go.
    Gc(gc::Gc),
}

impl Verb {
    /// The verb's name in error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Ls(_) => "ls",
            Verb::Stat(_) => "stat",
            Verb::Cat(_) => "cat",
            Verb::Put(_) => "put",
            Verb::Get(_) => "get",
            Verb::Mkdir(_) => "mkdir",
            Verb::Rm(_) => "rm",
            Verb::Mv(_) => "mv",
            Verb::Cp(_) => "cp",
            Verb::Ln(_) => "ln",
            Verb::Chmod(_) => "chmod",
            Verb::Chown(_) => "chown",
            Verb::Touch(_) => "touch",
            Verb::Truncate(_) => "truncate",
            Verb::Xattr(verb) => verb.name(),
            Verb::Tree(_) => "tree",
            Verb::Df(_) => "df",
            Verb::Du(_) => "du",
            Verb::Quota(verb) => verb.name(),
            Verb::Policy(verb) => verb.name(),
            Verb::Mount(_) => "mount",
            Verb::Umount(_) => "umount",
            Verb::Key(verb) => verb.name(),
            Verb::Status(_) => "status",
            Verb::Nodes(_) => "nodes",
            Verb::Node(verb) => verb.name(),
            Verb::Partitions(_) => "partitions",
            Verb::Locate(_) => "locate",
            Verb::Doctor(_) => "doctor",
            Verb::Explain(_) => "explain",
            Verb::Scrub(_) => "scrub",
            Verb::Gc(_) => "gc",
        }
    }

    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        match self {
            Verb::Ls(verb) => verb.run(client, output).await,
            Verb::Stat(verb) => verb.run(client, output).await,
            Verb::Cat(verb) => verb.run(client, output).await,
            Verb::Put(verb) => verb.run(client, output).await,
            Verb::Get(verb) => verb.run(client, output).await,
            Verb::Mkdir(verb) => verb.run(client, output).await,
            Verb::Rm(verb) => verb.run(client, output).await,
            Verb::Mv(verb) => verb.run(client, output).await,
            Verb::Cp(verb) => verb.run(client, output).await,
            Verb::Ln(verb) => verb.run(client, output).await,
            Verb::Chmod(verb) => verb.run(client, output).await,
            Verb::Chown(verb) => verb.run(client, output).await,
            Verb::Touch(verb) => verb.run(client, output).await,
            Verb::Truncate(verb) => verb.run(client, output).await,
            Verb::Xattr(verb) => verb.run(client, output).await,
            Verb::Tree(verb) => verb.run(client, output).await,
            Verb::Df(verb) => verb.run(client, output).await,
            Verb::Du(verb) => verb.run(client, output).await,
            Verb::Quota(verb) => verb.run(client, output).await,
            Verb::Policy(verb) => verb.run(client, output).await,
            // They have no use for a client and are run before there is one.
            Verb::Mount(_) | Verb::Umount(_) => Ok(()),
            Verb::Key(verb) => verb.run(client, output).await,
            Verb::Status(verb) => verb.run(client, output).await,
            Verb::Nodes(verb) => verb.run(client, output).await,
            Verb::Node(verb) => verb.run(client, output).await,
            Verb::Partitions(verb) => verb.run(client, output).await,
            Verb::Locate(verb) => verb.run(client, output).await,
            Verb::Doctor(verb) => verb.run(client, output).await,
            Verb::Explain(verb) => verb.run(client, output).await,
            Verb::Scrub(verb) => verb.run(client, output).await,
            Verb::Gc(verb) => verb.run(client, output).await,
        }
    }
}

/// A path as the user wrote it; relative ones are taken from `/`.
fn cluster_path(text: &OsStr) -> Result<ClusterPath, Problem> {
    Ok(ClusterPath::parse(text.as_bytes())?)
}

fn cluster_paths(texts: &[OsString]) -> Result<Vec<ClusterPath>, Problem> {
    texts.iter().map(|text| cluster_path(text)).collect()
}

/// What is at these paths, in turn, and with `recursive` all below; a directory before what is in it.
async fn each_below(
    files: &Files,
    paths: Vec<ClusterPath>,
    recursive: bool,
    mut act: impl AsyncFnMut(&ClusterPath, Attributes) -> Result<(), Problem>,
) -> Result<(), Problem> {
    for path in paths {
        // A path that was named leads through a link; links below do not, as they may lead anywhere.
        let attributes = files.stat(&path).await?;
        let is_directory = attributes.kind == FileKind::Directory;
        act(&path, attributes).await?;
        let mut unvisited = if recursive && is_directory {
            vec![path]
        } else {
            Vec::new()
        };
        while let Some(directory) = unvisited.pop() {
            let mut listing = files.list(&directory).await?;
            loop {
                let page = listing.next_page_with_attributes().await?;
                if page.is_empty() {
                    break;
                }
                for (entry, attributes) in page {
                    let child = directory.join(&entry.name);
                    match attributes.kind {
                        FileKind::Symlink => continue,
                        FileKind::Directory => unvisited.push(child.clone()),
                        _ => {}
                    }
                    act(&child, attributes).await?;
                }
            }
        }
    }
    Ok(())
}

/// Where something called `name` goes: into `path` if that is a directory, else to `path` itself.
async fn target(files: &Files, path: ClusterPath, name: Option<&[u8]>) -> Result<ClusterPath, Problem> {
    let Some(name) = name else {
        return Ok(path);
    };
    match files.stat(&path).await {
        Ok(attributes) if attributes.kind == FileKind::Directory => {
            Ok(path.join(&Bytes::copy_from_slice(name)))
        }
        Ok(_) => Ok(path),
        Err(error) if error.is_not_found() => Ok(path),
        Err(error) => Err(error.into()),
    }
}
