//! What directories take equals a full scan, whatever happened between partitions.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::random::Random;
use crate::state::inode::Body;
use bark_schema::data::{Allocation, DataCommand};
use bark_schema::ids::TransactionId;
use bark_schema::operation::{AttributeChange, Entry, RenameMode, Step};
use bark_schema::usage::{Usage, UsageCommand, UsageQuery, UsageReport, files_of};

const PARTITIONS: u16 = 4;
const OPERATIONS: u64 = 1_500;

/// A cluster's states without the cluster: operations across partitions are carried out step by step, some
/// come to their end late, some are aborted; reports get lost, come late and come twice.
struct Forest {
    states: Vec<State>,
    random: Random,
    time: i64,
    sequence: u64,
    /// Transactions to finish: where, and whether they were committed.
    unfinished: Vec<(PartitionId, TransactionId, bool)>,
    sent: Vec<UsageReport>,
}

/// An entry of the tree: where it is and what it leads to.
#[derive(Clone, Debug)]
struct Found {
    entry: Entry,
    inode: InodeId,
    kind: FileKind,
}

impl Forest {
    fn new(seed: u64) -> Forest {
        let states = (0..PARTITIONS).map(|id| State::new(PartitionId(id), PARTITIONS));
        Forest {
            states: states.collect(),
            random: Random::new(seed),
            time: 1_000 * SECOND,
            sequence: 0,
            unfinished: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn state(&self, partition: PartitionId) -> &State {
        &self.states[usize::from(partition.0)]
    }

    fn apply(&mut self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        self.time += SECOND;
        let time = self.time;
        let state = &mut self.states[usize::from(partition.0)];
        let index = state.applied() + 1;
        let id = None;
        state.apply(index, &Proposal { time, id, command })
    }

    /// Two-phase commit; false if a participant refused.
    fn transact(&mut self, steps: Vec<(PartitionId, Step)>, commit: bool) -> bool {
        self.sequence += 1;
        let transaction = TransactionId {
            client: ClientId(1),
            sequence: self.sequence,
            attempt: 1,
        };
        let mut by_partition = BTreeMap::<PartitionId, Vec<Step>>::new();
        for (partition, step) in steps {
            by_partition.entry(partition).or_default().push(step);
        }
        let partitions: Vec<PartitionId> = by_partition.keys().copied().collect();
        let mut agreed = true;
        for (partition, steps) in by_partition {
            let primary = partitions[0];
            let prepare = Command::Prepare {
                transaction,
                primary,
                steps,
            };
            agreed = agreed && self.apply(partition, prepare).is_ok();
        }
        for partition in partitions {
            self.unfinished.push((partition, transaction, agreed && commit));
        }
        agreed && commit
    }

    fn finish_some(&mut self, leave_max: usize) {
        while self.unfinished.len() > leave_max {
            let at = self.random.below(self.unfinished.len() as u64) as usize;
            let (partition, transaction, commit) = self.unfinished.swap_remove(at);
            self.apply(partition, Command::Finish { transaction, commit })
                .unwrap();
        }
    }

    fn entries(&self) -> Vec<Found> {
        let rows = self.states.iter().flat_map(|state| state.dentries.iter());
        rows.map(|(key, dentry)| Found {
            entry: Entry {
                directory: key.directory,
                name: Bytes::copy_from_slice(&key.name),
            },
            inode: dentry.inode,
            kind: dentry.kind,
        })
        .collect()
    }

    fn pick(&mut self) -> Option<Found> {
        let entries = self.entries();
        let at = self.random.below(entries.len().max(1) as u64) as usize;
        entries.into_iter().nth(at)
    }

    fn directory(&mut self) -> InodeId {
        let picked = self.pick().filter(|_| !self.random.chance(4));
        match picked {
            Some(found) if found.kind == FileKind::Directory => found.inode,
            Some(found) => found.entry.directory,
            None => InodeId::ROOT,
        }
    }

    fn target(&mut self) -> Entry {
        Entry {
            directory: self.directory(),
            name: bytes(&format!("n{}", self.random.below(30))),
        }
    }

    fn is_below(&self, mut directory: InodeId, above: InodeId) -> bool {
        loop {
            if directory == above {
                return true;
            }
            if directory == InodeId::ROOT {
                return false;
            }
            match self.state(directory.home()).directory(directory) {
                Ok((parent, _)) => directory = parent,
                Err(_) => return true,
            }
        }
    }

    fn operate(&mut self) {
        let commit = !self.random.chance(8);
        match self.random.below(12) {
            0..=2 => {
                let (to, size) = (self.target(), self.random.below(3_000));
                let new = create(to.directory, "", &vec![7; size as usize]);
                let Command::Create {
                    attributes, content, ..
                } = new
                else {
                    unreachable!()
                };
                let command = Command::Create {
                    directory: to.directory,
                    name: to.name,
                    attributes,
                    content,
                    exclusive: true,
                };
                let _ = self.apply(to.directory.home(), command);
            }
            3..=4 => self.make_directory(commit),
            5 => self.remove(commit),
            6..=7 => self.rename(commit),
            8 => self.link(commit),
            _ => self.change(),
        }
    }

    fn make_directory(&mut self, commit: bool) {
        let entry = self.target();
        let home = PartitionId(self.random.below(u64::from(PARTITIONS)) as u16);
        let inode = self.state(home).allocate_inode_hint();
        let birth = Step::CreateDirectory {
            inode,
            parent: entry.directory,
            attributes: new_inode(),
        };
        let insert = Step::InsertEntry {
            entry: entry.clone(),
            inode,
            kind: FileKind::Directory,
            expected: None,
        };
        self.transact(vec![(home, birth), (entry.directory.home(), insert)], commit);
    }

    fn remove(&mut self, commit: bool) {
        let Some(Found { entry, inode, kind }) = self.pick() else {
            return;
        };
        let here = entry.directory.home();
        if kind != FileKind::Directory {
            let Entry { directory, name } = entry.clone();
            if self.apply(here, Command::Unlink { directory, name }) != Err(Failure::CrossPartition) {
                return;
            }
        }
        let own = match kind {
            FileKind::Directory => Step::RemoveDirectory { inode },
            _ => names(inode, None, Some(entry.directory)),
        };
        let remove = Step::RemoveEntry { entry, inode };
        self.transact(vec![(here, remove), (inode.home(), own)], commit);
    }

    fn rename(&mut self, commit: bool) {
        let Some(Found { entry, inode, kind }) = self.pick() else {
            return;
        };
        let to = self.target();
        if kind == FileKind::Directory {
            // The cluster's rename lease: ancestors are looked at while no other directory moves.
            self.finish_some(0);
        }
        if kind == FileKind::Directory && self.is_below(to.directory, inode) {
            return;
        }
        let (from, mode) = (
            entry.clone(),
            [RenameMode::Replace, RenameMode::Exchange][self.random.below(2) as usize],
        );
        let local = Command::Rename {
            from: from.clone(),
            to: to.clone(),
            mode,
        };
        if self.apply(from.directory.home(), local) != Err(Failure::CrossPartition) {
            return;
        }
        let own = match kind {
            FileKind::Directory => Step::SetParent {
                inode,
                parent: to.directory,
            },
            _ => names(inode, Some(to.directory), Some(from.directory)),
        };
        let steps = vec![
            (inode.home(), own),
            (from.directory.home(), Step::RemoveEntry { entry: from, inode }),
            (
                to.directory.home(),
                Step::InsertEntry {
                    entry: to,
                    inode,
                    kind,
                    expected: None,
                },
            ),
        ];
        self.transact(steps, commit);
    }

    fn link(&mut self, commit: bool) {
        let Some(Found { inode, kind, .. }) = self.pick() else {
            return;
        };
        if kind == FileKind::Directory {
            return;
        }
        let to = self.target();
        let insert = Step::InsertEntry {
            entry: to.clone(),
            inode,
            kind,
            expected: None,
        };
        let own = names(inode, Some(to.directory), None);
        self.transact(vec![(to.directory.home(), insert), (inode.home(), own)], commit);
    }

    fn change(&mut self) {
        let Some(Found { inode, .. }) = self.pick() else {
            return;
        };
        let size = self.random.below(30_000);
        let command = match self.random.below(4) {
            0 => Command::SetAttributes {
                inode,
                change: AttributeChange {
                    size: Some(size),
                    ..AttributeChange::default()
                },
            },
            1 => Command::Data(DataCommand::Allocate {
                inode,
                offset: size,
                length: 1 + self.random.below(9_000),
                how: Allocation::PunchHole,
                keep_size: true,
            }),
            _ => Command::Data(DataCommand::Write {
                inode,
                offset: Some(size),
                data: Bytes::from(vec![1; self.random.below(5_000) as usize]),
            }),
        };
        let _ = self.apply(inode.home(), command);
        if self.random.chance(10) {
            let _ = self.apply(inode.home(), Command::ReapOrphans { limit: 5 });
        }
    }

    /// Carries what a partition has to report; some of it is lost on the way there or back.
    fn report(&mut self, partition: PartitionId, losing: bool) {
        let (reports, _) = self.state(partition).unreported_usage(InodeId(0), 100);
        for report in reports {
            self.sent.push(report.clone());
            if losing && self.random.chance(4) {
                continue;
            }
            self.deliver(partition, report, losing);
        }
    }

    fn deliver(&mut self, from: PartitionId, report: UsageReport, losing: bool) {
        let reports = vec![report.clone()];
        let taken = self.apply(
            report.directory.home(),
            Command::Usage(UsageCommand::Report { reports }),
        );
        let Ok(Reply::UsageReports { reports, .. }) = taken else {
            panic!("not taken: {taken:?}")
        };
        if !(losing && self.random.chance(4)) {
            self.apply(from, Command::Usage(UsageCommand::Reported { reports }))
                .unwrap();
        }
    }

    /// Delivers something that was sent long ago.
    fn repeat(&mut self) {
        if let Some(at) = self.sent.len().checked_sub(1) {
            let at = self.random.below(at as u64 + 1) as usize;
            let report = self.sent[at].clone();
            self.deliver(report.contributor.home(), report, true);
        }
    }

    fn come_to_rest(&mut self) {
        self.finish_some(0);
        for _ in 0..200 {
            for partition in 0..PARTITIONS {
                self.report(PartitionId(partition), false);
            }
            if !self.states.iter().any(State::has_unreported_usage) {
                return;
            }
        }
        panic!("there is always something to report");
    }

    /// Every directory's total is what a walk over entries and inodes finds.
    fn check(&self) {
        let mut totals: BTreeMap<InodeId, Usage> = BTreeMap::new();
        let mut directories = vec![InodeId::ROOT];
        let mut parents = BTreeMap::new();
        let mut named: BTreeMap<InodeId, BTreeSet<InodeId>> = BTreeMap::new();
        for found in self.entries() {
            if found.kind == FileKind::Directory {
                directories.push(found.inode);
                parents.insert(found.inode, found.entry.directory);
            } else {
                named
                    .entry(found.inode)
                    .or_default()
                    .insert(found.entry.directory);
            }
        }
        for directory in &directories {
            let row = self.state(directory.home()).inode(*directory).unwrap();
            assert!(matches!(row.body, Body::Directory { .. }));
            totals.insert(*directory, row.counted().usage);
        }
        let mut add = |mut directory: InodeId, usage: Usage| {
            loop {
                let total = totals.get_mut(&directory).unwrap();
                *total = total.plus(usage);
                match parents.get(&directory) {
                    Some(parent) => directory = *parent,
                    None => return,
                }
            }
        };
        for directory in &directories[1..] {
            let itself = self
                .state(directory.home())
                .inode(*directory)
                .unwrap()
                .counted()
                .usage;
            add(parents[directory], itself);
        }
        for (inode, places) in named {
            let row = self.state(inode.home()).inode(inode).unwrap();
            assert!(places.contains(&row.directory), "it counts where it has no name");
            add(row.directory, row.counted().usage);
        }
        for (directory, expected) in totals {
            let query = Query::Usage(UsageQuery::Total { directory });
            let found = self.state(directory.home()).query(0, &query);
            assert_eq!(found, Ok(Reply::Usage(expected)), "{directory}");
        }
    }
}

fn names(inode: InodeId, added: Option<InodeId>, removed: Option<InodeId>) -> Step {
    Step::AddLinks {
        inode,
        count: i32::from(added.is_some()) - i32::from(removed.is_some()),
        added,
        removed,
    }
}

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
        steps: vec![names(file, added, removed)],
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
