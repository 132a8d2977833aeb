//! Whole messages to frames and back.

use std::cell::RefCell;

use bytes::Bytes;
use capnp::message::{Builder, HeapAllocator, ReaderOptions, ScratchSpaceHeapAllocator};
use capnp::serialize::read_message_from_flat_slice_no_alloc;
use capnp::traits::Owned;

use super::command::{read_command, write_command};
use super::read::{self, Source, required};
use super::reply::{
    read_disk_refusal, read_failure, read_reply, write_disk_refusal, write_failure, write_reply,
};
use super::request::{read_request, write_request};
use super::write::{write_nodes, write_request_id};
use super::{Error, Result, size};
use crate::generated::{log_capnp, peer_capnp as wire};
use crate::ids::{NodeNumber, PartitionId};
use crate::message::{
    ClientMessage, Heartbeat, LogEntry, PeerHello, PeerMessage, RaftKind, RaftMessage, ServerMessage,
    SnapshotChunk, SnapshotMetadata, Standing, Welcome, WelcomeNode,
};
use crate::operation::{Failure, Proposal, Reply, Request};

/// Deeper than any message of ours, and shallow enough for any stack.
const NESTING_MAX: i32 = 64;
/// Messages up to this size are built in a buffer the thread keeps; larger ones in fresh zeroed memory,
/// since clearing the kept buffer by hand would cost more than the allocator's untouched pages.
const SCRATCH_SIZE_BYTES: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Appends one frame.
pub fn encode_peer(message: &PeerMessage, out: &mut Vec<u8>) {
    append_frame::<wire::peer_message::Owned>(size::peer_words(message), out, |root| {
        write_peer(message, root);
    });
}

pub fn decode_peer(frame: &Bytes) -> Result<PeerMessage> {
    read_frame::<wire::peer_message::Owned, _>(frame, read_peer)
}

/// Appends one frame.
pub fn encode_client(message: &ClientMessage, out: &mut Vec<u8>) {
    append_frame::<wire::client_message::Owned>(size::client_words(message), out, |root| match message {
        ClientMessage::Login { version, token } => {
            let mut group = root.init_login();
            group.set_version(*version);
            group.set_token(token);
        }
        ClientMessage::Request {
            id,
            deadline_ms,
            request,
        } => {
            write_call(*id, *deadline_ms, request, root.init_request());
        }
    });
}

pub fn decode_client(frame: &Bytes) -> Result<ClientMessage> {
    read_frame::<wire::client_message::Owned, _>(frame, |root, source| {
        Ok(match root.which()? {
            wire::client_message::Login(group) => ClientMessage::Login {
                version: group.get_version(),
                token: source.bytes(group.get_token())?,
            },
            wire::client_message::Request(call) => {
                let (id, deadline_ms, request) = read_call(call?, source)?;
                ClientMessage::Request {
                    id,
                    deadline_ms,
                    request,
                }
            }
        })
    })
}

/// Appends one frame.
pub fn encode_server(message: &ServerMessage, out: &mut Vec<u8>) {
    append_frame::<wire::server_message::Owned>(size::server_words(message), out, |root| match message {
        ServerMessage::Welcome(Ok(welcome)) => write_welcome(welcome, root.init_welcome()),
        ServerMessage::Welcome(Err(failure)) => write_failure(failure, root.init_login_failed()),
        ServerMessage::Reply { id, result } => write_answer(*id, result, root.init_reply()),
    });
}

pub fn decode_server(frame: &Bytes) -> Result<ServerMessage> {
    read_frame::<wire::server_message::Owned, _>(frame, |root, source| {
        Ok(match root.which()? {
            wire::server_message::Welcome(welcome) => ServerMessage::Welcome(Ok(read_welcome(welcome?)?)),
            wire::server_message::LoginFailed(failure) => {
                ServerMessage::Welcome(Err(read_failure(failure?)?))
            }
            wire::server_message::Reply(answer) => {
                let (id, result) = read_answer(answer?, source)?;
                ServerMessage::Reply { id, result }
            }
        })
    })
}

/// What becomes the data of a log entry.
pub fn encode_proposal(proposal: &Proposal) -> Bytes {
    let mut out = Vec::new();
    append_frame::<log_capnp::proposal::Owned>(size::proposal_words(proposal), &mut out, |root| {
        let mut root = root;
        root.set_time(proposal.time);
        if let Some(id) = &proposal.id {
            write_request_id(id, root.reborrow().init_id());
        }
        write_command(&proposal.command, root.init_command());
    });
    out.into()
}

pub fn decode_proposal(frame: &Bytes) -> Result<Proposal> {
    read_frame::<log_capnp::proposal::Owned, _>(frame, |root, source| {
        required(root.has_command(), "command")?;
        Ok(Proposal {
            time: root.get_time(),
            id: match root.has_id() {
                true => Some(read::request_id(root.get_id())?),
                false => None,
            },
            command: read_command(root.get_command()?, source)?,
        })
    })
}

/// `words` is where the message should fit; one that does not gets further segments.
fn append_frame<T: Owned>(words: usize, out: &mut Vec<u8>, write: impl FnOnce(T::Builder<'_>)) {
    let size_bytes = words * 8;
    if size_bytes > SCRATCH_SIZE_BYTES {
        let first_segment_words = u32::try_from(words).unwrap_or(u32::MAX);
        let mut builder = Builder::new(HeapAllocator::new().first_segment_words(first_segment_words));
        write(builder.init_root());
        append_segments(&builder.get_segments_for_output(), out);
        return;
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize(SCRATCH_SIZE_BYTES, 0);
        let mut builder = Builder::new(ScratchSpaceHeapAllocator::new(&mut scratch[..size_bytes]));
        write(builder.init_root());
        append_segments(&builder.get_segments_for_output(), out);
    });
}

fn append_segments(segments: &[&[u8]], out: &mut Vec<u8>) {
    let table_bytes = (4 + 4 * segments.len()).next_multiple_of(8);
    let size_bytes = table_bytes + segments.iter().map(|segment| segment.len()).sum::<usize>();
    out.reserve(size_bytes);
    let table_start = out.len();
    out.extend_from_slice(&(segments.len() as u32 - 1).to_le_bytes());
    for segment in segments {
        out.extend_from_slice(&((segment.len() / 8) as u32).to_le_bytes());
    }
    out.resize(table_start + table_bytes, 0);
    for segment in segments {
        out.extend_from_slice(segment);
    }
}

fn read_frame<T: Owned, V>(
    frame: &Bytes,
    read: impl FnOnce(T::Reader<'_>, Source<'_>) -> Result<V>,
) -> Result<V> {
    let mut rest: &[u8] = frame;
    let options = ReaderOptions {
        // Each object is visited once; twice the frame leaves room for what capnp charges for lists.
        traversal_limit_in_words: Some(frame.len() / 4 + 64),
        nesting_limit: NESTING_MAX,
    };
    let message = read_message_from_flat_slice_no_alloc(&mut rest, options)?;
    if !rest.is_empty() {
        return Err(Error::Trailing(rest.len()));
    }
    read(message.get_root()?, Source::Frame(frame))
}

fn write_peer(message: &PeerMessage, root: wire::peer_message::Builder<'_>) {
    match message {
        PeerMessage::Hello(hello) => {
            let mut builder = root.init_hello();
            builder.set_version(hello.version);
            builder.set_cluster(hello.cluster.as_str());
            builder.set_map_digest(hello.map_digest);
            builder.set_node(hello.node.0);
            builder.set_incarnation(hello.incarnation);
            builder.set_bulk(hello.bulk);
            builder.set_log_position(hello.log_position);
            builder.set_rejoining(hello.rejoining);
        }
        PeerMessage::Raft(messages) => {
            let mut list = root.init_raft(messages.len() as u32);
            for (index, message) in messages.iter().enumerate() {
                write_raft(message, list.reborrow().get(index as u32));
            }
        }
        PeerMessage::Heartbeats(heartbeats) => {
            let mut list = root.init_heartbeats(heartbeats.len() as u32);
            for (index, heartbeat) in heartbeats.iter().enumerate() {
                write_heartbeat(heartbeat, list.reborrow().get(index as u32));
            }
        }
        PeerMessage::Request {
            id,
            deadline_ms,
            request,
        } => {
            write_call(*id, *deadline_ms, request, root.init_request());
        }
        PeerMessage::Reply { id, result } => write_answer(*id, result, root.init_reply()),
        PeerMessage::SnapshotChunk(chunk) => {
            let mut builder = root.init_snapshot_chunk();
            builder.set_partition(chunk.partition.0);
            builder.set_from(chunk.from.0);
            builder.set_term(chunk.term);
            write_snapshot(&chunk.metadata, builder.reborrow().init_metadata());
            builder.set_offset(chunk.offset);
            builder.set_data(&chunk.data);
            builder.set_last(chunk.last);
        }
        PeerMessage::SnapshotProgress {
            partition,
            index,
            next_offset,
            accepted,
        } => {
            let mut builder = root.init_snapshot_progress();
            builder.set_partition(partition.0);
            builder.set_index(*index);
            builder.set_next_offset(*next_offset);
            builder.set_accepted(*accepted);
        }
        PeerMessage::Standing(standing) => {
            let mut builder = root.init_standing();
            builder.set_draining(standing.draining);
            builder.set_disk_slow(standing.disk_slow);
            builder.set_log_position(standing.log_position);
            builder.set_refusal(write_disk_refusal(standing.refusal));
        }
    }
}

fn read_peer(root: wire::peer_message::Reader<'_>, source: Source<'_>) -> Result<PeerMessage> {
    Ok(match root.which()? {
        wire::peer_message::Hello(hello) => {
            let hello = hello?;
            PeerMessage::Hello(PeerHello {
                version: hello.get_version(),
                cluster: read::text(hello.get_cluster())?,
                map_digest: hello.get_map_digest(),
                node: NodeNumber(hello.get_node()),
                incarnation: hello.get_incarnation(),
                bulk: hello.get_bulk(),
                log_position: hello.get_log_position(),
                rejoining: hello.get_rejoining(),
            })
        }
        wire::peer_message::Raft(messages) => {
            PeerMessage::Raft(read::list(messages, |message| read_raft(message, source))?)
        }
        wire::peer_message::Heartbeats(heartbeats) => {
            PeerMessage::Heartbeats(read::list(heartbeats, |heartbeat| {
                read_heartbeat(heartbeat, source)
            })?)
        }
        wire::peer_message::Request(call) => {
            let (id, deadline_ms, request) = read_call(call?, source)?;
            PeerMessage::Request {
                id,
                deadline_ms,
                request,
            }
        }
        wire::peer_message::Reply(answer) => {
            let (id, result) = read_answer(answer?, source)?;
            PeerMessage::Reply { id, result }
        }
        wire::peer_message::SnapshotChunk(chunk) => {
            let chunk = chunk?;
            PeerMessage::SnapshotChunk(SnapshotChunk {
                partition: PartitionId(chunk.get_partition()),
                from: NodeNumber(chunk.get_from()),
                term: chunk.get_term(),
                metadata: read_snapshot(chunk.get_metadata()?)?,
                offset: chunk.get_offset(),
                data: source.bytes(chunk.get_data())?,
                last: chunk.get_last(),
            })
        }
        wire::peer_message::Standing(standing) => {
            let standing = standing?;
            PeerMessage::Standing(Standing {
                draining: standing.get_draining(),
                disk_slow: standing.get_disk_slow(),
                log_position: standing.get_log_position(),
                refusal: read_disk_refusal(standing.get_refusal()?),
            })
        }
        wire::peer_message::SnapshotProgress(progress) => {
            let progress = progress?;
            PeerMessage::SnapshotProgress {
                partition: PartitionId(progress.get_partition()),
                index: progress.get_index(),
                next_offset: progress.get_next_offset(),
                accepted: progress.get_accepted(),
            }
        }
    })
}

fn write_call(id: u64, deadline_ms: u32, request: &Request, mut builder: wire::call::Builder<'_>) {
    builder.set_id(id);
    builder.set_deadline_ms(deadline_ms);
    write_request(request, builder.init_request());
}

fn read_call(call: wire::call::Reader<'_>, source: Source<'_>) -> Result<(u64, u32, Request)> {
    required(call.has_request(), "request")?;
    let request = read_request(call.get_request()?, source)?;
    Ok((call.get_id(), call.get_deadline_ms(), request))
}

fn write_answer(
    id: u64,
    result: &std::result::Result<Reply, Failure>,
    mut builder: wire::answer::Builder<'_>,
) {
    builder.set_id(id);
    match result {
        Ok(reply) => write_reply(reply, builder.init_reply()),
        Err(failure) => write_failure(failure, builder.init_failure()),
    }
}

fn read_answer(
    answer: wire::answer::Reader<'_>,
    source: Source<'_>,
) -> Result<(u64, std::result::Result<Reply, Failure>)> {
    let result = match answer.which()? {
        wire::answer::Reply(reply) => {
            required(answer.has_reply(), "reply")?;
            Ok(read_reply(reply?, source)?)
        }
        wire::answer::Failure(failure) => {
            required(answer.has_failure(), "failure")?;
            Err(read_failure(failure?)?)
        }
    };
    Ok((answer.get_id(), result))
}

fn write_welcome(welcome: &Welcome, mut builder: wire::welcome::Builder<'_>) {
    builder.set_version(welcome.version);
    builder.set_cluster(welcome.cluster.as_str());
    builder.set_node(welcome.node.0);
    builder.set_partition_count(welcome.partition_count);
    builder.set_replicas(welcome.replicas);
    builder.set_vnodes(welcome.vnodes);
    builder.set_value_size_max(welcome.value_size_max);
    let mut list = builder.init_nodes(welcome.nodes.len() as u32);
    for (index, node) in welcome.nodes.iter().enumerate() {
        let mut item = list.reborrow().get(index as u32);
        item.set_number(node.number.0);
        item.set_id(node.id.as_str());
        item.set_capnp(node.capnp.as_str());
        item.set_zone(node.zone.as_str());
    }
}

fn read_welcome(reader: wire::welcome::Reader<'_>) -> Result<Welcome> {
    Ok(Welcome {
        version: reader.get_version(),
        cluster: read::text(reader.get_cluster())?,
        node: NodeNumber(reader.get_node()),
        partition_count: reader.get_partition_count(),
        replicas: reader.get_replicas(),
        vnodes: reader.get_vnodes(),
        nodes: read::list(reader.get_nodes(), |node| {
            Ok(WelcomeNode {
                number: NodeNumber(node.get_number()),
                id: read::text(node.get_id())?,
                capnp: read::text(node.get_capnp())?,
                zone: read::text(node.get_zone())?,
            })
        })?,
        value_size_max: reader.get_value_size_max(),
    })
}

fn write_raft(message: &RaftMessage, mut builder: wire::raft_message::Builder<'_>) {
    builder.set_partition(message.partition.0);
    builder.set_kind(write_raft_kind(message.kind));
    builder.set_from(message.from.0);
    builder.set_to(message.to.0);
    builder.set_term(message.term);
    builder.set_log_term(message.log_term);
    builder.set_index(message.index);
    builder.set_commit(message.commit);
    builder.set_commit_term(message.commit_term);
    builder.set_request_snapshot(message.request_snapshot);
    builder.set_reject(message.reject);
    builder.set_reject_hint(message.reject_hint);
    builder.set_priority(message.priority);
    if !message.context.is_empty() {
        builder.set_context(&message.context);
    }
    if let Some(snapshot) = &message.snapshot {
        write_snapshot(snapshot, builder.reborrow().init_snapshot());
    }
    let mut list = builder.init_entries(message.entries.len() as u32);
    for (index, entry) in message.entries.iter().enumerate() {
        let mut item = list.reborrow().get(index as u32);
        item.set_term(entry.term);
        item.set_index(entry.index);
        item.set_kind(entry.kind);
        item.set_data(&entry.data);
        if !entry.context.is_empty() {
            item.set_context(&entry.context);
        }
    }
}

fn read_raft(reader: wire::raft_message::Reader<'_>, source: Source<'_>) -> Result<RaftMessage> {
    Ok(RaftMessage {
        partition: PartitionId(reader.get_partition()),
        kind: read_raft_kind(reader.get_kind()?),
        from: NodeNumber(reader.get_from()),
        to: NodeNumber(reader.get_to()),
        term: reader.get_term(),
        log_term: reader.get_log_term(),
        index: reader.get_index(),
        entries: read::list(reader.get_entries(), |entry| {
            Ok(LogEntry {
                term: entry.get_term(),
                index: entry.get_index(),
                kind: entry.get_kind(),
                data: source.bytes(entry.get_data())?,
                context: source.bytes(entry.get_context())?,
            })
        })?,
        commit: reader.get_commit(),
        commit_term: reader.get_commit_term(),
        snapshot: match reader.has_snapshot() {
            true => Some(read_snapshot(reader.get_snapshot()?)?),
            false => None,
        },
        request_snapshot: reader.get_request_snapshot(),
        reject: reader.get_reject(),
        reject_hint: reader.get_reject_hint(),
        context: source.bytes(reader.get_context())?,
        priority: reader.get_priority(),
    })
}

fn write_heartbeat(heartbeat: &Heartbeat, mut builder: wire::heartbeat::Builder<'_>) {
    builder.set_partition(heartbeat.partition.0);
    builder.set_from(heartbeat.from.0);
    builder.set_to(heartbeat.to.0);
    builder.set_response(heartbeat.response);
    builder.set_term(heartbeat.term);
    builder.set_commit(heartbeat.commit);
    if !heartbeat.context.is_empty() {
        builder.set_context(&heartbeat.context);
    }
    builder.set_hash_index(heartbeat.hash_index);
    builder.set_state_hash(heartbeat.state_hash);
}

fn read_heartbeat(reader: wire::heartbeat::Reader<'_>, source: Source<'_>) -> Result<Heartbeat> {
    Ok(Heartbeat {
        partition: PartitionId(reader.get_partition()),
        from: NodeNumber(reader.get_from()),
        to: NodeNumber(reader.get_to()),
        response: reader.get_response(),
        term: reader.get_term(),
        commit: reader.get_commit(),
        context: source.bytes(reader.get_context())?,
        hash_index: reader.get_hash_index(),
        state_hash: reader.get_state_hash(),
    })
}

fn write_snapshot(snapshot: &SnapshotMetadata, mut builder: wire::snapshot_metadata::Builder<'_>) {
    builder.set_index(snapshot.index);
    builder.set_term(snapshot.term);
    write_nodes(
        &snapshot.voters,
        builder.reborrow().init_voters(snapshot.voters.len() as u32),
    );
    write_nodes(
        &snapshot.learners,
        builder.init_learners(snapshot.learners.len() as u32),
    );
}

fn read_snapshot(reader: wire::snapshot_metadata::Reader<'_>) -> Result<SnapshotMetadata> {
    Ok(SnapshotMetadata {
        index: reader.get_index(),
        term: reader.get_term(),
        voters: read::nodes(reader.get_voters())?,
        learners: read::nodes(reader.get_learners())?,
    })
}

macro_rules! raft_kinds {
    ($($name:ident),* $(,)?) => {
        fn write_raft_kind(kind: RaftKind) -> wire::RaftKind {
            match kind { $(RaftKind::$name => wire::RaftKind::$name),* }
        }

        fn read_raft_kind(kind: wire::RaftKind) -> RaftKind {
            match kind { $(wire::RaftKind::$name => RaftKind::$name),* }
        }
    };
}
raft_kinds!(
    Propose,
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    Snapshot,
    TimeoutNow,
    ReadIndex,
    ReadIndexResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    TransferLeader,
    Unreachable,
    RejoinQuestion,
    RejoinAnswer,
);
