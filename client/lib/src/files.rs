//! Files and directories by path.
//!
//! Reads walk the whole path on a node in one round trip. Changes walk to the parent first and then send one
//! request that names inodes only, so that a repetition meets the partition that remembers the first attempt,
//! whatever was renamed meanwhile.
//!
//! Invariants:
//! - Every change is one command or one namespace operation. Those that are more (`make_directories`,
//!   `remove_tree`, `copy`, large writes) say so, and leave the old or the new state of each file, never a mix.
//! - Memory does not grow with the size of a file or a directory.

mod block;
mod handle;
mod hedge;
mod listing;
mod read;
mod staged;
mod tree;
mod write;
mod xattr;

use std::collections::BTreeSet;

use bark_schema::ids::{BlockId, InodeId, NodeNumber, PartitionId};
use bark_schema::operation::{
    AttributeChange, Attributes, Command, Content, Entry, Extent, FileKind, Namespace, NewContent, NewInode,
    NodeRequest, Query, Refusal, RenameMode, Reply,
};
use bark_schema::policy::{Policy, PolicyChange};
use bark_schema::quota::{Quota, QuotaLimits};
use bark_schema::usage::{Usage, UsageQuery};
use bytes::Bytes;

pub use self::handle::FileHandle;
pub(crate) use self::hedge::Hedges;
pub use self::listing::Listing;
pub use self::read::FileReader;
pub use self::write::{FileWriter, OnlyIf};

use crate::{Client, ClusterPath, Error};

/// What a path leads to.
#[derive(Clone, Debug)]
pub struct Walked {
    pub attributes: Attributes,
    /// The directory the last component was found in.
    pub parent: InodeId,
    content: Content,
}

/// The file face of a cluster.
///
/// ```no_run
/// # async fn example(client: bark_client::Client) -> Result<(), bark_client::Error> {
/// let files = client.files();
/// files.make_directories(&"/logs/2026".parse()?, 0o755).await?;
/// files.write(&"/logs/2026/today".parse()?, "started\n".into()).await?;
/// let mut reader = files.read(&"/logs/2026/today".parse()?, ..).await?;
/// while let Some(chunk) = reader.next_chunk().await? {
///     print!("{}", String::from_utf8_lossy(&chunk));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Files {
    client: Client,
}

impl Files {
    pub(crate) fn new(client: Client) -> Files {
        Files { client }
    }

    /// Attributes; of what a last symbolic link points at.
    pub async fn stat(&self, path: &ClusterPath) -> Result<Attributes, Error> {
        Ok(self.walk(path, true, 0).await?.attributes)
    }

    /// Attributes; of a last symbolic link itself.
    pub async fn stat_link(&self, path: &ClusterPath) -> Result<Attributes, Error> {
        Ok(self.walk(path, false, 0).await?.attributes)
    }

    /// Attributes of an inode, as directory entries name it.
    pub async fn attributes(&self, inode: InodeId) -> Result<Attributes, Error> {
        let subject = inode.to_string();
        match self.client.query(inode.home(), Query::Attributes { inode }).await {
            Ok(Reply::Attributes(attributes)) => Ok(attributes),
            Ok(other) => Err(Error::protocol(subject, &other)),
            Err(failure) => Err(Error::new(subject, failure)),
        }
    }

    /// What a path and, if it is a directory, everything below it take: exactly, and without a walk. A last
    /// symbolic link is not followed; a file with several names is counted with its first.
    pub async fn usage(&self, path: &ClusterPath) -> Result<Usage, Error> {
        let attributes = self.stat_link(path).await?;
        self.usage_of(path, &attributes).await
    }

    /// What an inode takes, as [`Files::usage`]; `path` is for the error's sake.
    pub async fn usage_of(&self, path: &ClusterPath, attributes: &Attributes) -> Result<Usage, Error> {
        let directory = attributes.inode;
        let answer = if attributes.kind == FileKind::Directory {
            let request = NodeRequest::DirectoryUsage { directory };
            self.client.call(crate::session::Call::AnyNode(request)).await
        } else {
            let query = Query::Usage(UsageQuery::Total { directory });
            self.client.query(directory.home(), query).await
        };
        match answer {
            Ok(Reply::Usage(usage)) => Ok(usage),
            Ok(other) => Err(Error::protocol(path.to_string(), &other)),
            Err(failure) => Err(Error::new(path.to_string(), failure)),
        }
    }

    /// The quota a directory is under, with what is used of it.
    pub async fn quota(&self, path: &ClusterPath) -> Result<Quota, Error> {
        let directory = self.directory(path).await?;
        self.quota_of(path, directory).await
    }

    /// Limits what a directory and everything below it may take; a limit that is not given stays as it is,
    /// `u64::MAX` is no limit, and without any the quota goes.
    pub async fn set_quota(
        &self,
        path: &ClusterPath,
        bytes: Option<u64>,
        inodes: Option<u64>,
    ) -> Result<(), Error> {
        let directory = self.directory(path).await?;
        let known = self.quota_of(path, directory).await?;
        let known = match known.quota {
            Some(quota) if quota == directory => known.limits,
            _ => QuotaLimits::default(),
        };
        let limits = QuotaLimits {
            bytes: bytes.unwrap_or(known.bytes),
            inodes: inodes.unwrap_or(known.inodes),
        };
        let request = NodeRequest::SetQuota { directory, limits };
        match self.client.call(crate::session::Call::AnyNode(request)).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(Error::new(path.to_string(), failure)),
        }
    }

    async fn quota_of(&self, path: &ClusterPath, directory: InodeId) -> Result<Quota, Error> {
        let request = NodeRequest::GetQuota { directory };
        match self.client.call(crate::session::Call::AnyNode(request)).await {
            Ok(Reply::Quota(quota)) => Ok(quota),
            Ok(other) => Err(Error::protocol(path.to_string(), &other)),
            Err(failure) => Err(Error::new(path.to_string(), failure)),
        }
    }

    /// Changes how what is made in a directory from now on is cut and where it goes. What is there already keeps its
    /// own policy, directories too. Answers the policy of the directory now.
    pub async fn set_policy(&self, path: &ClusterPath, change: PolicyChange) -> Result<Policy, Error> {
        let inode = self.directory(path).await?;
        check_policy(path, &change)?;
        let change = AttributeChange {
            policy: change,
            ..AttributeChange::default()
        };
        let command = Command::SetAttributes { inode, change };
        match self.client.command(inode.home(), command).await {
            Ok(Reply::Attributes(attributes)) => Ok(attributes.policy),
            Ok(other) => Err(Error::protocol(path.to_string(), &other)),
            Err(failure) => Err(Error::new(path.to_string(), failure)),
        }
    }

    async fn directory(&self, path: &ClusterPath) -> Result<InodeId, Error> {
        let attributes = self.stat(path).await?;
        match attributes.kind {
            FileKind::Directory => Ok(attributes.inode),
            _ => Err(Error::refused(path.to_string(), Refusal::NotDirectory)),
        }
    }

    /// The entries of a directory, in an order of its own, page by page.
    pub async fn list(&self, path: &ClusterPath) -> Result<Listing, Error> {
        let attributes = self.stat(path).await?;
        if attributes.kind != FileKind::Directory {
            return Err(Error::refused(path.to_string(), Refusal::NotDirectory));
        }
        Ok(Listing::new(self.client.clone(), path.clone(), attributes.inode))
    }

    pub async fn make_directory(&self, path: &ClusterPath, mode: u32) -> Result<(), Error> {
        let Some((directory, name)) = self.parent(path).await? else {
            return Err(Error::refused(path.to_string(), Refusal::Exists));
        };
        let attributes = self.new_inode(mode);
        let operation = Namespace::MakeDirectory {
            directory,
            name,
            attributes,
        };
        self.namespace(path, operation).await
    }

    /// Makes the directory and those above it that are missing; fine if it is there.
    pub async fn make_directories(&self, path: &ClusterPath, mode: u32) -> Result<(), Error> {
        let mut missing = Vec::new();
        let mut current = path.clone();
        loop {
            match self.make_directory(&current, mode).await {
                Ok(()) => {}
                Err(error) if error.is_not_found() => match current.parent() {
                    Some(parent) => {
                        missing.push(current);
                        current = parent;
                        continue;
                    }
                    None => return Err(error),
                },
                Err(error) if error.refusal() == Some(Refusal::Exists) => {
                    if self.stat(&current).await?.kind != FileKind::Directory {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
            match missing.pop() {
                Some(next) => current = next,
                None => return Ok(()),
            }
        }
    }

    /// Removes a file or symbolic link.
    pub async fn remove_file(&self, path: &ClusterPath) -> Result<(), Error> {
        let Some((directory, name)) = self.parent(path).await? else {
            return Err(Error::refused(path.to_string(), Refusal::IsDirectory));
        };
        self.namespace(path, Namespace::Unlink { directory, name }).await
    }

    /// Removes an empty directory.
    pub async fn remove_directory(&self, path: &ClusterPath) -> Result<(), Error> {
        let Some((directory, name)) = self.parent(path).await? else {
            return Err(Error::refused(path.to_string(), Refusal::InvalidArgument));
        };
        self.namespace(path, Namespace::RemoveDirectory { directory, name })
            .await
    }

    /// Renames, replacing a file or an empty directory that is there.
    pub async fn rename(&self, from: &ClusterPath, to: &ClusterPath) -> Result<(), Error> {
        let (source, target) = futures::future::try_join(self.parent(from), self.parent(to)).await?;
        let (Some(source), Some(target)) = (source, target) else {
            return Err(Error::refused(from.to_string(), Refusal::InvalidArgument));
        };
        let operation = Namespace::Rename {
            from: entry(source),
            to: entry(target),
            mode: RenameMode::Replace,
        };
        self.namespace(from, operation).await
    }

    /// Gives a file one more name.
    pub async fn link(&self, existing: &ClusterPath, new: &ClusterPath) -> Result<(), Error> {
        let inode = self.stat_link(existing).await?.inode;
        let Some(target) = self.parent(new).await? else {
            return Err(Error::refused(new.to_string(), Refusal::Exists));
        };
        let to = entry(target);
        self.namespace(new, Namespace::Link { inode, to }).await
    }

    /// Makes a symbolic link. The target is stored as it is.
    pub async fn symlink(&self, target: impl Into<Bytes>, path: &ClusterPath) -> Result<Attributes, Error> {
        let content = NewContent::Symlink(target.into());
        let (attributes, _) = self.create_with(path, 0o777, content, true).await?;
        Ok(attributes)
    }

    pub async fn read_link(&self, path: &ClusterPath) -> Result<Bytes, Error> {
        let attributes = self.stat_link(path).await?;
        if attributes.kind != FileKind::Symlink {
            return Err(Error::refused(path.to_string(), Refusal::InvalidArgument));
        }
        let inode = attributes.inode;
        match self.query(path, inode.home(), Query::ReadLink { inode }).await? {
            Reply::Link(target) => Ok(target),
            other => Err(Error::protocol(path.to_string(), &other)),
        }
    }

    /// Changes attributes of what the path leads to, links followed.
    pub async fn set_attributes(&self, path: &ClusterPath, change: AttributeChange) -> Result<(), Error> {
        let inode = self.stat(path).await?.inode;
        self.set_inode_attributes(path, inode, change).await
    }

    /// Makes a file this long: cuts it or extends it with zeros.
    pub async fn truncate(&self, path: &ClusterPath, size: u64) -> Result<(), Error> {
        let change = AttributeChange {
            size: Some(size),
            ..AttributeChange::default()
        };
        self.set_attributes(path, change).await
    }

    /// Makes an empty file; one that is there is left as it is. Says whether it was made now.
    pub async fn create(&self, path: &ClusterPath, mode: u32) -> Result<(Attributes, bool), Error> {
        let content = NewContent::Inline(Bytes::new());
        self.create_with(path, mode, content, false).await
    }

    /// Changes attributes of an inode that is known already; `path` is for the error's sake.
    pub async fn set_inode_attributes(
        &self,
        path: &ClusterPath,
        inode: InodeId,
        change: AttributeChange,
    ) -> Result<(), Error> {
        check_policy(path, &change.policy)?;
        self.change(path, inode, Command::SetAttributes { inode, change })
            .await
    }

    /// Stores bytes as a new block, as the file's policy says, on a majority of its replicas, and describes it as the extent at
    /// `offset` of a file. Nothing refers to it before it is published.
    pub async fn store_block(
        &self,
        inode: InodeId,
        policy: Policy,
        offset: u64,
        data: Bytes,
    ) -> Result<Extent, Error> {
        let subject = inode.to_string();
        block::put(self.client.clone(), subject, inode.home(), policy, offset, data).await
    }

    /// Gives up blocks that were stored and will never be published, in whole or in part: their space is free soon.
    pub fn abandon_blocks(&self, extents: &[Extent]) {
        let blocks: Vec<BlockId> = extents.iter().map(|extent| extent.block).collect();
        let nodes: BTreeSet<NodeNumber> = extents.iter().flat_map(|extent| &extent.nodes).copied().collect();
        let nodes: Vec<NodeNumber> = nodes.into_iter().collect();
        block::abandon(&self.client, &blocks, &nodes);
    }

    /// Reads `length` bytes of an extent of a file, from `skip` on, from whichever node has them.
    pub async fn read_block(
        &self,
        inode: InodeId,
        extent: Extent,
        skip: u32,
        length: u32,
    ) -> Result<Bytes, Error> {
        block::get(self.client.clone(), inode.to_string(), extent, skip, length).await
    }

    async fn create_with(
        &self,
        path: &ClusterPath,
        mode: u32,
        content: NewContent,
        exclusive: bool,
    ) -> Result<(Attributes, bool), Error> {
        let Some((directory, name)) = self.parent(path).await? else {
            return Err(Error::refused(path.to_string(), Refusal::IsDirectory));
        };
        let command = Command::Create {
            directory,
            name,
            attributes: self.new_inode(mode),
            content,
            exclusive,
        };
        match self.client.command(directory.home(), command).await {
            Ok(Reply::Created { attributes, created }) => Ok((attributes, created)),
            Ok(other) => Err(Error::protocol(path.to_string(), &other)),
            Err(failure) => Err(Error::new(path.to_string(), failure)),
        }
    }

    /// Where part of a file's content is: inline, or in which blocks on which nodes.
    pub async fn layout(
        &self,
        path: &ClusterPath,
        offset: u64,
        length: u64,
    ) -> Result<(Attributes, Content), Error> {
        let inode = self.stat(path).await?.inode;
        let query = Query::Layout {
            inode,
            offset,
            length,
        };
        match self.query(path, inode.home(), query).await? {
            Reply::Layout { attributes, content } => Ok((attributes, content)),
            other => Err(Error::protocol(path.to_string(), &other)),
        }
    }

    async fn walk(&self, path: &ClusterPath, follow_last: bool, first_bytes: u32) -> Result<Walked, Error> {
        let request = NodeRequest::Walk {
            start: InodeId::ROOT,
            path: path.relative_to_root(),
            follow_last,
            first_bytes,
        };
        match self.client.call(crate::session::Call::AnyNode(request)).await {
            Ok(Reply::Walked {
                attributes,
                parent,
                content,
            }) => Ok(Walked {
                attributes,
                parent,
                content,
            }),
            Ok(other) => Err(Error::protocol(path.to_string(), &other)),
            Err(failure) => Err(Error::new(path.to_string(), failure)),
        }
    }

    /// The directory that holds or will hold the path's last component; none for the root.
    async fn parent(&self, path: &ClusterPath) -> Result<Option<(InodeId, Bytes)>, Error> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Ok(None);
        };
        if parent.is_root() {
            return Ok(Some((InodeId::ROOT, name.clone())));
        }
        let named = |error: Error| match error.refusal() {
            // The path the caller gave says more than its parent.
            Some(refusal) => Error::refused(path.to_string(), refusal),
            None => error,
        };
        let walked = self.walk(&parent, true, 0).await.map_err(named)?;
        if walked.attributes.kind != FileKind::Directory {
            return Err(Error::refused(path.to_string(), Refusal::NotDirectory));
        }
        Ok(Some((walked.attributes.inode, name.clone())))
    }

    async fn namespace(&self, path: &ClusterPath, operation: Namespace) -> Result<(), Error> {
        match self.client.namespace(operation).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(Error::new(path.to_string(), failure)),
        }
    }

    async fn change(&self, path: &ClusterPath, inode: InodeId, command: Command) -> Result<(), Error> {
        match self.client.command(inode.home(), command).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(Error::new(path.to_string(), failure)),
        }
    }

    async fn query(&self, path: &ClusterPath, partition: PartitionId, query: Query) -> Result<Reply, Error> {
        let result = self.client.query(partition, query).await;
        result.map_err(|failure| Error::new(path.to_string(), failure))
    }

    fn new_inode(&self, mode: u32) -> NewInode {
        let config = self.client.config();
        NewInode {
            mode: mode & 0o7777,
            owner: config.owner,
            group: config.group,
            ..NewInode::default()
        }
    }
}

/// On the wire a block size of 0 says nothing, so it must not get there.
fn check_policy(path: &ClusterPath, change: &PolicyChange) -> Result<(), Error> {
    let checked = change.check();
    checked.map_err(|failure| Error::new(path.to_string(), failure))
}

fn entry((directory, name): (InodeId, Bytes)) -> Entry {
    Entry { directory, name }
}
