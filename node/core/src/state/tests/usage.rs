//! What directories take equals a full scan, whatever happened between partitions.

use super::*;
use bark_schema::data::DataCommand;
use bark_schema::ids::TransactionId;
use bark_schema::usage::{Usage, UsageQuery, files_of};

use super::forest::{Forest, OPERATIONS, PARTITIONS, names};

#[test]
fn what_directories_take_equals_a_full_scan() {
    // Goal: exact totals after any history. Method: random operations in four partitions with aborted and late
    // transactions and with reports that are lost, late and repeated; at every rest, a walk.
    for seed in 1..=6 {
        let mut forest = Forest::new(seed);
        for operation in 0..OPERATIONS {
            forest.operate();
            forest.finish_some(3);
            let partition = PartitionId(forest.random.below(u64::from(PARTITIONS)) as u16);
            match forest.random.below(4) {
                0 => forest.report(partition, true),
                1 => forest.repeat(),
                _ => {}
            }
            if operation % 250 == 249 {
                forest.come_to_rest();
                forest.check();
                forest.repeat();
                forest.come_to_rest();
                forest.check();
            }
        }
        let far = forest
            .states
            .iter()
            .flat_map(|state| state.usages.iter().map(|(row, _)| (row, state.partition())));
        assert!(
            far.filter(|(row, partition)| row.home() != *partition).count() > 0,
            "no file ever moved"
        );
        assert!(forest.entries().len() > 30, "the workload does something");
    }
}

#[test]
fn a_file_without_a_name_takes_nothing() {
    let mut machine = Machine::new();
    let total = |machine: &Machine| {
        machine.query(Query::Usage(UsageQuery::Total {
            directory: InodeId::ROOT,
        }))
    };
    let usage = |bytes, inodes| {
        Ok(Reply::Usage(Usage {
            bytes,
            stored: bytes,
            inodes,
        }))
    };
    assert_eq!(total(&machine), usage(0, 1));
    let file = machine.create(InodeId::ROOT, "f", b"12345");
    assert_eq!(total(&machine), usage(5, 2));
    let directory = InodeId::ROOT;
    let name = bytes("f");
    machine.apply(Command::Unlink { directory, name }).unwrap();
    assert_eq!(total(&machine), usage(0, 1));
    let data = Bytes::from_static(b"written after it lost its name");
    let offset = None;
    let write = DataCommand::Write {
        inode: file,
        offset,
        data,
    };
    machine.apply(Command::Data(write)).unwrap();
    assert_eq!(total(&machine), usage(0, 1));
    machine.reap();
    assert_eq!(total(&machine), usage(0, 1));
}

#[test]
fn a_file_with_two_names_counts_once_and_by_the_other_when_the_first_goes() {
    let mut machine = Machine::new();
    let file = machine.create(InodeId::ROOT, "f", b"12345");
    let far = InodeId::new(PartitionId(2), 9);
    let link = |sequence, added, removed| Command::Decide {
        transaction: TransactionId {
            client: ClientId(1),
            sequence,
            attempt: 1,
        },
        commit: true,
        steps: vec![names(file, added, removed, None)],
        participants: Vec::new(),
        reply: Box::new(Reply::Done),
        acknowledged_below: 0,
    };
    machine.apply(link(1, Some(far), None)).unwrap();
    let counted = |machine: &Machine, row| machine.state.usages.get(&row).map(|row| row.own);
    assert_eq!(counted(&machine, far), None);
    let (directory, name) = (InodeId::ROOT, bytes("f"));
    machine.apply(Command::Unlink { directory, name }).unwrap();
    let usage = Usage {
        bytes: 5,
        stored: 5,
        inodes: 1,
    };
    assert_eq!(counted(&machine, far), Some(usage));
    assert_eq!(counted(&machine, InodeId::ROOT).map(|own| own.inodes), Some(1));
    let (reports, _) = machine.state.unreported_usage(InodeId(0), 10);
    assert_eq!(
        (reports[0].directory, reports[0].contributor),
        (far, files_of(PartitionId(0)))
    );
    // Whoever saw another name go is told to look again.
    let gone = machine.apply(link(2, None, Some(InodeId::ROOT)));
    assert_eq!(refusal(gone), Refusal::Conflict);
    machine.apply(link(3, None, Some(far))).unwrap();
    assert_eq!(counted(&machine, far), Some(Usage::default()));
}
