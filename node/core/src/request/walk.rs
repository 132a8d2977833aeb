//! Following a path, and reading what is at its end, in one round trip of the client.

use std::collections::VecDeque;

use bark_schema::ids::InodeId;
use bark_schema::limits;
use bark_schema::operation::{Content, Failure, FileKind, ListPosition, Query, Refusal, Reply};
use bytes::Bytes;

use super::unexpected;
use crate::worker::gateway::Gateway;

/// Walks `path` from `start`. Symbolic links are followed, the last component's only if `follow_last`.
pub async fn walk(
    gateway: &Gateway,
    start: InodeId,
    path: Bytes,
    follow_last: bool,
    first_bytes: u32,
) -> Result<Reply, Failure> {
    let mut names = VecDeque::new();
    let mut current = start;
    let mut parent = start;
    push_front(&mut names, &path)?;
    if path.first() == Some(&b'/') {
        current = InodeId::ROOT;
        parent = InodeId::ROOT;
    }
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name.as_ref() == b".." {
            current = parent_of(gateway, current).await?;
            parent = current;
            continue;
        }
        let (inode, kind) = lookup(gateway, current, &name).await?;
        if kind == FileKind::Symlink && (follow_last || !names.is_empty()) {
            links += 1;
            if links > limits::SYMLINKS_MAX {
                return Err(Failure::refused(
                    Refusal::TooManySymlinks,
                    "Too many levels of symbolic links",
                ));
            }
            let target = read_link(gateway, inode).await?;
            push_front(&mut names, &target)?;
            if target.first() == Some(&b'/') {
                current = InodeId::ROOT;
            }
            continue;
        }
        parent = current;
        current = inode;
    }
    let query = Query::Layout {
        inode: current,
        offset: 0,
        length: u64::from(first_bytes),
    };
    match gateway.query(current.home(), query).await {
        Ok(Reply::Layout { attributes, content }) => Ok(Reply::Walked {
            attributes,
            parent,
            content,
        }),
        Ok(other) => Err(unexpected(&other)),
        // Directories and links have attributes but no content.
        Err(Failure::Refused(Refusal::IsDirectory | Refusal::InvalidArgument, _)) => {
            match gateway
                .query(current.home(), Query::Attributes { inode: current })
                .await?
            {
                Reply::Attributes(attributes) => Ok(Reply::Walked {
                    attributes,
                    parent,
                    content: Content::Inline(Bytes::new()),
                }),
                other => Err(unexpected(&other)),
            }
        }
        Err(failure) => Err(failure),
    }
}

/// Puts the components of `path` before those still to be walked.
fn push_front(names: &mut VecDeque<Bytes>, path: &Bytes) -> Result<(), Failure> {
    if path.len() > limits::PATH_SIZE_MAX {
        let sentence = format!("paths have at most {} bytes", limits::PATH_SIZE_MAX);
        return Err(Failure::refused(Refusal::NameTooLong, sentence));
    }
    let components = path
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    let mut added = Vec::new();
    for component in components {
        if component.len() > limits::NAME_SIZE_MAX {
            let sentence = format!("names have at most {} bytes", limits::NAME_SIZE_MAX);
            return Err(Failure::refused(Refusal::NameTooLong, sentence));
        }
        added.push(path.slice_ref(component));
    }
    for component in added.into_iter().rev() {
        names.push_front(component);
    }
    Ok(())
}

async fn lookup(gateway: &Gateway, directory: InodeId, name: &Bytes) -> Result<(InodeId, FileKind), Failure> {
    match gateway
        .query(
            directory.home(),
            Query::Lookup {
                directory,
                name: name.clone(),
            },
        )
        .await?
    {
        Reply::Entry { inode, kind, .. } => Ok((inode, kind)),
        other => Err(unexpected(&other)),
    }
}

async fn read_link(gateway: &Gateway, inode: InodeId) -> Result<Bytes, Failure> {
    match gateway.query(inode.home(), Query::ReadLink { inode }).await? {
        Reply::Link(target) => Ok(target),
        other => Err(unexpected(&other)),
    }
}

async fn parent_of(gateway: &Gateway, directory: InodeId) -> Result<InodeId, Failure> {
    let query = Query::ReadDirectory {
        directory,
        after: ListPosition::Start,
        limit: 1,
    };
    match gateway.query(directory.home(), query).await? {
        Reply::Directory { parent, .. } => Ok(parent),
        other => Err(unexpected(&other)),
    }
}
