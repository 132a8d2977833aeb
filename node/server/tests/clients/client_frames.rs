//! The framed protocol of our own client library against a real worker.

mod single_node;

use bark_schema::codec;
use bark_schema::frame::FrameDecoder;
use bark_schema::ids::{ClientId, PartitionId, TransactionId};
use bark_schema::limits::{FRAME_SIZE_PEER_MAX, MIB};
use bark_schema::message::{ClientMessage, PREAMBLE_CLIENT, PROTOCOL_VERSION, ServerMessage};
use bark_schema::operation::{
    Command, Condition, Expiry, Failure, NodeRequest, Query, Refusal, Reply, Request, RequestId,
};
use bark_schema::placement;
use bytes::Bytes;
use single_node::{ClientEnd, SingleNode};

struct FramedClient {
    end: ClientEnd,
    frames: FrameDecoder,
}

impl FramedClient {
    fn connect(node: &mut SingleNode) -> FramedClient {
        let end = node.connect();
        end.send(&PREAMBLE_CLIENT);
        FramedClient {
            end,
            frames: FrameDecoder::new(FRAME_SIZE_PEER_MAX),
        }
    }

    fn log_in(node: &mut SingleNode) -> FramedClient {
        let mut client = FramedClient::connect(node);
        client.send(&ClientMessage::Login {
            version: PROTOCOL_VERSION,
            token: Bytes::new(),
        });
        let answers = client.answers(node);
        assert!(
            matches!(answers.as_slice(), [ServerMessage::Welcome(Ok(_))]),
            "{answers:?}"
        );
        client
    }

    fn send(&self, message: &ClientMessage) {
        let mut bytes = Vec::new();
        codec::encode_client(message, &mut bytes);
        self.end.send(&bytes);
    }

    fn request(&self, id: u64, request: Request) {
        self.send(&ClientMessage::Request {
            id,
            deadline_ms: 1000,
            request,
        });
    }

    fn answers(&mut self, node: &mut SingleNode) -> Vec<ServerMessage> {
        node.settle();
        self.frames.push(&self.end.receive());
        let mut answers = Vec::new();
        while let Some(frame) = self.frames.next().expect("frames of a node") {
            answers.push(codec::decode_server(&frame).expect("messages of a node"));
        }
        answers
    }

    fn ask(&mut self, node: &mut SingleNode, request: Request) -> Result<Reply, Failure> {
        self.request(77, request);
        for _ in 0..1000 {
            match self.answers(node).pop() {
                Some(ServerMessage::Reply { id: 77, result }) => return result,
                Some(other) => panic!("another message: {other:?}"),
                None => node.advance(10_000),
            }
        }
        panic!("no answer");
    }
}

fn partition_of(key: &[u8]) -> PartitionId {
    placement::partition_of_key(key, 4)
}

fn set(key: &'static [u8], value: Bytes, sequence: u64) -> Request {
    let key = Bytes::from_static(key);
    Request::Command {
        partition: partition_of(&key),
        id: RequestId {
            client: ClientId(9),
            sequence,
            acknowledged_below: sequence,
        },
        command: Command::KeySet {
            key,
            value,
            expiry: Expiry::Never,
            condition: Condition::Always,
            return_previous: false,
        },
    }
}

fn get(key: &'static [u8]) -> Request {
    Request::Query {
        partition: partition_of(key),
        query: Query::KeyGet {
            key: Bytes::from_static(key),
        },
    }
}

#[test]
fn keys_larger_than_a_greeting_and_a_block_pass_after_login() {
    // Goal: the frame limit follows the configured value size. Method: set and get 8 MiB.
    let mut node = SingleNode::start();
    let mut client = FramedClient::log_in(&mut node);
    let value = Bytes::from(vec![3; 8 * MIB]);
    let answer = client.ask(&mut node, set(b"large", value.clone(), 1));
    assert!(
        matches!(answer, Ok(Reply::Set { applied: true, .. })),
        "{answer:?}"
    );
    let answer = client.ask(&mut node, get(b"large"));
    assert!(matches!(answer, Ok(Reply::Value(Some(found))) if found.value == value));
}

#[test]
fn nothing_is_done_before_login() {
    // Goal: a login comes first, and of the same version. Method: a request, then an old client.
    let mut node = SingleNode::start();
    let mut early = FramedClient::connect(&mut node);
    early.request(1, get(b"k"));
    let answers = early.answers(&mut node);
    let refused = Err(Failure::refused(Refusal::PermissionDenied, "log in first"));
    assert_eq!(
        answers,
        [ServerMessage::Reply {
            id: 1,
            result: refused
        }]
    );
    assert!(early.end.is_closed());
    let mut old = FramedClient::connect(&mut node);
    old.send(&ClientMessage::Login {
        version: PROTOCOL_VERSION + 1,
        token: Bytes::new(),
    });
    let answers = old.answers(&mut node);
    assert!(matches!(
        answers.as_slice(),
        [ServerMessage::Welcome(Err(Failure::Refused(
            Refusal::Unsupported,
            _
        )))]
    ));
    assert!(old.end.is_closed());
}

#[test]
fn what_belongs_between_nodes_is_refused() {
    // Goal: a client cannot take part in transactions or touch one node's copies. Method: each such request.
    let mut node = SingleNode::start();
    let mut client = FramedClient::log_in(&mut node);
    let transaction = TransactionId {
        client: ClientId(1),
        sequence: 1,
        attempt: 1,
    };
    let partition = PartitionId(0);
    let id = RequestId {
        client: ClientId(9),
        sequence: 1,
        acknowledged_below: 1,
    };
    let command = |command| Request::Command {
        partition,
        id,
        command,
    };
    let forbidden = [
        command(Command::Finish {
            transaction,
            commit: true,
        }),
        command(Command::Forget { transaction }),
        command(Command::KeyExpireDue { limit: 1 }),
        command(Command::Prepare {
            transaction,
            primary: partition,
            steps: Vec::new(),
        }),
        Request::Query {
            partition,
            query: Query::TransactionOutcome { transaction },
        },
        Request::Node(NodeRequest::BlockDelete { blocks: Vec::new() }),
        Request::Node(NodeRequest::BlocksMissing { blocks: Vec::new() }),
    ];
    for request in forbidden {
        let answer = client.ask(&mut node, request.clone());
        assert!(
            matches!(answer, Err(Failure::Refused(Refusal::PermissionDenied, _))),
            "{request:?}: {answer:?}"
        );
    }
    let answer = client.ask(&mut node, Request::Node(NodeRequest::ClusterStatus));
    assert!(matches!(answer, Ok(Reply::Cluster(_))), "{answer:?}");
}

#[test]
fn answers_wait_for_a_client_that_does_not_read() {
    // Goal: encoded answers stay bounded, and all arrive in the end. Method: 300 gets of 1 MiB, read late.
    let mut node = SingleNode::start();
    let mut client = FramedClient::log_in(&mut node);
    let value = Bytes::from(vec![3; MIB]);
    client.ask(&mut node, set(b"k", value, 1)).expect("set");
    for id in 0..300 {
        client.request(id, get(b"k"));
    }
    node.settle();
    assert!(
        client.end.received_bytes() < 32 * MIB,
        "{} bytes were sent to nobody",
        client.end.received_bytes()
    );
    let mut count = 0;
    for _ in 0..1000 {
        let answers = client.answers(&mut node);
        count += answers
            .iter()
            .filter(|answer| matches!(answer, ServerMessage::Reply { result: Ok(_), .. }))
            .count();
        if count == 300 {
            return;
        }
    }
    panic!("only {count} answers came");
}

#[test]
fn too_many_requests_under_way_are_answered_busy() {
    // Goal: the number of calls is bounded. Method: 5,000 walks in one turn; those beyond 4,096 are refused.
    let mut node = SingleNode::start();
    let mut client = FramedClient::log_in(&mut node);
    for id in 0..5000 {
        client.request(id, get(b"k"));
    }
    let answers = client.answers(&mut node);
    let busy = |answer: &&ServerMessage| {
        matches!(
            answer,
            ServerMessage::Reply {
                result: Err(Failure::Busy(_)),
                ..
            }
        )
    };
    assert_eq!(answers.len(), 5000);
    assert_eq!(answers.iter().filter(busy).count(), 5000 - 4096);
}

#[test]
fn values_above_the_limit_are_refused_and_the_connection_lives() {
    // Goal: the limit of the cluster file holds on this face. Method: one byte more than it, then a small request;
    // last a frame that no value allowed could need.
    let mut node = SingleNode::start();
    let mut client = FramedClient::log_in(&mut node);
    let answer = client.ask(&mut node, set(b"k", Bytes::from(vec![3; 64 * MIB + 1]), 1));
    assert!(
        matches!(&answer, Err(Failure::Refused(Refusal::FileTooLarge, sentence)) if sentence.contains("67108864")),
        "{answer:?}"
    );
    assert!(matches!(client.ask(&mut node, get(b"k")), Ok(Reply::Value(None))));
    announce(&client.end, 66 * MIB);
    node.settle();
    assert!(client.end.is_closed());
}

/// The table of a frame of this size.
fn announce(end: &ClientEnd, size_bytes: usize) {
    end.send(&0_u32.to_le_bytes());
    end.send(&((size_bytes / 8) as u32).to_le_bytes());
}

#[test]
fn large_frames_take_turns_for_room() {
    // Goal: many clients that announce large values hold a bounded part of them, and none holds room for nothing.
    // Method: eight announce 60 MiB and send one; four are read. Their time ends, and the others are read.
    let mut node = SingleNode::start();
    let ends: Vec<ClientEnd> = (0..8).map(|_| FramedClient::log_in(&mut node).end).collect();
    ends.iter().for_each(|end| announce(end, 60 * MIB));
    node.settle();
    ends.iter().for_each(|end| end.send(&vec![0; MIB]));
    node.settle();
    let read = |ends: &[ClientEnd]| ends.iter().filter(|end| end.unsent_bytes() == 0).count();
    assert_eq!((read(&ends[..4]), read(&ends[4..])), (4, 0));
    node.advance(121_000_000);
    for _ in 0..4 {
        node.advance(1_000);
    }
    assert!(ends[..4].iter().all(ClientEnd::is_closed));
    assert_eq!(read(&ends[4..]), 4);
    assert!(!ends[4..].iter().any(ClientEnd::is_closed));
}
