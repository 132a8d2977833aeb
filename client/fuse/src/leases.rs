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
/// Of those opened and of those closed, which share a command.
const PART: usize = OPENS_PER_COMMAND_MAX / 2;
/// Three tries before a lease runs out.
const RENEW_AFTER: Duration = Duration::from_millis(LEASE_MS_DEFAULT as u64 / 3);

/// What one partition was told.
#[derive(Debug)]
struct Told {
    /// Open there, as far as this client knows, or told to be.
    open: BTreeSet<InodeId>,
    at: Instant,
    /// The lease ran out, or an answer that would have said so was lost: what is open must be told again.
    doubtful: bool,
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
            let before = told.remove(&partition).unwrap_or_else(|| Told {
                open: BTreeSet::new(),
                at: Instant::now(),
                doubtful: true,
            });
            if before.open.is_empty() && now_open.is_empty() {
                continue;
            }
            let is_fresh = before.at.elapsed() < RENEW_AFTER && !before.doubtful;
            let after = match is_fresh && before.open == now_open {
                true => before,
                false => self.tell(partition, before, now_open).await,
            };
            told.insert(partition, after);
        }
    }

    /// Tells the difference, or everything when in doubt.
    async fn tell(&self, partition: PartitionId, before: Told, open: BTreeSet<InodeId>) -> Told {
        let opened: Vec<InodeId> = match before.doubtful {
            true => open.iter().copied().collect(),
            false => open.difference(&before.open).copied().collect(),
        };
        let closed: Vec<InodeId> = before.open.difference(&open).copied().collect();
        let at = Instant::now();
        match self
            .tell_parts(partition, &opened, &closed, before.doubtful)
            .await
        {
            Ok(counts) => Told {
                open,
                at,
                doubtful: !counts,
            },
            // Any of it may have arrived.
            Err(failure) => {
                tracing::debug!(%partition, %failure, "open files not told");
                Told {
                    open: before.open.union(&open).copied().collect(),
                    at,
                    doubtful: true,
                }
            }
        }
    }

    /// Says whether all that was told counts: the lease had not run out, except perhaps before all was told.
    async fn tell_parts(
        &self,
        partition: PartitionId,
        opened: &[InodeId],
        closed: &[InodeId],
        is_all: bool,
    ) -> Result<bool, Failure> {
        let longer = opened.len().max(closed.len());
        let mut counts = true;
        for step in 0..longer.div_ceil(PART).max(1) {
            let part = |list: &[InodeId]| {
                let chunk = list.chunks(PART).nth(step);
                chunk.map(<[InodeId]>::to_vec).unwrap_or_default()
            };
            let renewed = self
                .cluster
                .update_opens(partition, part(opened), part(closed), LEASE_MS_DEFAULT)
                .await?;
            counts &= renewed || (is_all && step == 0);
        }
        Ok(counts)
    }
}
