//! Messages between nodes and with clients.

use bark_schema::message::*;
use bark_schema::operation::*;

use super::Generator;

impl Generator {
    pub(super) fn raft_kind(&mut self) -> RaftKind {
        const ALL: [RaftKind; 15] = [
            RaftKind::Propose,
            RaftKind::Append,
            RaftKind::AppendResponse,
            RaftKind::RequestVote,
            RaftKind::RequestVoteResponse,
            RaftKind::Snapshot,
            RaftKind::TimeoutNow,
            RaftKind::ReadIndex,
            RaftKind::ReadIndexResponse,
            RaftKind::RequestPreVote,
            RaftKind::RequestPreVoteResponse,
            RaftKind::TransferLeader,
            RaftKind::Unreachable,
            RaftKind::RejoinQuestion,
            RaftKind::RejoinAnswer,
        ];
        ALL[self.choose("RaftKind", ALL.len() as u64) as usize]
    }

    pub(super) fn snapshot(&mut self) -> SnapshotMetadata {
        SnapshotMetadata {
            index: self.number(),
            term: self.number(),
            voters: self.list(Self::node),
            learners: self.list(Self::node),
        }
    }

    pub(super) fn raft(&mut self) -> RaftMessage {
        RaftMessage {
            partition: self.partition(),
            kind: self.raft_kind(),
            from: self.node(),
            to: self.node(),
            term: self.number(),
            log_term: self.number(),
            index: self.number(),
            entries: self.list(|generator| LogEntry {
                term: generator.number(),
                index: generator.number(),
                kind: generator.number() as u8,
                data: generator.data(),
                context: generator.data(),
            }),
            commit: self.number(),
            commit_term: self.number(),
            snapshot: self.option(Self::snapshot),
            request_snapshot: self.number(),
            reject: self.flag(),
            reject_hint: self.number(),
            context: self.data(),
            priority: self.i64(),
        }
    }

    pub(super) fn heartbeat(&mut self) -> Heartbeat {
        Heartbeat {
            partition: self.partition(),
            from: self.node(),
            to: self.node(),
            response: self.flag(),
            term: self.number(),
            commit: self.number(),
            context: self.data(),
            hash_index: self.number(),
            state_hash: self.number(),
        }
    }

    pub fn peer(&mut self) -> PeerMessage {
        match self.choose("PeerMessage", 8) {
            0 => PeerMessage::Hello(PeerHello {
                version: self.u32(),
                cluster: self.text(),
                map_digest: self.number(),
                node: self.node(),
                incarnation: self.number(),
                bulk: self.flag(),
                log_position: self.number(),
                rejoining: self.flag(),
            }),
            1 => PeerMessage::Raft(self.list(Self::raft)),
            2 => PeerMessage::Heartbeats(self.list(Self::heartbeat)),
            3 => PeerMessage::Request {
                id: self.number(),
                deadline_ms: self.u32(),
                request: self.request(),
            },
            4 => PeerMessage::Reply {
                id: self.number(),
                result: self.result(),
            },
            5 => PeerMessage::SnapshotChunk(SnapshotChunk {
                partition: self.partition(),
                from: self.node(),
                term: self.number(),
                metadata: self.snapshot(),
                offset: self.number(),
                data: self.data(),
                last: self.flag(),
            }),
            6 => PeerMessage::Standing(Standing {
                draining: self.flag(),
                disk_slow: self.flag(),
                log_position: self.number(),
                refusal: self.disk_refusal(),
            }),
            _ => PeerMessage::SnapshotProgress {
                partition: self.partition(),
                index: self.number(),
                next_offset: self.number(),
                accepted: self.flag(),
            },
        }
    }

    pub fn client(&mut self) -> ClientMessage {
        match self.choose("ClientMessage", 2) {
            0 => ClientMessage::Login {
                version: self.u32(),
                token: self.data(),
            },
            _ => ClientMessage::Request {
                id: self.number(),
                deadline_ms: self.u32(),
                request: self.request(),
            },
        }
    }

    pub fn server(&mut self) -> ServerMessage {
        match self.choose("ServerMessage", 3) {
            0 => ServerMessage::Welcome(Ok(Welcome {
                version: self.u32(),
                cluster: self.text(),
                node: self.node(),
                partition_count: self.number() as u16,
                replicas: self.number() as u16,
                vnodes: self.u32(),
                nodes: self.list(|generator| WelcomeNode {
                    number: generator.node(),
                    id: generator.text(),
                    capnp: generator.text(),
                    zone: generator.text(),
                }),
                value_size_max: self.u32(),
            })),
            1 => ServerMessage::Welcome(Err(self.failure())),
            _ => ServerMessage::Reply {
                id: self.number(),
                result: self.result(),
            },
        }
    }

    pub fn proposal(&mut self) -> Proposal {
        Proposal {
            time: self.i64(),
            id: self.option(Self::request_id),
            command: self.command(),
        }
    }
}
