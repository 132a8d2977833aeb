//! What directories told others they take, against what those were told.

use std::collections::HashMap;

use bark_schema::audit::{AuditPage, AuditPart, AuditPosition};
use bark_schema::ids::InodeId;
use bark_schema::operation::Failure;
use bark_schema::usage::{UsageReport, files_of};

use super::finding::{Finding, FindingKind};
use super::suspects::Look;
use super::{Examination, Source};

/// A directory, and what contributes to it.
type Pair = (InodeId, InodeId);

/// Reports that were met on one side only so far, or differ.
#[derive(Default)]
pub(super) struct Sizes {
    open: HashMap<Pair, (Option<UsageReport>, Option<UsageReport>)>,
}

impl Sizes {
    pub(super) fn take(&mut self, page: &AuditPage) {
        for report in &page.told {
            self.change(report, |sides| sides.0 = Some(report.clone()));
        }
        for report in &page.taken {
            self.change(report, |sides| sides.1 = Some(report.clone()));
        }
    }

    fn change(
        &mut self,
        report: &UsageReport,
        change: impl FnOnce(&mut (Option<UsageReport>, Option<UsageReport>)),
    ) {
        let key = (report.directory, report.contributor);
        let sides = self.open.entry(key).or_default();
        change(sides);
        if same(sides.0.as_ref(), sides.1.as_ref()) {
            self.open.remove(&key);
        }
    }
}

/// The same version of the same report.
fn same(told: Option<&UsageReport>, taken: Option<&UsageReport>) -> bool {
    match (told, taken) {
        (Some(told), Some(taken)) => told.version == taken.version && told.usage == taken.usage,
        _ => false,
    }
}

impl<S: Source> Examination<'_, S> {
    pub(super) async fn settle_sizes(&mut self, sizes: Sizes) {
        let mut suspects: Vec<Pair> = sizes.open.into_keys().collect();
        suspects.sort_unstable();
        let home = |pair: &Pair| pair.1.home();
        let look = async |this: &Self, pair: &Pair| this.look_at_size(*pair).await;
        for (pair, (told, taken)) in self.settle(suspects, home, look).await {
            let size = |report: &Option<UsageReport>| match report {
                Some(report) => format!("{} bytes in {} inodes", report.usage.bytes, report.usage.inodes),
                None => "nothing".to_owned(),
            };
            let from = match pair.1 == files_of(pair.1.home()) {
                true => format!("the files of {}", pair.1.home()),
                false => super::faults::number(pair.1),
            };
            let sentence = format!(
                "{from} told it to take {}, it was told {}",
                size(&told),
                size(&taken)
            );
            let finding = Finding {
                partition: Some(pair.0.home()),
                inode: Some(pair.0),
                contributor: Some(pair.1),
                ..Finding::new(FindingKind::Size, self.place_of(pair.0).await, sentence)
            };
            self.report.add(finding);
        }
    }

    /// What a contributor told a directory, what the directory was told, and what the contributor told again.
    async fn look_at_size(
        &self,
        (directory, contributor): Pair,
    ) -> Result<Look<(Option<UsageReport>, Option<UsageReport>)>, Failure> {
        let told = self.told(directory, contributor).await?;
        let from = AuditPosition {
            high: directory.0,
            low: contributor.0,
        };
        let page = self.page(directory.home(), AuditPart::Usages, from, 1).await?;
        let mut taken = page.taken.into_iter();
        let taken = taken.find(|report| (report.directory, report.contributor) == (directory, contributor));
        if told != self.told(directory, contributor).await? {
            return Ok(Look::Moves);
        }
        if same(told.as_ref(), taken.as_ref()) {
            return Ok(Look::Fits);
        }
        // What is still to be told differs for good reason; what is left of something that is gone does not.
        let is_left_over = taken.is_some() && told.is_none() && !self.contributes(contributor).await?;
        match told.is_some() || is_left_over {
            true => Ok(Look::Differs((told, taken))),
            false => Ok(Look::Fits),
        }
    }

    pub(super) async fn told(
        &self,
        directory: InodeId,
        contributor: InodeId,
    ) -> Result<Option<UsageReport>, Failure> {
        let row = match contributor == files_of(contributor.home()) {
            true => directory,
            false => contributor,
        };
        let from = AuditPosition { high: row.0, low: 0 };
        let page = self.page(contributor.home(), AuditPart::Usages, from, 1).await?;
        let mut told = page.told.into_iter();
        Ok(told.find(|report| (report.directory, report.contributor) == (directory, contributor)))
    }

    /// Whether a contributor is there at all. The files of a partition always are.
    async fn contributes(&self, contributor: InodeId) -> Result<bool, Failure> {
        if contributor == files_of(contributor.home()) {
            return Ok(true);
        }
        Ok(self.parent(contributor).await?.is_some())
    }
}
