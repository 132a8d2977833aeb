//! Following a path with the authority of whoever asks.
//!
//! Without confinement the core walks, in one request. Below a directory the walk is done here, component by
//! component, as after a chroot: absolute paths and absolute links start at the session's directory, and `..`
//! never leads out of it.
//!
//! Invariants:
//! - A confined walk only ever stands on the session's directory or on something below it.

use std::collections::VecDeque;

use bark_schema::ids::InodeId;
use bark_schema::limits;
use bark_schema::operation::{
    Attributes, Failure, FileKind, ListPosition, NodeRequest, Query, Refusal, Reply,
};
use bytes::Bytes;

use super::authority::{Authority, unexpected};

/// Steps up to the root before the tree counts as deeper than any.
const DEPTH_MAX: u32 = 4096;

/// Walks `path` from `start`; slashes in front mean nothing.
pub async fn walk(
    authority: &Authority,
    start: InodeId,
    path: &[u8],
    follow_last: bool,
) -> Result<Attributes, Failure> {
    if path.len() > limits::PATH_SIZE_MAX {
        let sentence = format!("paths have at most {} bytes", limits::PATH_SIZE_MAX);
        return Err(Failure::refused(Refusal::NameTooLong, sentence));
    }
    let leading = path.iter().take_while(|byte| **byte == b'/').count();
    let path = &path[leading..];
    if authority.confined {
        let inode = confined(authority, start, path, follow_last).await?;
        return attributes(authority, inode).await;
    }
    let path = Bytes::copy_from_slice(path);
    match authority
        .ask(NodeRequest::Walk {
            start,
            path,
            follow_last,
            first_bytes: 0,
        })
        .await?
    {
        Reply::Walked { attributes, .. } => Ok(attributes),
        other => Err(unexpected(&other)),
    }
}

pub async fn attributes(authority: &Authority, inode: InodeId) -> Result<Attributes, Failure> {
    match authority.query(inode.home(), Query::Attributes { inode }).await? {
        Reply::Attributes(attributes) => Ok(attributes),
        other => Err(unexpected(&other)),
    }
}

async fn confined(
    authority: &Authority,
    start: InodeId,
    path: &[u8],
    follow_last: bool,
) -> Result<InodeId, Failure> {
    let mut names = components(path)?;
    let mut current = start;
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name.as_ref() == b".." {
            current = above(authority, current).await?;
            continue;
        }
        let (inode, kind) = match authority
            .query(
                current.home(),
                Query::Lookup {
                    directory: current,
                    name,
                },
            )
            .await?
        {
            Reply::Entry { inode, kind, .. } => (inode, kind),
            other => return Err(unexpected(&other)),
        };
        if kind != FileKind::Symlink || (names.is_empty() && !follow_last) {
            current = inode;
            continue;
        }
        links += 1;
        if links > limits::SYMLINKS_MAX {
            return Err(Failure::refused(
                Refusal::TooManySymlinks,
                "Too many levels of symbolic links",
            ));
        }
        let target = match authority.query(inode.home(), Query::ReadLink { inode }).await? {
            Reply::Link(target) => target,
            other => return Err(unexpected(&other)),
        };
        if target.first() == Some(&b'/') {
            current = authority.root;
        }
        let mut before = components(&target)?;
        before.append(&mut names);
        names = before;
    }
    Ok(current)
}

/// The directory above, which must be the session's own or below it.
async fn above(authority: &Authority, directory: InodeId) -> Result<InodeId, Failure> {
    if directory == authority.root {
        return Ok(directory);
    }
    let parent = parent_of(authority, directory).await?;
    let mut ancestor = parent;
    // The directory may have been moved out since it was reached: only a way up to the root proves it has not.
    for _ in 0..DEPTH_MAX {
        if ancestor == authority.root {
            return Ok(parent);
        }
        if ancestor == InodeId::ROOT {
            break;
        }
        ancestor = parent_of(authority, ancestor).await?;
    }
    Err(Failure::refused(
        Refusal::PermissionDenied,
        "the directory is no longer inside the session's",
    ))
}

async fn parent_of(authority: &Authority, directory: InodeId) -> Result<InodeId, Failure> {
    let query = Query::ReadDirectory {
        directory,
        after: ListPosition::Start,
        limit: 1,
    };
    match authority.query(directory.home(), query).await? {
        Reply::Directory { parent, .. } => Ok(parent),
        other => Err(unexpected(&other)),
    }
}

fn components(path: &[u8]) -> Result<VecDeque<Bytes>, Failure> {
    let names = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    names
        .map(|name| {
            if name.len() > limits::NAME_SIZE_MAX {
                let sentence = format!("names have at most {} bytes", limits::NAME_SIZE_MAX);
                return Err(Failure::refused(Refusal::NameTooLong, sentence));
            }
            Ok(Bytes::copy_from_slice(name))
        })
        .collect()
}
