//! Copies of blocks that are lost or go bad.

use bark_core::checksum::crc32c;
use bark_schema::ids::BlockId;
use bark_schema::upkeep::{CopyHealth, ScrubStatus};

use super::*;

const SIZE: usize = 100_000;

/// A file of one block, stored on `nodes`.
fn file_of_a_block(cluster: &mut Cluster, counter: u64, nodes: &[u16]) -> BlockId {
    let data = Bytes::from(vec![counter as u8; SIZE]);
    let checksum = crc32c(&[&data]);
    let block = BlockId::new(ClientId(5), PartitionId(0), counter);
    let replicas: Vec<NodeNumber> = nodes.iter().copied().map(NodeNumber).collect();
    let put = NodeRequest::BlockPut {
        block,
        data,
        checksum,
        replicas: replicas.clone(),
        local_only: false,
    };
    cluster.ask(1, Request::Node(put)).expect("stored");
    let content = NewContent::Inline(Bytes::new());
    let create = Command::Create {
        directory: InodeId::ROOT,
        name: bytes(&format!("file {counter}")),
        attributes: new_inode(),
        content,
        exclusive: true,
    };
    let Ok(Reply::Created { attributes, .. }) = cluster.command(1, 0, create) else {
        panic!("not created");
    };
    let extent = Extent {
        offset: 0,
        length: SIZE as u32,
        block,
        block_offset: 0,
        block_size: SIZE as u32,
        checksum,
        nodes: replicas,
    };
    let publish = Command::Publish {
        inode: attributes.inode,
        extents: vec![extent],
        size: SIZE as u64,
        replace_all: true,
        base_version: None,
    };
    cluster.command(1, 0, publish).expect("published");
    block
}

fn holders(cluster: &Cluster, block: BlockId) -> Vec<u16> {
    let partition = cluster.members[&NodeNumber(1)].worker.partitions().next();
    let state = partition.expect("partition 0").state();
    let (_, nodes) = state.blocks().find(|(known, _)| *known == block).expect("in use");
    let mut nodes: Vec<u16> = nodes.iter().map(|node| node.0).collect();
    nodes.sort_unstable();
    nodes
}

fn read(cluster: &mut Cluster, node: u16, block: BlockId) -> Result<Reply, Failure> {
    let (offset, length) = (0, SIZE as u32);
    let get = NodeRequest::BlockGet {
        block,
        offset,
        length,
    };
    cluster.ask(node, Request::Node(get))
}

fn steps_until(cluster: &mut Cluster, what: &str, mut is_so: impl FnMut(&mut Cluster) -> bool) {
    for _ in 0..10_000 {
        if is_so(cluster) {
            return;
        }
        cluster.step();
    }
    panic!("{what}: not within ten seconds");
}

#[test]
fn a_copy_that_was_never_made_is_made() {
    // Goal: a block that missed a node gets there by itself. Method: a block of three stored on two.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let block = file_of_a_block(&mut cluster, 1, &[1, 2]);
    steps_until(&mut cluster, "a third copy", |cluster| {
        holders(cluster, block) == [1, 2, 3]
    });
    let third = read(&mut cluster, 3, block).expect("it is there");
    assert_eq!(third, Reply::Block(Bytes::from(vec![1; SIZE])));
}

#[test]
fn a_scrub_names_a_bad_copy_and_it_is_healed() {
    // Goal: rot is found without a reader, told with its file, and mended. Method: a bit turns over on node 2.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let block = file_of_a_block(&mut cluster, 1, &[1, 2, 3]);
    let whole = file_of_a_block(&mut cluster, 2, &[1, 2, 3]);
    let member = cluster.members.get_mut(&NodeNumber(2)).expect("a member");
    let path = member
        .disk
        .paths()
        .into_iter()
        .find(|path| path.ends_with(".blocks"));
    member.disk.flip_bit(&path.expect("a segment"), 5_000, 3);
    let scrub = |cluster: &mut Cluster, start| -> ScrubStatus {
        match cluster.ask(2, Request::Node(NodeRequest::Scrub { start })) {
            Ok(Reply::Scrub(status)) => status,
            other => panic!("unexpected {other:?}"),
        }
    };
    assert_eq!(scrub(&mut cluster, true).cycle, 1);
    steps_until(&mut cluster, "the end of the cycle", |cluster| {
        !scrub(cluster, false).running
    });
    let status = scrub(&mut cluster, false);
    assert_eq!((status.checked_blocks, status.bad_count), (2, 1));
    assert_eq!(
        (status.bad[0].block, status.bad[0].health),
        (block, CopyHealth::Healed)
    );
    assert!(status.bad[0].inode.is_some(), "its file is told");
    assert_eq!(holders(&cluster, block), [1, 2, 3]);
    for block in [block, whole] {
        assert!(read(&mut cluster, 2, block).is_ok());
    }
    scrub(&mut cluster, true);
    steps_until(&mut cluster, "the end of the cycle", |cluster| {
        !scrub(cluster, false).running
    });
    assert_eq!(scrub(&mut cluster, false).bad_count, 0, "it is told once");
}

#[test]
fn orphans_are_shown_and_only_old_ones_are_given_up() {
    // Goal: a block somebody may be about to publish stays. Method: one that nobody published, asked about twice.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let data = Bytes::from_static(b"nobody's");
    let put = NodeRequest::BlockPut {
        block: BlockId::new(ClientId(5), PartitionId(0), 9),
        checksum: crc32c(&[&data]),
        data,
        replicas: vec![NodeNumber(1)],
        local_only: false,
    };
    cluster.ask(1, Request::Node(put)).expect("stored");
    for give_up in [false, true] {
        match cluster.ask(1, Request::Node(NodeRequest::Orphans { give_up })) {
            Ok(Reply::Orphans(found)) => {
                assert_eq!((found.count, found.bytes, found.given_up), (1, 8, 0));
                assert!(!found.orphans[0].is_old);
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    cluster.silent.insert(NodeNumber(2));
    cluster.silent.insert(NodeNumber(3));
    let asked = cluster.ask(1, Request::Node(NodeRequest::Orphans { give_up: true }));
    assert!(asked.is_err(), "a scan that fails gives nothing up: {asked:?}");
}
