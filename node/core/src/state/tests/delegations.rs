//! Directories that one client has for itself: exclusion, order, the times told, and how a delegation ends.

use super::*;
use bark_schema::data::{DataCommand, FileUpdate, NewBytes};
use bark_schema::delegation::DelegationCommand;
use bark_schema::ids::TransactionId;
use bark_schema::operation::{AttributeChange, Entry, RenameMode, Step};

const ROOT: InodeId = InodeId::ROOT;
const HOLDER: ClientId = ClientId(1);
const OTHER: ClientId = ClientId(2);
const LEASE_MS: u32 = 10_000;

fn take(client: ClientId, directories: &[InodeId]) -> Command {
    Command::Delegation(DelegationCommand::Take {
        client,
        directories: directories.to_vec(),
        lease_ms: LEASE_MS,
    })
}

fn give_back(client: ClientId, directories: &[InodeId]) -> Command {
    Command::Delegation(DelegationCommand::GiveBack {
        client,
        directories: directories.to_vec(),
    })
}

fn taken(missing: &[InodeId], renewed: bool) -> Result<Reply, Failure> {
    let missing = missing.to_vec();
    Ok(Reply::Opens { missing, renewed })
}

fn by(client: ClientId, sequence: u64) -> Option<RequestId> {
    Some(RequestId {
        client,
        sequence,
        acknowledged_below: 0,
    })
}

fn held_by(client: ClientId) -> Failure {
    Failure::Delegated {
        directory: ROOT,
        client,
    }
}

fn unlink(name: &str) -> Command {
    Command::Unlink {
        directory: ROOT,
        name: bytes(name),
    }
}

/// Sends changes of one client one after the other.
struct Sender {
    last: u64,
}

impl Sender {
    fn send(
        &mut self,
        machine: &mut Machine,
        time: i64,
        inode: Option<InodeId>,
        command: Command,
    ) -> Result<Reply, Failure> {
        let sequence = self.last + 1;
        let ordered = ordered(self.last, time, inode, command);
        self.last = sequence;
        machine.propose(by(HOLDER, sequence), ordered)
    }
}

fn ordered(after: u64, time: i64, inode: Option<InodeId>, command: Command) -> Command {
    Command::Ordered {
        after,
        time,
        inode,
        awaited: false,
        command: Box::new(command),
    }
}

/// The root is delegated to the holder, who has set some inode numbers aside.
fn delegated_machine() -> (Machine, Sender, u64) {
    let mut machine = Machine::new();
    assert_eq!(machine.apply(take(HOLDER, &[ROOT])), taken(&[], false));
    let Ok(Reply::Count(first)) = machine.apply(Command::ReserveInodes { count: 100 }) else {
        panic!("no numbers");
    };
    (machine, Sender { last: 0 }, first)
}

fn number(counter: u64) -> Option<InodeId> {
    Some(InodeId::new(PartitionId(0), counter))
}

#[test]
fn nobody_else_sees_or_changes_what_a_delegation_covers() {
    // Goal: every way to a covered directory and file is closed to others and open to the holder.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"bytes");
    machine.apply(take(HOLDER, &[ROOT])).unwrap();
    let queries = [
        Query::Lookup {
            directory: ROOT,
            name: bytes("f"),
        },
        Query::Attributes { inode: file },
        Query::Attributes { inode: ROOT },
        Query::Layout {
            inode: file,
            offset: 0,
            length: 9,
        },
        Query::XattrList { inode: file },
    ];
    for query in queries {
        assert_eq!(machine.query(query.clone()), Err(held_by(HOLDER)), "{query:?}");
        let client = OTHER;
        let query = Box::new(query);
        let others = Query::By {
            client,
            query: query.clone(),
        };
        assert_eq!(machine.query(others), Err(held_by(HOLDER)));
        let client = HOLDER;
        machine.query(Query::By { client, query }).unwrap();
    }
    let update = FileUpdate {
        bytes: NewBytes::at(0, bytes("x")),
        ..FileUpdate::of(file)
    };
    let entry = |name| Entry {
        directory: ROOT,
        name: bytes(name),
    };
    let commands = [
        create(ROOT, "g", b""),
        Command::SetAttributes {
            inode: file,
            change: AttributeChange::default(),
        },
        Command::Data(DataCommand::Update(Box::new(update))),
        Command::Rename {
            from: entry("f"),
            to: entry("h"),
            mode: RenameMode::Replace,
        },
        Command::Link {
            inode: file,
            to: entry("l"),
        },
        unlink("h"),
    ];
    for (sequence, command) in commands.into_iter().enumerate() {
        let sequence = sequence as u64 + 1;
        let refused = machine.propose(by(OTHER, sequence), command.clone());
        assert_eq!(refused, Err(held_by(HOLDER)), "{command:?}");
        machine.propose(by(HOLDER, sequence), command).unwrap();
    }
    let insert = Step::InsertEntry {
        entry: entry("d"),
        inode: InodeId::new(PartitionId(1), 5),
        kind: FileKind::Directory,
        expected: None,
        quota: None,
        policy: None,
    };
    let prepare = |client| Command::Prepare {
        transaction: TransactionId {
            client,
            sequence: 50,
            attempt: 1,
        },
        primary: PartitionId(1),
        steps: vec![insert.clone()],
    };
    assert_eq!(machine.apply(prepare(OTHER)), Err(held_by(HOLDER)));
    machine.apply(prepare(HOLDER)).unwrap();
}

#[test]
fn a_directory_has_one_holder_until_it_gives_it_back() {
    // Goal: taking again is harmless, taking from another is not possible, giving back opens it to all.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    assert_eq!(machine.apply(take(HOLDER, &[ROOT, file])), taken(&[file], false));
    assert_eq!(machine.apply(take(HOLDER, &[ROOT])), taken(&[], true));
    assert_eq!(machine.apply(take(OTHER, &[ROOT])), taken(&[ROOT], false));
    assert_eq!(machine.apply(give_back(OTHER, &[ROOT])), Ok(Reply::Done));
    assert_eq!(machine.apply(take(OTHER, &[ROOT])), taken(&[ROOT], true));
    assert_eq!(machine.apply(give_back(HOLDER, &[ROOT])), Ok(Reply::Done));
    machine.lookup(ROOT, "f").unwrap();
    assert_eq!(machine.apply(take(OTHER, &[ROOT])), taken(&[], true));
}

#[test]
fn what_a_transaction_has_locked_is_not_delegated() {
    // Goal: no change that was prepared before comes into a directory its holder believes to know.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let transaction = TransactionId {
        client: OTHER,
        sequence: 1,
        attempt: 1,
    };
    let steps = vec![Step::AddLinks {
        inode: file,
        count: 1,
        added: Some(InodeId::new(PartitionId(1), 5)),
        removed: None,
        quota: None,
    }];
    let prepare = Command::Prepare {
        transaction,
        primary: PartitionId(1),
        steps,
    };
    machine.apply(prepare).unwrap();
    assert_eq!(machine.apply(take(HOLDER, &[ROOT])), taken(&[ROOT], false));
    let commit = true;
    machine.apply(Command::Finish { transaction, commit }).unwrap();
    assert_eq!(machine.apply(take(HOLDER, &[ROOT])), taken(&[], true));
}

#[test]
fn ordered_changes_are_applied_in_the_order_they_were_told() {
    // Goal: one that overtook another waits, one that is repeated changes nothing.
    let (mut machine, _, first) = delegated_machine();
    let time = machine.time;
    let made = ordered(0, time, number(first), create(ROOT, "f", b""));
    let removed = ordered(1, time, None, unlink("f"));
    let early = machine.propose(by(HOLDER, 2), removed.clone());
    assert!(matches!(early, Err(Failure::Busy(_))), "{early:?}");
    let created = machine.propose(by(HOLDER, 1), made.clone());
    assert!(matches!(created, Ok(Reply::Created { .. })), "{created:?}");
    machine.propose(by(HOLDER, 2), removed.clone()).unwrap();
    assert_eq!(machine.propose(by(HOLDER, 1), made), created);
    assert_eq!(machine.propose(by(HOLDER, 2), removed), Ok(Reply::Done));
    let query = Query::Lookup {
        directory: ROOT,
        name: bytes("f"),
    };
    let client = HOLDER;
    let query = Box::new(query);
    assert!(machine.query(Query::By { client, query }).is_err());
}

#[test]
fn an_ordered_change_has_the_time_and_the_number_that_were_told() {
    // Goal: what the holder showed before it sent a change is what is there afterwards; no clock that is ahead makes
    // times of the future.
    let (mut machine, mut sender, first) = delegated_machine();
    machine.time += SECOND;
    let told = machine.time - 500_000;
    let created = sender.send(&mut machine, told, number(first + 7), create(ROOT, "f", b""));
    let Ok(Reply::Created { attributes, .. }) = created else {
        panic!("not created: {created:?}");
    };
    assert_eq!(Some(attributes.inode), number(first + 7));
    assert_eq!((attributes.modified, attributes.changed), (told, told));
    let again = sender.send(&mut machine, told, number(first + 7), create(ROOT, "g", b""));
    assert!(matches!(
        again,
        Err(Failure::Refused(Refusal::InvalidArgument, _))
    ));
    let ahead = machine.time + SECOND;
    sender.send(&mut machine, ahead, None, unlink("f")).unwrap();
    let client = HOLDER;
    let query = Box::new(Query::Attributes { inode: ROOT });
    let root = machine.query(Query::By { client, query });
    assert!(matches!(root, Ok(Reply::Attributes(root)) if root.modified == machine.time));
}

#[test]
fn a_lease_that_runs_out_ends_delegations_and_what_was_sent_under_them() {
    // Goal: others go on, and a late change of the silent holder is refused for good.
    let (mut machine, mut sender, first) = delegated_machine();
    let time = machine.time;
    sender
        .send(&mut machine, time, number(first), create(ROOT, "f", b""))
        .unwrap();
    machine.time += i64::from(LEASE_MS) * 1_000_000;
    machine.apply(Command::ReapOrphans { limit: 10 }).unwrap();
    machine.lookup(ROOT, "f").unwrap();
    let late = sender.send(&mut machine, time, None, unlink("f"));
    assert!(
        matches!(late, Err(Failure::Refused(Refusal::Conflict, _))),
        "{late:?}"
    );
    machine.apply(take(OTHER, &[ROOT])).unwrap();
    let late = sender.send(&mut machine, time, None, unlink("f"));
    assert!(
        matches!(late, Err(Failure::Refused(Refusal::Conflict, _))),
        "{late:?}"
    );
    machine.state.audit().unwrap();
}

#[test]
fn only_changes_of_the_tree_and_of_files_can_be_ordered() {
    // Goal: nothing else comes in under the cover of an ordered change.
    let (mut machine, mut sender, _) = delegated_machine();
    let time = machine.time;
    for command in [
        Command::ReapOrphans { limit: 1 },
        Command::KeyIncrement {
            key: bytes("k"),
            by: 1,
        },
        take(HOLDER, &[ROOT]),
    ] {
        let refused = sender.send(&mut machine, time, None, command);
        assert!(matches!(
            refused,
            Err(Failure::Refused(Refusal::InvalidArgument, _))
        ));
    }
    let nameless = machine.apply(ordered(0, time, None, unlink("f")));
    assert!(matches!(
        nameless,
        Err(Failure::Refused(Refusal::InvalidArgument, _))
    ));
}
