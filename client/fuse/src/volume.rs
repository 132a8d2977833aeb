//! The file system as operations on inodes: what each FUSE request means for the cluster.
//!
//! Previous in the flow: `filesystem`, which takes requests from the kernel. Next: `cluster` and the files of
//! `open_files`. The kernel has checked permissions already (`default_permissions`); what it leaves to the
//! file system are what new inodes inherit (`inheritance`) and the bits a change of owner or size takes away.
//!
//! Invariants:
//! - A change of names or attributes is answered when it is decided ([`crate::delegations`]) or done in the cluster; but
//!   attributes of a file this mount made and has not published yet wait for that.
//! - What was written is published before its times or size are set by anybody else.

use std::sync::Arc;
use std::time::Duration;

use bark_schema::data::FileUpdate;
use bark_schema::ids::InodeId;
use bark_schema::limits::{FILE_SIZE_MAX, MIB, NAME_SIZE_MAX};
use bark_schema::operation::{
    AttributeChange, Attributes, Entry, Failure, FileKind, Namespace, NewContent, Refusal, RenameMode,
    SetTime,
};
use bytes::Bytes;
use fuser::{Errno, FileAttr, INodeNo, TimeOrNow};

use crate::access_times::AccessTimes;
use crate::attributes::unix_nanos;
use crate::capacity::{Capacity, CapacityCache};
use crate::cluster::Cluster;
use crate::delegations::Haste;
use crate::directories::Directories;
use crate::errno::errno;
use crate::inheritance::Mode;
use crate::kept_attributes::without_privileges;
use crate::notices::Notices;
use crate::open_file::OpenFile;
use crate::open_files::{OpenFiles, VALID};
use crate::pages::Renewed;
use crate::told_names::ToldNames;

/// How much of a file an open asks about: all of a small one, little enough to answer at once.
const OPEN_LAYOUT_SIZE: u64 = MIB as u64;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// What a setattr request asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) mode: Option<u32>,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<TimeOrNow>,
    pub(crate) modified: Option<TimeOrNow>,
}

/// How it is mounted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Whatever a program changes is in the cluster before it is answered.
    pub(crate) is_synchronous: bool,
    /// Nothing is believed without asking the cluster.
    pub(crate) is_strict: bool,
    /// Reads are told to the cluster.
    pub(crate) moves_access_times: bool,
}

#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) cluster: Cluster,
    pub(crate) files: OpenFiles,
    pub(crate) directories: Directories,
    pub(crate) access_times: AccessTimes,
    pub(crate) told_names: ToldNames,
    capacity: CapacityCache,
    /// The directory that is mounted.
    root: InodeId,
    pub(crate) is_synchronous: bool,
    pub(crate) is_strict: bool,
}

impl Volume {
    pub(crate) fn new(cluster: Cluster, notices: Notices, root: InodeId, settings: Settings) -> Volume {
        Volume {
            files: OpenFiles::new(cluster.clone(), notices),
            directories: Directories::default(),
            told_names: ToldNames::new(),
            access_times: AccessTimes::new(settings.moves_access_times),
            cluster,
            capacity: CapacityCache::default(),
            root,
            is_synchronous: settings.is_synchronous,
            is_strict: settings.is_strict,
        }
    }

    /// For how long the kernel believes names and attributes without asking.
    pub(crate) fn valid(&self) -> Duration {
        match self.is_strict {
            true => Duration::ZERO,
            false => VALID,
        }
    }

    /// Whether the inode is known to have no extended attributes.
    pub(crate) fn is_bare(&self, inode: InodeId) -> bool {
        !self.is_strict && self.files.is_bare(inode)
    }

    /// The kernel calls the root 1, whatever directory is mounted.
    pub(crate) fn inode(&self, number: INodeNo) -> InodeId {
        match number {
            INodeNo::ROOT => self.root,
            INodeNo(number) => InodeId(number),
        }
    }

    pub(crate) fn number(&self, inode: InodeId) -> INodeNo {
        match inode == self.root {
            true => INodeNo::ROOT,
            false => INodeNo(inode.0),
        }
    }

    /// Something other than a regular file was read. Its times are those the kernel was told.
    pub(crate) fn was_read(&self, inode: InodeId) {
        if let Some(shown) = self.files.shown(inode) {
            self.access_times.read(inode, shown.times);
        }
    }

    pub(crate) async fn capacity(&self) -> Result<Capacity, Errno> {
        self.capacity.get(&self.cluster, self.root).await.map_err(errno)
    }

    pub(crate) async fn lookup(&self, directory: InodeId, name: Bytes) -> Result<FileAttr, Errno> {
        check_name(&name)?;
        let asked = self.directories.ask();
        let attributes = self.cluster.lookup(directory, name).await.map_err(errno)?;
        self.directories.learn(&attributes, asked);
        self.show_answer(attributes).await
    }

    /// Attributes. Those of a file that is written to here are known here: the kernel asks after each write.
    /// Says for how long they count.
    pub(crate) async fn attributes(&self, inode: InodeId) -> Result<(FileAttr, Duration), Errno> {
        if !self.is_strict {
            if let Some(file) = self.files.get(inode)
                && let Some(attributes) = file.attributes_if_written(VALID)
            {
                return Ok((self.show_written(&attributes), VALID));
            }
            if let Some((attributes, left)) = self.directories.with_new_files(inode) {
                return Ok((self.with_access_time(attributes), left));
            }
        }
        let asked = self.directories.ask();
        let attributes = self.cluster.attributes(inode).await.map_err(errno)?;
        self.directories.learn(&attributes, asked);
        if let Some(entry) = self.lost_name(&attributes) {
            let directory = self.number(entry.directory);
            self.files.notices.name_gone(directory, entry.name);
        }
        Ok((self.show_answer(attributes).await?, self.valid()))
    }

    pub(crate) async fn set_attributes(
        &self,
        caller: Caller,
        inode: InodeId,
        wanted: Wanted,
    ) -> Result<FileAttr, Errno> {
        if wanted.size.is_some_and(|size| size > FILE_SIZE_MAX) {
            return Err(Errno::EFBIG);
        }
        let change = AttributeChange {
            mode: wanted.mode.map(|mode| mode & 0o7777),
            owner: wanted.owner,
            group: wanted.group,
            size: wanted.size,
            accessed: wanted.accessed.map(time),
            modified: wanted.modified.map(time),
            ..AttributeChange::default()
        };
        // A privileged program keeps the bits when it changes a size, nobody when it changes an owner.
        let changes_owner = wanted.owner.is_some() || wanted.group.is_some();
        let changes_size = wanted.size.is_some() && caller.user != 0;
        let drops_privileges = wanted.mode.is_none() && (changes_owner || changes_size);
        if change.accessed.is_some() {
            self.access_times.forget(inode);
        }
        let file = self.files.get(inode);
        if let Some(file) = &file
            && let Some(attributes) = file.keep(&change, drops_privileges)
        {
            return Ok(self.show_written(&attributes));
        }
        let attributes = match file {
            Some(file) => {
                self.set_attributes_of_open(&file, change, drops_privileges)
                    .await?
            }
            None => self.send_attributes(inode, change, drops_privileges).await?,
        };
        if attributes.kind == FileKind::Directory {
            self.directories.changed();
        }
        Ok(self.show(attributes))
    }

    async fn set_attributes_of_open(
        &self,
        file: &Arc<OpenFile>,
        change: AttributeChange,
        drops_privileges: bool,
    ) -> Result<Attributes, Errno> {
        if change.size.is_some() {
            self.settle_locks(file).await?;
        }
        let _hold = file.hold().await;
        // Only a change of the size counts as one of the content.
        let changes = u64::from(change.size.is_some());
        if let Some(size) = change.size {
            file.cut(size);
        }
        if file.is_dirty() {
            // What was refused stays so until there is room, which truncating a file may make.
            let published = file.publish_held(Haste::Relaxed).await;
            let is_refused = file.failure().is_some_and(|failure| failure.is_refusal);
            published.or_else(|error| if is_refused { Ok(()) } else { Err(error) })?;
        }
        let attributes = self.send_attributes(file.inode, change, drops_privileges).await?;
        let mut state = file.lock();
        state.layout.forget();
        state.learn_own(&attributes, changes);
        Ok(attributes)
    }

    async fn send_attributes(
        &self,
        inode: InodeId,
        mut change: AttributeChange,
        drops_privileges: bool,
    ) -> Result<Attributes, Errno> {
        let sent = if change.size.is_none() {
            let update = FileUpdate {
                change,
                drops_privileges,
                ..FileUpdate::of(inode)
            };
            self.cluster.update(update, Haste::Relaxed).await
        } else {
            if drops_privileges {
                change.mode = self.mode_without_privileges(inode).await?;
            }
            self.cluster.set_attributes(inode, change).await
        };
        sent.map_err(errno)
    }

    /// The mode a file is left with when its size changes; none if that is the mode it has.
    async fn mode_without_privileges(&self, inode: InodeId) -> Result<Option<u32>, Errno> {
        let attributes = self.cluster.attributes(inode).await.map_err(errno)?;
        let mode = without_privileges(attributes.mode);
        Ok((mode != attributes.mode).then_some(mode))
    }

    /// Publishes attributes that are kept here, before something else changes them in the cluster.
    pub(crate) async fn settle(&self, inode: InodeId) -> Result<(), Errno> {
        match self.files.get(inode) {
            Some(file) if file.keeps_attributes() => self.publish(&file).await,
            _ => Ok(()),
        }
    }

    /// A new regular file, or the one that has the name.
    async fn create(
        &self,
        caller: Caller,
        directory: InodeId,
        name: Bytes,
        mode: Mode,
        exclusive: bool,
    ) -> Result<(Attributes, bool), Errno> {
        self.make(
            caller,
            directory,
            name,
            mode,
            NewContent::Inline(Bytes::new()),
            exclusive,
        )
        .await
    }

    /// The same, opened. Says what has become of the pages the kernel has of it.
    pub(crate) async fn create_open(
        &self,
        caller: Caller,
        directory: InodeId,
        name: Bytes,
        mode: Mode,
        flags: i32,
    ) -> Result<(FileAttr, Arc<OpenFile>, Renewed), Errno> {
        let exclusive = flags & libc::O_EXCL != 0;
        let (attributes, created) = self.create(caller, directory, name, mode, exclusive).await?;
        let (file, renewed) = self.files.open(&attributes, created).await;
        if created && !self.is_synchronous {
            file.set_new();
        }
        if created || flags & libc::O_TRUNC == 0 {
            return Ok((self.show(attributes), file, renewed));
        }
        // The kernel took the name for free, and does not truncate what it believes to be new.
        let change = AttributeChange {
            size: Some(0),
            ..AttributeChange::default()
        };
        match self.set_attributes_of_open(&file, change, false).await {
            Ok(attributes) => {
                // Nor does it drop what it has of a file it believes to be new.
                file.lock().pages.distrust();
                let renewed = self.files.renew_pages(&file).await;
                Ok((self.show(attributes), file, renewed))
            }
            Err(error) => {
                self.files.close(&file);
                Err(error)
            }
        }
    }

    pub(crate) async fn symlink(
        &self,
        caller: Caller,
        directory: InodeId,
        name: Bytes,
        target: Bytes,
    ) -> Result<FileAttr, Errno> {
        let content = NewContent::Symlink(target);
        let mode = Mode {
            mode: 0o777,
            umask: 0,
        };
        let (attributes, _) = self.make(caller, directory, name, mode, content, true).await?;
        Ok(self.show(attributes))
    }

    /// A regular file, fifo, socket or device. Devices are names of numbers: nothing here opens them.
    pub(crate) async fn make_node(
        &self,
        caller: Caller,
        directory: InodeId,
        name: Bytes,
        mode: Mode,
        device: u32,
    ) -> Result<FileAttr, Errno> {
        let special = |kind| NewContent::Special {
            kind,
            device: u64::from(device),
        };
        let content = match mode.mode & libc::S_IFMT {
            0 | libc::S_IFREG => NewContent::Inline(Bytes::new()),
            libc::S_IFIFO => special(FileKind::Fifo),
            libc::S_IFSOCK => special(FileKind::Socket),
            libc::S_IFCHR => special(FileKind::CharacterDevice),
            libc::S_IFBLK => special(FileKind::BlockDevice),
            _ => return Err(Errno::EINVAL),
        };
        let (attributes, _) = self.make(caller, directory, name, mode, content, true).await?;
        Ok(self.show(attributes))
    }

    async fn make(
        &self,
        caller: Caller,
        directory: InodeId,
        name: Bytes,
        mode: Mode,
        content: NewContent,
        exclusive: bool,
    ) -> Result<(Attributes, bool), Errno> {
        check_name(&name)?;
        let kind = match &content {
            NewContent::Inline(_) => FileKind::Regular,
            NewContent::Symlink(_) => FileKind::Symlink,
            NewContent::Special { kind, .. } => *kind,
        };
        let attributes = self.new_inode(caller, directory, mode, kind).await?;
        let entry = Entry { directory, name };
        let made = self.cluster.create(entry, attributes, content, exclusive).await;
        let (attributes, is_new) = made.map_err(errno)?;
        if is_new {
            self.directories.made_file(directory, attributes.changed);
        }
        Ok((attributes, is_new))
    }

    pub(crate) async fn make_directory(
        &self,
        caller: Caller,
        directory: InodeId,
        name: Bytes,
        mode: Mode,
    ) -> Result<FileAttr, Errno> {
        check_name(&name)?;
        let attributes = self
            .new_inode(caller, directory, mode, FileKind::Directory)
            .await?;
        let entry = Entry { directory, name };
        let made = self.cluster.make_directory(entry, attributes).await;
        self.directories.changed();
        Ok(self.show(made.map_err(errno)?))
    }

    pub(crate) async fn unlink(&self, directory: InodeId, name: Bytes) -> Result<(), Errno> {
        check_name(&name)?;
        self.namespace(Namespace::Unlink { directory, name }).await
    }

    pub(crate) async fn remove_directory(&self, directory: InodeId, name: Bytes) -> Result<(), Errno> {
        check_name(&name)?;
        self.namespace(Namespace::RemoveDirectory { directory, name })
            .await
    }

    pub(crate) async fn rename(&self, from: Entry, to: Entry, mode: RenameMode) -> Result<(), Errno> {
        check_name(&from.name)?;
        check_name(&to.name)?;
        self.namespace(Namespace::Rename { from, to, mode }).await
    }

    pub(crate) async fn link(&self, inode: InodeId, to: Entry) -> Result<FileAttr, Errno> {
        check_name(&to.name)?;
        self.namespace(Namespace::Link { inode, to }).await?;
        let attributes = self.cluster.attributes(inode).await.map_err(errno)?;
        Ok(self.show(attributes))
    }

    async fn namespace(&self, operation: Namespace) -> Result<(), Errno> {
        let done = self.cluster.namespace(operation).await;
        self.directories.changed();
        match done {
            Ok(_) => Ok(()),
            Err(failure) => Err(errno(failure)),
        }
    }

    pub(crate) async fn read_link(&self, inode: InodeId) -> Result<Bytes, Errno> {
        let target = self.cluster.read_link(inode).await.map_err(errno)?;
        self.was_read(inode);
        Ok(target)
    }

    /// Opens a regular file; what other clients closed before is seen from now on. Says what
    /// has become of what the kernel had of it. If it will be read and the kernel has no pages, its first bytes, or where they are, come with the attributes.
    pub(crate) async fn open(&self, inode: InodeId, flags: i32) -> Result<(Arc<OpenFile>, Renewed), Errno> {
        let reads = flags & libc::O_ACCMODE != libc::O_WRONLY;
        let shown = self.files.shown(inode);
        let (attributes, content) = match reads && shown.is_none_or(|shown| !shown.has_pages) {
            true => {
                let told = self.cluster.layout(inode, 0, OPEN_LAYOUT_SIZE).await;
                told.map(|(attributes, content)| (attributes, Some(content)))
            }
            false => self
                .cluster
                .attributes(inode)
                .await
                .map(|attributes| (attributes, None)),
        }
        .map_err(errno)?;
        let (attributes, content) = match self.files.is_outdated(&attributes) {
            true => (self.cluster.attributes(inode).await.map_err(errno)?, None),
            false => (attributes, content),
        };
        // The name it was found by is gone. Told so, the kernel looks the name up again; or comes again, if it was found
        // by a handle.
        let is_name_gone = self.lost_name(&attributes).is_some();
        if attributes.link_count == 0 && (is_name_gone || self.files.get(inode).is_none()) {
            return Err(Errno::ESTALE);
        }
        let (file, renewed) = self.files.open(&attributes, false).await;
        if let Some(content) = content {
            file.take_layout(0, &attributes, content);
        }
        Ok((file, renewed))
    }

    /// The name by which the kernel may still find a file that has none.
    fn lost_name(&self, attributes: &Attributes) -> Option<Entry> {
        match attributes.link_count {
            0 => self.told_names.take(attributes.inode),
            _ => None,
        }
    }

    /// Has the kernel forget the name of a file others have removed. Not for who is to answer a question about its directory.
    async fn forget_lost_name(&self, file: &OpenFile) {
        if let Some(entry) = self.lost_name(&file.attributes()) {
            let directory = self.number(entry.directory);
            self.files.notices.name_forgotten(directory, entry.name).await;
        }
    }

    /// Tells the cluster all that is kept here.
    pub(crate) async fn settle_all(&self) {
        self.files.publish_all().await;
        self.cluster.delegations.settle_all().await;
        self.tell_kept_access_times().await;
    }

    /// The mount ends: others need not wait for it.
    pub(crate) async fn end(&self) {
        self.settle_all().await;
        self.cluster.delegations.give_all_back().await;
    }

    /// Publishes what was written, and tells what the background could not.
    pub(crate) async fn publish(&self, file: &Arc<OpenFile>) -> Result<(), Errno> {
        self.publish_with(file, Haste::Relaxed).await
    }

    async fn publish_with(&self, file: &Arc<OpenFile>, haste: Haste) -> Result<(), Errno> {
        let result = file.publish(haste).await;
        self.forget_lost_name(file).await;
        let earlier = file.take_error();
        let lost = self.cluster.delegations.take_error(file.inode);
        result.and(earlier).and(lost)
    }

    /// The same, and waits until all of it is as durable as the cluster makes things.
    pub(crate) async fn make_durable(&self, file: &Arc<OpenFile>) -> Result<(), Errno> {
        let published = self.publish_with(file, Haste::Awaited).await;
        self.cluster.delegations.settle(file.inode.home()).await;
        published.and(self.cluster.delegations.take_error(file.inode))
    }
}

fn time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::SpecificTime(time) => SetTime::At(unix_nanos(time)),
        TimeOrNow::Now => SetTime::Now,
    }
}

fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name.len() > NAME_SIZE_MAX {
        true => Err(errno(Failure::refused(Refusal::NameTooLong, ""))),
        false => Ok(()),
    }
}
