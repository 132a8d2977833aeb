//! A tree over several partitions whose operations across them come to their end late, or never.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::random::Random;
use crate::state::inode::Body;
use bark_schema::data::{Allocation, DataCommand, FileUpdate, NewBytes, NewPiece};
use bark_schema::ids::TransactionId;
use bark_schema::operation::{AttributeChange, Entry, RenameMode, Step};
use bark_schema::quota::{QuotaCommand, QuotaLimits};
use bark_schema::usage::{Usage, UsageCommand, UsageQuery, UsageReport};

pub(super) const PARTITIONS: u16 = 4;
pub(super) const OPERATIONS: u64 = 1_500;

/// A cluster's states without the cluster: operations across partitions are carried out step by step, some
/// come to their end late, some are aborted; reports get lost, come late and come twice.
pub(super) struct Forest {
    pub(super) states: Vec<State>,
    pub(super) random: Random,
    pub(super) time: i64,
    pub(super) sequence: u64,
    /// Transactions to finish: where, and whether they were committed.
    pub(super) unfinished: Vec<(PartitionId, TransactionId, bool)>,
    pub(super) sent: Vec<UsageReport>,
    pub(super) quota: Option<InodeId>,
    pub(super) limits: QuotaLimits,
    /// Commands about the quota that come again.
    pub(super) late: Vec<(PartitionId, QuotaCommand)>,
    pub(super) refusals: u32,
    pub(super) links: bool,
}

/// An entry of the tree: where it is and what it leads to.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) inode: InodeId,
    pub(super) kind: FileKind,
}

impl Forest {
    pub(super) fn new(seed: u64) -> Forest {
        let states = (0..PARTITIONS).map(|id| State::new(PartitionId(id), PARTITIONS));
        Forest {
            states: states.collect(),
            random: Random::new(seed),
            time: 1_000 * SECOND,
            sequence: 0,
            unfinished: Vec::new(),
            sent: Vec::new(),
            quota: None,
            limits: QuotaLimits::default(),
            late: Vec::new(),
            refusals: 0,
            links: true,
        }
    }

    pub(super) fn state(&self, partition: PartitionId) -> &State {
        &self.states[usize::from(partition.0)]
    }

    pub(super) fn apply(&mut self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        self.time += SECOND;
        let time = self.time;
        let state = &mut self.states[usize::from(partition.0)];
        let index = state.applied() + 1;
        let id = None;
        let growing = command.clone();
        let result = state.apply(index, &Proposal { time, id, command });
        if let Err(Failure::OverAllowance { bytes, inodes, .. }) = result {
            return match self.acquire(partition, bytes, inodes) {
                true => self.apply(partition, growing),
                false => Err(Failure::refused(Refusal::QuotaExceeded, "")),
            };
        }
        result
    }

    /// Two-phase commit; false if a participant refused.
    pub(super) fn transact(&mut self, steps: Vec<(PartitionId, Step)>, commit: bool) -> bool {
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

    pub(super) fn finish_some(&mut self, leave_max: usize) {
        while self.unfinished.len() > leave_max {
            let at = self.random.below(self.unfinished.len() as u64) as usize;
            let (partition, transaction, commit) = self.unfinished.swap_remove(at);
            self.apply(partition, Command::Finish { transaction, commit })
                .unwrap();
        }
    }

    pub(super) fn entries(&self) -> Vec<Found> {
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

    pub(super) fn pick(&mut self) -> Option<Found> {
        let entries = self.entries();
        let at = self.random.below(entries.len().max(1) as u64) as usize;
        entries.into_iter().nth(at)
    }

    pub(super) fn directory(&mut self) -> InodeId {
        let picked = self.pick().filter(|_| !self.random.chance(4));
        match picked {
            Some(found) if found.kind == FileKind::Directory => found.inode,
            Some(found) => found.entry.directory,
            None => InodeId::ROOT,
        }
    }

    pub(super) fn target(&mut self) -> Entry {
        Entry {
            directory: self.directory(),
            name: bytes(&format!("n{}", self.random.below(30))),
        }
    }

    pub(super) fn is_below(&self, mut directory: InodeId, above: InodeId) -> bool {
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

    pub(super) fn operate(&mut self) {
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
            8 if self.links => self.link(commit),
            _ => self.change(),
        }
    }

    pub(super) fn make_directory(&mut self, commit: bool) {
        let entry = self.target();
        let home = PartitionId(self.random.below(u64::from(PARTITIONS)) as u16);
        let inode = self.state(home).allocate_inode_hint();
        let quota = self.quota_of(entry.directory);
        let birth = Step::CreateDirectory {
            inode,
            parent: entry.directory,
            attributes: new_inode(),
            quota,
            born: i64::MAX,
        };
        let insert = Step::InsertEntry {
            entry: entry.clone(),
            inode,
            kind: FileKind::Directory,
            expected: None,
            quota,
            policy: None,
        };
        self.transact(vec![(home, birth), (entry.directory.home(), insert)], commit);
    }

    pub(super) fn remove(&mut self, commit: bool) {
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
            _ => names(inode, None, Some(entry.directory), None),
        };
        let remove = Step::RemoveEntry { entry, inode };
        self.transact(vec![(here, remove), (inode.home(), own)], commit);
    }

    pub(super) fn rename(&mut self, commit: bool) {
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
        let quota = self.quota_of(to.directory);
        if quota != self.quota_of(from.directory) {
            return;
        }
        let own = match kind {
            FileKind::Directory => Step::SetParent {
                inode,
                parent: to.directory,
                quota,
            },
            _ => names(inode, Some(to.directory), Some(from.directory), quota),
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
                    quota,
                    policy: None,
                },
            ),
        ];
        self.transact(steps, commit);
    }

    pub(super) fn link(&mut self, commit: bool) {
        let Some(Found { inode, kind, .. }) = self.pick() else {
            return;
        };
        if kind == FileKind::Directory {
            return;
        }
        let to = self.target();
        let quota = self.quota_of(to.directory);
        let state = self.state(inode.home());
        if state.inode(inode).map(|row| state.quota_of(row.directory)) != Ok(quota) {
            return;
        }
        let insert = Step::InsertEntry {
            entry: to.clone(),
            inode,
            kind,
            expected: None,
            quota,
            policy: None,
        };
        let own = names(inode, Some(to.directory), None, quota);
        self.transact(vec![(to.directory.home(), insert), (inode.home(), own)], commit);
    }

    pub(super) fn change(&mut self) {
        let Some(Found { inode, .. }) = self.pick() else {
            return;
        };
        let size = self.random.below(30_000);
        if self.random.chance(4) {
            return self.write_pieces(inode, size);
        }
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

    /// All of them or, where the quota ends, none.
    fn write_pieces(&mut self, inode: InodeId, mut offset: u64) {
        let pieces = (0..2 + self.random.below(4)).map(|_| {
            let data = Bytes::from(vec![1; 1 + self.random.below(2_000) as usize]);
            let piece = NewPiece { offset, data };
            offset = piece.end().unwrap_or(offset) + self.random.below(4_000);
            piece
        });
        let update = FileUpdate {
            bytes: NewBytes::Pieces(pieces.collect()),
            ..FileUpdate::of(inode)
        };
        let attributes = |forest: &Forest| forest.state(inode.home()).query(0, &Query::Attributes { inode });
        let before = attributes(self);
        let written = self.apply(inode.home(), Command::Data(DataCommand::Update(Box::new(update))));
        assert_eq!(written.is_err(), attributes(self) == before);
    }

    /// Carries what a partition has to report; some of it is lost on the way there or back.
    pub(super) fn report(&mut self, partition: PartitionId, losing: bool) {
        let (reports, _) = self.state(partition).unreported_usage(InodeId(0), 100);
        for report in reports {
            self.sent.push(report.clone());
            if losing && self.random.chance(4) {
                continue;
            }
            self.deliver(partition, report, losing);
        }
    }

    pub(super) fn deliver(&mut self, from: PartitionId, report: UsageReport, losing: bool) {
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
    pub(super) fn repeat(&mut self) {
        if let Some(at) = self.sent.len().checked_sub(1) {
            let at = self.random.below(at as u64 + 1) as usize;
            let report = self.sent[at].clone();
            self.deliver(report.contributor.home(), report, true);
        }
    }

    pub(super) fn come_to_rest(&mut self) {
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
    pub(super) fn check(&self) {
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

pub(super) fn names(
    inode: InodeId,
    added: Option<InodeId>,
    removed: Option<InodeId>,
    quota: Option<InodeId>,
) -> Step {
    Step::AddLinks {
        inode,
        count: i32::from(added.is_some()) - i32::from(removed.is_some()),
        added,
        removed,
        quota,
    }
}
