//! A regular file that some program has open: what was written to it and what is known of it.
//!
//! A write is copied here and is done. Blocks written from end to end leave for their replicas at once, while
//! the program goes on; the rest leaves when the file is published (`publish`): by close, fsync, a timer or
//! lack of memory. Until then reads see it laid over what the cluster has (`read`). From old to new the
//! layers are: the cluster's bytes, `stored`, `sending`, `dirty`.
//!
//! What the cluster refuses, for want of space or quota, stays here too, for programs can make room and try again.
//! From then on each write tries to publish first and is told what that says, so that not more is taken; the
//! background tries ever more rarely. Refused bytes go when memory runs out or nobody has the file open any more.
//!
//! Invariants:
//! - A byte that was written is in `dirty`, `sending`, `stored` or published, whatever fails on the way; or it was
//!   refused, and given up, and `error` says so.
//! - Blocks that overlap are never on their way at the same time, so the newer one wins.
//! - The state's lock is never held across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bark_schema::access_time::Times;
use bark_schema::ids::InodeId;
use bark_schema::operation::{AttributeChange, Attributes, UnixNanos};
use bark_schema::policy::Policy;
use fuser::Errno;
use tokio::sync::{MutexGuard as GateGuard, Notify};

use crate::append::Appended;
use crate::attributes::unix_nanos;
use crate::cluster::Cluster;
use crate::errno::errno_of_error;
use crate::extent_map::ExtentMap;
use crate::kept_attributes::{KeptAttributes, without_privileges};
use crate::layout::Layout;
use crate::memory::Memory;
use crate::notices::Notices;
use crate::pages::Pages;
use crate::publication_failure::PublicationFailure;
use crate::range_buffer::{Piece, RangeBuffer};

#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) inode: InodeId,
    /// Of its blocks; it never changes.
    pub(crate) policy: Policy,
    pub(crate) cluster: Cluster,
    pub(crate) memory: Arc<Memory>,
    notices: Notices,
    state: Mutex<State>,
    /// Held by whoever publishes or cuts.
    gate: tokio::sync::Mutex<()>,
    /// Something that was on its way has ended.
    pub(crate) progress: Notify,
}

#[derive(Debug)]
pub(crate) struct State {
    /// As the cluster last told.
    pub(crate) attributes: Attributes,
    /// With what is not published yet.
    pub(crate) size: u64,
    /// When the cluster told that, or something newer.
    learned_at: Instant,
    /// When the last write came that is not published yet.
    pub(crate) written: Option<UnixNanos>,
    /// Somebody without privileges wrote some of it.
    pub(crate) unprivileged: bool,
    /// This mount made it and has published nothing of it yet, so nobody else waits for its attributes.
    is_new: bool,
    /// Attributes that were set and not published yet.
    kept: KeptAttributes,
    /// Those that are on their way.
    pub(crate) leaving: KeptAttributes,
    pub(crate) dirty: RangeBuffer,
    dirty_since: Option<Instant>,
    pub(crate) sending: Vec<Sending>,
    next_sending: u64,
    /// What of `dirty` was appended.
    pub(crate) appended: Option<Appended>,
    /// The kernel has bytes where they are not.
    pub(crate) are_pages_wrong: bool,
    /// While it is set no block leaves by itself.
    held: bool,
    pub(crate) stored: ExtentMap,
    pub(crate) layout: Layout,
    /// Why the last publication failed, until one succeeds.
    failure: Option<PublicationFailure>,
    /// Some publication may have happened or may not.
    pub(crate) is_in_doubt: bool,
    /// Why written bytes were given up, until fsync or close has told.
    error: Option<Errno>,
    pub(crate) pages: Pages,
    /// Bytes the memory budget knows of.
    accounted: usize,
}

/// Bytes on their way.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) id: u64,
    pub(crate) piece: Piece,
}

/// How a program writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// Otherwise the bits of a privileged program go.
    pub(crate) is_privileged: bool,
    /// Behind whatever is there, wherever it believes the end to be.
    pub(crate) appends: bool,
}

/// While it lives nothing of the file is on its way, but by its holder.
pub(crate) struct Hold<'a> {
    file: &'a Arc<OpenFile>,
    _gate: GateGuard<'a, ()>,
}

impl OpenFile {
    pub(crate) fn new(
        cluster: Cluster,
        memory: Arc<Memory>,
        notices: Notices,
        attributes: Attributes,
    ) -> Arc<OpenFile> {
        let (inode, policy) = (attributes.inode, attributes.policy);
        Arc::new(OpenFile {
            inode,
            policy,
            cluster,
            memory,
            notices,
            state: Mutex::new(State {
                size: attributes.size,
                attributes,
                learned_at: Instant::now(),
                written: None,
                unprivileged: false,
                is_new: false,
                kept: KeptAttributes::default(),
                leaving: KeptAttributes::default(),
                dirty: RangeBuffer::new(policy.cut_size() as u64),
                dirty_since: None,
                sending: Vec::new(),
                next_sending: 0,
                appended: None,
                are_pages_wrong: false,
                held: false,
                stored: ExtentMap::default(),
                layout: Layout::default(),
                failure: None,
                is_in_doubt: false,
                error: None,
                pages: Pages::unknown(),
                accounted: 0,
            }),
            gate: tokio::sync::Mutex::new(()),
            progress: Notify::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // State changes by whole steps that do not panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes bytes that a program writes to `offset`, or appends, and says where they are. None if what is here
    /// must be published first, or could not be: then the program must be told before it gives more. The caller
    /// waits for memory afterwards if it has run out.
    pub(crate) fn write(self: &Arc<Self>, offset: u64, data: &[u8], way: Way) -> Option<u64> {
        let mut state = self.lock();
        let must_tell = state.error.is_some() || (state.failure.is_some() && state.is_dirty());
        if must_tell || state.stored.len() >= STORED_MAX {
            return None;
        }
        let offset = state.place(offset, data.len() as u64, way.appends)?;
        state.dirty.insert(offset, data);
        state.size = state.size.max(offset + data.len() as u64);
        state.written = Some(now());
        state.unprivileged |= !way.is_privileged;
        state.kept.wrote(way.is_privileged);
        state.dirty_since.get_or_insert_with(Instant::now);
        let cut_size = self.policy.cut_size() as u64;
        let first = offset / cut_size;
        let last = (offset + data.len() as u64) / cut_size;
        for block in first..=last {
            self.send_full_block(&mut state, block * cut_size);
        }
        self.account(&mut state);
        self.renew_wrong_pages(&mut state);
        Some(offset)
    }

    /// Makes the kernel forget pages that show bytes where they are not.
    pub(crate) fn renew_wrong_pages(&self, state: &mut State) {
        if std::mem::take(&mut state.are_pages_wrong) {
            state.pages.distrust();
            self.notices.content_changed(self.inode);
        }
    }

    /// The file was made here just now.
    pub(crate) fn set_new(&self) {
        self.lock().is_new = true;
    }

    /// Keeps attributes until the file is published, if nobody can wait for them yet.
    pub(crate) fn keep(&self, change: &AttributeChange, drops_privileges: bool) -> Option<Attributes> {
        let mut state = self.lock();
        if !state.is_new || change.size.is_some() {
            return None;
        }
        state.kept.set(change, drops_privileges, now());
        state.dirty_since.get_or_insert_with(Instant::now);
        Some(state.shown())
    }

    /// Attributes as they are seen here, if something is written that the cluster does not have, and what the
    /// cluster has is known well enough.
    pub(crate) fn attributes_if_written(&self, age: Duration) -> Option<Attributes> {
        let state = self.lock();
        let known = state.is_dirty() && state.learned_at.elapsed() < age;
        known.then(|| state.shown())
    }

    /// Attributes are kept here, or on their way.
    pub(crate) fn keeps_attributes(&self) -> bool {
        let state = self.lock();
        !(state.kept.is_empty() && state.leaving.is_empty())
    }

    /// Puts the block at `offset` on its way if it is complete and nothing older of it still is.
    fn send_full_block(self: &Arc<Self>, state: &mut State, offset: u64) {
        let end = offset + self.policy.cut_size() as u64;
        let overlaps = |sending: &Sending| sending.piece.offset < end && sending.piece.end() > offset;
        if state.held || state.failure.is_some() || state.is_appended(end) {
            return;
        }
        if state.sending.iter().any(overlaps) {
            return;
        }
        if let Some(piece) = state.dirty.take_full_block(offset) {
            let id = state.send(piece.clone());
            tokio::spawn(self.clone().store(id, piece));
        }
    }

    async fn store(self: Arc<Self>, id: u64, piece: Piece) {
        // The bytes are dirty again, and the next publication tries once more.
        if let Err(error) = self.store_piece(id, piece).await {
            tracing::warn!(inode = self.inode.0, %error, "block not stored yet");
            let is_refusal = error.refusal().is_some();
            self.lock().failed(errno_of_error(&error), is_refusal);
        }
    }

    /// Stores a piece that is in `sending`; afterwards it is in `stored`, or in `dirty` again.
    pub(crate) async fn store_piece(&self, id: u64, piece: Piece) -> Result<(), bark_client::Error> {
        let permit = self.memory.uploads.acquire().await;
        let data = piece.data.clone();
        let stored = self
            .cluster
            .store_block(self.inode, self.policy, piece.offset, data);
        let result = stored.await;
        drop(permit);
        let mut state = self.lock();
        state.sending.retain(|sending| sending.id != id);
        let result = match result {
            Ok(extent) => {
                state.stored.insert(extent);
                Ok(())
            }
            Err(error) => {
                state.dirty.insert_beneath(&piece);
                state.dirty_since.get_or_insert_with(Instant::now);
                Err(error)
            }
        };
        self.account(&mut state);
        drop(state);
        self.progress.notify_waiters();
        result
    }

    /// Tells the memory budget what this file holds now.
    pub(crate) fn account(&self, state: &mut State) {
        self.abandon_useless(state);
        let sending: usize = state.sending.iter().map(|sending| sending.piece.data.len()).sum();
        let now = state.dirty.size() + sending;
        self.memory.change(state.accounted, now);
        state.accounted = now;
        if state.dirty.is_empty() && state.kept.is_empty() {
            state.dirty_since = None;
        }
    }

    /// Gives blocks back that were stored in vain. After a publication whose outcome nobody knows that is left to the
    /// nodes, who find such blocks after a day: it may still arrive.
    fn abandon_useless(&self, state: &mut State) {
        let useless = state.stored.take_useless();
        if !useless.is_empty() && !state.is_in_doubt {
            self.cluster.abandon_blocks(&useless);
        }
    }

    /// Waits until nothing of the file is on its way and keeps it so.
    pub(crate) async fn hold(self: &Arc<Self>) -> Hold<'_> {
        let gate = self.gate.lock().await;
        let hold = Hold {
            file: self,
            _gate: gate,
        };
        self.lock().held = true;
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.lock().sending.is_empty() {
                return hold;
            }
            progress.await;
        }
    }

    /// Forgets what was written to `from .. to` and could not be published.
    pub(crate) fn withdraw(&self, from: u64, to: u64) {
        let mut state = self.lock();
        state.dirty.cut(from, to);
        state.stored.cut(from, to);
        state.cut_appended(from);
        state.size = state.attributes.size.max(state.unpublished_end());
        self.account(&mut state);
    }

    /// Forgets what was written beyond `size`. Only for who holds the file.
    pub(crate) fn cut(&self, size: u64) {
        let mut state = self.lock();
        state.dirty.cut(size, u64::MAX);
        state.stored.cut(size, u64::MAX);
        state.cut_appended(size);
        self.account(&mut state);
    }

    /// Attributes as programs of this mount see them.
    pub(crate) fn attributes(&self) -> Attributes {
        self.lock().shown()
    }

    /// The times of it that programs of this mount see.
    pub(crate) fn times(&self) -> Times {
        let state = self.lock();
        match state.is_dirty() {
            true => (&state.shown()).into(),
            false => (&state.attributes).into(),
        }
    }

    /// The cluster knows of a read at that time.
    pub(crate) fn was_read(&self, at: UnixNanos) {
        let mut state = self.lock();
        let mut times = Times::from(&state.attributes);
        times.note(at);
        state.attributes.accessed = times.accessed;
    }

    /// Takes newer attributes from the cluster. Says whether the content was changed by somebody else.
    pub(crate) fn learn(&self, attributes: &Attributes) -> bool {
        self.lock().learn(attributes)
    }

    /// Something is written here that the cluster does not show yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.lock().is_dirty()
    }

    /// Unpublished for longer than `age`, or too much of it; or anything, if memory is needed.
    pub(crate) fn is_due(&self, age: Duration, needs_memory: bool) -> bool {
        let state = self.lock();
        if let Some(failure) = state.failure
            && failure.waits()
        {
            return needs_memory && failure.is_refusal;
        }
        let old = state.dirty_since.is_some_and(|since| since.elapsed() >= age);
        old || state.stored.len() >= STORED_DUE || (needs_memory && state.is_dirty())
    }

    /// Why what was written is not published, if that was tried in vain.
    pub(crate) fn failure(&self) -> Option<PublicationFailure> {
        let state = self.lock();
        state.failure.filter(|_| state.is_dirty())
    }

    /// Forgets what the cluster refused. Programs that have it open are told by their next write, fsync or close.
    pub(crate) async fn give_up(self: &Arc<Self>, is_open: bool) {
        if self.failure().is_none() {
            return;
        }
        let _hold = self.hold().await;
        let mut state = self.lock();
        let Some(failure) = state.failure.filter(|failure| failure.is_refusal) else {
            return;
        };
        tracing::warn!(inode = self.inode.0, error = ?failure.error, "refused bytes are given up");
        state.discard();
        if is_open {
            state.give_up_with(failure.error);
        }
        // What the kernel has of them is not the file's.
        state.are_pages_wrong = true;
        self.account(&mut state);
        self.renew_wrong_pages(&mut state);
    }

    /// Why bytes were given up, once.
    pub(crate) fn take_error(&self) -> Result<(), Errno> {
        match self.lock().error.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn now() -> UnixNanos {
    unix_nanos(SystemTime::now())
}

/// The unit of `Attributes::blocks`.
const BLOCK_UNIT: u64 = 512;
/// Stored blocks are published when there are so many: a commit for 32 MiB of the usual size costs nothing, and if it is refused the
/// nodes are left with so many blocks that are in no file. With twice as many, writes wait for it.
const STORED_DUE: usize = 32;
const STORED_MAX: usize = 64;

impl State {
    /// Notes a piece as being on its way.
    pub(crate) fn send(&mut self, piece: Piece) -> u64 {
        let id = self.next_sending;
        self.next_sending += 1;
        self.sending.push(Sending { id, piece });
        id
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.has_bytes() || !(self.kept.is_empty() && self.leaving.is_empty())
    }

    fn has_bytes(&self) -> bool {
        !(self.dirty.is_empty() && self.sending.is_empty() && self.stored.is_empty())
    }

    /// The cluster's attributes with what is not published laid over them.
    fn shown(&self) -> Attributes {
        let mut attributes = self.attributes.clone();
        attributes.size = self.size;
        if let Some(written) = self.written {
            attributes.modified = attributes.changed.max(written);
            attributes.changed = attributes.modified;
            // What overwrites is counted twice until it is published, but nothing beyond the size.
            let unpublished = self.unpublished_size().div_ceil(BLOCK_UNIT);
            let whole = attributes.size.div_ceil(BLOCK_UNIT).max(attributes.blocks);
            attributes.blocks = whole.min(attributes.blocks + unpublished);
        }
        if self.unprivileged {
            attributes.mode = without_privileges(attributes.mode);
        }
        self.leaving.show_in(&mut attributes);
        self.kept.show_in(&mut attributes);
        attributes
    }

    fn unpublished_size(&self) -> u64 {
        let sending: usize = self.sending.iter().map(|sending| sending.piece.data.len()).sum();
        let stored = self.stored.overlapping(0, u64::MAX);
        let stored: u64 = stored.iter().map(|extent| u64::from(extent.length)).sum();
        (self.dirty.size() + sending) as u64 + stored
    }

    /// Takes the attributes that are kept: from now on they are on their way.
    pub(crate) fn send_attributes(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        self.leaving.lay_over(&kept);
    }

    /// A publication has ended; what did not arrive is kept again, beneath what was set meanwhile.
    pub(crate) fn end_publication(&mut self, published: bool) {
        let newer = std::mem::take(&mut self.kept);
        self.kept = std::mem::take(&mut self.leaving);
        self.kept.lay_over(&newer);
        if !self.kept.is_empty() {
            self.dirty_since.get_or_insert_with(Instant::now);
        }
        if published {
            self.is_new = false;
        }
    }

    /// Forgets when and by whom it was written if nothing of that is left.
    pub(crate) fn forget_written(&mut self) {
        if !self.has_bytes() {
            self.written = None;
            self.unprivileged = false;
        }
    }

    /// A publication failed.
    pub(crate) fn failed(&mut self, error: Errno, is_refusal: bool) {
        self.failure = Some(PublicationFailure::after(self.failure, error, is_refusal));
    }

    /// A publication succeeded.
    pub(crate) fn succeeded(&mut self) {
        self.failure = None;
    }

    /// Written bytes were given up, which the next fsync or close tells.
    pub(crate) fn give_up_with(&mut self, error: Errno) {
        self.error = Some(error);
    }

    /// Pieces are not on their way any more.
    pub(crate) fn forget_sending(&mut self, pieces: &[(u64, Piece)]) {
        self.sending
            .retain(|sending| pieces.iter().all(|(id, _)| *id != sending.id));
    }

    /// Forgets what is not published.
    pub(crate) fn discard(&mut self) {
        self.dirty.take_all();
        self.sending.clear();
        self.stored.clear();
        self.forget_written();
        self.kept = KeptAttributes::default();
        self.leaving = KeptAttributes::default();
        self.appended = None;
        self.failure = None;
        self.size = self.attributes.size;
    }

    /// Where the last byte ends that is not published.
    pub(crate) fn unpublished_end(&self) -> u64 {
        let sending = self.sending.iter().map(|sending| sending.piece.end()).max();
        self.dirty.end().max(self.stored.end()).max(sending.unwrap_or(0))
    }

    pub(crate) fn learn(&mut self, attributes: &Attributes) -> bool {
        let known = (self.attributes.version, self.attributes.changed);
        if (attributes.version, attributes.changed) < known {
            return false;
        }
        let changed = attributes.version != self.attributes.version;
        if changed {
            self.layout.forget();
        }
        self.attributes = attributes.clone();
        self.learned_at = Instant::now();
        self.size = attributes.size.max(self.unpublished_end());
        changed
    }

    /// Takes what the cluster answered to the last of so many changes this mount made. Says whether nobody
    /// else changed the content in between.
    pub(crate) fn learn_own(&mut self, attributes: &Attributes, changes: u64) -> bool {
        let known = self.attributes.version;
        let alone = (known..=known + changes).contains(&attributes.version);
        match alone {
            true => self.pages.wrote(known, attributes.version),
            false => self.layout.forget(),
        }
        if attributes.version >= known {
            self.attributes = attributes.clone();
            self.learned_at = Instant::now();
        }
        self.size = self.attributes.size.max(self.unpublished_end());
        alone
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.file.lock();
        state.held = false;
        for offset in state.dirty.full_blocks() {
            self.file.send_full_block(&mut state, offset);
        }
        self.file.account(&mut state);
    }
}
