//! Whether everything a cluster keeps agrees: entries, inodes, link counts, blocks and their copies, sizes of
//! directories, sessions, counters, replicas.
//!
//! Leaders look at their rows page by page ([`bark_schema::audit`]). What a page calls a fault is one. What lies
//! in several partitions or on several nodes is put side by side here, from pages made at different moments while
//! the cluster works, so what does not fit is only suspected: it is asked for again, alone, by reads that
//! transactions hold up until they are over, before and after the other side. It is reported if nothing moved
//! and it stood twice, with a pause in between.
//!
//! Previous in the flow: `bark doctor`, or the simulator, which asks its states. Next: [`Report`].
//!
//! What it costs: two rows of about 40 bytes over the wire and two microseconds of a leader for a file, and at
//! most some 60 bytes here while a name and its inode have not both been met: 60 MB for a million files. 24 bytes
//! for each directory stay to the end. Blocks pass by in order and are not kept.
//!
//! Invariants:
//! - [`examine`] changes nothing; [`repair`] does.
//! - Of two sides that do not agree neither is reported unless both were seen standing still.
//! - What could not be looked at is said: a report that is clean and complete has seen every row.

mod blocks;
mod faults;
mod finding;
mod names;
mod places;
mod repair;
mod replicas;
mod sizes;
mod suspects;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bark_schema::audit::{AuditPage, AuditPart, AuditPosition, AuditQuery};
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{Failure, NodeRequest, Query, Reply};

pub use self::finding::{Finding, FindingKind, Looked, Report};
use self::names::Names;
pub use self::repair::{End, Kept, Left, Repaired, Surgeon, Undone, repair, undo};
use self::sizes::Sizes;

/// Where rows come from: a cluster, or the states of a simulated one.
#[allow(async_fn_in_trait)] // Nobody sends these futures to another thread.
pub trait Source {
    async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure>;
    async fn node(&self, node: NodeNumber, request: NodeRequest) -> Result<Reply, Failure>;
    /// Long enough for what is under way to end.
    async fn pause(&self);
}

/// Who is to be asked.
#[derive(Clone, Debug)]
pub struct Members {
    pub partition_count: u16,
    /// With the names people know them by.
    pub nodes: BTreeMap<NodeNumber, String>,
}

/// Rows of a page. 4096: a page of names is some 300 KiB and takes a leader a few milliseconds.
const PAGE_ROWS: u32 = 4096;
/// How often something that does not stand still is looked at before it is let go.
const LOOKS_MAX: u32 = 10;
/// Suspected things looked at again; more of a kind are counted only.
const SUSPECTS_MAX: usize = 10_000;
/// A transaction that is prepared for longer than this has been forgotten by everybody.
const TRANSACTION_AGE_MAX_MS: u64 = 60_000;

/// Looks at everything once.
pub async fn examine(source: &impl Source, members: &Members) -> Report {
    let mut examination = Examination {
        source,
        members,
        report: Report::default(),
    };
    examination.replicas().await;
    let mut names = Names::default();
    let mut sizes = Sizes::default();
    for partition in (0..members.partition_count).map(PartitionId) {
        for part in [
            AuditPart::Files,
            AuditPart::Usages,
            AuditPart::Counters,
            AuditPart::Clients,
            AuditPart::Locks,
        ] {
            let went = examination.part(partition, part, &mut names, &mut sizes).await;
            if let Err(failure) = went {
                examination.report.unanswered(partition.to_string(), &failure);
                break;
            }
        }
    }
    examination.settle_names(names).await;
    examination.settle_sizes(sizes).await;
    examination.blocks().await;
    examination.report.sort();
    examination.report
}

struct Examination<'a, S> {
    source: &'a S,
    members: &'a Members,
    report: Report,
}

impl<S: Source> Examination<'_, S> {
    /// Looks at all pages of a part of a partition.
    async fn part(
        &mut self,
        partition: PartitionId,
        part: AuditPart,
        names: &mut Names,
        sizes: &mut Sizes,
    ) -> Result<(), Failure> {
        let mut from = Some(AuditPosition::default());
        while let Some(position) = from {
            let page = self.page(partition, part, position, PAGE_ROWS).await?;
            // A page that does not go on would be asked for without end.
            from = page.next.filter(|next| *next > position);
            self.report.looked.rows += page.rows;
            if page.too_many {
                self.report.note(format!(
                    "{partition}: {} were not added up: it has {} rows, too many to look at without holding up others",
                    match part {
                        AuditPart::Counters => "counters and sizes",
                        AuditPart::Clients => "sessions and open files",
                        _ => "locks",
                    },
                    page.rows
                ));
            }
            for fault in &page.faults {
                let finding = self.describe_fault(partition, fault).await;
                self.report.add(finding);
            }
            for transaction in &page.transactions {
                let since_ms = u64::try_from(transaction.since / 1_000_000).unwrap_or(0);
                let age_ms = page.now_ms.saturating_sub(since_ms);
                if age_ms > TRANSACTION_AGE_MAX_MS {
                    let finding = faults::old_transaction(partition, transaction, age_ms);
                    self.report.add(finding);
                }
            }
            names.take(&page, &mut self.report.looked);
            sizes.take(&page);
        }
        Ok(())
    }

    async fn page(
        &self,
        partition: PartitionId,
        part: AuditPart,
        from: AuditPosition,
        limit: u32,
    ) -> Result<AuditPage, Failure> {
        let query = Query::Audit(AuditQuery::Page { part, from, limit });
        audit_page(self.source.query(partition, query).await?)
    }

    fn node_name(&self, node: NodeNumber) -> String {
        let known = self.members.nodes.get(&node);
        known.cloned().unwrap_or_else(|| node.to_string())
    }
}

fn audit_page(reply: Reply) -> Result<AuditPage, Failure> {
    match reply {
        Reply::Audit(page) => Ok(*page),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(reply: &Reply) -> Failure {
    let mut said = format!("an answer of another kind: {reply:?}");
    said.truncate(said.floor_char_boundary(120));
    Failure::Busy(said)
}
