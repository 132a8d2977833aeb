//! A regular file that some program has open: what was written to it and what is known of it.
//!
//! A write is copied here and is done. Blocks written from end to end leave for their replicas at once, while
//! the program goes on; the rest leaves when the file is published (`publish`): by close, fsync, a timer or
//! lack of memory. Until then reads see it laid over what the cluster has (`read`). From old to new the
//! layers are: the cluster's bytes, `stored`, `sending`, `dirty`.
//!
//! Invariants:
//! - A byte that was written is in `dirty`, `sending`, `stored` or published, whatever fails on the way.
//! - Blocks that overlap are never on their way at the same time, so the newer one wins.
//! - The state's lock is never held across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bark_schema::ids::InodeId;
use bark_schema::operation::{AttributeChange, Attributes, UnixNanos};
use bark_schema::policy::Policy;
use fuser::Errno;
use tokio::sync::{MutexGuard as GateGuard, Notify};

use crate::attributes::unix_nanos;
use crate::cluster::Cluster;
use crate::extent_map::ExtentMap;
use crate::kept_attributes::{KeptAttributes, without_privileges};
use crate::layout::Layout;
use crate::memory::Memory;
use crate::range_buffer::{Piece, RangeBuffer};

#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) inode: InodeId,
    /// Of its blocks; it never changes.
    policy: Policy,
    pub(crate) cluster: Cluster,
    pub(crate) memory: Arc<Memory>,
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
    /// While it is set no block leaves by itself.
    held: bool,
    pub(crate) stored: ExtentMap,
    pub(crate) layout: Layout,
    /// What went wrong in the background and no program was told yet.
    pub(crate) error: Option<Errno>,
    /// The version of the content that the kernel's pages show, own writes included.
    pub(crate) pages: Option<u64>,
    /// Bytes the memory budget knows of.
    accounted: usize,
}

/// Bytes on their way.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) id: u64,
    pub(crate) piece: Piece,
}

/// While it lives nothing of the file is on its way, but by its holder.
pub(crate) struct Hold<'a> {
    file: &'a Arc<OpenFile>,
    _gate: GateGuard<'a, ()>,
}

impl OpenFile {
    pub(crate) fn new(cluster: Cluster, memory: Arc<Memory>, attributes: Attributes) -> Arc<OpenFile> {
        let (inode, policy) = (attributes.inode, attributes.policy);
        Arc::new(OpenFile {
            inode,
            policy,
            cluster,
            memory,
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
                held: false,
                stored: ExtentMap::default(),
                layout: Layout::default(),
                error: None,
                pages: None,
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

    /// Takes bytes from a program; the bits of a privileged program go if it is none. The caller waits for memory
    /// afterwards if it has run out.
    pub(crate) fn write(self: &Arc<Self>, offset: u64, data: &[u8], is_privileged: bool) {
        let mut state = self.lock();
        state.dirty.insert(offset, data);
        state.size = state.size.max(offset + data.len() as u64);
        state.written = Some(now());
        state.unprivileged |= !is_privileged;
        state.kept.wrote(is_privileged);
        state.dirty_since.get_or_insert_with(Instant::now);
        let cut_size = self.policy.cut_size() as u64;
        let first = offset / cut_size;
        let last = (offset + data.len() as u64) / cut_size;
        for block in first..=last {
            self.send_full_block(&mut state, block * cut_size);
        }
        self.account(&mut state);
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
        if state.held || state.sending.iter().any(overlaps) {
            return;
        }
        if let Some(piece) = state.dirty.take_full_block(offset) {
            let id = state.send(piece.clone());
            tokio::spawn(self.clone().store(id, piece));
        }
    }

    async fn store(self: Arc<Self>, id: u64, piece: Piece) {
        // A failure is not an error yet: the bytes are dirty again and the next publication tries once more.
        if let Err(error) = self.store_piece(id, piece).await {
            tracing::warn!(inode = self.inode.0, %error, "block not stored yet");
        }
    }

    /// Stores a piece that is in `sending`; afterwards it is in `stored`, or in `dirty` again.
    pub(crate) async fn store_piece(&self, id: u64, piece: Piece) -> Result<(), bark_client::Error> {
        let permit = self.memory.uploads.acquire().await;
        let files = self.cluster.client().files();
        let result = files
            .store_block(self.inode, self.policy, piece.offset, piece.data.clone())
            .await;
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
        let sending: usize = state.sending.iter().map(|sending| sending.piece.data.len()).sum();
        let now = state.dirty.size() + sending;
        self.memory.change(state.accounted, now);
        state.accounted = now;
        if state.dirty.is_empty() && state.kept.is_empty() {
            state.dirty_since = None;
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

    /// Forgets what was written beyond `size`. Only for who holds the file.
    pub(crate) fn cut(&self, size: u64) {
        let mut state = self.lock();
        state.dirty.cut(size, u64::MAX);
        state.stored.cut(size, u64::MAX);
        self.account(&mut state);
    }

    /// Attributes as programs of this mount see them.
    pub(crate) fn attributes(&self) -> Attributes {
        self.lock().shown()
    }

    /// Takes newer attributes from the cluster. Says whether the content was changed by somebody else.
    pub(crate) fn learn(&self, attributes: &Attributes) -> bool {
        self.lock().learn(attributes)
    }

    /// Something is written here that the cluster does not show yet.
    pub(crate) fn is_dirty(&self) -> bool {
        self.lock().is_dirty()
    }

    /// Unpublished for longer than `age`, or too much of it.
    pub(crate) fn is_due(&self, age: Duration) -> bool {
        let state = self.lock();
        let old = state.dirty_since.is_some_and(|since| since.elapsed() >= age);
        old || state.stored.len() >= STORED_MAX
    }

    /// The error of the background that nobody was told, once.
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
/// Stored blocks are published at the latest when there are so many: 256 MiB of the usual size.
const STORED_MAX: usize = 256;

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

    /// The file is gone, and with it whatever was to become of it.
    pub(crate) fn discard(&mut self) {
        self.dirty.take_all();
        self.sending.clear();
        self.stored.take_all();
        self.forget_written();
        self.kept = KeptAttributes::default();
        self.leaving = KeptAttributes::default();
    }

    /// Where the last byte ends that is not published.
    fn unpublished_end(&self) -> u64 {
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

    /// At an open: whether the kernel's pages are still right. From now on they show the current version.
    pub(crate) fn renew_pages(&mut self) -> bool {
        let version = Some(self.attributes.version);
        let keep = self.pages == version;
        self.pages = version;
        keep
    }

    /// Takes what the cluster answered to the last of so many changes this mount made. Says whether nobody
    /// else changed the content in between.
    pub(crate) fn learn_own(&mut self, attributes: &Attributes, changes: u64) -> bool {
        let alone = attributes.version <= self.attributes.version + changes;
        if alone && self.pages == Some(self.attributes.version) {
            self.pages = Some(attributes.version);
        }
        if attributes.version >= self.attributes.version {
            self.attributes = attributes.clone();
            self.learned_at = Instant::now();
        }
        self.size = attributes.size.max(self.unpublished_end());
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
