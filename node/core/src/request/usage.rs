//! Carrying reports of what directories take, and telling it exactly.
//!
//! A change is known at first to the directory it was made in. A report takes it one level up, and each level's
//! leaders send theirs every few seconds, many in one command. Whoever asks what a directory takes does not
//! wait for that: first every transaction that is prepared anywhere gets its end, then everything unreported is
//! carried up, level by level, as far as the directory asked for. New changes are not followed, so this ends
//! however busy the tree is; what was acknowledged before the question is in the answer.
//!
//! Invariants:
//! - A report is marked as taken only after the entry that took it was committed.
//! - Carrying reports twice, late or from several nodes at once changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::ids::{InodeId, PartitionId, TransactionId};
use bark_schema::limits::USAGE_REPORTS_MAX;
use bark_schema::operation::{Command, Failure, Query, Reply};
use bark_schema::usage::{UsageCommand, UsageQuery, UsageReport, files_of};
use futures::future::try_join_all;

use super::unexpected;
use crate::worker::gateway::{DEADLINE_DEFAULT_US, Gateway};

/// Deepest directory tree.
const DEPTH_MAX: usize = 4096;
/// How often those who wait for a transaction look.
const PAUSE_US: u64 = 2_000;

/// What a directory and everything below it take.
pub async fn directory_usage(gateway: &Gateway, directory: InodeId) -> Result<Reply, Failure> {
    let mut reports = pending(gateway).await?;
    for _ in 0..DEPTH_MAX {
        // What the directory itself has to report is above the question.
        reports.retain(|report| report.contributor != directory);
        if reports.is_empty() {
            break;
        }
        reports = carry(gateway, reports).await?;
    }
    let query = Query::Usage(UsageQuery::Total { directory });
    gateway.query(directory.home(), query).await
}

/// Carries what a partition has to report one level up.
pub async fn report(gateway: &Gateway, partition: PartitionId, reports: Vec<UsageReport>) {
    if let Err(failure) = carry(gateway, reports).await {
        tracing::debug!(partition = partition.0, %failure, "what directories take will be reported later");
    }
}

/// Waits until every transaction that is prepared anywhere now has ended.
pub async fn transactions_end(gateway: &Gateway) -> Result<(), Failure> {
    let partitions = (0..gateway.config().partition_count).map(PartitionId);
    let parts = partitions.map(|partition| async move {
        let prepared = page(gateway, partition, InodeId(0)).await?.transactions;
        ended(gateway, partition, prepared).await
    });
    try_join_all(parts).await?;
    Ok(())
}

/// Everything unreported in the cluster, after the transactions that are under way now have ended.
async fn pending(gateway: &Gateway) -> Result<Vec<UsageReport>, Failure> {
    let partitions = || (0..gateway.config().partition_count).map(PartitionId);
    let first = try_join_all(partitions().map(|partition| page(gateway, partition, InodeId(0)))).await?;
    if first.iter().any(|page| !page.transactions.is_empty()) {
        let waits = partitions().zip(first);
        try_join_all(waits.map(|(partition, page)| ended(gateway, partition, page.transactions))).await?;
        return all_pages(
            gateway,
            partitions().map(|partition| (partition, Page::behind(InodeId(0)))),
        )
        .await;
    }
    all_pages(gateway, partitions().zip(first)).await
}

/// Part of what one partition has to report.
struct Page {
    reports: Vec<UsageReport>,
    transactions: BTreeSet<TransactionId>,
    /// Where the next page begins, if there is one.
    next: Option<InodeId>,
}

impl Page {
    fn behind(after: InodeId) -> Page {
        Page {
            reports: Vec::new(),
            transactions: BTreeSet::new(),
            next: Some(after),
        }
    }
}

async fn all_pages(
    gateway: &Gateway,
    first: impl Iterator<Item = (PartitionId, Page)>,
) -> Result<Vec<UsageReport>, Failure> {
    let parts = first.map(|(partition, first)| async move {
        let mut reports = first.reports;
        let mut next = first.next;
        while let Some(after) = next {
            let page = page(gateway, partition, after).await?;
            reports.extend(page.reports);
            next = page.next;
        }
        Ok::<_, Failure>(reports)
    });
    Ok(try_join_all(parts).await?.concat())
}

async fn page(gateway: &Gateway, partition: PartitionId, after: InodeId) -> Result<Page, Failure> {
    let limit = USAGE_REPORTS_MAX as u32;
    let query = Query::Usage(UsageQuery::Unreported { after, limit });
    match gateway.query(partition, query).await? {
        Reply::UsageReports {
            reports,
            transactions,
            more,
            ..
        } => {
            let last = reports.last().map(|report| row_of(report, partition));
            Ok(Page {
                next: last.filter(|_| more),
                transactions: transactions.into_iter().collect(),
                reports,
            })
        }
        other => Err(unexpected(&other)),
    }
}

/// The number of the row a report of `partition` was made of.
fn row_of(report: &UsageReport, partition: PartitionId) -> InodeId {
    if report.contributor == files_of(partition) {
        report.directory
    } else {
        report.contributor
    }
}

/// Waits until none of `transactions` is prepared any more.
async fn ended(
    gateway: &Gateway,
    partition: PartitionId,
    mut transactions: BTreeSet<TransactionId>,
) -> Result<(), Failure> {
    let deadline_us = gateway.now().monotonic_us + DEADLINE_DEFAULT_US;
    while !transactions.is_empty() {
        if gateway.now().monotonic_us > deadline_us {
            return Err(Failure::Busy("a transaction does not come to its end".to_owned()));
        }
        gateway.sleep(PAUSE_US).await;
        let now = page(gateway, partition, InodeId(0)).await?.transactions;
        transactions.retain(|transaction| now.contains(transaction));
    }
    Ok(())
}

/// Has reports taken where they belong, and answers what these directories have to report now.
async fn carry(gateway: &Gateway, reports: Vec<UsageReport>) -> Result<Vec<UsageReport>, Failure> {
    let taken = send(
        gateway,
        reports,
        |report| report.directory.home(),
        |reports| UsageCommand::Report { reports },
    );
    let mut next = BTreeMap::new();
    let mut arrived = Vec::new();
    for reply in taken.await? {
        match reply {
            Reply::UsageReports {
                reports, next: above, ..
            } => {
                arrived.extend(reports);
                next.extend(above.into_iter().map(|report| (report.contributor, report)));
            }
            other => return Err(unexpected(&other)),
        }
    }
    let told = send(
        gateway,
        arrived,
        |report| report.contributor.home(),
        |reports| UsageCommand::Reported { reports },
    );
    told.await?;
    Ok(next.into_values().collect())
}

/// Sends each report to a partition, those to the same one together.
async fn send(
    gateway: &Gateway,
    reports: Vec<UsageReport>,
    to: impl Fn(&UsageReport) -> PartitionId,
    command: impl Fn(Vec<UsageReport>) -> UsageCommand,
) -> Result<Vec<Reply>, Failure> {
    let mut by_partition = BTreeMap::<PartitionId, Vec<UsageReport>>::new();
    for report in reports {
        by_partition.entry(to(&report)).or_default().push(report);
    }
    let mut commands = Vec::new();
    for (partition, reports) in &by_partition {
        for part in reports.chunks(USAGE_REPORTS_MAX) {
            commands.push(gateway.command(*partition, Command::Usage(command(part.to_vec()))));
        }
    }
    try_join_all(commands).await
}
