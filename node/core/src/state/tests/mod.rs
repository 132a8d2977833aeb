//! Behaviour of the state, by what it holds; `equality` has the properties that must hold after anything.

mod access_time;
mod blocks;
mod data;
mod delegations;
mod equality;
mod file_locks;
mod files;
mod forest;
mod full_scan;
mod keys;
mod large;
mod opens;
mod policies;
mod posix;
mod quota;
mod sessions;
mod transactions;
mod update;
mod usage;
mod workload;

use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::limits::ORPHAN_GRACE_MS;
use bark_schema::operation::{
    Attributes, Command, Condition, Content, Expiry, Extent, Failure, FileKind, NewContent, NewInode,
    Proposal, Query, Refusal, Reply, RequestId,
};
use bytes::Bytes;

use super::State;

const SECOND: i64 = 1_000_000_000;

/// A state and its log's end.
struct Machine {
    state: State,
    time: i64,
}

impl Machine {
    fn new() -> Machine {
        Machine {
            state: State::new(PartitionId(0), 4),
            time: 1_000 * SECOND,
        }
    }

    fn now_ms(&self) -> u64 {
        (self.time / 1_000_000) as u64
    }

    fn apply(&mut self, command: Command) -> Result<Reply, Failure> {
        self.propose(None, command)
    }

    fn request(&mut self, sequence: u64, command: Command) -> Result<Reply, Failure> {
        self.propose(Some(request_id(sequence)), command)
    }

    fn propose(&mut self, id: Option<RequestId>, command: Command) -> Result<Reply, Failure> {
        let index = self.state.applied() + 1;
        self.state.apply(
            index,
            &Proposal {
                time: self.time,
                id,
                command,
            },
        )
    }

    /// Lets the grace time of inodes without a name pass.
    fn reap(&mut self) {
        self.time += ORPHAN_GRACE_MS as i64 * 1_000_000;
        self.apply(Command::ReapOrphans { limit: 100 }).unwrap();
    }

    fn query(&self, query: Query) -> Result<Reply, Failure> {
        self.state.query(self.now_ms(), &query)
    }

    fn create(&mut self, directory: InodeId, name: &str, content: &[u8]) -> InodeId {
        match self.apply(create(directory, name, content)) {
            Ok(Reply::Created {
                attributes,
                created: true,
            }) => attributes.inode,
            other => panic!("not created: {other:?}"),
        }
    }

    fn attributes(&self, inode: InodeId) -> Attributes {
        match self.query(Query::Attributes { inode }) {
            Ok(Reply::Attributes(attributes)) => attributes,
            other => panic!("no attributes: {other:?}"),
        }
    }

    fn layout(&self, inode: InodeId, offset: u64, length: u64) -> Content {
        match self.query(Query::Layout {
            inode,
            offset,
            length,
        }) {
            Ok(Reply::Layout { content, .. }) => content,
            other => panic!("no layout: {other:?}"),
        }
    }

    fn lookup(&self, directory: InodeId, name: &str) -> Result<(InodeId, FileKind), Failure> {
        match self.query(Query::Lookup {
            directory,
            name: bytes(name),
        })? {
            Reply::Entry { inode, kind, .. } => Ok((inode, kind)),
            other => panic!("not an entry: {other:?}"),
        }
    }
}

fn request_id(sequence: u64) -> RequestId {
    RequestId {
        client: ClientId(7),
        sequence,
        acknowledged_below: 0,
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn new_inode() -> NewInode {
    NewInode {
        mode: 0o100644,
        owner: 1,
        group: 2,
        ..NewInode::default()
    }
}

fn create(directory: InodeId, name: &str, content: &[u8]) -> Command {
    Command::Create {
        directory,
        name: bytes(name),
        attributes: new_inode(),
        content: NewContent::Inline(Bytes::copy_from_slice(content)),
        exclusive: true,
    }
}

fn set(key: &str, value: &str) -> Command {
    set_with(key, value, Expiry::Never, Condition::Always)
}

fn set_with(key: &str, value: &str, expiry: Expiry, condition: Condition) -> Command {
    Command::KeySet {
        key: bytes(key),
        value: bytes(value),
        expiry,
        condition,
        return_previous: true,
    }
}

fn extent(offset: u64, length: u32, block: u64) -> Extent {
    Extent {
        offset,
        length,
        block: BlockId {
            client: ClientId(7),
            counter: block,
        },
        block_offset: 0,
        block_size: length,
        checksum: 1,
        nodes: vec![NodeNumber(1), NodeNumber(2)],
    }
}

fn refusal(result: Result<impl std::fmt::Debug, Failure>) -> Refusal {
    match result {
        Err(Failure::Refused(refusal, _)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}
