//! Blocks and large files.

use bark_core::checksum::crc32c;
use bark_schema::ids::BlockId;

use super::*;

#[test]
fn blocks_are_stored_on_their_replicas() {
    let mut cluster = Cluster::new(3);
    let data = Bytes::from(vec![7; 100_000]);
    let block = BlockId {
        client: ClientId(5),
        counter: 1,
    };
    let put = NodeRequest::BlockPut {
        block,
        data: data.clone(),
        checksum: crc32c(&[&data]),
        replicas: (1..=3).map(NodeNumber).collect(),
        local_only: false,
    };
    let stored = cluster.ask(1, Request::Node(put)).expect("stored");
    assert_eq!(
        stored,
        Reply::Stored {
            nodes: (1..=3).map(NodeNumber).collect()
        }
    );
    for node in 1..=3 {
        let get = NodeRequest::BlockGet {
            block,
            offset: 10,
            length: 1000,
        };
        assert_eq!(
            cluster.ask(node, Request::Node(get)),
            Ok(Reply::Block(data.slice(10..1010)))
        );
    }
}

#[test]
fn truncating_a_large_file_answers_once_and_on_every_replica() {
    // Goal: a truncation too long for one entry goes on by itself until it is done, and replicas stay equal.
    // Method: a file of more blocks than two entries take; then one call.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let created = cluster.command(
        1,
        0,
        Command::Create {
            directory: InodeId::ROOT,
            name: bytes("large"),
            attributes: new_inode(),
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        },
    );
    let Ok(Reply::Created { attributes, .. }) = created else {
        panic!("not created: {created:?}");
    };
    let inode = attributes.inode;
    for part in 0..3 {
        let numbers = part * 4096..(part + 1) * 4096;
        let extents = numbers.map(|number| Extent {
            offset: number * 65_536,
            length: 65_536,
            block: BlockId {
                client: ClientId(1),
                counter: number,
            },
            block_offset: 0,
            block_size: 65_536,
            checksum: 1,
            nodes: vec![NodeNumber(1)],
        });
        let command = Command::Publish {
            inode,
            extents: extents.collect(),
            size: (part + 1) * 4096 * 65_536,
            replace_all: false,
            base_version: None,
        };
        cluster.command(1, 0, command).expect("published");
    }
    let change = AttributeChange {
        size: Some(10),
        ..Default::default()
    };
    let truncated = cluster.command(2, 0, Command::SetAttributes { inode, change });
    let Ok(Reply::Attributes(attributes)) = truncated else {
        panic!("not truncated: {truncated:?}");
    };
    assert_eq!(attributes.size, 10);
    cluster.become_equal();
}
