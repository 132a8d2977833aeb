//! The ledger of blocks: sharing, dropping, condemning, forgetting.

use super::*;
use bark_schema::data::{CopyChange, DataCommand, DataQuery};

const ROOT: InodeId = InodeId::ROOT;

fn homed(offset: u64, length: u32, counter: u64) -> Extent {
    Extent {
        block: BlockId::new(ClientId(7), PartitionId(0), counter),
        ..extent(offset, length, 0)
    }
}

fn publish(inode: InodeId, extents: Vec<Extent>) -> Command {
    let size = extents.last().map_or(0, Extent::end);
    Command::Publish {
        inode,
        extents,
        size,
        replace_all: true,
        base_version: None,
    }
}

fn condemn(node: u16, blocks: &[BlockId]) -> Command {
    Command::Data(DataCommand::CondemnBlocks {
        node: NodeNumber(node),
        blocks: blocks.to_vec(),
    })
}

fn abandon(nodes: &[u16], blocks: &[BlockId]) -> Command {
    Command::Data(DataCommand::AbandonBlocks {
        blocks: blocks.to_vec(),
        nodes: nodes.iter().copied().map(NodeNumber).collect(),
    })
}

fn forget(blocks: &[BlockId]) -> Command {
    let blocks = blocks.to_vec();
    Command::Data(DataCommand::ForgetBlocks { blocks })
}

fn unlink(name: &str) -> Command {
    Command::Unlink {
        directory: ROOT,
        name: bytes(name),
    }
}

fn garbage(machine: &Machine) -> Vec<(BlockId, Vec<NodeNumber>)> {
    let rows = machine.state.garbage();
    rows.map(|(block, _, nodes)| (block, nodes.to_vec())).collect()
}

#[test]
fn a_copied_file_shares_blocks_that_live_until_the_last_file_goes() {
    // Goal: references count extents of all files. Method: copy, unlink one, then the other.
    let mut machine = Machine::new();
    let (first, second) = (machine.create(ROOT, "a", b""), machine.create(ROOT, "b", b""));
    machine.apply(publish(first, vec![homed(0, 9_000, 1)])).unwrap();
    let copy = DataCommand::CopyRange {
        from: first,
        from_offset: 1_000,
        to: second,
        to_offset: 0,
        length: 99_999,
    };
    let Ok(Reply::Copied(copied)) = machine.apply(Command::Data(copy)) else {
        panic!("not copied");
    };
    assert_eq!((copied.length, copied.attributes.size), (8_000, 8_000));
    let space = machine.state.space();
    assert_eq!((space.allocated_bytes, space.block_bytes), (17_000, 9_000));
    machine.apply(unlink("a")).unwrap();
    assert_eq!(garbage(&machine), []);
    machine.apply(unlink("b")).unwrap();
    machine.reap();
    assert_eq!(machine.state.space().garbage_bytes, 9_000);
    assert_eq!(garbage(&machine).len(), 1);
}

#[test]
fn only_blocks_nobody_published_are_condemned() {
    // Goal: the log decides whether publishing or the report came first, and keeps to it. Method: both orders.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let (used, orphan) = (homed(0, 10, 5), homed(0, 10, 6));
    machine.apply(publish(file, vec![used.clone()])).unwrap();
    let query = DataQuery::UnknownBlocks {
        blocks: vec![used.block, orphan.block],
    };
    assert_eq!(
        machine.query(Query::Data(query)),
        Ok(Reply::Blocks(vec![orphan.block]))
    );

    machine.apply(condemn(1, &[used.block, orphan.block])).unwrap();
    machine.apply(condemn(3, &[orphan.block])).unwrap();
    let on = vec![NodeNumber(1), NodeNumber(3)];
    assert_eq!(garbage(&machine), [(orphan.block, on)]);
    assert!(machine.state.is_referenced(used.block));
    let late = publish(file, vec![orphan.clone()]);
    assert_eq!(refusal(machine.apply(late.clone())), Refusal::Conflict);

    machine.apply(forget(&[orphan.block])).unwrap();
    assert_eq!(garbage(&machine), []);
    assert_eq!(
        refusal(machine.apply(late)),
        Refusal::Conflict,
        "it is gone from the disks"
    );
    machine.apply(publish(file, vec![homed(0, 10, 7)])).unwrap();
}

#[test]
fn blocks_their_writer_gave_up_are_garbage_at_once_and_its_other_blocks_are_not() {
    // Goal: space of refused writes comes back without a day's wait, and older blocks of the same client may still be
    // published. Method: abandon one in use, one unknown, and one of somebody else.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let (older, used, refused) = (homed(20, 10, 4), homed(0, 10, 5), homed(0, 10, 6));
    machine.apply(publish(file, vec![used.clone()])).unwrap();
    machine
        .request(1, abandon(&[1, 2], &[used.block, refused.block]))
        .unwrap();
    assert!(machine.state.is_referenced(used.block));
    let rows: Vec<_> = machine.state.garbage_after(None).collect();
    assert_eq!(rows, [(refused.block, 0, &[NodeNumber(1), NodeNumber(2)][..])]);
    assert_eq!(
        refusal(machine.apply(publish(file, vec![refused.clone()]))),
        Refusal::Conflict
    );
    machine.apply(forget(&[refused.block])).unwrap();
    assert_eq!(garbage(&machine), []);
    machine.apply(publish(file, vec![used, older])).unwrap();

    let foreign = BlockId::new(ClientId(8), PartitionId(0), 9);
    assert_eq!(
        refusal(machine.request(2, abandon(&[1], &[foreign]))),
        Refusal::InvalidArgument
    );
    assert_eq!(garbage(&machine), []);
}

#[test]
fn blocks_of_other_partitions_are_neither_published_nor_condemned() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let foreign = Extent {
        block: BlockId::new(ClientId(7), PartitionId(2), 1),
        ..extent(0, 10, 0)
    };
    let block = foreign.block;
    assert_eq!(
        refusal(machine.apply(publish(file, vec![foreign]))),
        Refusal::InvalidArgument
    );
    // Nothing is known of the home of blocks from before homes were named.
    machine
        .apply(condemn(1, &[block, extent(0, 1, 3).block]))
        .unwrap();
    assert_eq!(garbage(&machine), []);
}

#[test]
fn extents_that_disagree_about_a_block_are_refused() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let mut second = homed(10, 10, 1);
    second.checksum += 1;
    assert_eq!(
        refusal(machine.apply(publish(file, vec![homed(0, 10, 1), second]))),
        Refusal::InvalidArgument
    );
}

fn copies(changes: &[(u64, u16, bool)]) -> Command {
    let changes = changes.iter().map(|(counter, node, has)| CopyChange {
        block: BlockId::new(ClientId(7), PartitionId(0), *counter),
        node: NodeNumber(*node),
        has: *has,
    });
    Command::Data(DataCommand::RecordCopies {
        changes: changes.collect(),
    })
}

fn named(machine: &Machine) -> Vec<Vec<u16>> {
    let rows = machine.state.blocks();
    rows.map(|(_, nodes)| nodes.iter().map(|node| node.0).collect())
        .collect()
}

fn short(machine: &Machine) -> Vec<(usize, usize)> {
    let rows = machine.state.short_of_copies(None);
    rows.map(|copies| (copies.nodes.len(), copies.wanted)).collect()
}

#[test]
fn a_record_loses_and_gains_copies_and_too_few_are_noticed() {
    // Goal: what a record says follows the log, and blocks with too few copies are known whoever led before.
    let mut machine = Machine::new();
    machine.state.watch_copies(3);
    let file = machine.create(ROOT, "a", b"");
    let full = Extent {
        nodes: [1, 2, 3].map(NodeNumber).to_vec(),
        ..homed(0, 9_000, 1)
    };
    let late = Extent {
        nodes: [1, 2].map(NodeNumber).to_vec(),
        ..homed(9_000, 9_000, 2)
    };
    machine.apply(publish(file, vec![full, late])).unwrap();
    assert_eq!(
        short(&machine),
        [(2, 3)],
        "a node was down when the second was written"
    );
    let in_use = machine
        .apply(copies(&[(1, 2, false), (2, 3, true), (9, 1, true)]))
        .unwrap();
    assert!(
        matches!(in_use, Reply::Blocks(blocks) if blocks.len() == 2),
        "9 is nobody's"
    );
    assert_eq!(named(&machine), [vec![1, 3], vec![1, 2, 3]]);
    assert_eq!(short(&machine), [(2, 3)]);
    machine.apply(copies(&[(1, 1, false), (1, 3, false)])).unwrap();
    assert_eq!(
        named(&machine)[0],
        [3],
        "the last one stays, whatever is said of it"
    );
    assert_eq!(short(&machine), [(1, 3)]);
    assert_eq!(machine.state.audit(), Ok(()));
    let kept = short(&machine);
    machine.state.watch_copies(3);
    assert_eq!(short(&machine), kept, "found again by looking at everything");
    machine
        .apply(copies(&[(1, 2, true), (1, 2, true), (1, 1, true)]))
        .unwrap();
    assert_eq!(named(&machine)[0], [3, 2, 1]);
    assert_eq!(short(&machine), []);
    machine.apply(copies(&[(1, 1, false), (1, 2, false)])).unwrap();
    machine.apply(unlink("a")).unwrap();
    machine.reap();
    assert_eq!(short(&machine), [], "nobody needs copies of what is dropped");
    machine.apply(copies(&[(1, 2, true)])).unwrap();
    let rows = garbage(&machine);
    let nodes = [3, 2].map(NodeNumber);
    assert_eq!(
        rows[0].1, nodes,
        "a copy that came late is dropped with the others"
    );
}
