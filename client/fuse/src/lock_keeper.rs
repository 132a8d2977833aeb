//! Keeping the leases of locks, and what happens when one ran out.
//!
//! Every third of a lease each partition that keeps locks of this mount hears that it lives. When one answers that the
//! lease ran out, all that was held there is lost: what was written to these files and not published is
//! dropped, for it rested on the locks; the kernel forgets their pages; whoever held locks is told ESTALE by each use
//! until he lets go. Only then the mount says that it knows, and may change anything in that partition again.
//!
//! Invariant: between the loss and the word to the cluster nothing that was begun before is still on its way to be
//! begun: requests made later are known to rest on no lost lock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bark_schema::file_lock::LockCommand;
use bark_schema::ids::PartitionId;
use bark_schema::limits::LOCK_LEASE_MS_DEFAULT;
use bark_schema::operation::{Failure, Refusal};
use fuser::Errno;

use crate::lock_table::LEASE;
use crate::open_file::OpenFile;
use crate::volume::Volume;

const PERIOD: Duration = Duration::from_millis(250);

impl Volume {
    /// Keeps the leases for as long as the mount lives.
    pub(crate) async fn keep_locks(self: Arc<Self>) {
        loop {
            let table = self.cluster.locks();
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                () = table.wake.notified() => {}
            }
            for partition in table.take_due() {
                tokio::spawn(self.clone().renew_lease(partition));
            }
        }
    }

    async fn renew_lease(self: Arc<Self>, partition: PartitionId) {
        let table = self.cluster.locks();
        if table.is_over(partition) {
            return self.recover(partition).await;
        }
        let command = LockCommand::Renew {
            client: self.cluster.client().id(),
            lease_ms: LOCK_LEASE_MS_DEFAULT,
        };
        let sent = Instant::now();
        let renewal = tokio::time::timeout(LEASE / 3, self.cluster.change_locks(partition, command));
        match renewal.await {
            Ok(Ok(_)) => table.renewed(partition, Some(sent)),
            Ok(Err(Failure::Refused(Refusal::Fenced, _))) => self.recover(partition).await,
            Ok(Err(failure)) => {
                tracing::debug!(%partition, %failure, "the lease of locks was not renewed");
                // Whoever answers at once is asked again at once by the next turn.
                tokio::time::sleep(PERIOD).await;
                table.renewed(partition, None);
            }
            Err(_) => table.renewed(partition, None),
        }
    }

    async fn recover(self: &Arc<Self>, partition: PartitionId) {
        let table = self.cluster.locks();
        let lost = table.lose(partition);
        if !lost.is_empty() {
            tracing::warn!(%partition, files = lost.len(), "the lease ran out: locks are lost");
        }
        for inode in lost {
            if let Some(file) = self.files.get(inode) {
                file.lose_lock().await;
            }
        }
        // What was given here since arrives before, and is refused.
        self.cluster.delegations.settle(partition).await;
        let client = self.cluster.client().id();
        while let Err(failure) = self
            .cluster
            .change_locks(partition, LockCommand::Rejoin { client })
            .await
        {
            tracing::debug!(%partition, %failure, "not told that the loss of locks is known");
            tokio::time::sleep(PERIOD).await;
        }
        table.recovered(partition);
    }
}

impl OpenFile {
    /// A lock on the file is lost, and what was written and is not published rested on it.
    async fn lose_lock(self: &Arc<Self>) {
        let _hold = self.hold().await;
        let mut state = self.lock();
        if state.is_dirty() {
            state.discard();
            state.give_up_with(Errno::ESTALE);
        }
        state.layout.forget();
        state.are_pages_wrong = true;
        self.account(&mut state);
        self.renew_wrong_pages(&mut state);
    }
}
