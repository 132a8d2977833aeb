//! Inodes without a name: kept while open, gone after the grace time, released when a client is silent.

use super::*;
use crate::state::unfinished::ROWS_CUT_MAX;
use bark_schema::operation::{Entry, Step};

const ROOT: InodeId = InodeId::ROOT;
const ONE: ClientId = ClientId(1);
const OTHER: ClientId = ClientId(2);
const LEASE_MS: u32 = 60_000;

fn tell(client: ClientId, opened: &[InodeId], closed: &[InodeId]) -> Command {
    Command::UpdateOpens {
        client,
        opened: opened.to_vec(),
        closed: closed.to_vec(),
        lease_ms: LEASE_MS,
    }
}

fn unlink(name: &str) -> Command {
    Command::Unlink {
        directory: ROOT,
        name: bytes(name),
    }
}

fn opens(missing: &[InodeId], renewed: bool) -> Result<Reply, Failure> {
    Ok(Reply::Opens {
        missing: missing.to_vec(),
        renewed,
    })
}

fn exists(machine: &Machine, inode: InodeId) -> bool {
    machine.query(Query::Attributes { inode }).is_ok()
}

#[test]
fn an_unlinked_file_can_be_read_and_written_until_the_last_client_closes_it() {
    // Goal: two clients have it open; it stays for both, in whatever order they close.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"kept");
    assert_eq!(machine.apply(tell(ONE, &[file], &[])), opens(&[], false));
    machine.apply(unlink("f")).unwrap();
    assert_eq!(machine.apply(tell(OTHER, &[file], &[])), opens(&[], false));
    machine.reap();
    machine.reap();
    assert_eq!(machine.attributes(file).link_count, 0);
    assert_eq!(machine.layout(file, 0, 9), Content::Inline(bytes("kept")));
    let write = Command::WriteInline {
        inode: file,
        offset: 4,
        data: bytes("!"),
        truncate: false,
    };
    machine.apply(write).unwrap();
    assert_eq!(machine.layout(file, 0, 9), Content::Inline(bytes("kept!")));
    assert_eq!((machine.state.file_bytes, machine.state.allocated_bytes), (0, 0));
    assert_eq!(machine.apply(tell(ONE, &[], &[file])), opens(&[], true));
    machine.reap();
    assert!(exists(&machine, file), "the other one has it open");
    assert_eq!(machine.apply(tell(OTHER, &[], &[file])), opens(&[], true));
    machine.apply(Command::ReapOrphans { limit: 9 }).unwrap();
    assert!(exists(&machine, file), "somebody may be about to tell");
    machine.reap();
    assert!(!exists(&machine, file));
    assert_eq!(machine.state.orphans.len(), 0);
    assert_eq!(machine.apply(tell(ONE, &[file], &[])), opens(&[file], true));
}

#[test]
fn each_last_close_starts_the_grace_time_anew() {
    // Goal: whoever opens it just before somebody else closes it still has the whole grace time to tell.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    machine.apply(tell(ONE, &[file], &[])).unwrap();
    machine.apply(unlink("f")).unwrap();
    let grace = bark_schema::limits::ORPHAN_GRACE_MS as i64 * 1_000_000;
    machine.time += grace / 2;
    machine.apply(tell(ONE, &[], &[file])).unwrap();
    machine.apply(tell(OTHER, &[file], &[])).unwrap();
    machine.apply(tell(OTHER, &[], &[file])).unwrap();
    machine.time += grace / 2 + 1;
    machine.apply(Command::ReapOrphans { limit: 9 }).unwrap();
    assert!(exists(&machine, file), "half of the grace time is left");
    machine.time += grace / 2;
    machine.apply(Command::ReapOrphans { limit: 9 }).unwrap();
    assert!(!exists(&machine, file));
    assert_eq!(
        (machine.state.orphans.len(), machine.state.due_orphans.len()),
        (0, 0)
    );
}

#[test]
fn a_silent_client_loses_what_it_has_open_after_its_lease() {
    // Goal: the lease decides, by log time; renewing keeps; a client that comes back is told to tell again.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    machine.apply(tell(ONE, &[file], &[])).unwrap();
    machine.apply(tell(OTHER, &[file], &[])).unwrap();
    machine.apply(unlink("f")).unwrap();
    machine.time += i64::from(LEASE_MS - 1) * 1_000_000;
    assert_eq!(machine.apply(tell(ONE, &[], &[])), opens(&[], true));
    assert!(machine.state.has_due_orphans(machine.time));
    machine.time += 1_000_000;
    machine.apply(Command::ReapOrphans { limit: 9 }).unwrap();
    machine.reap();
    assert!(exists(&machine, file), "one renewed its lease");
    assert_eq!(machine.apply(tell(OTHER, &[], &[])), opens(&[], false));
    machine.apply(tell(OTHER, &[], &[file])).unwrap();
    machine.time += i64::from(LEASE_MS) * 1_000_000;
    machine.apply(Command::ReapOrphans { limit: 9 }).unwrap();
    machine.reap();
    assert!(!exists(&machine, file));
    assert_eq!((machine.state.leases.len(), machine.state.opens.len()), (0, 0));
    assert!(!machine.state.has_due_orphans(i64::MAX));
}

#[test]
fn a_file_opened_again_by_another_name_outlives_all_of_it() {
    // Goal: only inodes without a name are reaped, whatever is due.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    machine.apply(tell(ONE, &[file], &[])).unwrap();
    machine.apply(tell(ONE, &[], &[file])).unwrap();
    let to = Entry {
        directory: ROOT,
        name: bytes("g"),
    };
    machine
        .apply(Command::Link {
            inode: file,
            to: to.clone(),
        })
        .unwrap();
    machine.apply(unlink("f")).unwrap();
    machine.reap();
    assert_eq!(machine.attributes(file).link_count, 1);
    machine.apply(unlink("g")).unwrap();
    assert_eq!(
        refusal(machine.apply(Command::Link { inode: file, to })),
        Refusal::NotFound,
        "what has no name gets none"
    );
}

#[test]
fn a_large_orphan_goes_in_pieces() {
    // Goal: no entry takes more than a bounded number of extents; all of them end in the ledger.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    const COUNT: u64 = 12_000;
    for first in (0..COUNT).step_by(4_000) {
        let extents = (first..first + 4_000).map(|number| extent(number * 10, 10, number + 1));
        let publish = Command::Publish {
            inode: file,
            extents: extents.collect(),
            size: 0,
            replace_all: false,
            base_version: None,
        };
        let resize = Command::SetAttributes {
            inode: file,
            change: bark_schema::operation::AttributeChange {
                size: Some((first + 4_000) * 10),
                ..Default::default()
            },
        };
        machine.apply(resize).unwrap();
        machine.apply(publish).unwrap();
    }
    machine.apply(unlink("f")).unwrap();
    let mut before = machine.state.extents.len();
    assert_eq!(before, COUNT);
    machine.reap();
    let mut entries = 1;
    while exists(&machine, file) {
        assert!(before - machine.state.extents.len() <= ROWS_CUT_MAX as u64);
        before = machine.state.extents.len();
        assert!(machine.state.has_due_orphans(machine.time));
        machine.apply(Command::ReapOrphans { limit: 9 }).unwrap();
        entries += 1;
    }
    assert_eq!(entries, 3);
    assert_eq!(
        (machine.state.extents.len(), machine.state.garbage.len()),
        (0, COUNT)
    );
}

#[test]
fn a_removed_directory_stays_readable_by_number_and_takes_nothing_in() {
    let mut machine = Machine::new();
    let inode = machine.state.allocate_inode_hint();
    let apply = |machine: &mut Machine, sequence, steps| {
        machine.apply(Command::Decide {
            transaction: bark_schema::ids::TransactionId {
                client: ClientId(9),
                sequence,
                attempt: 1,
            },
            commit: true,
            steps,
            participants: vec![],
            reply: Box::new(Reply::Done),
            acknowledged_below: 0,
        })
    };
    let attributes = new_inode();
    let parent = ROOT;
    let birth = Step::CreateDirectory {
        inode,
        parent,
        attributes,
        quota: None,
        born: i64::MAX,
    };
    apply(&mut machine, 1, vec![birth]).unwrap();
    apply(&mut machine, 2, vec![Step::RemoveDirectory { inode }]).unwrap();
    assert_eq!(machine.attributes(inode).link_count, 0);
    assert_eq!(refusal(machine.apply(create(inode, "x", b""))), Refusal::NotFound);
    machine.reap();
    assert!(!exists(&machine, inode));
}
