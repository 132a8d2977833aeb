//! Telling the cluster which files programs have open, so that files keep their bytes when their last name goes.
//!
//! A file without a name stays for a grace period by itself, so only opens that last need to be told: once a
//! second each partition hears what was opened and closed since, and is told now and then that this client
//! still lives. When it does not, its lease runs out and the files go.
//!
//! Invariant: what is open for more than two seconds was told, as long as the cluster answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::{LEASE_MS_DEFAULT, OPENS_PER_COMMAND_MAX};
use bark_schema::operation::Failure;

use crate::volume::Volume;

const PERIOD: Duration = Duration::from_secs(1);
/// Three tries before a lease runs out.
const RENEW_AFTER: Duration = Duration::from_millis(LEASE_MS_DEFAULT as u64 / 3);

/// What one partition was told.
#[derive(Debug)]
struct Told {
    open: BTreeSet<InodeId>,
    at: Instant,
}

impl Volume {
    /// Keeps the cluster informed for as long as the mount lives.
    pub(crate) async fn tell_opens(&self) {
        let mut told = BTreeMap::new();
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tell_changes(&mut told).await;
        }
    }

    async fn tell_changes(&self, told: &mut BTreeMap<PartitionId, Told>) {
        let mut open: BTreeMap<PartitionId, BTreeSet<InodeId>> = BTreeMap::new();
        for inode in self.files.open_inodes() {
            open.entry(inode.home()).or_default().insert(inode);
        }
        let partitions: BTreeSet<PartitionId> = open.keys().chain(told.keys()).copied().collect();
        for partition in partitions {
            let now_open = open.remove(&partition).unwrap_or_default();
            let before = told.get(&partition);
            let due = before.is_some_and(|told| !told.open.is_empty() && told.at.elapsed() >= RENEW_AFTER);
            if !due
                && before.is_none_or(|told| told.open == now_open)
                && (before.is_some() || now_open.is_empty())
            {
                continue;
            }
            let known = before.map(|told| told.open.clone()).unwrap_or_default();
            match self.tell(partition, &known, &now_open).await {
                Ok(true) => {
                    let at = Instant::now();
                    told.insert(partition, Told { open: now_open, at });
                }
                // The lease had run out: everything is told again, at the next tick.
                Ok(false) => {
                    told.remove(&partition);
                }
                Err(failure) => tracing::debug!(%partition, %failure, "open files not told"),
            }
        }
    }

    /// Says whether what was told before still counts.
    async fn tell(
        &self,
        partition: PartitionId,
        known: &BTreeSet<InodeId>,
        open: &BTreeSet<InodeId>,
    ) -> Result<bool, Failure> {
        let opened: Vec<InodeId> = open.difference(known).copied().collect();
        let closed: Vec<InodeId> = known.difference(open).copied().collect();
        let steps = opened
            .len()
            .max(closed.len())
            .div_ceil(OPENS_PER_COMMAND_MAX)
            .max(1);
        let mut renewed = true;
        for step in 0..steps {
            let part = |list: &[InodeId]| {
                let chunk = list.chunks(OPENS_PER_COMMAND_MAX).nth(step);
                chunk.map(<[InodeId]>::to_vec).unwrap_or_default()
            };
            let answer = self
                .cluster
                .update_opens(partition, part(&opened), part(&closed), LEASE_MS_DEFAULT);
            renewed &= answer.await?;
        }
        // A lease that is new had nothing to run out.
        Ok(renewed || known.is_empty())
    }
}
