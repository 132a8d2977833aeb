//! Setting quotas, telling what is used of them, and getting a partition a larger part of one.
//!
//! Setting one goes through the tree once: the directory with the quota first, then level by level those in it,
//! each of which learns what it is under. A directory that is born or a file that comes while this goes on learns
//! it from its parent, and no step of a transaction is taken for a directory that is under another quota than it
//! was when the transaction was planned; so nothing is missed. Only then is the quota put in force, everywhere,
//! with what each partition uses by now as its allowance. Until all of this is done the directory's partition
//! grants nothing more, and whoever set the quota and was not answered sets it again.
//!
//! A partition that needs more asks the directory's; if that has nothing left, the allowances that others do not
//! use are taken back first. A quota is used up only when all of it is used or on its way to being used.

use std::collections::BTreeSet;

use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::USAGE_REPORTS_MAX;
use bark_schema::operation::{Command, Failure, Query, Refusal, Reply};
use bark_schema::quota::{Allowance, Quota, QuotaCommand, QuotaLimits, QuotaPhase, QuotaQuery};
use bark_schema::usage::UsageQuery;
use futures::future::try_join_all;

use super::{unexpected, usage};
use crate::worker::gateway::Gateway;

/// Directories told at once what they are under.
const DIRECTORIES_AT_ONCE: usize = 64;
/// How often a partition asks while others take what was given back.
const ATTEMPTS_MAX: u32 = 8;

/// Limits what a directory and everything below it may take; with no limits the quota goes.
pub async fn set(gateway: &Gateway, directory: InodeId, limits: QuotaLimits) -> Result<Reply, Failure> {
    let known = limits_of(gateway, directory).await?;
    let removes = limits == QuotaLimits::default();
    match known.phase {
        QuotaPhase::Gone if removes => return Ok(Reply::Done),
        QuotaPhase::Active if !removes => {
            put(gateway, directory, limits, QuotaPhase::Active).await?;
            // What was granted under higher limits and is not used is nobody's any more.
            take_back(gateway, directory, None).await?;
            return Ok(Reply::Done);
        }
        _ => {}
    }
    put(gateway, directory, limits, QuotaPhase::Begun).await?;
    if removes {
        return remove(gateway, directory).await;
    }
    if let Err(failure) = go_through(gateway, directory, None, Some(directory)).await {
        if matches!(failure, Failure::Refused(..)) {
            remove(gateway, directory).await?;
        }
        return Err(failure);
    }
    enforce(gateway, directory, true).await?;
    put(gateway, directory, limits, QuotaPhase::Active).await?;
    Ok(Reply::Done)
}

async fn remove(gateway: &Gateway, directory: InodeId) -> Result<Reply, Failure> {
    enforce(gateway, directory, false).await?;
    go_through(gateway, directory, Some(directory), None).await?;
    put(gateway, directory, QuotaLimits::default(), QuotaPhase::Gone).await?;
    Ok(Reply::Done)
}

/// The quota a directory is under, and what is used of it.
pub async fn get(gateway: &Gateway, directory: InodeId) -> Result<Reply, Failure> {
    let Some(root) = quota_of(gateway, directory).await? else {
        return Ok(Reply::Quota(Quota::default()));
    };
    let mut quota = limits_of(gateway, root).await?;
    let parts =
        partitions(gateway).map(|partition| ask(gateway, partition, QuotaQuery::Used { quota: root }));
    for part in try_join_all(parts).await? {
        quota.used_bytes = quota.used_bytes.wrapping_add(part.used_bytes);
        quota.used_inodes = quota.used_inodes.wrapping_add(part.used_inodes);
    }
    quota.quota = Some(root);
    Ok(Reply::Quota(quota))
}

/// The quota an inode is under.
pub async fn quota_of(gateway: &Gateway, inode: InodeId) -> Result<Option<InodeId>, Failure> {
    let query = QuotaQuery::Of { directory: inode };
    Ok(ask(gateway, inode.home(), query).await?.quota)
}

/// Sees to it that `partition` may use so much more of a quota. Errors: `QuotaExceeded` if there is no more.
pub async fn acquire(
    gateway: &Gateway,
    partition: PartitionId,
    quota: InodeId,
    bytes: u64,
    inodes: u64,
) -> Result<(), Failure> {
    let mut refused = None;
    for _ in 0..ATTEMPTS_MAX {
        let part = ask(gateway, partition, QuotaQuery::Used { quota }).await?;
        let Some(held) = part.allowed else {
            return Ok(());
        };
        let wanted = Allowance {
            bytes: match bytes {
                0 => 0,
                more => part.used_bytes.saturating_add(more),
            },
            inodes: match inodes {
                0 => 0,
                more => part.used_inodes.saturating_add(more),
            },
            epoch: held.epoch,
        };
        if wanted.bytes <= held.bytes && wanted.inodes <= held.inodes {
            return Ok(());
        }
        let grant = QuotaCommand::Grant {
            quota,
            partition,
            held,
            wanted,
        };
        match tell(gateway, quota.home(), grant).await {
            Ok(granted) => {
                let granted = allowance(granted)?;
                tell(gateway, partition, QuotaCommand::Accept { quota, granted }).await?;
                return Ok(());
            }
            Err(failure @ Failure::Refused(Refusal::QuotaExceeded, _)) => {
                if !take_back(gateway, quota, Some(partition)).await? {
                    return Err(failure);
                }
                refused = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    Err(refused.unwrap_or_else(|| Failure::Busy("others took the allowance".to_owned())))
}

/// Has all partitions but one give back what they do not use; true if there was anything.
async fn take_back(gateway: &Gateway, quota: InodeId, except: Option<PartitionId>) -> Result<bool, Failure> {
    let others = partitions(gateway).filter(|partition| Some(*partition) != except);
    let parts = others.map(|partition| async move {
        let part = ask(gateway, partition, QuotaQuery::Used { quota }).await?;
        let has_more = |held: Allowance| held.bytes > part.used_bytes || held.inodes > part.used_inodes;
        if !part.allowed.is_some_and(has_more) {
            return Ok(false);
        }
        let held = allowance(tell(gateway, partition, QuotaCommand::GiveBack { quota }).await?)?;
        settle(gateway, quota, partition, held).await?;
        Ok::<_, Failure>(true)
    });
    Ok(try_join_all(parts).await?.contains(&true))
}

/// Puts a quota in force in every partition, or out of force.
async fn enforce(gateway: &Gateway, quota: InodeId, on: bool) -> Result<(), Failure> {
    let parts = partitions(gateway).map(|partition| async move {
        let held = tell(gateway, partition, QuotaCommand::Enforce { quota, on }).await?;
        match on {
            true => settle(gateway, quota, partition, allowance(held)?).await,
            false => Ok(()),
        }
    });
    try_join_all(parts).await?;
    Ok(())
}

async fn settle(
    gateway: &Gateway,
    quota: InodeId,
    partition: PartitionId,
    held: Allowance,
) -> Result<(), Failure> {
    let command = QuotaCommand::Settle {
        quota,
        partition,
        held,
    };
    tell(gateway, quota.home(), command).await?;
    Ok(())
}

/// Tells every directory of a tree that it is under `to` instead of `from`.
async fn go_through(
    gateway: &Gateway,
    top: InodeId,
    from: Option<InodeId>,
    to: Option<InodeId>,
) -> Result<(), Failure> {
    let mut told = BTreeSet::from([top]);
    let mut level = vec![(top, None)];
    while !level.is_empty() {
        let mut next = Vec::new();
        for some in level.chunks(DIRECTORIES_AT_ONCE) {
            let tags = some.iter().map(|(directory, parent)| {
                let home = directory.home();
                tag(gateway, home, *directory, (from, to), *parent)
            });
            for ((directory, _), children) in some.iter().zip(try_join_all(tags).await?) {
                for child in children {
                    if told.insert(child) {
                        next.push((child, Some(*directory)));
                    }
                }
            }
        }
        level = next;
    }
    // Files in these directories that other partitions are home to; those that came since know it already.
    usage::transactions_end(gateway).await?;
    try_join_all(partitions(gateway).map(|partition| tag_elsewhere(gateway, partition, &told, (from, to))))
        .await?;
    Ok(())
}

/// Answers the directories in it.
async fn tag(
    gateway: &Gateway,
    partition: PartitionId,
    directory: InodeId,
    (from, to): (Option<InodeId>, Option<InodeId>),
    parent: Option<InodeId>,
) -> Result<Vec<InodeId>, Failure> {
    let mut children: Vec<InodeId> = Vec::new();
    loop {
        let after = children.last().copied().unwrap_or(InodeId(0));
        let command = QuotaCommand::Tag {
            directory,
            from,
            to,
            parent,
            after,
        };
        match tell(gateway, partition, command).await {
            Ok(Reply::UsageReports { reports, more, .. }) => {
                children.extend(reports.into_iter().map(|report| report.contributor));
                if !more {
                    return Ok(children);
                }
            }
            Ok(other) => return Err(unexpected(&other)),
            // It was removed or moved away meanwhile.
            Err(Failure::Refused(Refusal::NotFound, _)) if parent.is_some() => return Ok(Vec::new()),
            Err(failure) => return Err(failure),
        }
    }
}

async fn tag_elsewhere(
    gateway: &Gateway,
    partition: PartitionId,
    told: &BTreeSet<InodeId>,
    change: (Option<InodeId>, Option<InodeId>),
) -> Result<(), Failure> {
    let mut after = InodeId(0);
    loop {
        let limit = USAGE_REPORTS_MAX as u32;
        let query = Query::Usage(UsageQuery::Elsewhere { after, limit });
        let (reports, more) = match gateway.query(partition, query).await? {
            Reply::UsageReports { reports, more, .. } => (reports, more),
            other => return Err(unexpected(&other)),
        };
        for report in &reports {
            if told.contains(&report.directory) && report.quota != change.1 {
                tag(gateway, partition, report.directory, change, None).await?;
            }
        }
        match reports.last() {
            Some(last) if more => after = last.directory,
            _ => return Ok(()),
        }
    }
}

async fn put(
    gateway: &Gateway,
    quota: InodeId,
    limits: QuotaLimits,
    phase: QuotaPhase,
) -> Result<(), Failure> {
    let command = QuotaCommand::Set { quota, limits, phase };
    tell(gateway, quota.home(), command).await?;
    Ok(())
}

async fn limits_of(gateway: &Gateway, quota: InodeId) -> Result<Quota, Failure> {
    ask(gateway, quota.home(), QuotaQuery::Limits { quota }).await
}

async fn ask(gateway: &Gateway, partition: PartitionId, query: QuotaQuery) -> Result<Quota, Failure> {
    match gateway.query(partition, Query::Quota(query)).await? {
        Reply::Quota(quota) => Ok(quota),
        other => Err(unexpected(&other)),
    }
}

async fn tell(gateway: &Gateway, partition: PartitionId, command: QuotaCommand) -> Result<Reply, Failure> {
    gateway.command(partition, Command::Quota(command)).await
}

fn allowance(reply: Reply) -> Result<Allowance, Failure> {
    match reply {
        Reply::Allowance(allowance) => Ok(allowance),
        other => Err(unexpected(&other)),
    }
}

fn partitions(gateway: &Gateway) -> impl Iterator<Item = PartitionId> {
    (0..gateway.config().partition_count).map(PartitionId)
}
