//! What the mount asks of the cluster, one function a request, by inode.
//!
//! What this mount decides or knows by itself (`delegations`) does not leave it. Next in the flow for the rest: `asking`, which
//! has the policy for failures; `blocks` has the requests for blocks.

mod asking;
mod blocks;

use std::sync::Arc;
use std::time::Instant;

use bark_client::Client;
use bark_client::session::Call;
use bark_schema::access_time::Access;
use bark_schema::data::{Allocation, Copied, DataCommand, DataQuery, FileUpdate, SeekTarget};
use bark_schema::file_lock::{LockCommand, LockQuery};
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{
    AttributeChange, Attributes, ClusterStatus, Command, Condition, Content, DirectoryEntry, Entry, Extent,
    Failure, ListPosition, Namespace, NewContent, NewInode, NodeRequest, PartitionStatus, Query, Refusal,
    Reply, Xattr,
};
use bark_schema::quota::Quota;
use bytes::Bytes;

pub use self::asking::Patience;
use self::asking::note_answer;
use crate::block_cache::BlockCache;
use crate::delegations::{Delegations, Haste, Known, Listed};
use crate::lock_table::LockTable;

#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    client: Client,
    patience: Patience,
    pub(crate) delegations: Arc<Delegations>,
    locks: Arc<LockTable>,
    blocks: Arc<BlockCache>,
}

/// One page of a directory.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<DirectoryEntry>,
    pub(crate) more: bool,
    pub(crate) parent: InodeId,
}

impl Cluster {
    /// `delegates`: changes may be told to be done before they are in the cluster.
    pub(crate) fn new(client: Client, patience: Patience, delegates: bool) -> Cluster {
        let locks = Arc::new(LockTable::default());
        Cluster {
            delegations: Delegations::new(client.clone(), locks.clone(), delegates),
            client,
            patience,
            locks,
            blocks: Arc::new(BlockCache::new()),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn locks(&self) -> &LockTable {
        &self.locks
    }

    /// To a client that lost locks the answer is `Fenced`; what is to be done then, the caller knows.
    pub(crate) async fn change_locks(
        &self,
        partition: PartitionId,
        command: LockCommand,
    ) -> Result<Reply, Failure> {
        let command = Command::Lock(command);
        self.ask(Call::Command { partition, command }).await
    }

    pub(crate) async fn query_locks(
        &self,
        partition: PartitionId,
        query: LockQuery,
    ) -> Result<Reply, Failure> {
        let query = Query::Lock(query);
        self.ask(Call::Query { partition, query }).await
    }

    pub(crate) async fn lookup(&self, directory: InodeId, name: Bytes) -> Result<Attributes, Failure> {
        match self.delegations.lookup(directory, &name).await {
            Known::Attributes(attributes) => return Ok(*attributes),
            Known::Nothing => return Err(Failure::refused(Refusal::NotFound, "no such file or directory")),
            Known::Inode(inode) => return self.attributes(inode).await,
            Known::Unknown => {}
        }
        let asked = self.delegations.ask(directory);
        let answer = self.ask_name(directory, name.clone()).await;
        self.delegations.learn_name((directory, name), asked, &answer);
        answer
    }

    async fn ask_name(&self, directory: InodeId, name: Bytes) -> Result<Attributes, Failure> {
        let query = Query::Lookup { directory, name };
        match self.query(directory.home(), query).await? {
            Reply::Entry {
                attributes: Some(attributes),
                ..
            } => Ok(attributes),
            Reply::Entry { inode, .. } => self.attributes(inode).await,
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn attributes(&self, inode: InodeId) -> Result<Attributes, Failure> {
        if let Some(attributes) = self.delegations.attributes(inode).await {
            return Ok(attributes);
        }
        self.delegations.settle_changes_of(inode).await;
        let asked = self.delegations.ask(inode);
        let attributes = attributes_of(self.query(inode.home(), Query::Attributes { inode }).await?)?;
        self.delegations.learn(asked, &attributes);
        Ok(attributes)
    }

    pub(crate) async fn read_link(&self, inode: InodeId) -> Result<Bytes, Failure> {
        match self.query(inode.home(), Query::ReadLink { inode }).await? {
            Reply::Link(target) => Ok(target),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn read_directory(
        &self,
        directory: InodeId,
        after: ListPosition,
        limit: u32,
    ) -> Result<Page, Failure> {
        if let Some(page) = self.list_here(directory, &after, limit as usize).await {
            return Ok(page);
        }
        self.delegations.settle_changes_of(directory).await;
        let moves = self.delegations.moves();
        let query = Query::ReadDirectory {
            directory,
            after,
            limit,
        };
        match self.query(directory.home(), query).await? {
            Reply::Directory {
                entries,
                more,
                parent,
            } => {
                self.delegations.learn_parent(directory, parent, moves);
                Ok(Page {
                    entries,
                    more,
                    parent,
                })
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn list_here(&self, directory: InodeId, after: &ListPosition, limit: usize) -> Option<Page> {
        let unknown = match self.delegations.list(directory, after, limit).await? {
            Listed::Page(page) => return Some(page),
            Listed::Unknown(names) => names,
        };
        let asked = unknown.into_iter().map(|name| self.lookup(directory, name));
        futures::future::join_all(asked).await;
        match self.delegations.list(directory, after, limit).await? {
            Listed::Page(page) => Some(page),
            Listed::Unknown(_) => None,
        }
    }

    /// Where the bytes from `offset` on are, and the attributes of that moment.
    pub(crate) async fn layout(
        &self,
        inode: InodeId,
        offset: u64,
        length: u64,
    ) -> Result<(Attributes, Content), Failure> {
        if offset == 0
            && let Some(known) = self.delegations.read(inode)
        {
            return Ok(known);
        }
        self.delegations.settle_changes_of(inode).await;
        let query = Query::Layout {
            inode,
            offset,
            length,
        };
        match self.query(inode.home(), query).await? {
            Reply::Layout { attributes, content } => Ok((attributes, content)),
            other => Err(unexpected(&other)),
        }
    }

    /// A new inode under a name; or, unless `exclusive`, the regular file that has it. Says whether it is new.
    pub(crate) async fn create(
        &self,
        entry: Entry,
        attributes: NewInode,
        content: NewContent,
        exclusive: bool,
    ) -> Result<(Attributes, bool), Failure> {
        let decided = self
            .delegations
            .create(&entry, &attributes, &content, exclusive)
            .await;
        if let Some(decided) = decided {
            return decided;
        }
        let home = entry.directory.home();
        let command = Command::Create {
            directory: entry.directory,
            name: entry.name.clone(),
            attributes,
            content,
            exclusive,
        };
        match self.command(home, command).await {
            Ok(Reply::Created { attributes, created }) => Ok((attributes, created)),
            Ok(other) => Err(unexpected(&other)),
            // The name is taken by a file that is at home elsewhere.
            Err(Failure::CrossPartition) => Ok((self.lookup(entry.directory, entry.name).await?, false)),
            Err(failure) => Err(failure),
        }
    }

    pub(crate) async fn make_directory(
        &self,
        entry: Entry,
        attributes: NewInode,
    ) -> Result<Attributes, Failure> {
        let Entry { directory, name } = entry;
        let operation = Namespace::MakeDirectory {
            directory,
            name,
            attributes,
        };
        match self.namespace(operation).await? {
            Reply::Created { attributes, .. } => {
                self.delegations.made_directory(attributes.inode);
                Ok(attributes)
            }
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn namespace(&self, operation: Namespace) -> Result<Reply, Failure> {
        let decided = match &operation {
            Namespace::Unlink { directory, name } => {
                let entry = Entry {
                    directory: *directory,
                    name: name.clone(),
                };
                self.delegations.unlink(&entry).await
            }
            Namespace::Rename { from, to, mode } => self.delegations.rename(from, to, *mode).await,
            _ => None,
        };
        if let Some(decided) = decided {
            return decided.map(|()| Reply::Done);
        }
        let removed = match &operation {
            Namespace::RemoveDirectory { directory, name } => Some((*directory, name.clone())),
            Namespace::Rename { to, .. } => Some((to.directory, to.name.clone())),
            _ => None,
        };
        let prepare = async {
            if let Some((directory, name)) = removed
                && self.delegations.has_any()
                && let Some(inode) = self.inode_of(directory, name).await
            {
                self.delegations.removes(inode).await;
            }
        };
        let ((), touched) = tokio::join!(prepare, self.delegations.touch_by_operation(&operation));
        let reply = self.call(Call::Namespace(operation)).await;
        note_answer(touched, &reply);
        reply
    }

    /// Where a name leads, if anywhere, asking for no more than that.
    async fn inode_of(&self, directory: InodeId, name: Bytes) -> Option<InodeId> {
        match self.delegations.lookup(directory, &name).await {
            Known::Inode(inode) => Some(inode),
            Known::Attributes(attributes) => Some(attributes.inode),
            Known::Nothing => None,
            Known::Unknown => self.lookup(directory, name).await.ok().map(|found| found.inode),
        }
    }

    pub(crate) async fn set_attributes(
        &self,
        inode: InodeId,
        change: AttributeChange,
    ) -> Result<Attributes, Failure> {
        let command = Command::SetAttributes { inode, change };
        attributes_of(self.command(inode.home(), command).await?)
    }

    /// Bytes and attributes of one inode, at once.
    pub(crate) async fn update(&self, update: FileUpdate, haste: Haste) -> Result<Attributes, Failure> {
        if let Some(decided) = self.delegations.update(&update, haste).await {
            return decided;
        }
        attributes_of(
            self.data(update.inode, DataCommand::Update(Box::new(update)))
                .await?,
        )
    }

    /// Appends at most WRITE_SIZE_MAX bytes in one log entry: behind where the file ends then.
    pub(crate) async fn append(&self, inode: InodeId, data: Bytes) -> Result<Attributes, Failure> {
        let command = DataCommand::Write {
            inode,
            offset: None,
            data,
        };
        attributes_of(self.data(inode, command).await?)
    }

    pub(crate) async fn allocate(
        &self,
        inode: InodeId,
        offset: u64,
        length: u64,
        how: Allocation,
        keep_size: bool,
    ) -> Result<Attributes, Failure> {
        let command = DataCommand::Allocate {
            inode,
            offset,
            length,
            how,
            keep_size,
        };
        attributes_of(self.data(inode, command).await?)
    }

    /// Copies by sharing blocks; `CrossPartition` where it cannot.
    pub(crate) async fn copy_range(
        &self,
        from: (InodeId, u64),
        to: (InodeId, u64),
        length: u64,
    ) -> Result<Copied, Failure> {
        let command = DataCommand::CopyRange {
            from: from.0,
            from_offset: from.1,
            to: to.0,
            to_offset: to.1,
            length,
        };
        match self.data(to.0, command).await? {
            Reply::Copied(copied) => Ok(copied),
            other => Err(unexpected(&other)),
        }
    }

    /// The next data or hole at or after `offset`.
    pub(crate) async fn seek(&self, inode: InodeId, offset: u64, target: SeekTarget) -> Result<u64, Failure> {
        let query = Query::Data(DataQuery::Seek {
            inode,
            offset,
            target,
        });
        match self.query(inode.home(), query).await? {
            Reply::Count(place) => Ok(place),
            other => Err(unexpected(&other)),
        }
    }

    async fn data(&self, inode: InodeId, command: DataCommand) -> Result<Reply, Failure> {
        self.command(inode.home(), Command::Data(command)).await
    }

    /// Lays extents, in order and apart, over what the file has. It grows to `size` if it was shorter. `Conflict`
    /// if its content is of another version than the one given.
    pub(crate) async fn publish(
        &self,
        inode: InodeId,
        extents: Vec<Extent>,
        size: u64,
        base_version: Option<u64>,
    ) -> Result<Attributes, Failure> {
        let command = Command::Publish {
            inode,
            extents,
            size,
            replace_all: false,
            base_version,
        };
        attributes_of(self.command(inode.home(), command).await?)
    }

    pub(crate) async fn xattr(&self, inode: InodeId, name: Bytes) -> Result<Bytes, Failure> {
        match self.query(inode.home(), Query::XattrGet { inode, name }).await? {
            Reply::Xattr(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn xattrs(&self, inode: InodeId) -> Result<Vec<Bytes>, Failure> {
        match self.query(inode.home(), Query::XattrList { inode }).await? {
            Reply::Xattrs(names) => Ok(names),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn set_xattr(
        &self,
        inode: InodeId,
        xattr: Xattr,
        condition: Condition,
        mode: Option<u32>,
    ) -> Result<Attributes, Failure> {
        let command = Command::XattrSet {
            inode,
            xattr,
            condition,
            mode,
        };
        attributes_of(self.command(inode.home(), command).await?)
    }

    pub(crate) async fn remove_xattr(&self, inode: InodeId, name: Bytes) -> Result<Attributes, Failure> {
        let command = Command::XattrRemove { inode, name };
        attributes_of(self.command(inode.home(), command).await?)
    }

    /// Tells what is open here from now on and what no longer is. Says whether the lease had not run out.
    pub(crate) async fn update_opens(
        &self,
        partition: PartitionId,
        opened: Vec<InodeId>,
        closed: Vec<InodeId>,
        lease_ms: u32,
    ) -> Result<bool, Failure> {
        let command = Command::UpdateOpens {
            client: self.client.id(),
            opened,
            closed,
            lease_ms,
        };
        let asked_at = Instant::now();
        match self.command(partition, command).await? {
            Reply::Opens { renewed, .. } => {
                self.delegations.lease_answered(partition, asked_at, renewed);
                Ok(renewed)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Tells of reads of inodes of one partition.
    pub(crate) async fn move_access_times(
        &self,
        partition: PartitionId,
        accesses: Vec<Access>,
    ) -> Result<(), Failure> {
        let command = Command::MoveAccessTimes { accesses };
        match self.command(partition, command).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn cluster_status(&self) -> Result<ClusterStatus, Failure> {
        match self.call(Call::AnyNode(NodeRequest::ClusterStatus)).await? {
            Reply::Cluster(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }

    /// The quota a directory is under.
    pub(crate) async fn quota(&self, directory: InodeId) -> Result<Quota, Failure> {
        match self
            .call(Call::AnyNode(NodeRequest::GetQuota { directory }))
            .await?
        {
            Reply::Quota(quota) => Ok(quota),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn partition_status(&self, partition: PartitionId) -> Result<PartitionStatus, Failure> {
        match self.query(partition, Query::PartitionStatus).await? {
            Reply::Partition(status) => Ok(status),
            other => Err(unexpected(&other)),
        }
    }
}

fn attributes_of(reply: Reply) -> Result<Attributes, Failure> {
    match reply {
        Reply::Attributes(attributes) => Ok(attributes),
        other => Err(unexpected(&other)),
    }
}

/// A reply of a kind that does not answer the request: the node is of another version or broken.
pub(crate) fn unexpected(reply: &Reply) -> Failure {
    let mut shown = format!("{reply:?}");
    shown.truncate(shown.floor_char_boundary(120));
    Failure::Busy(format!("unexpected answer: {shown}"))
}
