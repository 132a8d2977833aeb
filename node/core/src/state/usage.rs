//! What directories take, with everything below them.
//!
//! Every change of an inode is noted with the directory the inode counts in ([`super::names`]), and at the end
//! of the entry the rows of these directories change. A directory's row holds what is its own (itself and the
//! files that are at home here), and the sum of what was reported to it by others: the directories in it and
//! the partitions that are home to files in it. Files here that count in a directory elsewhere have a row under
//! that directory's number. A row that changed has something to report, to the directory's parent or to the
//! directory's home; leaders carry the reports ([`crate::request::usage`]).
//!
//! The price: an entry that changes what a file takes changes one row more, and what a directory takes is known
//! above it only after a report for each level. Whoever asks has what is pending carried first.
//!
//! Invariants:
//! - A row's `own` is the sum over the inodes here that count in the directory; `below` is the sum of its
//!   contributions. A directory that has no name any more has no rows.
//! - A directory has a contribution of each directory that has an entry in it, and of no other directory.
//! - A report is taken only if it is younger than the last one of its contributor: versions are log indexes.
//! - `unreported` names exactly the rows whose last version is not known to have been taken.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bark_schema::ids::{InodeId, TransactionId};
use bark_schema::limits::USAGE_REPORTS_MAX;
use bark_schema::operation::{Failure, FileKind, Reply, Step};
use bark_schema::usage::{Usage, UsageCommand, UsageQuery, UsageReport, files_of};

use super::State;
use super::codec::row_struct;
use super::inode::{Body, is_at_home};

row_struct!(Usage {
    bytes,
    stored,
    inodes
});

/// What a directory takes, as far as it is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct UsageRow {
    pub(crate) own: Usage,
    pub(crate) below: Usage,
    /// Index of the last entry that changed it.
    pub(crate) version: u64,
    /// The version that was reported last.
    pub(crate) reported: u64,
    /// The directory whose quota it is under ([`super::quota`]).
    pub(crate) quota: Option<InodeId>,
}
row_struct!(UsageRow {
    own,
    below,
    version,
    reported,
    quota
});

/// What was reported to a directory by one contributor.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ContributionRow {
    pub(crate) usage: Usage,
    pub(crate) version: u64,
}
row_struct!(ContributionRow { usage, version });

/// What the entry being applied changed so far; empty between entries.
#[derive(Default)]
pub(super) struct UsageChanges {
    /// By directory.
    shares: BTreeMap<InodeId, Share>,
    /// Entries gained less entries lost, by directory and the directory the entries lead to.
    entries: BTreeMap<(InodeId, InodeId), i32>,
}

#[derive(Clone, Copy, Default, PartialEq)]
struct Share {
    own: Usage,
    below: Usage,
    /// It is to report again whether or not it changed.
    is_moved: bool,
}

impl State {
    /// An inode that counts in `directory` takes something else now.
    pub(super) fn note_usage(&mut self, directory: InodeId, old: Usage, new: Usage) {
        if old != new {
            let share = self.usage_changes.shares.entry(directory).or_default();
            share.own = share.own.minus(old).plus(new);
        }
    }

    pub(super) fn note_contribution(&mut self, directory: InodeId, old: Usage, new: Usage) {
        let share = self.usage_changes.shares.entry(directory).or_default();
        share.below = share.below.minus(old).plus(new);
    }

    /// `directory` gained or lost an entry that leads to the directory `child`.
    pub(super) fn note_entry(&mut self, directory: InodeId, child: InodeId, by: i32) {
        *self.usage_changes.entries.entry((directory, child)).or_default() += by;
    }

    /// A directory has another parent, which knows nothing of it yet.
    pub(super) fn note_move(&mut self, directory: InodeId) {
        self.usage_changes.shares.entry(directory).or_default().is_moved = true;
    }

    /// Brings the rows up to date with what the entry changed.
    pub(super) fn settle_usage(&mut self) {
        self.settle_entries();
        for (directory, share) in std::mem::take(&mut self.usage_changes.shares) {
            if share != Share::default() {
                self.settle_share(directory, share);
            }
        }
    }

    fn settle_entries(&mut self) {
        if self.usage_changes.entries.is_empty() {
            return;
        }
        let entries = std::mem::take(&mut self.usage_changes.entries);
        let mut lost = BTreeMap::new();
        for (key, by) in &entries {
            if *by < 0
                && let Some(row) = self.contributions.remove(key)
            {
                self.note_contribution(key.0, row.usage, Usage::default());
                lost.insert(key.1, row);
            }
        }
        for ((directory, child), by) in entries {
            if by > 0 {
                // What it takes is known here if it only moved within the partition.
                let row = lost.remove(&child).unwrap_or_default();
                self.contributions.insert((directory, child), row);
                self.note_contribution(directory, Usage::default(), row.usage);
            }
        }
    }

    fn settle_share(&mut self, directory: InodeId, share: Share) {
        if is_at_home(directory, self.partition) && !self.has_parent(directory) {
            self.forget_usage(directory);
            return;
        }
        let mut row = self.usages.get(&directory).copied().unwrap_or_default();
        if let Some(quota) = row.quota {
            self.use_quota(quota, Usage::default(), share.own);
        }
        row.own = row.own.plus(share.own);
        row.below = row.below.plus(share.below);
        row.version = self.applied;
        if directory == InodeId::ROOT && is_at_home(directory, self.partition) {
            // Nobody is above it.
            row.reported = row.version;
        } else {
            self.unreported.insert(directory);
        }
        self.usages.insert(directory, row);
    }

    /// Whether a directory of this partition is in the tree.
    fn has_parent(&self, directory: InodeId) -> bool {
        self.parent_of(directory).is_some()
    }

    fn parent_of(&self, directory: InodeId) -> Option<InodeId> {
        let row = self.inodes.get(&directory)?;
        match row.body {
            Body::Directory { parent, .. } if row.link_count > 0 => Some(parent),
            _ => None,
        }
    }

    fn forget_usage(&mut self, directory: InodeId) {
        if let Some(row) = self.usages.remove(&directory)
            && let Some(quota) = row.quota
        {
            self.use_quota(quota, row.own, Usage::default());
        }
        self.unreported.remove(&directory);
        let rows = (directory, InodeId(0))..=(directory, InodeId(u64::MAX));
        let contributors: Vec<_> = self.contributions.range(rows).map(|(key, _)| *key).collect();
        for key in contributors {
            self.contributions.remove(&key);
        }
    }

    pub(super) fn change_usage(&mut self, command: &UsageCommand) -> Result<Reply, Failure> {
        match command {
            UsageCommand::Report { reports } => Ok(self.take_reports(reports)),
            UsageCommand::Reported { reports } => {
                self.end_reports(reports);
                Ok(Reply::Done)
            }
        }
    }

    fn take_reports(&mut self, reports: &[UsageReport]) -> Reply {
        let mut taken = Vec::new();
        let mut directories = BTreeSet::new();
        for report in reports.iter().take(USAGE_REPORTS_MAX) {
            if self.take_report(report) {
                taken.push(report.clone());
                directories.insert(report.directory);
            }
        }
        self.settle_usage();
        let next = directories
            .into_iter()
            .filter_map(|directory| self.report(directory));
        Reply::UsageReports {
            reports: taken,
            next: next.collect(),
            transactions: Vec::new(),
            more: false,
        }
    }

    /// False if the contributor is to come again: its entry in the directory is not there yet.
    fn take_report(&mut self, report: &UsageReport) -> bool {
        let UsageReport {
            directory,
            contributor,
            usage,
            version,
            quota: _,
        } = *report;
        if !is_at_home(directory, self.partition) {
            return false;
        }
        if !self.has_parent(directory) {
            return true;
        }
        let key = (directory, contributor);
        let is_partition = contributor == files_of(contributor.home());
        let known = match self.contributions.get(&key) {
            Some(row) => *row,
            None if is_partition && contributor.home().0 < self.partition_count => ContributionRow::default(),
            None => return false,
        };
        if version > known.version {
            self.contributions.insert(key, ContributionRow { usage, version });
            self.note_contribution(directory, known.usage, usage);
        }
        true
    }

    fn end_reports(&mut self, reports: &[UsageReport]) {
        for report in reports.iter().take(USAGE_REPORTS_MAX) {
            let UsageReport {
                directory,
                contributor,
                version,
                ..
            } = *report;
            let is_ours = contributor == files_of(self.partition);
            let key = if is_ours { directory } else { contributor };
            let current = self.report(key);
            if current.is_none_or(|current| current.version != version || current.directory != directory) {
                continue;
            }
            self.unreported.remove(&key);
            let is_over = is_ours
                && self
                    .usages
                    .get(&key)
                    .is_some_and(|row| row.own == Usage::default());
            if is_over {
                self.usages.remove(&key);
            } else {
                self.usages.update(&key, |row| row.reported = version);
            }
        }
    }

    /// What the row of a directory has to report, if it has not been taken yet.
    fn report(&self, directory: InodeId) -> Option<UsageReport> {
        let row = self.usages.get(&directory)?;
        match row.version == row.reported {
            true => None,
            false => self.usage_told(directory, row),
        }
    }

    /// What the row of a directory tells, and to which directory; the root tells nobody.
    pub(super) fn usage_told(&self, directory: InodeId, row: &UsageRow) -> Option<UsageReport> {
        if directory == InodeId::ROOT && is_at_home(directory, self.partition) {
            return None;
        }
        let (to, contributor) = if is_at_home(directory, self.partition) {
            (self.parent_of(directory)?, directory)
        } else {
            (directory, files_of(self.partition))
        };
        Some(UsageReport {
            directory: to,
            contributor,
            usage: row.own.plus(row.below),
            version: row.version,
            quota: None,
        })
    }

    pub fn has_unreported_usage(&self) -> bool {
        !self.unreported.is_empty()
    }

    /// What has to be reported, of directories behind `after`; and whether there is more.
    pub fn unreported_usage(&self, after: InodeId, limit: u32) -> (Vec<UsageReport>, bool) {
        let limit = (limit as usize).min(USAGE_REPORTS_MAX);
        let mut rows = self.unreported.range((Bound::Excluded(after), Bound::Unbounded));
        let reports = rows.by_ref().take(limit);
        let reports = reports.filter_map(|directory| self.report(*directory)).collect();
        (reports, rows.next().is_some())
    }

    pub(super) fn query_usage(&self, query: &UsageQuery) -> Result<Reply, Failure> {
        match query {
            UsageQuery::Total { directory } => {
                let inode = self.inode(*directory)?;
                if inode.kind() != FileKind::Directory {
                    return Ok(Reply::Usage(inode.counted().usage));
                }
                self.directory(*directory)?;
                let row = self.usages.get(directory).copied().unwrap_or_default();
                Ok(Reply::Usage(row.own.plus(row.below)))
            }
            UsageQuery::Unreported { after, limit } => {
                let (reports, more) = self.unreported_usage(*after, *limit);
                Ok(Reply::UsageReports {
                    reports,
                    next: Vec::new(),
                    transactions: self.transactions_in_the_tree(),
                    more,
                })
            }
            UsageQuery::Elsewhere { after, limit } => Ok(self.usage_elsewhere(*after, *limit)),
        }
    }

    /// What files here take in directories at home in other partitions, and under which quotas.
    fn usage_elsewhere(&self, after: InodeId, limit: u32) -> Reply {
        let limit = (limit as usize).min(USAGE_REPORTS_MAX);
        let behind = self.usages.range((Bound::Excluded(after), Bound::Unbounded));
        let mut rows = behind.filter(|(directory, _)| !is_at_home(**directory, self.partition));
        let reports = rows.by_ref().take(limit).map(|(directory, row)| UsageReport {
            directory: *directory,
            contributor: files_of(self.partition),
            usage: row.own,
            version: row.version,
            quota: row.quota,
        });
        Reply::UsageReports {
            reports: reports.collect(),
            next: Vec::new(),
            transactions: Vec::new(),
            more: rows.next().is_some(),
        }
    }

    /// A directory is under a quota from its birth here on, or from the first file here that counts in it.
    pub(super) fn put_under_quota(&mut self, directory: InodeId, quota: Option<InodeId>) {
        if quota.is_some() && !self.usages.contains(&directory) {
            let row = UsageRow {
                quota,
                ..UsageRow::default()
            };
            self.usages.insert(directory, row);
        }
    }

    /// Transactions prepared here that may be committed elsewhere already.
    fn transactions_in_the_tree(&self) -> Vec<TransactionId> {
        let of_keys = |step: &Step| matches!(step, Step::KeySet { .. } | Step::KeyDelete { .. });
        self.prepared
            .iter()
            .filter(|(_, prepared)| !prepared.steps.iter().all(of_keys))
            .map(|(id, _)| *id)
            .take(USAGE_REPORTS_MAX)
            .collect()
    }

    /// Finds the rows with something to report anew.
    pub(super) fn recount_unreported(&mut self) {
        let rows = self.usages.iter();
        let unreported = rows.filter(|(_, row)| row.version != row.reported);
        self.unreported = unreported.map(|(directory, _)| *directory).collect();
    }
}
