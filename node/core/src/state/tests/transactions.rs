//! Two-phase commit: late, repeated and contradicting commands.

use super::*;
use crate::state::session::RETENTION;
use bark_schema::ids::TransactionId;
use bark_schema::operation::{AttributeChange, Entry, Step, TransactionOutcome};

const ROOT: InodeId = InodeId::ROOT;
const PRIMARY: PartitionId = PartitionId(2);

pub(super) fn transaction(sequence: u64, attempt: u64) -> TransactionId {
    TransactionId {
        client: ClientId(9),
        sequence,
        attempt,
    }
}

pub(super) fn prepare(transaction: TransactionId, steps: Vec<Step>) -> Command {
    Command::Prepare {
        transaction,
        primary: PRIMARY,
        steps,
    }
}

fn finish(transaction: TransactionId, commit: bool) -> Command {
    Command::Finish { transaction, commit }
}

pub(super) fn decide(transaction: TransactionId, commit: bool, steps: Vec<Step>) -> Command {
    let participants = vec![PartitionId(3)];
    let reply = Box::new(Reply::Done);
    Command::Decide {
        transaction,
        commit,
        steps,
        participants,
        reply,
        acknowledged_below: 0,
    }
}

fn key_set(key: &str) -> Step {
    Step::KeySet {
        key: bytes(key),
        value: bytes("new"),
    }
}

fn entry(directory: InodeId, name: &str) -> Entry {
    Entry {
        directory,
        name: bytes(name),
    }
}

/// Makes a directory of the root's partition the way a coordinator does.
fn make_directory(machine: &mut Machine, sequence: u64, name: &str) -> InodeId {
    let inode = machine.state.allocate_inode_hint();
    let steps = vec![
        Step::CreateDirectory {
            inode,
            parent: ROOT,
            attributes: new_inode(),
            quota: None,
            born: i64::MAX,
        },
        Step::InsertEntry {
            entry: entry(ROOT, name),
            inode,
            kind: FileKind::Directory,
            expected: None,
            quota: None,
            policy: None,
        },
    ];
    let command = Command::Decide {
        transaction: transaction(sequence, 1),
        commit: true,
        steps,
        participants: vec![],
        reply: Box::new(Reply::Done),
        acknowledged_below: 0,
    };
    assert_eq!(machine.apply(command), Ok(Reply::Done));
    inode
}

#[test]
fn a_directory_has_the_times_its_maker_was_told() {
    // Goal: they do not move after mkdir, and are never ahead of the log. Method: a coordinator that planned a moment
    // before the entry, and one whose clock is ahead.
    let mut machine = Machine::new();
    let now = machine.time;
    for (sequence, told, expected) in [(1, now - SECOND, now - SECOND), (2, now + SECOND, now)] {
        let inode = machine.state.allocate_inode_hint();
        let birth = Step::CreateDirectory {
            inode,
            parent: ROOT,
            attributes: new_inode(),
            quota: None,
            born: told,
        };
        machine
            .apply(decide(transaction(sequence, 1), true, vec![birth]))
            .unwrap();
        let born = machine.attributes(inode);
        assert_eq!(
            (born.accessed, born.modified, born.changed),
            (expected, expected, expected)
        );
    }
}

#[test]
fn what_is_prepared_is_held_until_it_is_finished() {
    // Goal: plain commands, queries and other transactions meet the lock; finishing applies and frees.
    let mut machine = Machine::new();
    let held = transaction(1, 1);
    assert_eq!(machine.apply(prepare(held, vec![key_set("k")])), Ok(Reply::Done));
    assert_eq!(machine.apply(prepare(held, vec![key_set("k")])), Ok(Reply::Done));
    let locked = Failure::Locked {
        transaction: held,
        primary: PRIMARY,
    };
    assert_eq!(machine.request(1, set("k", "v")), Err(locked.clone()));
    assert_eq!(machine.state.recorded(&request_id(1)), None);
    assert_eq!(
        machine.query(Query::KeyGet { key: bytes("k") }),
        Err(locked.clone())
    );
    let scan = |prefix| Query::KeyScan {
        after: bytes(""),
        prefix: bytes(prefix),
        limit: 9,
    };
    assert_eq!(machine.query(scan("k")), Err(locked.clone()));
    assert!(machine.query(scan("l")).is_ok());
    assert_eq!(
        machine.apply(prepare(transaction(2, 1), vec![key_set("k")])),
        Err(locked)
    );
    assert_eq!(
        machine.state.prepared().collect::<Vec<_>>(),
        [(held, PRIMARY, machine.time)]
    );
    assert_eq!(machine.apply(finish(held, true)), Ok(Reply::Done));
    assert_eq!(machine.apply(finish(held, true)), Ok(Reply::Done));
    assert!(matches!(
        machine.query(Query::KeyGet { key: bytes("k") }),
        Ok(Reply::Value(Some(_)))
    ));
    assert_eq!(machine.state.locks.len(), 0);
}

#[test]
fn a_prepare_that_comes_after_its_finish_holds_nothing() {
    // Goal: the marker outlives reordering, and goes by itself.
    let mut machine = Machine::new();
    let late = transaction(1, 1);
    machine.apply(finish(late, false)).unwrap();
    assert_eq!(machine.apply(prepare(late, vec![key_set("k")])), Ok(Reply::Done));
    assert_eq!(
        (machine.state.locks.len(), machine.state.is_prepared(late)),
        (0, false)
    );
    machine.time += RETENTION;
    machine.apply(set("k", "v")).unwrap();
    assert_eq!(
        (machine.state.tombstones.len(), machine.state.retirements.len()),
        (0, 0)
    );
}

#[test]
fn an_aborted_transaction_never_commits_and_a_committed_one_never_aborts() {
    let mut machine = Machine::new();
    let (lost, won) = (transaction(1, 1), transaction(1, 2));
    let aborted = Ok(Reply::Outcome(TransactionOutcome::Aborted));
    let committed = Ok(Reply::Outcome(TransactionOutcome::Committed));
    assert_eq!(machine.apply(decide(lost, false, vec![])), aborted);
    assert!(matches!(
        machine.apply(decide(lost, true, vec![key_set("k")])),
        Err(Failure::Busy(_))
    ));
    assert_eq!(
        machine.apply(decide(won, true, vec![key_set("k")])),
        Ok(Reply::Done)
    );
    assert_eq!(
        machine.apply(decide(won, true, vec![key_set("k")])),
        Ok(Reply::Done)
    );
    assert_eq!(machine.apply(decide(won, false, vec![])), committed);
    let late = transaction(1, 3);
    assert!(matches!(
        machine.apply(decide(late, true, vec![key_set("k")])),
        Err(Failure::Busy(_))
    ));
    let outcomes: Vec<_> = machine
        .state
        .undelivered_outcomes()
        .map(|(id, commit, _)| (id, commit))
        .collect();
    assert_eq!(outcomes, [(lost, false), (won, true), (late, false)]);
    for transaction in [lost, won] {
        machine.apply(Command::Forget { transaction }).unwrap();
    }
    let outcome = |transaction| machine.query(Query::TransactionOutcome { transaction });
    assert_eq!(outcome(lost), aborted, "stays aborted though all have been told");
    assert_eq!(
        outcome(transaction(5, 1)),
        Ok(Reply::Outcome(TransactionOutcome::Undecided))
    );
}

#[test]
fn a_name_that_was_taken_meanwhile_is_looked_at_again() {
    // Goal: a rename that may replace is not refused for a name that comes and goes. Method: the name is there when the
    // step is checked, and not when the operation is planned again.
    let mut machine = Machine::new();
    machine.create(ROOT, "f", b"");
    let step = Step::InsertEntry {
        entry: entry(ROOT, "f"),
        inode: InodeId::new(PartitionId(3), 1),
        kind: FileKind::Regular,
        expected: None,
        quota: None,
        policy: None,
    };
    assert_eq!(
        refusal(machine.apply(prepare(transaction(1, 1), vec![step.clone()]))),
        Refusal::Conflict
    );
    let directory = ROOT;
    let name = bytes("f");
    machine.apply(Command::Unlink { directory, name }).unwrap();
    assert_eq!(
        machine.apply(prepare(transaction(1, 2), vec![step])),
        Ok(Reply::Done)
    );
}

#[test]
fn a_decision_that_fails_its_checks_aborts_and_is_the_answer() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let step = Step::InsertEntry {
        entry: entry(ROOT, "f"),
        inode: InodeId::new(PartitionId(3), 1),
        kind: FileKind::Directory,
        expected: Some(file),
        quota: None,
        policy: None,
    };
    assert_eq!(
        refusal(machine.apply(decide(transaction(1, 1), true, vec![step.clone()]))),
        Refusal::NotDirectory
    );
    machine
        .apply(Command::Unlink {
            directory: ROOT,
            name: bytes("f"),
        })
        .unwrap();
    assert_eq!(
        refusal(machine.apply(decide(transaction(1, 2), true, vec![step]))),
        Refusal::NotDirectory
    );
    let wrong = Step::RemoveEntry {
        entry: entry(ROOT, "g"),
        inode: InodeId(5),
    };
    machine.create(ROOT, "g", b"");
    assert_eq!(
        refusal(machine.apply(decide(transaction(2, 1), true, vec![wrong]))),
        Refusal::Conflict
    );
    let id = RequestId {
        client: ClientId(9),
        sequence: 2,
        acknowledged_below: 0,
    };
    assert_eq!(
        machine.state.recorded(&id),
        None,
        "a conflict is a reason to look again"
    );
}

#[test]
fn a_directory_is_made_filled_and_removed_once_empty() {
    // Goal: link counts, emptiness, and that creates and the removal exclude each other.
    let mut machine = Machine::new();
    let directory = make_directory(&mut machine, 1, "d");
    assert_eq!(machine.attributes(ROOT).link_count, 3);
    assert_eq!(machine.lookup(directory, ".."), Ok((ROOT, FileKind::Directory)));
    machine.create(directory, "f", b"");
    let remove = |sequence| {
        prepare(
            transaction(sequence, 1),
            vec![Step::RemoveDirectory { inode: directory }],
        )
    };
    assert_eq!(refusal(machine.apply(remove(2))), Refusal::NotEmpty);
    machine
        .apply(Command::Unlink {
            directory,
            name: bytes("f"),
        })
        .unwrap();
    let insert = Step::InsertEntry {
        entry: entry(directory, "g"),
        inode: InodeId::new(PartitionId(3), 1),
        kind: FileKind::Regular,
        expected: None,
        quota: None,
        policy: None,
    };
    machine.apply(prepare(transaction(3, 1), vec![insert])).unwrap();
    assert!(matches!(machine.apply(remove(2)), Err(Failure::Locked { .. })));
    machine.apply(finish(transaction(3, 1), false)).unwrap();
    machine.apply(remove(2)).unwrap();
    assert!(matches!(
        machine.apply(create(directory, "h", b"")),
        Err(Failure::Locked { .. })
    ));
    machine.apply(finish(transaction(2, 1), true)).unwrap();
    assert_eq!(
        refusal(machine.apply(create(directory, "h", b""))),
        Refusal::NotFound
    );
    let unlink = Step::RemoveEntry {
        entry: entry(ROOT, "d"),
        inode: directory,
    };
    machine
        .apply(decide(transaction(4, 1), true, vec![unlink]))
        .unwrap();
    assert_eq!(machine.attributes(ROOT).link_count, 2);
}

#[test]
fn links_are_counted_and_the_last_one_takes_the_file() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"bytes");
    let other = InodeId::new(PartitionId(3), 5);
    let step = |count, added, removed| Step::AddLinks {
        inode: file,
        count,
        added,
        removed,
        quota: None,
    };
    let change = |sequence, step| prepare(transaction(sequence, 1), vec![step]);
    machine.apply(change(1, step(1, Some(other), None))).unwrap();
    assert!(matches!(
        machine.query(Query::Attributes { inode: file }),
        Err(Failure::Locked { .. })
    ));
    machine.apply(finish(transaction(1, 1), true)).unwrap();
    assert_eq!(machine.attributes(file).link_count, 2);
    let disagreeing = machine.apply(change(2, step(-2, None, Some(other))));
    assert_eq!(refusal(disagreeing), Refusal::InvalidArgument);
    machine.apply(change(3, step(-1, None, Some(other)))).unwrap();
    machine.apply(finish(transaction(3, 1), true)).unwrap();
    machine.apply(change(4, step(-1, None, Some(ROOT)))).unwrap();
    machine.apply(finish(transaction(4, 1), true)).unwrap();
    assert_eq!(machine.state.file_bytes, 0);
    assert_eq!(
        refusal(machine.apply(change(5, step(1, Some(ROOT), None)))),
        Refusal::NotFound
    );
}

#[test]
fn one_transaction_holds_the_rename_lease() {
    let mut machine = Machine::new();
    let lease = |sequence| prepare(transaction(sequence, 1), vec![Step::HoldRenameLease]);
    machine.apply(lease(1)).unwrap();
    assert!(matches!(machine.apply(lease(2)), Err(Failure::Locked { .. })));
    machine.apply(finish(transaction(1, 1), true)).unwrap();
    assert_eq!(machine.apply(lease(2)), Ok(Reply::Done));
}

#[test]
fn inode_numbers_of_prepared_directories_are_not_given_away() {
    let mut machine = Machine::new();
    let inode = machine.state.allocate_inode_hint();
    let birth = |inode| {
        vec![Step::CreateDirectory {
            inode,
            parent: ROOT,
            attributes: new_inode(),
            quota: None,
            born: i64::MAX,
        }]
    };
    machine.apply(prepare(transaction(1, 1), birth(inode))).unwrap();
    assert_ne!(machine.create(ROOT, "f", b""), inode);
    assert_eq!(
        refusal(machine.apply(prepare(transaction(2, 1), birth(inode)))),
        Refusal::Conflict
    );
    machine.apply(finish(transaction(1, 1), true)).unwrap();
    assert_eq!(machine.attributes(inode).kind, FileKind::Directory);
    let far = InodeId::new(PartitionId(0), 1 << 40);
    assert_eq!(
        refusal(machine.apply(prepare(transaction(3, 1), birth(far)))),
        Refusal::InvalidArgument
    );
}

#[test]
fn attributes_of_a_directory_are_not_answered_while_a_name_is_about_to_come() {
    // Goal: what a change of its attributes answers is not older than a rename into it that was answered before.
    let mut machine = Machine::new();
    let transaction = TransactionId {
        client: ClientId(9),
        sequence: 1,
        attempt: 1,
    };
    let steps = vec![Step::InsertEntry {
        entry: Entry {
            directory: ROOT,
            name: bytes("comes"),
        },
        inode: InodeId::new(PartitionId(1), 5),
        kind: FileKind::Regular,
        expected: None,
        quota: None,
        policy: None,
    }];
    let primary = PartitionId(1);
    machine
        .apply(Command::Prepare {
            transaction,
            primary,
            steps,
        })
        .unwrap();
    let inode = ROOT;
    let change = AttributeChange::default();
    let answered = machine.apply(Command::SetAttributes { inode, change });
    assert!(matches!(answered, Err(Failure::Locked { .. })), "{answered:?}");
}
