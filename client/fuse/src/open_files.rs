//! The files programs have open, and what the kernel was shown of every file it remembers.
//!
//! Invariants:
//! - There is one [`OpenFile`] for an inode, however often it is open.
//! - A file leaves the table when nobody has it open and nothing of it is unpublished.
//! - `shown` has no entry for an inode the kernel has forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bark_schema::access_time::{Access, Times};
use bark_schema::ids::InodeId;
use bark_schema::operation::{Attributes, FileKind, UnixNanos};

use crate::cluster::Cluster;
use crate::delegations::Haste;
use crate::memory::Memory;
use crate::notices::Notices;
use crate::open_file::OpenFile;
use crate::pages::{Pages, Renewed};

/// For how long names and attributes are believed without asking.
pub(crate) const VALID: Duration = Duration::from_secs(1);
/// What is written and not published is published after this.
const PUBLISH_AFTER: Duration = Duration::from_secs(1);
const PUBLISH_PERIOD: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct OpenFiles {
    cluster: Cluster,
    pub(crate) memory: Arc<Memory>,
    pub(crate) notices: Notices,
    open: Mutex<HashMap<InodeId, Entry>>,
    shown: Mutex<HashMap<InodeId, Shown>>,
}

#[derive(Debug)]
struct Entry {
    file: Arc<OpenFile>,
    handles: usize,
}

/// What the kernel has of an inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    pub(crate) mode: u32,
    pub(crate) group: u32,
    /// The oldest content it may show, while the file is not open.
    oldest: u64,
    /// It may have pages of it.
    pub(crate) has_pages: bool,
    /// Version and time of change when this mount had published what it wrote and nobody had it open any more. Until then what is
    /// known of the open file counts.
    published: (u64, UnixNanos),
    pub(crate) times: Times,
    /// It had no extended attributes then.
    pub(crate) bare: bool,
    at: Instant,
}

impl OpenFiles {
    pub(crate) fn new(cluster: Cluster, notices: Notices) -> OpenFiles {
        OpenFiles {
            cluster,
            notices,
            memory: Arc::new(Memory::new()),
            open: Mutex::new(HashMap::new()),
            shown: Mutex::new(HashMap::new()),
        }
    }

    /// Opens a file once more. Its attributes are fresh from the cluster. The kernel's pages show no older
    /// content when this ends.
    pub(crate) async fn open(&self, attributes: &Attributes, is_new: bool) -> (Arc<OpenFile>, Renewed) {
        let file = self.add_handle(attributes, is_new);
        file.learn(attributes);
        let renewed = self.renew_pages(&file).await;
        (file, renewed)
    }

    fn add_handle(&self, attributes: &Attributes, is_new: bool) -> Arc<OpenFile> {
        let pages = match self.shown(attributes.inode) {
            Some(shown) => Pages::new(shown.oldest, shown.has_pages),
            None if is_new => Pages::new(attributes.version, false),
            None => Pages::unknown(),
        };
        let mut open = self.lock();
        let entry = open.entry(attributes.inode).or_insert_with(|| {
            let file = OpenFile::new(
                self.cluster.clone(),
                self.memory.clone(),
                self.notices.clone(),
                attributes.clone(),
            );
            file.lock().pages = pages;
            Entry { file, handles: 0 }
        });
        entry.handles += 1;
        entry.file.clone()
    }

    /// Closes it once. What close could not publish is still to be given up where the answer is true.
    pub(crate) fn close(&self, file: &Arc<OpenFile>) -> bool {
        let mut open = self.lock();
        if let Some(entry) = open.get_mut(&file.inode) {
            entry.handles = entry.handles.saturating_sub(1);
        }
        drop(open);
        self.drop_if_closed(file);
        self.is_closed(file) && file.failure().is_some_and(|failure| failure.is_refusal)
    }

    /// Forgets what the cluster refused, if nobody has the file open who could make room for it. Whoever closed it
    /// was told.
    pub(crate) async fn abandon(&self, file: &Arc<OpenFile>) {
        if self.is_closed(file) {
            file.give_up(false).await;
        }
        self.drop_if_closed(file);
    }

    /// Whether it is open more than once.
    pub(crate) fn is_shared(&self, inode: InodeId) -> bool {
        self.lock().get(&inode).is_some_and(|entry| entry.handles > 1)
    }

    pub(crate) fn get(&self, inode: InodeId) -> Option<Arc<OpenFile>> {
        self.lock().get(&inode).map(|entry| entry.file.clone())
    }

    pub(crate) fn open_inodes(&self) -> Vec<InodeId> {
        self.lock().keys().copied().collect()
    }

    /// Attributes as the cluster told them, with what is written here; what the kernel sees from now on.
    pub(crate) fn show(&self, attributes: Attributes) -> Attributes {
        let attributes = self.with_written(&attributes).unwrap_or(attributes);
        self.note_shown(&attributes);
        attributes
    }

    /// The same, unless the cluster was asked before this mount published something that is not in the answer.
    pub(crate) fn show_current(&self, attributes: Attributes) -> Option<Attributes> {
        let attributes = match self.with_written(&attributes) {
            Some(attributes) => attributes,
            None if self.is_outdated(&attributes) => return None,
            None => attributes,
        };
        self.note_shown(&attributes);
        Some(attributes)
    }

    /// What programs see of a file that is open, or not published.
    fn with_written(&self, attributes: &Attributes) -> Option<Attributes> {
        let is_regular = attributes.kind == FileKind::Regular;
        let file = self.get(attributes.inode).filter(|_| is_regular)?;
        file.learn(attributes);
        Some(file.attributes())
    }

    /// Whether this mount has published something that is not in an answer of the cluster.
    pub(crate) fn is_outdated(&self, attributes: &Attributes) -> bool {
        let shown = self.lock_shown();
        let shown = shown.get(&attributes.inode);
        shown.is_some_and(|shown| (attributes.version, attributes.changed) < shown.published)
    }

    /// What became of what was published, asked for afterwards.
    pub(crate) fn correct_published(&self, inode: InodeId, published: (u64, UnixNanos)) {
        if let Some(shown) = self.lock_shown().get_mut(&inode) {
            shown.published = published;
        }
    }

    /// The kernel sees these from now on.
    pub(crate) fn note_shown(&self, attributes: &Attributes) {
        let mut shown = self.lock_shown();
        let before = shown.get(&attributes.inode);
        let (oldest, has_pages) = before.map_or((attributes.version, false), |before| {
            (before.oldest, before.has_pages)
        });
        let published = before.map_or((0, 0), |before| before.published);
        shown.insert(
            attributes.inode,
            Shown {
                mode: attributes.mode,
                group: attributes.group,
                oldest,
                has_pages,
                published,
                times: attributes.into(),
                bare: attributes.xattr_count == 0,
                at: Instant::now(),
            },
        );
    }

    pub(crate) fn shown(&self, inode: InodeId) -> Option<Shown> {
        self.lock_shown().get(&inode).copied()
    }

    /// Whether the inode is known to have no extended attributes, as surely as its other attributes. The
    /// kernel asks for one before the first write to a file.
    pub(crate) fn is_bare(&self, inode: InodeId) -> bool {
        let shown = self.shown(inode);
        shown.is_some_and(|shown| shown.bare && shown.at.elapsed() < VALID)
    }

    /// The cluster knows of these reads.
    pub(crate) fn were_read(&self, accesses: &[Access]) {
        for access in accesses {
            if let Some(file) = self.get(access.inode) {
                file.was_read(access.at);
            }
            if let Some(shown) = self.lock_shown().get_mut(&access.inode) {
                shown.times.note(access.at);
            }
        }
    }

    /// The kernel has dropped the inode.
    pub(crate) fn forget(&self, inode: InodeId) {
        self.lock_shown().remove(&inode);
    }

    /// Publishes what has waited long enough, for as long as the mount lives.
    pub(crate) async fn publish_due(&self) {
        let mut ticks = tokio::time::interval(PUBLISH_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.publish_where(|file, needs_memory| file.is_due(PUBLISH_AFTER, needs_memory))
                .await;
        }
    }

    /// Publishes everything; what fails is told by the files' next fsync or close.
    pub(crate) async fn publish_all(&self) {
        self.publish_where(|file, _| file.is_dirty()).await;
    }

    async fn publish_where(&self, wanted: impl Fn(&OpenFile, bool) -> bool) {
        let needs_memory = self.memory.is_full();
        let files: Vec<Arc<OpenFile>> = {
            let open = self.lock();
            let files = open.values().map(|entry| &entry.file);
            files.filter(|file| wanted(file, needs_memory)).cloned().collect()
        };
        let publications = files.into_iter().map(|file| async move {
            if let Err(error) = file.publish(Haste::Relaxed).await {
                tracing::warn!(inode = file.inode.0, ?error, "written data not published");
                if self.memory.is_full() {
                    // Others wait for what it takes.
                    file.give_up(!self.is_closed(&file)).await;
                }
            }
            self.abandon(&file).await;
        });
        futures::future::join_all(publications).await;
    }

    /// Nobody has it open, though something of it may be unpublished.
    pub(crate) fn is_closed(&self, file: &OpenFile) -> bool {
        self.lock()
            .get(&file.inode)
            .is_none_or(|entry| entry.handles == 0)
    }

    fn drop_if_closed(&self, file: &Arc<OpenFile>) {
        let mut open = self.lock();
        if open.get(&file.inode).is_some_and(|entry| entry.handles == 0) && !file.is_dirty() {
            let (pages, published) = {
                let state = file.lock();
                (state.pages, (state.attributes.version, state.attributes.changed))
            };
            // Before it leaves the table: who does not find it there finds this.
            if let Some(shown) = self.lock_shown().get_mut(&file.inode) {
                shown.oldest = pages.oldest;
                shown.has_pages = pages.has_some;
                shown.published = published;
            }
            open.remove(&file.inode);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InodeId, Entry>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_shown(&self) -> MutexGuard<'_, HashMap<InodeId, Shown>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
