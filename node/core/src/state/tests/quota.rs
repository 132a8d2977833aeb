//! Quotas hold at all times, whatever happened between partitions.

use super::*;
use bark_schema::operation::Step;
use bark_schema::quota::{Allowance, QuotaCommand, QuotaLimits, QuotaPhase};
use bark_schema::usage::{Usage, UsageQuery};

use super::forest::{Forest, OPERATIONS, PARTITIONS};

impl Forest {
    pub(super) fn quota_of(&self, directory: InodeId) -> Option<InodeId> {
        self.state(directory.home()).quota_of(directory)
    }

    pub(super) fn total(&self, directory: InodeId) -> Usage {
        let query = Query::Usage(UsageQuery::Total { directory });
        match self.state(directory.home()).query(0, &query) {
            Ok(Reply::Usage(usage)) => usage,
            other => panic!("no usage: {other:?}"),
        }
    }

    pub(super) fn tell(&mut self, partition: PartitionId, command: QuotaCommand) -> Result<Reply, Failure> {
        self.late.push((partition, command.clone()));
        self.apply(partition, Command::Quota(command))
    }

    pub(super) fn settle(&mut self, partition: PartitionId, held: Allowance) {
        let quota = self.quota.unwrap();
        let command = QuotaCommand::Settle {
            quota,
            partition,
            held,
        };
        self.tell(quota.home(), command).unwrap();
    }

    /// What a leader does when its partition may not use more: ask, and have others give back. Any of it may fail.
    pub(super) fn acquire(&mut self, partition: PartitionId, bytes: u64, inodes: u64) -> bool {
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
    pub(super) fn set_quota(&mut self, top: InodeId, limits: QuotaLimits) {
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
    pub(super) fn check_quota(&self) -> (u64, u64) {
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
