//! Requests about advisory locks, and those who wait for one until they are interrupted.
//!
//! Invariant: an interrupt that comes before the request it is meant for, on another thread, is not lost.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bark_schema::file_lock::{LockKind, LockMode, LockRange};
use fuser::{Errno, FileHandle, INodeNo, LockOwner, ReplyEmpty, ReplyLock, RequestId};
use tokio::sync::Notify;

use super::Filesystem;
use crate::delegations::Haste;
use crate::lock_table::Holder;
use crate::locks::Wish;
use crate::open_file::OpenFile;

/// Interrupts remembered whose request is not known (yet): most are for other requests than those for locks.
const EARLY_MAX: usize = 256;

/// Who asks about a lock on what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    inode: INodeNo,
    handle: FileHandle,
    holder: Holder,
    process: u32,
}

impl Asked {
    pub(super) fn new(inode: INodeNo, handle: FileHandle, holder: Holder, process: u32) -> Asked {
        Asked {
            inode,
            handle,
            holder,
            process,
        }
    }
}

/// Requests that wait, by the number the kernel interrupts them by.
#[derive(Debug, Default)]
pub(super) struct Waits {
    table: Mutex<WaitTable>,
}

#[derive(Debug, Default)]
struct WaitTable {
    waiting: HashMap<RequestId, Arc<Notify>>,
    early: VecDeque<RequestId>,
}

impl Waits {
    pub(super) fn interrupt(&self, request: RequestId) {
        let mut table = self.lock();
        if let Some(wait) = table.waiting.get(&request) {
            // Kept for whoever waits next, if nobody does at this moment.
            return wait.notify_one();
        }
        if table.early.len() == EARLY_MAX {
            table.early.pop_front();
        }
        table.early.push_back(request);
    }

    fn begin(&self, request: RequestId) -> Arc<Notify> {
        let wait = Arc::new(Notify::new());
        let mut table = self.lock();
        if table.early.contains(&request) {
            table.early.retain(|early| *early != request);
            wait.notify_one();
        }
        table.waiting.insert(request, wait.clone());
        wait
    }

    fn end(&self, request: RequestId) {
        self.lock().waiting.remove(&request);
    }

    fn lock(&self) -> MutexGuard<'_, WaitTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mode(kind: i32) -> Option<LockMode> {
    match kind {
        libc::F_RDLCK => Some(LockMode::Shared),
        libc::F_WRLCK => Some(LockMode::Exclusive),
        _ => None,
    }
}

impl Filesystem {
    fn wish(&self, asked: Asked, range: LockRange, mode: LockMode) -> Wish {
        Wish {
            inode: self.volume.inode(asked.inode),
            handle: asked.handle.0,
            holder: asked.holder,
            range,
            mode,
            process: asked.process,
        }
    }

    pub(super) fn look_for_lock(&self, asked: Asked, range: LockRange, kind: i32, reply: ReplyLock) {
        let Some(mode) = mode(kind) else {
            return reply.error(Errno::EINVAL);
        };
        let wish = self.wish(asked, range, mode);
        self.start(|volume| async move {
            match volume.conflicting_lock(wish).await {
                Ok(Some(lock)) => {
                    let kind = match lock.mode {
                        LockMode::Shared => libc::F_RDLCK,
                        LockMode::Exclusive => libc::F_WRLCK,
                    };
                    let last = lock.range.last.min(i64::MAX as u64);
                    reply.locked(lock.range.first, last, kind, lock.process);
                }
                Ok(None) => reply.locked(0, 0, libc::F_UNLCK, 0),
                Err(error) => reply.error(error),
            }
        });
    }

    /// `waits`: the request, if it is for a lock that is to be waited for.
    pub(super) fn set_lock(
        &self,
        asked: Asked,
        range: LockRange,
        kind: i32,
        waits: Option<RequestId>,
        reply: ReplyEmpty,
    ) {
        let inode = self.volume.inode(asked.inode);
        let Some(mode) = mode(kind) else {
            return self.start(|volume| async move {
                answer!(reply, volume.release_lock(inode, asked.holder, range).await, () => reply.ok());
            });
        };
        let wish = self.wish(asked, range, mode);
        let waiting = self.waits.clone();
        let wait = waits.map(|request| waiting.begin(request));
        self.start(|volume| async move {
            let taken = volume.take_lock(wish, wait).await;
            if let Some(request) = waits {
                waiting.end(request);
            }
            answer!(reply, taken, () => reply.ok());
        });
    }

    /// A process closes a file: what was written is published, and the process loses its locks on the file, through
    /// whatever handle it took them.
    pub(super) fn flush_file(&self, file: Arc<OpenFile>, owner: LockOwner, reply: ReplyEmpty) {
        let holder = (LockKind::Range, owner.0);
        let has_locks = self.volume.cluster.locks().knows(file.inode, holder);
        if !file.is_dirty() && !has_locks {
            answer!(reply, file.take_error(), () => reply.ok());
            return;
        }
        self.start(|volume| async move {
            let published = volume.publish(&file).await;
            volume.release_holder(file.inode, holder).await;
            answer!(reply, published, () => reply.ok());
        });
    }

    /// The kernel has no use for a handle any more. Locks taken through it go: of the open file, and of processes that
    /// did not close it themselves.
    pub(super) fn close_file(&self, file: Arc<OpenFile>, handle: FileHandle, owner: Option<LockOwner>) {
        let locks = self.volume.cluster.locks();
        let mut holders = locks.closed(file.inode, handle.0);
        if let Some(owner) = owner {
            let holder = (LockKind::Flock, owner.0);
            if !holders.contains(&holder) && locks.knows(file.inode, holder) {
                holders.push(holder);
            }
        }
        let is_refused = self.volume.files.close(&file);
        if holders.is_empty() && !is_refused {
            if self.volume.files.is_closed(&file) {
                locks.forget(file.inode);
            }
            return;
        }
        self.start(|volume| async move {
            if !holders.is_empty() {
                // Close has told what could not be published.
                let _ = file.publish(Haste::Relaxed).await;
            }
            for holder in holders {
                volume.release_holder(file.inode, holder).await;
            }
            if is_refused {
                volume.files.abandon(&file).await;
            }
            if volume.files.is_closed(&file) {
                volume.cluster.locks().forget(file.inode);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interrupt_reaches_its_request_before_and_after_it_came() {
        // Goal: no wait outlives its interrupt, whichever of the two is read first.
        let waits = Waits::default();
        waits.interrupt(RequestId(1));
        waits.begin(RequestId(1)).notified().await;
        let wait = waits.begin(RequestId(2));
        waits.interrupt(RequestId(2));
        wait.notified().await;
        waits.end(RequestId(1));
        waits.end(RequestId(2));
        for other in 0..10 * EARLY_MAX as u64 {
            waits.interrupt(RequestId(other));
        }
        assert_eq!(waits.lock().early.len(), EARLY_MAX);
    }
}
