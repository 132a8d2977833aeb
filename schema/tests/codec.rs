//! Every message survives the wire, and nothing that comes from it panics.

mod arbitrary;

use arbitrary::Generator;
use bark_schema::codec::{
    self, decode_client, decode_peer, decode_proposal, decode_server, encode_client, encode_peer,
    encode_proposal, encode_server,
};
use bark_schema::data::{DataCommand, FileUpdate, NewBytes, PackedBlock, PackedFrom, PackedPiece};
use bark_schema::frame::FrameDecoder;
use bark_schema::generated::peer_capnp::client_message;
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::limits::{FRAME_SIZE_MAX, MIB};
use bark_schema::message::{ClientMessage, PeerMessage, RaftKind, RaftMessage};
use bark_schema::operation::{
    AttributeChange, Command, Condition, Expiry, NodeRequest, Proposal, Query, Request, RequestId, SetTime,
};
use bytes::Bytes;
use proptest::prelude::*;

/// Encodes behind another frame's bytes, cuts the frame out of the stream and decodes it.
fn through_the_wire<T, V>(
    message: &T,
    encode: impl Fn(&T, &mut Vec<u8>),
    decode: impl Fn(&Bytes) -> codec::Result<V>,
) -> V {
    let mut out = Vec::new();
    encode(message, &mut out);
    let length = out.len();
    encode(message, &mut out);
    assert_eq!(
        out[..length],
        out[length..],
        "encoding is deterministic and appends"
    );
    assert_eq!(length % 8, 0);
    let mut decoder = FrameDecoder::new(FRAME_SIZE_MAX);
    decoder.push(&out);
    let _first = decoder.next().expect("well-formed").expect("complete");
    let frame = decoder.next().expect("well-formed").expect("complete");
    decode(&frame).expect("what was encoded decodes")
}

#[test]
fn every_message_comes_back_as_it_was() {
    // Goal: encode and decode are inverse. Method: seeded random messages, which cover every variant.
    let mut generator = Generator::new(1);
    for _ in 0..8000 {
        let message = generator.peer();
        assert_eq!(through_the_wire(&message, encode_peer, decode_peer), message);
        let message = generator.client();
        assert_eq!(through_the_wire(&message, encode_client, decode_client), message);
        let message = generator.server();
        assert_eq!(through_the_wire(&message, encode_server, decode_server), message);
        let proposal = generator.proposal();
        let frame = encode_proposal(&proposal);
        assert_eq!(decode_proposal(&frame).expect("decodes"), proposal);
    }
    generator.assert_all_variants_seen();
}

#[test]
fn a_block_is_one_segment_and_is_not_copied_on_decoding() {
    // Goal: bulk data is cheap. Method: one segment in the table, and the data's address lies in the frame.
    let request = Request::Node(NodeRequest::BlockPut {
        block: BlockId {
            client: ClientId(1),
            counter: 2,
        },
        data: vec![7; MIB].into(),
        checksum: 3,
        replicas: vec![NodeNumber(1), NodeNumber(2)],
        local_only: false,
    });
    let message = PeerMessage::Request {
        id: 1,
        deadline_ms: 5,
        request,
    };
    let mut out = Vec::new();
    encode_peer(&message, &mut out);
    assert_eq!(out[..4], [0; 4], "one segment");
    assert!(out.len() < MIB + 512);
    let frame = Bytes::from(out);
    let decoded = decode_peer(&frame).expect("decodes");
    let PeerMessage::Request {
        request: Request::Node(NodeRequest::BlockPut { data, .. }),
        ..
    } = &decoded
    else {
        panic!("another variant");
    };
    assert!(frame.as_ptr_range().contains(&data.as_ptr()));
    assert_eq!(decoded, message);
}

#[test]
fn malformed_frames_are_errors() {
    // Goal: nothing is read as a default that was not sent. Method: break one good frame in each way.
    let message = ClientMessage::Request {
        id: 1,
        deadline_ms: 2,
        request: Request::Query {
            partition: PartitionId(3),
            query: Query::KeyCount,
        },
    };
    let mut good = Vec::new();
    encode_client(&message, &mut good);
    assert_eq!(decode_client(&good.clone().into()).expect("decodes"), message);

    let mut longer = good.clone();
    longer.extend([0; 8]);
    assert!(matches!(
        decode_client(&longer.into()),
        Err(codec::Error::Trailing(8))
    ));
    for length in 0..good.len() {
        assert!(
            decode_client(&Bytes::copy_from_slice(&good[..length])).is_err(),
            "{length}"
        );
    }
    // A call whose pointer to the request is null.
    let mut builder = capnp::message::Builder::new_default();
    builder
        .init_root::<client_message::Builder<'_>>()
        .init_request()
        .set_id(1);
    let bytes = capnp::serialize::write_message_to_words(&builder);
    assert!(matches!(
        decode_client(&bytes.into()),
        Err(codec::Error::Missing("request"))
    ));
    // A variant nobody has, in each place: the discriminants are the only ones to notice.
    let mut refused = 0;
    for position in (16..good.len()).step_by(2) {
        let mut unknown = good.clone();
        unknown[position..position + 2].copy_from_slice(&[99, 0]);
        if let Err(codec::Error::UnknownVariant(variant)) = decode_client(&unknown.into()) {
            assert_eq!(variant, 99);
            refused += 1;
        }
    }
    assert_eq!(
        refused, 3,
        "the discriminants of the message, the request and the query"
    );
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..512)) {
        // Goal: any bytes are a message or an error. Method: random bytes as they are, and behind a true table.
        let mut framed = vec![0; 4];
        framed.extend(((bytes.len() / 8) as u32).to_le_bytes());
        framed.extend(&bytes[..bytes.len() / 8 * 8]);
        for frame in [Bytes::from(bytes), Bytes::from(framed)] {
            let _ = (decode_peer(&frame), decode_client(&frame), decode_server(&frame), decode_proposal(&frame));
        }
    }

    #[test]
    fn damaged_messages_never_panic(seed in any::<u64>(), damage in prop::collection::vec((any::<u16>(), any::<u8>()), 1..8)) {
        // Goal: bytes close to a message are as safe. Method: overwrite a few bytes of a good one.
        let mut generator = Generator::new(seed);
        let mut frame = Vec::new();
        encode_peer(&generator.peer(), &mut frame);
        for (position, byte) in damage {
            let position = usize::from(position) % frame.len();
            frame[position] = byte;
        }
        let _ = decode_peer(&frame.into());
    }
}

fn golden_proposal() -> Proposal {
    Proposal {
        time: 1_700_000_000_123_456_789,
        id: Some(RequestId {
            client: ClientId(0xfeed),
            sequence: 7,
            acknowledged_below: 6,
        }),
        command: Command::KeySet {
            key: Bytes::from_static(b"key"),
            value: Bytes::from_static(b"\x00value\xff"),
            expiry: Expiry::After(1000),
            condition: Condition::IfVersion(5),
            return_previous: true,
        },
    }
}

fn golden_data(command: DataCommand) -> Proposal {
    let command = Command::Data(command);
    Proposal {
        command,
        ..golden_proposal()
    }
}

fn golden_write() -> DataCommand {
    DataCommand::Write {
        inode: InodeId::new(PartitionId(3), 9),
        offset: Some(1 << 40),
        data: Bytes::from_static(b"\x00bytes\xff"),
    }
}

fn golden_update() -> DataCommand {
    DataCommand::Update(Box::new(FileUpdate {
        inode: InodeId::new(PartitionId(3), 9),
        bytes: NewBytes::at(4096, Bytes::from_static(b"bytes\xff")),
        change: AttributeChange {
            mode: Some(0o644),
            owner: Some(7),
            modified: Some(SetTime::At(-3)),
            ..AttributeChange::default()
        },
        drops_privileges: true,
        written: Some(1_700_000_000_000_000_000),
        changed: None,
    }))
}

fn golden_repack() -> DataCommand {
    DataCommand::Repack {
        block: PackedBlock {
            block: BlockId::new(ClientId(0xfeed), PartitionId(3), 7),
            size: 12,
            checksum: 0xdead_beef,
            nodes: vec![NodeNumber(1), NodeNumber(3)],
        },
        pieces: vec![
            PackedPiece {
                inode: InodeId::new(PartitionId(3), 9),
                offset: 4096,
                length: 5,
                block_offset: 0,
                from: PackedFrom::Patch { written: 77 },
            },
            PackedPiece {
                inode: InodeId::new(PartitionId(3), 10),
                offset: 0,
                length: 7,
                block_offset: 5,
                from: PackedFrom::Block {
                    block: BlockId {
                        client: ClientId(1),
                        counter: 2,
                    },
                    block_offset: 64,
                },
            },
        ],
    }
}

fn golden_peer() -> PeerMessage {
    PeerMessage::Raft(vec![RaftMessage {
        partition: PartitionId(3),
        kind: RaftKind::Append,
        from: NodeNumber(1),
        to: NodeNumber(2),
        term: 4,
        log_term: 3,
        index: 10,
        entries: vec![bark_schema::message::LogEntry {
            term: 4,
            index: 11,
            kind: 0,
            data: encode_proposal(&golden_proposal()),
            context: Bytes::new(),
        }],
        commit: 9,
        commit_term: 3,
        snapshot: None,
        request_snapshot: 0,
        reject: false,
        reject_hint: 0,
        context: Bytes::from_static(b"context"),
        priority: -1,
    }])
}

#[test]
fn old_bytes_are_read_as_they_were_meant() {
    // Goal: logs and messages of older programs stay readable. Method: committed bytes, never regenerated.
    let proposal = Bytes::from_static(include_bytes!("golden/proposal.bin"));
    assert_eq!(decode_proposal(&proposal).expect("decodes"), golden_proposal());
    let peer = Bytes::from_static(include_bytes!("golden/peer_raft.bin"));
    assert_eq!(decode_peer(&peer).expect("decodes"), golden_peer());
    let write = Bytes::from_static(include_bytes!("golden/write.bin"));
    assert_eq!(
        decode_proposal(&write).expect("decodes"),
        golden_data(golden_write())
    );
    let update = Bytes::from_static(include_bytes!("golden/update.bin"));
    assert_eq!(
        decode_proposal(&update).expect("decodes"),
        golden_data(golden_update())
    );
    let repack = Bytes::from_static(include_bytes!("golden/repack.bin"));
    assert_eq!(
        decode_proposal(&repack).expect("decodes"),
        golden_data(golden_repack())
    );
}

#[test]
fn large_values_and_many_items_take_few_segments() {
    // Goal: the size bound holds where it matters. Method: messages of many parts have one segment.
    let pairs = (0..1000).map(|number| {
        (
            PartitionId(number),
            Bytes::from(vec![1; 9]),
            Bytes::from(vec![2; 17]),
        )
    });
    let request = Request::Namespace {
        id: RequestId {
            client: ClientId(1),
            sequence: 1,
            acknowledged_below: 0,
        },
        operation: bark_schema::operation::Namespace::KeySetMany {
            partition: PartitionId(0),
            pairs: pairs.collect(),
        },
    };
    let mut out = Vec::new();
    encode_client(
        &ClientMessage::Request {
            id: 1,
            deadline_ms: 1,
            request,
        },
        &mut out,
    );
    assert_eq!(out[..4], [0; 4], "one segment");
    let mut generator = Generator::new(3);
    for _ in 0..2000 {
        let mut out = Vec::new();
        encode_server(&generator.server(), &mut out);
        assert!(out[0] < 4, "{} segments", out[0] + 1);
    }
}
