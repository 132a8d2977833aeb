//! Advisory locks of programs: flock and fcntl, held in the cluster, so that other mounts see them.
//!
//! Previous in the flow: `filesystem`. Next: `cluster`, with `lock_table` beside it and `lock_keeper` behind it.
//!
//! Whoever gets a lock sees what others wrote before they let go: before a lock is released, what was written
//! to the file here is published, and when one was granted, the kernel's pages stay only if the file's version is
//! the one they were read at. The answer that grants a lock brings the version along, so this costs no request.
//!
//! In a directory this mount has for itself no other has locks. There locks are given here, and the cluster is told after
//! the program, in the order of all other changes: whoever has the directory recalled finds them there.
//!
//! Invariants:
//! - A request that is cancelled leaves no lock: either it was granted, and says so, or it is taken back.
//! - A request whose outcome is not known is taken back for as long as it takes.
//! - What a program wrote under a lock is published before others can have the lock, or is dropped and told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bark_schema::file_lock::{
    FileLock, LockAnswer, LockCommand, LockKind, LockMode, LockOwner, LockQuery, LockRange,
};
use bark_schema::ids::InodeId;
use bark_schema::limits::LOCK_LEASE_MS_DEFAULT;
use bark_schema::operation::{Attributes, Failure, Refusal, Reply};
use fuser::Errno;
use tokio::sync::Notify;

use crate::delegations::LockDecided;
use crate::errno::errno;
use crate::lock_ranges::LockedRange;
use crate::lock_table::Holder;
use crate::open_file::OpenFile;
use crate::volume::Volume;

/// Between attempts to take back what may have been granted.
const TAKE_BACK_AGAIN: Duration = Duration::from_millis(500);
/// A program that was interrupted waits so long for the cluster to say that it has no lock.
const CANCEL_TIME: Duration = Duration::from_secs(3);

/// What a program asks for, and through which handle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) inode: InodeId,
    pub(crate) handle: u64,
    pub(crate) holder: Holder,
    pub(crate) range: LockRange,
    pub(crate) mode: LockMode,
    pub(crate) process: u32,
}

impl Wish {
    fn locked(self) -> LockedRange {
        LockedRange {
            range: self.range,
            mode: self.mode,
            process: self.process,
        }
    }
}

/// How a request for a lock ended.
enum Outcome {
    Granted(Box<Attributes>),
    /// Others hold it.
    Held,
    Cancelled,
    /// Nothing was granted, and whether it ever will is for another request to ask.
    Fenced,
}

/// The bytes the kernel means: the last one of any file is its largest number.
pub(crate) fn kernel_range(first: u64, last: u64) -> LockRange {
    let last = if last >= i64::MAX as u64 { u64::MAX } else { last };
    LockRange { first, last }
}

impl Volume {
    /// Takes a lock, at once or, with somebody who may cancel it, whenever it is free.
    pub(crate) async fn take_lock(
        self: &Arc<Self>,
        wish: Wish,
        wait: Option<Arc<Notify>>,
    ) -> Result<(), Errno> {
        let Wish { inode, holder, .. } = wish;
        loop {
            let table = self.cluster.locks();
            if !table
                .clear(Some(inode.home()), None, self.cluster.lock_patience())
                .await
            {
                return Err(Errno::EIO);
            }
            if let Some(taken) = self.take_lock_here(wish, wait.is_some()).await {
                return taken;
            }
            let has_others = table.ask(inode, holder, wish.handle)?;
            // From now on nothing is decided here about the file's locks; the cluster must know the file, and what was decided.
            self.cluster.delegations.settle_changes_of(inode).await;
            let outcome = self.ask_for_lock(wish, wait.as_deref()).await;
            let granted = matches!(outcome, Ok(Outcome::Granted(_))).then(|| wish.locked());
            if matches!(&outcome, Err(failure) if !matches!(failure, Failure::Refused(..))) {
                self.take_back(wish);
            }
            // What was lost meanwhile is lost, whatever the answer says.
            let is_lost = table.answered(inode, holder, granted);
            match outcome {
                Ok(Outcome::Granted(attributes)) if !is_lost => {
                    self.see_others(&attributes).await;
                    return Ok(());
                }
                Ok(Outcome::Granted(_) | Outcome::Fenced) => {
                    if !is_lost {
                        let patience = self.cluster.lock_patience();
                        table.rejoined(Some(inode.home()), None, patience).await;
                    }
                    if has_others {
                        return Err(Errno::ESTALE);
                    }
                    table.forgive(inode, holder);
                }
                Ok(outcome) => {
                    // Asking for another mode has let go of a flock.
                    if holder.0 == LockKind::Flock {
                        table.let_go(inode, holder);
                    }
                    return match outcome {
                        Outcome::Cancelled => Err(Errno::EINTR),
                        _ => Err(Errno::EAGAIN),
                    };
                }
                Err(failure) => return Err(errno(failure)),
            }
        }
    }

    /// None: the cluster must be asked.
    async fn take_lock_here(&self, wish: Wish, waits: bool) -> Option<Result<(), Errno>> {
        let lock = self.lock_of(wish);
        match self.cluster.delegations.take_lock(&lock, wish.handle).await {
            LockDecided::Granted(attributes) => {
                self.see_others(&attributes).await;
                Some(Ok(()))
            }
            LockDecided::Held(_) if !waits => Some(Err(Errno::EAGAIN)),
            LockDecided::Held(_) | LockDecided::Unknown => None,
        }
    }

    async fn ask_for_lock(
        self: &Arc<Self>,
        wish: Wish,
        cancelled: Option<&Notify>,
    ) -> Result<Outcome, Failure> {
        let home = wish.inode.home();
        let number = match cancelled {
            Some(_) => self.cluster.locks().number_wait(),
            None => 0,
        };
        let command = LockCommand::Take {
            lock: self.lock_of(wish),
            wait: number,
            lease_ms: LOCK_LEASE_MS_DEFAULT,
        };
        let sent = Instant::now();
        let answer = not_fenced(self.cluster.change_locks(home, command).await)?;
        let confirm = || self.cluster.locks().confirm(home, sent);
        match (answer, cancelled) {
            (Some(Reply::Lock(LockAnswer::Granted(attributes))), _) => {
                confirm();
                Ok(Outcome::Granted(attributes))
            }
            (Some(Reply::Lock(LockAnswer::Held(_))), _) => Ok(Outcome::Held),
            (Some(Reply::Lock(LockAnswer::Waiting)), Some(cancelled)) => {
                confirm();
                self.wait_for_lock(wish, number, cancelled).await
            }
            (None, _) => Ok(Outcome::Fenced),
            (Some(other), _) => Err(Failure::Busy(format!("unexpected answer: {other:?}"))),
        }
    }

    async fn wait_for_lock(
        self: &Arc<Self>,
        wish: Wish,
        number: u64,
        cancelled: &Notify,
    ) -> Result<Outcome, Failure> {
        let (inode, client) = (wish.inode, self.cluster.client().id());
        let waited = LockQuery::Waited {
            inode,
            client,
            wait: number,
        };
        loop {
            let answer = tokio::select! {
                answer = self.cluster.query_locks(inode.home(), waited.clone()) => answer,
                () = cancelled.notified() => return self.cancel_wait(wish, number).await,
            };
            match not_fenced(answer)? {
                Some(Reply::Lock(LockAnswer::Granted(attributes))) => {
                    return Ok(Outcome::Granted(attributes));
                }
                Some(Reply::Lock(LockAnswer::Waiting)) => {}
                None => return Ok(Outcome::Fenced),
                Some(other) => return Err(Failure::Busy(format!("unexpected answer: {other:?}"))),
            }
        }
    }

    /// Whoever waits has been interrupted. If the cluster does not answer, it is told later.
    async fn cancel_wait(self: &Arc<Self>, wish: Wish, number: u64) -> Result<Outcome, Failure> {
        let volume = self.clone();
        let mut cancelling = tokio::spawn(async move {
            let command = LockCommand::Cancel {
                inode: wish.inode,
                client: volume.cluster.client().id(),
                wait: number,
            };
            volume.insist(wish.inode, command).await
        });
        match tokio::time::timeout(CANCEL_TIME, &mut cancelling).await {
            Ok(Ok(Ok(Reply::Lock(LockAnswer::Granted(attributes))))) => Ok(Outcome::Granted(attributes)),
            Ok(Ok(Ok(_))) => Ok(Outcome::Cancelled),
            Ok(Ok(Err(Failure::Refused(Refusal::Fenced, _)))) => Ok(Outcome::Cancelled),
            Ok(Ok(Err(failure))) => Err(failure),
            Ok(Err(_)) => Ok(Outcome::Cancelled),
            Err(_) => {
                let volume = self.clone();
                self.cluster.locks().take_back(wish.inode);
                tokio::spawn(async move {
                    if let Ok(Ok(Reply::Lock(LockAnswer::Granted(_)))) = cancelling.await {
                        volume.release_range(wish).await;
                    }
                    volume.cluster.locks().took_back(wish.inode);
                });
                Ok(Outcome::Cancelled)
            }
        }
    }

    /// Takes back what may have been granted, in the background.
    fn take_back(self: &Arc<Self>, wish: Wish) {
        tracing::warn!(
            inode = wish.inode.0,
            "it is not known whether a lock was granted; it is released"
        );
        let volume = self.clone();
        self.cluster.locks().take_back(wish.inode);
        tokio::spawn(async move {
            volume.release_range(wish).await;
            volume.cluster.locks().took_back(wish.inode);
        });
    }

    async fn release_range(&self, wish: Wish) {
        let command = LockCommand::Release {
            inode: wish.inode,
            owner: self.owner(wish.holder),
            range: wish.range,
        };
        if let Err(failure) = self.insist(wish.inode, command).await {
            tracing::debug!(%failure, "a lock was not taken back, since it was lost");
        }
    }

    /// Asks until the cluster has decided.
    async fn insist(&self, inode: InodeId, command: LockCommand) -> Result<Reply, Failure> {
        loop {
            match self.cluster.change_locks(inode.home(), command.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(Failure::Refused(refusal, sentence)) => return Err(Failure::Refused(refusal, sentence)),
                Err(_) => tokio::time::sleep(TAKE_BACK_AGAIN).await,
            }
        }
    }

    /// A program unlocks. What it wrote is published first, and if that fails it keeps the lock and is told.
    pub(crate) async fn release_lock(
        &self,
        inode: InodeId,
        holder: Holder,
        range: LockRange,
    ) -> Result<(), Errno> {
        let table = self.cluster.locks();
        if table.is_lost(inode, holder) {
            // Told once; who has let go may begin anew.
            table.let_go(inode, holder);
            return Err(Errno::ESTALE);
        }
        if !table.holds(inode, holder) {
            return Ok(());
        }
        if let Some(file) = self.files.get(inode)
            && let Err(error) = self.publish(&file).await
        {
            if table.is_lost(inode, holder) {
                table.let_go(inode, holder);
            }
            return Err(error);
        }
        self.give_back(inode, holder, range).await
    }

    /// A holder is gone: all he has on the file is released.
    pub(crate) async fn release_holder(&self, inode: InodeId, holder: Holder) {
        let table = self.cluster.locks();
        if table.is_lost(inode, holder) {
            table.let_go(inode, holder);
        } else if table.holds(inode, holder) {
            // The answer was for a program that has gone.
            let _ = self.give_back(inode, holder, LockRange::ALL).await;
        }
    }

    async fn give_back(&self, inode: InodeId, holder: Holder, range: LockRange) -> Result<(), Errno> {
        let owner = self.owner(holder);
        if self.cluster.delegations.release_lock(inode, owner, range).await {
            return Ok(());
        }
        let table = self.cluster.locks();
        table.begin_release(inode, holder);
        self.cluster.delegations.settle_changes_of(inode).await;
        let command = LockCommand::Release { inode, owner, range };
        let released = self.insist(inode, command).await;
        table.released(inode, holder, released.is_ok().then_some(range));
        match released {
            Ok(_) => Ok(()),
            Err(Failure::Refused(Refusal::Fenced, _)) => {
                let patience = self.cluster.lock_patience();
                self.cluster
                    .locks()
                    .rejoined(Some(inode.home()), None, patience)
                    .await;
                self.cluster.locks().let_go(inode, holder);
                Err(Errno::ESTALE)
            }
            Err(failure) => Err(errno(failure)),
        }
    }

    /// The lock that is in the way of this one, if there is one.
    pub(crate) async fn conflicting_lock(&self, wish: Wish) -> Result<Option<FileLock>, Errno> {
        let lock = self.lock_of(wish);
        match self.cluster.delegations.conflicting_lock(&lock).await {
            LockDecided::Granted(_) => return Ok(None),
            LockDecided::Held(other) => return Ok(Some(other)),
            LockDecided::Unknown => {}
        }
        self.cluster.delegations.settle_changes_of(wish.inode).await;
        let query = LockQuery::Conflict { lock };
        match self.cluster.query_locks(wish.inode.home(), query).await {
            Ok(Reply::Lock(LockAnswer::Held(lock))) => Ok(Some(lock)),
            Ok(_) => Ok(None),
            Err(failure) => Err(errno(failure)),
        }
    }

    /// From now on programs see what others wrote before the lock was granted.
    async fn see_others(&self, attributes: &Attributes) {
        let Some(file) = self.files.get(attributes.inode) else {
            return;
        };
        file.learn(attributes);
        self.files.renew_pages(&file).await;
    }

    /// For how long the kernel believes a name that was looked up. Where programs hold locks, not at all: a lock on one file
    /// may be about others beside it, as that of a database is about its journal. These are in the file's partition.
    pub(crate) fn names_valid(&self, directory: InodeId) -> Duration {
        match self.cluster.locks().is_used(directory.home()) {
            true => Duration::ZERO,
            false => self.valid(),
        }
    }

    /// Nobody goes on under a lock that may be lost. Errors: it is.
    pub(crate) async fn settle_locks(&self, file: &OpenFile) -> Result<(), Errno> {
        let patience = self.cluster.lock_patience();
        self.cluster.locks().settle(file.inode, patience).await
    }

    fn lock_of(&self, wish: Wish) -> FileLock {
        FileLock {
            inode: wish.inode,
            owner: self.owner(wish.holder),
            range: wish.range,
            mode: wish.mode,
            process: wish.process,
        }
    }

    fn owner(&self, (kind, number): Holder) -> LockOwner {
        LockOwner {
            client: self.cluster.client().id(),
            kind,
            number,
        }
    }
}

/// None: the mount's lease there ran out.
fn not_fenced(answer: Result<Reply, Failure>) -> Result<Option<Reply>, Failure> {
    match answer {
        Ok(reply) => Ok(Some(reply)),
        Err(Failure::Refused(Refusal::Fenced, _)) => Ok(None),
        Err(failure) => Err(failure),
    }
}
