//! How many words a message takes at most, so that it is built in one segment.
//!
//! The numbers are generous and not exact: too much costs the clearing of a few words, too little
//! makes a frame of two segments, which is as valid.

use crate::data::{DataCommand, DataQuery, NewBytes};
use crate::delegation::DelegationCommand;
use crate::message::{ClientMessage, PeerMessage, RaftMessage, ServerMessage};
use crate::operation::{
    Command, Content, Extent, Failure, ListPosition, Namespace, NewContent, NewInode, NodeRequest, Proposal,
    Query, Reply, Request, Step,
};
use crate::repair::RowEdit;
use crate::usage::UsageCommand;

/// The fixed parts of any message: root, envelope, ids and the largest variant.
const FIXED_WORDS: usize = 64;
/// An extent with its list of nodes.
const EXTENT_WORDS: usize = 10;
/// A directory entry with attributes, less its name.
const DIRECTORY_ENTRY_WORDS: usize = 21;
const STEP_WORDS: usize = 20;
const STATUS_WORDS: usize = 20;
const BLOCK_ID_WORDS: usize = 2;
/// Of a bad copy, an orphan, a row of the ledger or a file of a block, with the block.
const UPKEEP_ROW_WORDS: usize = 9;
/// With its block.
const COPY_CHANGE_WORDS: usize = 4;
const ACCESS_WORDS: usize = 2;
const PACKED_PIECE_WORDS: usize = 10;
const TRANSACTION_ID_WORDS: usize = 3;
const USAGE_REPORT_WORDS: usize = 7;
const SPAN_WORDS: usize = 6;
const AUDIT_FAULT_WORDS: usize = 9;
const AUDIT_NAME_WORDS: usize = 4;
const AUDIT_BLOCK_WORDS: usize = 7;
const AUDIT_TRANSACTION_WORDS: usize = 7;
const ROW_EDIT_WORDS: usize = 4;
/// Of an update, with its change of attributes and less its bytes.
const UPDATE_WORDS: usize = 20;
/// A query or command inside another.
const NESTED_WORDS: usize = 16;

pub fn peer_words(message: &PeerMessage) -> usize {
    FIXED_WORDS
        + match message {
            PeerMessage::Hello(hello) => data(hello.cluster.as_bytes()),
            PeerMessage::Raft(messages) => messages.iter().map(raft).sum(),
            PeerMessage::Heartbeats(heartbeats) => heartbeats
                .iter()
                .map(|heartbeat| 8 + data(&heartbeat.context))
                .sum(),
            PeerMessage::Request { request: asked, .. } => request(asked),
            PeerMessage::Reply { result, .. } => answer(result),
            PeerMessage::SnapshotChunk(chunk) => {
                let nodes = chunk.metadata.voters.len() + chunk.metadata.learners.len();
                data(&chunk.data) + nodes
            }
            PeerMessage::SnapshotProgress { .. } | PeerMessage::Standing(_) => 0,
        }
}

pub fn client_words(message: &ClientMessage) -> usize {
    FIXED_WORDS
        + match message {
            ClientMessage::Login { token, .. } => data(token),
            ClientMessage::Request { request: asked, .. } => request(asked),
        }
}

pub fn server_words(message: &ServerMessage) -> usize {
    FIXED_WORDS
        + match message {
            ServerMessage::Welcome(Ok(welcome)) => {
                let nodes = welcome.nodes.iter();
                data(welcome.cluster.as_bytes())
                    + nodes
                        .map(|node| 8 + (node.id.len() + node.capnp.len() + node.zone.len()) / 8)
                        .sum::<usize>()
            }
            ServerMessage::Welcome(Err(why)) => failure(why),
            ServerMessage::Reply { result, .. } => answer(result),
        }
}

pub fn proposal_words(proposal: &Proposal) -> usize {
    FIXED_WORDS + command(&proposal.command)
}

/// Bytes, their padding and a pointer.
fn data(bytes: &[u8]) -> usize {
    bytes.len().div_ceil(8) + 2
}

fn list<'a>(items: impl IntoIterator<Item = &'a bytes::Bytes>) -> usize {
    items.into_iter().map(|bytes| data(bytes)).sum()
}

fn raft(message: &RaftMessage) -> usize {
    let entries = message.entries.iter();
    24 + data(&message.context)
        + message
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| 6 + snapshot.voters.len() + snapshot.learners.len())
        + entries
            .map(|entry| 6 + data(&entry.data) + data(&entry.context))
            .sum::<usize>()
}

fn request(request: &Request) -> usize {
    match request {
        Request::Query { query: asked, .. } => query(asked),
        Request::Command { command: asked, .. } => command(asked),
        Request::Namespace { operation, .. } => match operation {
            Namespace::MakeDirectory { name, attributes, .. } => data(name) + new_inode(attributes),
            Namespace::RemoveDirectory { name, .. } | Namespace::Unlink { name, .. } => data(name),
            Namespace::Rename { from, to, .. } => data(&from.name) + data(&to.name),
            Namespace::Link { to, .. } => data(&to.name),
            Namespace::KeySetMany { pairs, .. } => pairs
                .iter()
                .map(|(_, key, value)| 2 + data(key) + data(value))
                .sum(),
            Namespace::KeyDeleteMany { keys, .. } => keys.iter().map(|(_, key)| 2 + data(key)).sum(),
        },
        Request::Node(request) => match request {
            NodeRequest::Walk { path, .. } => data(path),
            NodeRequest::BlockPut {
                data: bytes,
                replicas,
                ..
            } => data(bytes) + replicas.len(),
            NodeRequest::BlockDelete { blocks } | NodeRequest::BlocksMissing { blocks } => {
                blocks.len() * BLOCK_ID_WORDS
            }
            NodeRequest::BlockFetch { from, .. } => from.len(),
            NodeRequest::Traced { request: asked } => FIXED_WORDS + self::request(asked),
            NodeRequest::BlockGet { .. }
            | NodeRequest::BlockVerify { .. }
            | NodeRequest::Scrub { .. }
            | NodeRequest::Orphans { .. }
            | NodeRequest::BlockList { .. }
            | NodeRequest::BlockAudit { .. }
            | NodeRequest::BlockCompact
            | NodeRequest::DirectoryUsage { .. }
            | NodeRequest::SetQuota { .. }
            | NodeRequest::GetQuota { .. }
            | NodeRequest::Drain { .. }
            | NodeRequest::Admit { .. }
            | NodeRequest::ClusterStatus => 0,
        },
    }
}

fn query(asked: &Query) -> usize {
    match asked {
        Query::KeyGet { key } => data(key),
        Query::KeyGetMany { keys } | Query::KeyExists { keys } => list(keys),
        Query::KeyScan { after, prefix, .. } => data(after) + data(prefix),
        Query::Lookup { name, .. } => data(name),
        Query::ReadDirectory {
            after: ListPosition::AfterName(name),
            ..
        }
        | Query::XattrGet { name, .. } => data(name),
        Query::Data(DataQuery::UnknownBlocks { blocks } | DataQuery::BlockFiles { blocks, .. }) => {
            blocks.len() * BLOCK_ID_WORDS
        }
        Query::By { query: inner, .. } => NESTED_WORDS + query(inner),
        _ => 0,
    }
}

fn command(asked: &Command) -> usize {
    match asked {
        Command::KeySet { key, value, .. } => data(key) + data(value),
        Command::KeyDelete { keys, .. } => list(keys),
        Command::KeyIncrement { key, .. } => data(key),
        Command::Create {
            name,
            content,
            attributes,
            ..
        } => {
            let content = match content {
                NewContent::Inline(bytes) | NewContent::Symlink(bytes) => data(bytes),
                NewContent::Special { .. } => 0,
            };
            data(name) + content + new_inode(attributes)
        }
        Command::Unlink { name, .. } => data(name),
        Command::Rename { from, to, .. } => data(&from.name) + data(&to.name),
        Command::Link { to, .. } => data(&to.name),
        Command::XattrSet { xattr, .. } => data(&xattr.name) + data(&xattr.value),
        Command::XattrRemove { name, .. } => data(name),
        Command::UpdateOpens { opened, closed, .. } => opened.len() + closed.len(),
        Command::MoveAccessTimes { accesses } => accesses.len() * ACCESS_WORDS,
        Command::WriteInline { data: bytes, .. } => data(bytes),
        Command::Publish { extents, .. } => extent_words(extents),
        Command::Data(command) => match command {
            DataCommand::Write { data: bytes, .. } => data(bytes),
            DataCommand::Repack { block, pieces } => block.nodes.len() + pieces.len() * PACKED_PIECE_WORDS,
            DataCommand::CondemnBlocks { blocks, .. } | DataCommand::ForgetBlocks { blocks } => {
                blocks.len() * BLOCK_ID_WORDS
            }
            DataCommand::AbandonBlocks { blocks, nodes } => blocks.len() * BLOCK_ID_WORDS + nodes.len(),
            DataCommand::RecordCopies { changes } => changes.len() * COPY_CHANGE_WORDS,
            DataCommand::Update(update) => UPDATE_WORDS + new_bytes(&update.bytes),
            DataCommand::Allocate { .. } | DataCommand::CopyRange { .. } => 0,
        },
        Command::Usage(UsageCommand::Report { reports } | UsageCommand::Reported { reports }) => {
            reports.len() * USAGE_REPORT_WORDS
        }
        Command::Prepare { steps: held, .. } => steps(held),
        Command::Decide {
            steps: held,
            participants,
            reply: answered,
            ..
        } => steps(held) + participants.len() + reply(answered),
        Command::Delegation(
            DelegationCommand::Take { directories, .. } | DelegationCommand::GiveBack { directories, .. },
        ) => directories.len(),
        Command::Repair(repair) => edits(&repair.edits),
        Command::Ordered { command: inner, .. } => NESTED_WORDS + command(inner),
        Command::KeyExpireDue { .. }
        | Command::ReapOrphans { .. }
        | Command::Quota(_)
        | Command::Lock(_)
        | Command::ReserveInodes { .. }
        | Command::SetAttributes { .. }
        | Command::Finish { .. }
        | Command::Forget { .. } => 0,
    }
}

fn edits(edits: &[RowEdit]) -> usize {
    let bytes = |row: &Option<bytes::Bytes>| row.as_ref().map_or(0, |bytes| data(bytes));
    let words = edits
        .iter()
        .map(|edit| ROW_EDIT_WORDS + data(&edit.key) + bytes(&edit.before) + bytes(&edit.after));
    words.sum()
}

fn steps(steps: &[Step]) -> usize {
    let variable = |step: &Step| match step {
        Step::InsertEntry { entry, .. }
        | Step::RemoveEntry { entry, .. }
        | Step::ExchangeEntry { entry, .. } => data(&entry.name),
        Step::CreateDirectory { attributes, .. } => new_inode(attributes),
        Step::KeySet { key, value } => data(key) + data(value),
        Step::KeyDelete { key } => data(key),
        _ => 0,
    };
    steps.iter().map(|step| STEP_WORDS + variable(step)).sum()
}

fn new_inode(inode: &NewInode) -> usize {
    let xattrs = inode.xattrs.iter();
    10 + xattrs
        .map(|xattr| data(&xattr.name) + data(&xattr.value))
        .sum::<usize>()
}

/// An offset and a pointer.
const PIECE_WORDS: usize = 2;

fn new_bytes(bytes: &NewBytes) -> usize {
    match bytes {
        NewBytes::Nothing => 0,
        NewBytes::Pieces(pieces) => pieces.iter().map(|piece| PIECE_WORDS + data(&piece.data)).sum(),
        NewBytes::Blocks { extents, .. } => extent_words(extents),
    }
}

fn extent_words(extents: &[Extent]) -> usize {
    extents
        .iter()
        .map(|extent| EXTENT_WORDS + extent.nodes.len() / 4)
        .sum()
}

fn answer(result: &Result<Reply, Failure>) -> usize {
    match result {
        Ok(answered) => reply(answered),
        Err(why) => failure(why),
    }
}

fn failure(failure: &Failure) -> usize {
    match failure {
        Failure::Busy(text) | Failure::Unknown(text) | Failure::Refused(_, text) => data(text.as_bytes()),
        _ => 0,
    }
}

fn reply(reply: &Reply) -> usize {
    match reply {
        Reply::Value(Some(value)) => data(&value.value),
        Reply::Values(values) => values
            .iter()
            .map(|value| 4 + value.as_ref().map_or(0, |bytes| data(bytes)))
            .sum(),
        Reply::Set {
            previous: Some(bytes),
            ..
        }
        | Reply::Link(bytes)
        | Reply::Xattr(bytes)
        | Reply::Block(bytes) => data(bytes),
        Reply::Keys { keys, .. } | Reply::Xattrs(keys) => list(keys),
        Reply::Opens { missing, .. } => missing.len(),
        Reply::Directory { entries, .. } => entries
            .iter()
            .map(|entry| DIRECTORY_ENTRY_WORDS + data(&entry.name))
            .sum(),
        Reply::Layout { content, .. } | Reply::Walked { content, .. } => match content {
            Content::Inline(bytes) => data(bytes),
            Content::Mapped(map) => {
                let patches = map.patches.iter().map(|patch| 2 + data(&patch.data));
                extent_words(&map.extents) + patches.sum::<usize>()
            }
        },
        Reply::Scrub(status) => 8 + status.bad.len() * UPKEEP_ROW_WORDS,
        Reply::Orphans(orphans) => 8 + orphans.orphans.len() * UPKEEP_ROW_WORDS,
        Reply::Ledger { rows, .. } => rows
            .iter()
            .map(|row| UPKEEP_ROW_WORDS + row.nodes.len() / 4)
            .sum(),
        Reply::BlockFiles(files) => 8 + files.found.len() * UPKEEP_ROW_WORDS,
        Reply::Blocks(blocks) => blocks.len() * BLOCK_ID_WORDS,
        Reply::UsageReports {
            reports,
            next,
            transactions,
            ..
        } => (reports.len() + next.len()) * USAGE_REPORT_WORDS + transactions.len() * TRANSACTION_ID_WORDS,
        Reply::Audit(page) => {
            let blocks = page
                .blocks
                .iter()
                .map(|block| AUDIT_BLOCK_WORDS + block.nodes.len() / 4);
            page.faults.len() * AUDIT_FAULT_WORDS
                + (page.entries.len() + page.names.len()) * AUDIT_NAME_WORDS
                + blocks.sum::<usize>()
                + (page.told.len() + page.taken.len()) * USAGE_REPORT_WORDS
                + page.transactions.len() * AUDIT_TRANSACTION_WORDS
                + edits(&page.repair.edits)
        }
        Reply::Traced(traced) => {
            FIXED_WORDS
                + self::reply(&traced.reply)
                + traced
                    .spans
                    .iter()
                    .map(|span| SPAN_WORDS + span.what.len() / 8)
                    .sum::<usize>()
        }
        Reply::Stored { nodes } => nodes.len(),
        Reply::Delegated(directories) => directories.len(),
        Reply::Cluster(status) => {
            // Five texts a node, rarely longer than 32 bytes each.
            (2 * status.nodes.len() + status.partitions.len() + 2) * STATUS_WORDS
        }
        _ => 0,
    }
}
