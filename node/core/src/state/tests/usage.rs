//! What directories take equals a full scan, whatever happened between partitions.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::random::Random;
use crate::state::inode::Body;
use bark_schema::data::{Allocation, DataCommand};
use bark_schema::ids::TransactionId;
use bark_schema::operation::{AttributeChange, Entry, RenameMode, Step};
use bark_schema::quota::{Allowance, QuotaCommand, QuotaLimits, QuotaPhase};
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
    quota: Option<InodeId>,
    limits: QuotaLimits,
    /// Commands about the quota that come again.
    late: Vec<(PartitionId, QuotaCommand)>,
    refusals: u32,
    links: bool,
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
            quota: None,
            limits: QuotaLimits::default(),
            late: Vec::new(),
            refusals: 0,
            links: true,
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
            8 if self.links => self.link(commit),
            _ => self.change(),
        }
    }

    fn make_directory(&mut self, commit: bool) {
        let entry = self.target();
        let home = PartitionId(self.random.below(u64::from(PARTITIONS)) as u16);
        let inode = self.state(home).allocate_inode_hint();
        let quota = self.quota_of(entry.directory);
        let birth = Step::CreateDirectory {
            inode,
            parent: entry.directory,
            attributes: new_inode(),
            quota,
        };
        let insert = Step::InsertEntry {
            entry: entry.clone(),
            inode,
            kind: FileKind::Directory,
            expected: None,
            quota,
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
            _ => names(inode, None, Some(entry.directory), None),
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
        };
        let own = names(inode, Some(to.directory), None, quota);
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

impl Forest {
    fn quota_of(&self, directory: InodeId) -> Option<InodeId> {
        self.state(directory.home()).quota_of(directory)
    }

    fn total(&self, directory: InodeId) -> Usage {
        let query = Query::Usage(UsageQuery::Total { directory });
        match self.state(directory.home()).query(0, &query) {
            Ok(Reply::Usage(usage)) => usage,
            other => panic!("no usage: {other:?}"),
        }
    }

    fn tell(&mut self, partition: PartitionId, command: QuotaCommand) -> Result<Reply, Failure> {
        self.late.push((partition, command.clone()));
        self.apply(partition, Command::Quota(command))
    }

    fn settle(&mut self, partition: PartitionId, held: Allowance) {
        let quota = self.quota.unwrap();
        let command = QuotaCommand::Settle {
            quota,
            partition,
            held,
        };
        self.tell(quota.home(), command).unwrap();
    }

    /// What a leader does when its partition may not use more: ask, and have others give back. Any of it may fail.
    fn acquire(&mut self, partition: PartitionId, bytes: u64, inodes: u64) -> bool {
        let quota = self.quota.unwrap();
        for _ in 0..3 {
            let row = *self.state(partition).allowances.get(&quota).unwrap();
            let wants = |used: u64, more: u64| if more == 0 { 0 } else { used + more };
            let wanted = Allowance {
                bytes: wants(row.used_bytes, bytes),
                inodes: wants(row.used_inodes, inodes),
                epoch: 0,
            };
            let held = row.allowed;
            let grant = QuotaCommand::Grant {
                quota,
                partition,
                held,
                wanted,
            };
            match self.tell(quota.home(), grant) {
                Ok(Reply::Allowance(granted)) if !self.random.chance(8) => {
                    let accept = QuotaCommand::Accept { quota, granted };
                    self.tell(partition, accept).unwrap();
                    return true;
                }
                Ok(_) => {}
                Err(Failure::Busy(_)) => return false,
                Err(failure) => {
                    assert_eq!(refusal(Err::<(), _>(failure)), Refusal::QuotaExceeded);
                    for other in (0..PARTITIONS)
                        .map(PartitionId)
                        .filter(|other| *other != partition)
                    {
                        let given = self.tell(other, QuotaCommand::GiveBack { quota });
                        let Ok(Reply::Allowance(held)) = given else {
                            panic!("not given back: {given:?}")
                        };
                        if !self.random.chance(8) {
                            self.settle(other, held);
                        }
                    }
                }
            }
        }
        self.refusals += 1;
        false
    }

    /// Puts a directory with all that is in it under a quota, in the order a coordinator does.
    fn set_quota(&mut self, top: InodeId, limits: QuotaLimits) {
        self.finish_some(0);
        (self.quota, self.limits) = (Some(top), limits);
        let set = |phase| QuotaCommand::Set {
            quota: top,
            limits,
            phase,
        };
        self.tell(top.home(), set(QuotaPhase::Begun)).unwrap();
        let mut waiting = vec![top];
        while let Some(directory) = waiting.pop() {
            for partition in 0..PARTITIONS {
                let command = QuotaCommand::Tag {
                    directory,
                    from: None,
                    to: Some(top),
                    parent: None,
                    after: InodeId(0),
                };
                // It is not among the late ones: a coordinator ends when all of them were answered.
                let told = self.apply(PartitionId(partition), Command::Quota(command));
                let Ok(Reply::UsageReports { reports, .. }) = told else {
                    panic!("not told: {told:?}")
                };
                waiting.extend(reports.into_iter().map(|report| report.contributor));
            }
        }
        for partition in (0..PARTITIONS).map(PartitionId) {
            let enforced = self.tell(partition, QuotaCommand::Enforce { quota: top, on: true });
            let Ok(Reply::Allowance(held)) = enforced else {
                panic!("not in force: {enforced:?}")
            };
            self.settle(partition, held);
        }
        self.tell(top.home(), set(QuotaPhase::Active)).unwrap();
        self.late
            .retain(|(_, command)| !matches!(command, QuotaCommand::Set { .. }));
    }

    /// What is used is what is there, and together no more than the limits; nor is what is allowed.
    fn check_quota(&self) -> (u64, u64) {
        let quota = self.quota.unwrap();
        let (mut bytes, mut inodes, mut allowed_bytes, mut allowed_inodes) = (0, 0, 0, 0);
        for state in &self.states {
            let row = *state.allowances.get(&quota).unwrap();
            let under = state.usages.iter().filter(|(_, row)| row.quota == Some(quota));
            let own = under.fold(Usage::default(), |sum, (_, row)| sum.plus(row.own));
            let births = state.prepared.iter().flat_map(|(_, prepared)| &prepared.steps);
            let births = births.filter(
                |step| matches!(step, Step::CreateDirectory { quota: under, .. } if *under == Some(quota)),
            );
            let expected = (own.stored, own.inodes + births.count() as u64);
            assert_eq!((row.used_bytes, row.used_inodes), expected);
            bytes += row.used_bytes;
            inodes += row.used_inodes;
            allowed_bytes += row.allowed.bytes;
            allowed_inodes += row.allowed.inodes;
        }
        assert!(
            bytes <= self.limits.bytes && inodes <= self.limits.inodes,
            "{bytes} {inodes}"
        );
        assert!(allowed_bytes <= self.limits.bytes && allowed_inodes <= self.limits.inodes);
        (bytes, inodes)
    }
}

#[test]
fn a_quota_is_never_exceeded_and_what_is_used_equals_a_full_scan() {
    // Goal: exact quotas after any history. Method: the random operations of the test above with a quota set in
    // the middle on a directory that has something in it; messages of allowances are lost, late and repeated.
    let mut refusals = 0;
    for seed in 1..=6 {
        let mut forest = Forest::new(seed);
        // Names on both sides from before the quota would let a file come in when its other name goes.
        forest.links = false;
        for _ in 0..200 {
            forest.operate();
            forest.finish_some(3);
        }
        forest.come_to_rest();
        let directories = forest
            .entries()
            .into_iter()
            .filter(|found| found.kind == FileKind::Directory);
        let sizes = directories.map(|found| (forest.total(found.inode), found.inode));
        let (usage, top) = sizes.max_by_key(|(usage, _)| usage.inodes).unwrap();
        let limits = QuotaLimits {
            bytes: usage.stored + 20_000,
            inodes: usage.inodes + 8,
        };
        forest.set_quota(top, limits);
        forest.links = true;
        assert_eq!(forest.check_quota(), (usage.stored, usage.inodes));
        for operation in 0..OPERATIONS {
            forest.operate();
            forest.finish_some(3);
            if !forest.late.is_empty() {
                let at = forest.random.below(forest.late.len() as u64) as usize;
                let (partition, command) = forest.late[at].clone();
                let _ = forest.apply(partition, Command::Quota(command));
                let keep = forest.late.len().saturating_sub(50);
                forest.late.drain(..keep);
            }
            // The directory with the quota goes by chance; then nothing is under it.
            if forest.state(top.home()).directory(top).is_err() {
                break;
            }
            forest.check_quota();
            if operation % 300 == 299 {
                forest.come_to_rest();
                forest.check();
                let usage = forest.total(top);
                assert_eq!(forest.check_quota(), (usage.stored, usage.inodes));
            }
        }
        refusals += forest.refusals;
    }
    assert!(refusals > 100, "the quota was hardly ever used up");
}

fn names(inode: InodeId, added: Option<InodeId>, removed: Option<InodeId>, quota: Option<InodeId>) -> Step {
    Step::AddLinks {
        inode,
        count: i32::from(added.is_some()) - i32::from(removed.is_some()),
        added,
        removed,
        quota,
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
