//! Quotas: how much a directory and everything below it may take together.
//!
//! The tree below a directory with a quota has inodes in many partitions, and asking the directory's partition
//! about every write would make it the bottleneck of the tree. So each directory of the tree carries the number
//! of the one with the quota, each partition counts what its inodes use of that quota, and each holds an
//! allowance: a part of the limits that nobody else may use. What would exceed the allowance is put off until
//! the partition has a larger one ([`crate::request::quota`]); what the directory's partition granted and what
//! is allowed elsewhere never add up to more than the limits.
//!
//! An allowance changes on two sides, by messages that may be late or come twice, so it has an epoch. Growing,
//! it changes at the grantor first, and is taken only in the same epoch. Shrinking, it changes at its holder
//! first, which begins a new epoch; the grantor follows. Between the two the grantor believes in more than there
//! is, never in less.
//!
//! The price: nothing of a tree with a quota leaves it or comes into it by a rename or a link (`EXDEV`; programs
//! copy then), and a directory inside the tree of another's quota cannot have one of its own. A file that had
//! names on both sides before the quota was set counts on one; should its name there go, it counts on the other,
//! whatever the limits say.
//!
//! Invariants:
//! - `used` is the sum over this partition's inodes that count in directories with the quota, and one inode for
//!   each directory that is prepared to be born.
//! - Nothing grows beyond an allowance that is in force. What an allowance holds is granted.

use std::ops::Bound;

use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::{MIB, USAGE_REPORTS_MAX};
use bark_schema::operation::{Failure, Refusal, Reply, Step};
use bark_schema::quota::{Allowance, Quota, QuotaCommand, QuotaLimits, QuotaPhase, QuotaQuery};
use bark_schema::usage::{Usage, UsageReport, files_of};

use super::codec::{Reader, Row, Sink, row_struct};
use super::inode::is_at_home;
use super::{Error, State};

/// The quota of a directory at home here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QuotaRow {
    pub(crate) limits: QuotaLimits,
    pub(crate) phase: QuotaPhase,
}
row_struct!(QuotaRow { limits, phase });
row_struct!(QuotaLimits { bytes, inodes });
row_struct!(Allowance { bytes, inodes, epoch });

/// What this partition uses of a quota, and how much it may.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct AllowanceRow {
    pub(crate) used_bytes: u64,
    pub(crate) used_inodes: u64,
    pub(crate) allowed: Allowance,
    pub(crate) is_in_force: bool,
}
row_struct!(AllowanceRow {
    used_bytes,
    used_inodes,
    allowed,
    is_in_force
});

/// Most that is granted beyond what was asked for.
const SPARE_BYTES_MAX: u64 = 64 * MIB as u64;
const SPARE_INODES_MAX: u64 = 1024;
/// The part of what is left that is granted beyond what was asked for, for each partition.
const SPARE_DIVISOR: u64 = 4;
/// Of a quantity without limit.
const UNLIMITED_SPARE: u64 = 1 << 60;

impl State {
    /// The quota a directory is under, as far as it is known here.
    pub(super) fn quota_of(&self, directory: InodeId) -> Option<InodeId> {
        self.usages.get(&directory)?.quota
    }

    /// Whether growth of anything here has to be looked at.
    pub(super) fn limits_growth(&self) -> bool {
        self.allowances.len() > 0
    }

    /// Whether an inode that counts in `directory` may take so much more.
    pub(super) fn check_growth(&self, directory: InodeId, bytes: u64, inodes: u64) -> Result<(), Failure> {
        if !self.limits_growth() || (bytes == 0 && inodes == 0) {
            return Ok(());
        }
        match self.quota_of(directory) {
            Some(quota) => self.check_allowance(quota, bytes, inodes),
            None => Ok(()),
        }
    }

    /// Whether the content of an inode may take `new` bytes where it takes `old` now.
    pub(super) fn check_content_growth(&self, inode: InodeId, old: u64, new: u64) -> Result<(), Failure> {
        if !self.limits_growth() || new <= old {
            return Ok(());
        }
        match self.inodes.get(&inode) {
            Some(row) if row.link_count > 0 => self.check_growth(row.directory, new - old, 0),
            _ => Ok(()),
        }
    }

    fn check_allowance(&self, quota: InodeId, bytes: u64, inodes: u64) -> Result<(), Failure> {
        let Some(row) = self.allowances.get(&quota).filter(|row| row.is_in_force) else {
            return Ok(());
        };
        let fits = |used: u64, more: u64, allowed: u64| more == 0 || used.saturating_add(more) <= allowed;
        if fits(row.used_bytes, bytes, row.allowed.bytes) && fits(row.used_inodes, inodes, row.allowed.inodes)
        {
            return Ok(());
        }
        Err(Failure::OverAllowance { quota, bytes, inodes })
    }

    /// Both directories, at home here, are under the same quota or under none.
    pub(super) fn check_same_quota(&self, from: InodeId, to: InodeId) -> Result<(), Failure> {
        match self.quota_of(from) == self.quota_of(to) {
            true => Ok(()),
            false => Err(other_quota()),
        }
    }

    /// A step says which quota the directory is under; that may have changed.
    pub(super) fn check_quota_is(
        &self,
        directory: InodeId,
        expected: Option<InodeId>,
    ) -> Result<(), Failure> {
        match self.quota_of(directory) == expected {
            true => Ok(()),
            false => Err(Failure::refused(
                Refusal::Conflict,
                "the directory's quota changed meanwhile",
            )),
        }
    }

    /// A new directory's own inode.
    pub(super) fn check_birth(&self, quota: Option<InodeId>) -> Result<(), Failure> {
        quota.map_or(Ok(()), |quota| self.check_allowance(quota, 0, 1))
    }

    /// Keeps room for directories that are prepared to be born, or gives it back.
    pub(super) fn reserve_births(&mut self, steps: &[Step], is_prepared: bool) {
        for step in steps {
            if let Step::CreateDirectory {
                quota: Some(quota), ..
            } = step
            {
                let inode = Usage {
                    inodes: 1,
                    ..Usage::default()
                };
                match is_prepared {
                    true => self.use_quota(*quota, Usage::default(), inode),
                    false => self.use_quota(*quota, inode, Usage::default()),
                }
            }
        }
    }

    pub(super) fn use_quota(&mut self, quota: InodeId, old: Usage, new: Usage) {
        let mut row = self.allowances.get(&quota).copied().unwrap_or_default();
        row.used_bytes = row.used_bytes.wrapping_sub(old.stored).wrapping_add(new.stored);
        row.used_inodes = row.used_inodes.wrapping_sub(old.inodes).wrapping_add(new.inodes);
        let is_empty = row.used_bytes == 0 && row.used_inodes == 0;
        if is_empty && !row.is_in_force && row.allowed.epoch == 0 {
            self.allowances.remove(&quota);
        } else {
            self.allowances.insert(quota, row);
        }
    }

    pub(super) fn change_quota(&mut self, command: &QuotaCommand) -> Result<Reply, Failure> {
        match command {
            QuotaCommand::Set { quota, limits, phase } => self.set_quota(*quota, *limits, *phase),
            QuotaCommand::Tag {
                directory,
                from,
                to,
                parent,
                after,
            } => self.tag(*directory, (*from, *to), *parent, *after),
            QuotaCommand::Enforce { quota, on } => Ok(self.enforce(*quota, *on)),
            QuotaCommand::Grant {
                quota,
                partition,
                held,
                wanted,
            } => self.grant(*quota, *partition, *held, *wanted),
            QuotaCommand::Accept { quota, granted } => Ok(self.accept(*quota, *granted)),
            QuotaCommand::GiveBack { quota } => Ok(self.give_back(*quota)),
            QuotaCommand::Settle {
                quota,
                partition,
                held,
            } => Ok(self.settle_grant(*quota, *partition, *held)),
        }
    }

    fn set_quota(
        &mut self,
        quota: InodeId,
        limits: QuotaLimits,
        phase: QuotaPhase,
    ) -> Result<Reply, Failure> {
        if phase == QuotaPhase::Gone {
            self.quotas.remove(&quota);
            for key in self.grants_of(quota) {
                self.grants.remove(&key);
            }
            return Ok(Reply::Done);
        }
        self.directory(quota)?;
        if self.quota_of(quota).is_some_and(|known| known != quota) {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "a directory above has a quota",
            ));
        }
        self.quotas.insert(quota, QuotaRow { limits, phase });
        Ok(Reply::Done)
    }

    /// Lets a directory be under `to` instead of `from`; answers the directories in it.
    fn tag(
        &mut self,
        directory: InodeId,
        (from, to): (Option<InodeId>, Option<InodeId>),
        parent: Option<InodeId>,
        after: InodeId,
    ) -> Result<Reply, Failure> {
        if is_at_home(directory, self.partition) {
            let (found, _) = self.directory(directory)?;
            if parent.is_some_and(|parent| parent != found) {
                return Err(Failure::refused(Refusal::NotFound, "the directory moved"));
            }
            self.check_inode_unlocked(directory)?;
            self.check_entries_held_by(directory, None)?;
        }
        if let Some(row) = self.usages.get(&directory).copied()
            && row.quota != to
        {
            if row.quota != from {
                return Err(Failure::refused(
                    Refusal::InvalidArgument,
                    "a directory below has a quota of its own",
                ));
            }
            self.usages.update(&directory, |row| row.quota = to);
            if let Some(from) = from {
                self.use_quota(from, row.own, Usage::default());
            }
            if let Some(to) = to {
                self.use_quota(to, Usage::default(), row.own);
            }
        }
        let behind = Bound::Excluded((directory, after));
        let last = Bound::Included((directory, InodeId(u64::MAX)));
        let rows = self.contributions.range((behind, last));
        let children = rows.filter(|((_, child), _)| *child != files_of(child.home()));
        let mut rows = children.map(|((directory, contributor), row)| UsageReport {
            directory: *directory,
            contributor: *contributor,
            usage: row.usage,
            version: row.version,
            quota: None,
        });
        let reports = rows.by_ref().take(USAGE_REPORTS_MAX).collect();
        Ok(Reply::UsageReports {
            reports,
            next: Vec::new(),
            transactions: Vec::new(),
            more: rows.next().is_some(),
        })
    }

    fn enforce(&mut self, quota: InodeId, on: bool) -> Reply {
        let mut row = self.allowances.get(&quota).copied().unwrap_or_default();
        if !on {
            row.is_in_force = false;
            row.allowed = Allowance::default();
            self.allowances.insert(quota, row);
            self.use_quota(quota, Usage::default(), Usage::default());
            return Reply::Allowance(Allowance::default());
        }
        if !row.is_in_force {
            row.is_in_force = true;
            row.allowed = Allowance {
                bytes: row.used_bytes,
                inodes: row.used_inodes,
                epoch: self.applied,
            };
            self.allowances.insert(quota, row);
        }
        Reply::Allowance(row.allowed)
    }

    fn grant(
        &mut self,
        quota: InodeId,
        partition: PartitionId,
        held: Allowance,
        wanted: Allowance,
    ) -> Result<Reply, Failure> {
        let Some(row) = self.quotas.get(&quota).copied() else {
            return Err(Failure::Busy("the quota was just removed".to_owned()));
        };
        if row.phase != QuotaPhase::Active {
            return Err(Failure::Busy("the quota is being changed".to_owned()));
        }
        self.settle_grant(quota, partition, held);
        let key = (quota, partition);
        let mut granted = self.grants.get(&key).copied().unwrap_or_default();
        if granted.epoch != held.epoch {
            return Err(Failure::Busy("the allowance changed meanwhile".to_owned()));
        }
        let (mut bytes, mut inodes) = (0u64, 0u64);
        for key in self.grants_of(quota) {
            let grant = self.grants.get(&key).copied().unwrap_or_default();
            bytes = bytes.saturating_add(grant.bytes);
            inodes = inodes.saturating_add(grant.inodes);
        }
        let share = SPARE_DIVISOR * u64::from(self.partition_count);
        let more = |limit: u64, all: u64, has: u64, wants: u64, spare_max: u64| {
            let needed = wants.saturating_sub(has);
            if limit == u64::MAX {
                return Some(
                    wants
                        .max(has)
                        .saturating_add(UNLIMITED_SPARE)
                        .min(UNLIMITED_SPARE),
                );
            }
            let left = limit.saturating_sub(all);
            let spare = (left.saturating_sub(needed) / share).min(spare_max);
            match needed {
                0 => Some(has),
                _ if needed > left => None,
                _ => Some(has + needed + spare),
            }
        };
        let granted_bytes = more(
            row.limits.bytes,
            bytes,
            granted.bytes,
            wanted.bytes,
            SPARE_BYTES_MAX,
        );
        let granted_inodes = more(
            row.limits.inodes,
            inodes,
            granted.inodes,
            wanted.inodes,
            SPARE_INODES_MAX,
        );
        let (Some(bytes), Some(inodes)) = (granted_bytes, granted_inodes) else {
            return Err(Failure::refused(Refusal::QuotaExceeded, "the quota is used up"));
        };
        granted.bytes = bytes;
        granted.inodes = inodes;
        self.grants.insert(key, granted);
        Ok(Reply::Allowance(granted))
    }

    fn grants_of(&self, quota: InodeId) -> Vec<(InodeId, PartitionId)> {
        let keys = (quota, PartitionId(0))..=(quota, PartitionId(u16::MAX));
        self.grants.range(keys).map(|(key, _)| *key).collect()
    }

    fn accept(&mut self, quota: InodeId, granted: Allowance) -> Reply {
        self.allowances.update(&quota, |row| {
            if row.is_in_force && row.allowed.epoch == granted.epoch {
                row.allowed.bytes = row.allowed.bytes.max(granted.bytes);
                row.allowed.inodes = row.allowed.inodes.max(granted.inodes);
            }
        });
        Reply::Done
    }

    /// Keeps no more of an allowance than is used.
    fn give_back(&mut self, quota: InodeId) -> Reply {
        let epoch = self.applied;
        let mut held = Allowance::default();
        self.allowances.update(&quota, |row| {
            let bytes = row.allowed.bytes.min(row.used_bytes);
            let inodes = row.allowed.inodes.min(row.used_inodes);
            if (bytes, inodes) != (row.allowed.bytes, row.allowed.inodes) {
                row.allowed = Allowance { bytes, inodes, epoch };
            }
            held = row.allowed;
        });
        Reply::Allowance(held)
    }

    /// The grantor hears what a partition holds; an older word than it has changes nothing.
    fn settle_grant(&mut self, quota: InodeId, partition: PartitionId, held: Allowance) -> Reply {
        let known = self.grants.get(&(quota, partition)).copied().unwrap_or_default();
        if self.quotas.contains(&quota) && held.epoch > known.epoch {
            self.grants.insert((quota, partition), held);
        }
        Reply::Done
    }

    pub(super) fn query_quota(&self, query: &QuotaQuery) -> Result<Reply, Failure> {
        match query {
            QuotaQuery::Of { directory } => {
                let counted_in = self.inode(*directory)?.directory;
                Ok(Reply::Quota(Quota {
                    quota: self.quota_of(counted_in),
                    ..Quota::default()
                }))
            }
            QuotaQuery::Limits { quota } => {
                let row = self.quotas.get(quota).copied();
                Ok(Reply::Quota(Quota {
                    quota: row.map(|_| *quota),
                    limits: row.map_or_else(QuotaLimits::default, |row| row.limits),
                    phase: row.map_or(QuotaPhase::Gone, |row| row.phase),
                    ..Quota::default()
                }))
            }
            QuotaQuery::Used { quota } => {
                let row = self.allowances.get(quota).copied().unwrap_or_default();
                Ok(Reply::Quota(Quota {
                    quota: Some(*quota),
                    used_bytes: row.used_bytes,
                    used_inodes: row.used_inodes,
                    allowed: row.is_in_force.then_some(row.allowed),
                    ..Quota::default()
                }))
            }
        }
    }
}

pub(crate) fn other_quota() -> Failure {
    Failure::refused(
        Refusal::CrossDevice,
        "the directories are under different quotas: copy instead",
    )
}

impl Row for QuotaPhase {
    fn encode<S: Sink>(&self, sink: &mut S) {
        let tag: u8 = match self {
            QuotaPhase::Begun => 0,
            QuotaPhase::Active => 1,
            QuotaPhase::Gone => 2,
        };
        tag.encode(sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(QuotaPhase::Begun),
            1 => Ok(QuotaPhase::Active),
            2 => Ok(QuotaPhase::Gone),
            _ => Err(Error::Corrupt("a quota in an unknown phase")),
        }
    }
}
