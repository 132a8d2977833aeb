//! Policies: inherited at birth, kept ever after, changed of directories only.

use bark_schema::data::DataCommand;
use bark_schema::limits::KIB;
use bark_schema::operation::{AttributeChange, Entry, RenameMode, Step};
use bark_schema::policy::{Allocate, Policy, PolicyChange};

use super::transactions::{decide, prepare, transaction};
use super::*;
use crate::state::StateLoader;

const ROOT: InodeId = InodeId::ROOT;
const SMALL: Policy = Policy {
    block_size: 64 * KIB as u32,
    replicas: 1,
    allocate: Allocate::LeastUsed,
};

fn set_policy(inode: InodeId, policy: PolicyChange) -> Command {
    let change = AttributeChange {
        policy,
        ..AttributeChange::default()
    };
    Command::SetAttributes { inode, change }
}

impl Machine {
    fn policy(&self, inode: InodeId) -> Policy {
        self.attributes(inode).policy
    }

    /// A directory whose name and inode are both here.
    fn directory(&mut self, name: &str, number: u64, policy: PolicyChange) -> InodeId {
        let inode = InodeId::new(PartitionId(0), number);
        let steps = birth(inode, name, policy, None);
        self.apply(decide(transaction(number, 1), true, steps)).unwrap();
        inode
    }
}

fn birth(inode: InodeId, name: &str, policy: PolicyChange, expected: Option<Policy>) -> Vec<Step> {
    let entry = Entry {
        directory: ROOT,
        name: bytes(name),
    };
    vec![
        Step::CreateDirectory {
            inode,
            parent: ROOT,
            attributes: NewInode {
                policy,
                ..new_inode()
            },
            quota: None,
            born: i64::MAX,
        },
        Step::InsertEntry {
            entry,
            inode,
            kind: FileKind::Directory,
            expected: None,
            quota: None,
            policy: expected,
        },
    ]
}

#[test]
fn files_are_born_with_the_policy_of_their_directory_and_keep_it() {
    // Goal: a policy counts from now on, for what is made there, and moves with it. Method: files before and after each
    // change, one of which moves; another thing said of a file itself.
    let mut machine = Machine::new();
    let before = machine.create(ROOT, "before", b"");
    assert_eq!(machine.policy(before), Policy::default());
    machine.apply(set_policy(ROOT, SMALL.in_full())).unwrap();
    let after = machine.create(ROOT, "after", b"");
    assert_eq!(
        (machine.policy(before), machine.policy(after)),
        (Policy::default(), SMALL)
    );

    let single_block_size = PolicyChange {
        block_size: Some(4 << 20),
        ..PolicyChange::default()
    };
    machine.apply(set_policy(ROOT, single_block_size)).unwrap();
    let large = Policy {
        block_size: 4 << 20,
        ..SMALL
    };
    assert_eq!(machine.policy(ROOT), large);
    let elsewhere = machine.directory("elsewhere", 100, Policy::default().in_full());
    let rename = Command::Rename {
        from: Entry {
            directory: ROOT,
            name: bytes("after"),
        },
        to: Entry {
            directory: elsewhere,
            name: bytes("moved"),
        },
        mode: RenameMode::Replace,
    };
    machine.apply(rename).unwrap();
    assert_eq!(machine.policy(after), SMALL);
    let of_its_own = Command::Create {
        directory: ROOT,
        name: bytes("own"),
        attributes: NewInode {
            policy: Policy::default().in_full(),
            ..new_inode()
        },
        content: NewContent::Inline(Bytes::new()),
        exclusive: true,
    };
    match machine.apply(of_its_own) {
        Ok(Reply::Created { attributes, .. }) => assert_eq!(attributes.policy, Policy::default()),
        other => panic!("{other:?}"),
    }
    // The cluster's number of copies again.
    let as_the_cluster = PolicyChange {
        replicas: Some(0),
        ..PolicyChange::default()
    };
    machine.apply(set_policy(ROOT, as_the_cluster)).unwrap();
    assert_eq!(machine.policy(ROOT).replicas, 0);
}

#[test]
fn only_directories_can_be_told_and_only_what_is_possible() {
    // Goal: a refused change leaves everything as it was. Method: a file, a size, a number, a missing inode; the hash.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let before = machine.attributes(ROOT);
    let size = PolicyChange {
        block_size: Some(96 * KIB as u32),
        ..PolicyChange::default()
    };
    let copies = PolicyChange {
        replicas: Some(8),
        ..PolicyChange::default()
    };
    let missing = InodeId::new(PartitionId(0), 999);
    for (inode, policy, reason) in [
        (file, SMALL.in_full(), Refusal::NotDirectory),
        (missing, SMALL.in_full(), Refusal::NotFound),
        (ROOT, size, Refusal::InvalidArgument),
        (ROOT, copies, Refusal::InvalidArgument),
    ] {
        assert_eq!(
            refusal(machine.apply(set_policy(inode, policy))),
            reason,
            "{policy:?}"
        );
    }
    assert_eq!(machine.attributes(ROOT), before);
    assert_eq!(machine.policy(file), Policy::default());
    let steps = birth(InodeId::new(PartitionId(0), 50), "d", size, None);
    let refused = machine.apply(decide(transaction(1, 1), true, steps));
    assert_eq!(refusal(refused), Refusal::InvalidArgument);
}

#[test]
fn a_directory_is_not_born_with_a_policy_that_is_out_of_date() {
    // Goal: a mkdir that is planned while the policy changes looks again. Method: a step that expects the old policy.
    let mut machine = Machine::new();
    let inode = InodeId::new(PartitionId(0), 50);
    let steps = birth(inode, "d", Policy::default().in_full(), Some(Policy::default()));
    machine.apply(set_policy(ROOT, SMALL.in_full())).unwrap();
    let refused = machine.apply(decide(transaction(1, 1), true, steps));
    assert_eq!(refusal(refused), Refusal::Conflict);
    let steps = birth(inode, "d", SMALL.in_full(), Some(SMALL));
    machine.apply(decide(transaction(1, 2), true, steps)).unwrap();
    assert_eq!(machine.policy(inode), SMALL);
}

#[test]
fn policies_survive_snapshots_also_those_held_in_steps() {
    // Goal: a replica that loads a snapshot is the same. Method: inodes, a recorded answer and a prepared step, and the
    // hash that the loader compares.
    let mut machine = Machine::new();
    machine.request(1, set_policy(ROOT, SMALL.in_full())).unwrap();
    let file = machine.create(ROOT, "f", b"");
    let steps = birth(
        InodeId::new(PartitionId(0), 50),
        "d",
        SMALL.in_full(),
        Some(SMALL),
    );
    machine.apply(prepare(transaction(9, 1), steps)).unwrap();
    machine.state.begin_snapshot();
    let mut loader = StateLoader::new();
    while let Some(chunk) = machine.state.snapshot_chunk(100) {
        loader.feed(&chunk).unwrap();
    }
    let time = machine.time;
    let state = loader.finish().unwrap();
    let mut loaded = Machine { state, time };
    assert_eq!(loaded.policy(file), SMALL);
    assert_eq!(
        loaded.request(1, set_policy(ROOT, SMALL.in_full())),
        machine.request(1, set_policy(ROOT, SMALL.in_full()))
    );
}

#[test]
fn copying_shares_no_blocks_between_files_of_different_copies() {
    // Goal: nobody gets fewer copies than asked for by copying. Method: from a file with one copy to another such, and to
    // one with the cluster's.
    let mut machine = Machine::new();
    let usual = machine.create(ROOT, "usual", b"");
    machine.apply(set_policy(ROOT, SMALL.in_full())).unwrap();
    let from = machine.create(ROOT, "from", b"");
    let single = machine.create(ROOT, "single", b"");
    let publish = Command::Publish {
        inode: from,
        extents: vec![extent(0, 65_536, 1)],
        size: 65_536,
        replace_all: false,
        base_version: None,
    };
    machine.apply(publish).unwrap();
    let copy = |to| {
        Command::Data(DataCommand::CopyRange {
            from,
            from_offset: 0,
            to,
            to_offset: 0,
            length: 65_536,
        })
    };
    assert!(matches!(machine.apply(copy(single)), Ok(Reply::Copied(_))));
    assert_eq!(machine.apply(copy(usual)), Err(Failure::CrossPartition));
    assert_eq!(machine.attributes(usual).size, 0);
}

#[test]
fn pieces_are_joined_to_blocks_of_the_size_of_their_file() {
    // Goal: joining a file does not undo its block size. Method: forty neighbours of 4 KiB in a file of 64 KiB blocks.
    let mut machine = Machine::new();
    machine.apply(set_policy(ROOT, SMALL.in_full())).unwrap();
    let file = machine.create(ROOT, "f", b"");
    for piece in 0..40 {
        let run = extent(piece * 4096, 4096, piece + 1);
        let command = Command::Publish {
            inode: file,
            size: run.end(),
            extents: vec![run],
            replace_all: false,
            base_version: None,
        };
        machine.apply(command).unwrap();
    }
    let (first, cursor) = machine.state.fragments_after(None);
    let (second, _) = machine.state.fragments_after(cursor);
    assert_eq!((first.len(), second.len()), (16, 16));
    assert!(first.iter().all(|fragment| fragment.policy == SMALL));
}
