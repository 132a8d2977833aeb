//! Requests of the kernel, each handed to a task that answers it.
//!
//! Previous in the flow: the kernel, through fuser's threads. Next: `volume`.
//! A thread that reads requests never waits for the cluster: it starts a task (`task`) and takes the next
//! request. Here is the list of what the kernel may ask; `content` and `listing` have what is longer.
//!
//! Invariants:
//! - Every request is answered once; one whose task dies is answered with EIO by its reply's drop.
//! - Notifications to the kernel leave from a thread of their own that holds no lock (`notices`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bark_schema::file_lock::{LockKind, LockRange};
use bark_schema::limits::FILE_SIZE_MAX;
use bark_schema::operation::Entry;
use bytes::Bytes;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, Generation, INodeNo, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    RequestId, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle as Runtime;

use self::content::How;
use self::locking::{Asked, Waits};
use crate::capabilities;
use crate::directory::DirectoryStream;
use crate::handles::{Handle, Handles};
use crate::inheritance::Mode;
use crate::locks::kernel_range;
use crate::notices::Notices;
use crate::open_file::Way;
use crate::task;
use crate::volume::{Caller, Volume, Wanted};
use crate::xattr;

const SYNC_FLAGS: i32 = libc::O_SYNC | libc::O_DSYNC;

macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $success:expr) => {
        match $result {
            Ok($value) => $success,
            Err(error) => $reply.error(error),
        }
    };
}

mod content;
mod listing;
mod locking;
mod naming;

pub(crate) struct Filesystem {
    volume: Arc<Volume>,
    handles: Arc<Handles>,
    notices: Notices,
    waits: Arc<Waits>,
    runtime: Runtime,
}

impl Filesystem {
    pub(crate) fn new(volume: Arc<Volume>, notices: Notices, runtime: Runtime) -> Filesystem {
        Filesystem {
            volume,
            handles: Arc::new(Handles::default()),
            notices,
            waits: Arc::default(),
            runtime,
        }
    }

    fn entry(&self, parent: INodeNo, entry: &OsStr) -> Entry {
        Entry {
            directory: self.volume.inode(parent),
            name: name(entry),
        }
    }

    /// Starts a task with what every operation needs.
    fn start<F>(&self, operation: impl FnOnce(Arc<Volume>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        task::start(&self.runtime, operation(self.volume.clone()));
    }
}

fn caller(request: &Request) -> Caller {
    Caller {
        user: request.uid(),
        group: request.gid(),
    }
}

fn name(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

/// The file a handle stands for; a handle that stands for none ends the request.
macro_rules! opened {
    ($self:ident, $handle:ident, $reply:ident) => {
        match $self.handles.file($handle) {
            Ok(file) => file,
            Err(error) => return $reply.error(error),
        }
    };
}

impl fuser::Filesystem for Filesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        capabilities::negotiate(config);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEntry) {
        let entry = self.entry(parent, entry);
        self.start(|volume| async move {
            let found = volume.lookup(entry.directory, entry.name.clone()).await;
            let valid = volume.names_valid(entry.directory);
            answer!(reply, found, attributes => {
                volume.note_told(&attributes, entry);
                reply.entry(&valid, &attributes, Generation(0))
            });
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, _lookups: u64) {
        self.volume.files.forget(self.volume.inode(inode));
        self.volume.directories.forget(self.volume.inode(inode));
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.start(|volume| async move {
            let found = volume.attributes(volume.inode(inode)).await;
            answer!(reply, found, (attributes, valid) => reply.attr(&valid, &attributes));
        });
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        owner: Option<u32>,
        group: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _change_time: Option<SystemTime>,
        _backup_time: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let caller = caller(request);
        let wanted = Wanted {
            mode,
            owner,
            group,
            size,
            accessed,
            modified,
        };
        self.start(|volume| async move {
            let set = volume.set_attributes(caller, volume.inode(inode), wanted).await;
            answer!(reply, set, attributes => reply.attr(&volume.valid(), &attributes));
        });
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        self.start(|volume| async move {
            let target = volume.read_link(volume.inode(inode)).await;
            answer!(reply, target, target => reply.data(&target));
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (caller, entry, mode) = (caller(request), name(entry), Mode { mode, umask });
        self.start(|volume| async move {
            let directory = volume.inode(parent);
            let made = volume.make_directory(caller, directory, entry, mode).await;
            answer!(reply, made, attributes => reply.entry(&volume.valid(), &attributes, Generation(0)));
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEmpty) {
        let entry = name(entry);
        self.start(|volume| async move {
            let removed = volume.unlink(volume.inode(parent), entry).await;
            answer!(reply, removed, () => reply.ok());
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, entry: &OsStr, reply: ReplyEmpty) {
        let entry = name(entry);
        self.start(|volume| async move {
            let removed = volume.remove_directory(volume.inode(parent), entry).await;
            answer!(reply, removed, () => reply.ok());
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, entry: &OsStr, target: &Path, reply: ReplyEntry) {
        let (caller, entry, target) = (caller(request), name(entry), name(target.as_os_str()));
        self.start(|volume| async move {
            let made = volume.symlink(caller, volume.inode(parent), entry, target).await;
            answer!(reply, made, attributes => reply.entry(&volume.valid(), &attributes, Generation(0)));
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        new_parent: INodeNo,
        new_entry: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (self.entry(parent, entry), self.entry(new_parent, new_entry));
        self.rename_entry(from, to, flags, reply);
    }

    fn link(
        &self,
        _request: &Request,
        inode: INodeNo,
        new_parent: INodeNo,
        new_entry: &OsStr,
        reply: ReplyEntry,
    ) {
        let to = self.entry(new_parent, new_entry);
        self.start(|volume| async move {
            let linked = volume.link(volume.inode(inode), to).await;
            answer!(reply, linked, attributes => reply.entry(&volume.valid(), &attributes, Generation(0)));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, entry, mode) = (caller(request), name(entry), Mode { mode, umask });
        self.create_file(caller, (parent, entry), mode, flags, reply);
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(inode, flags, reply);
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = opened!(self, handle, reply);
        let counts = flags.0 & libc::O_NOATIME == 0;
        self.start(|volume| async move {
            let read = volume.read(&file, offset, size).await;
            if counts && read.is_ok() {
                volume.access_times.read(file.inode, file.times());
            }
            answer!(reply, read, data => reply.data(&data));
        });
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = opened!(self, handle, reply);
        // As on other file systems: what fits is written, and nothing beyond the largest size.
        let room = FILE_SIZE_MAX.saturating_sub(offset);
        if room == 0 {
            return reply.error(Errno::EFBIG);
        }
        let data = &data[..room.min(data.len() as u64) as usize];
        let how = How {
            synchronous: flags.0 & SYNC_FLAGS != 0 || self.volume.is_strict,
            way: Way {
                is_privileged: !write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
                // What the kernel writes out of mapped pages has its place.
                appends: flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            },
        };
        self.write_file(file, (offset, data), how, reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let file = opened!(self, handle, reply);
        self.flush_file(file, lock_owner, reply);
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if let Some(Handle::File(file)) = self.handles.remove(handle) {
            self.close_file(file, handle, lock_owner);
        }
        reply.ok();
    }

    fn getlk(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        reply: ReplyLock,
    ) {
        let asked = Asked::new(inode, handle, (LockKind::Range, owner.0), process);
        self.look_for_lock(asked, kernel_range(start, end), kind, reply);
    }

    fn setlk(
        &self,
        request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        process: u32,
        waits: bool,
        is_flock: bool,
        reply: ReplyEmpty,
    ) {
        let (kind_of_lock, range) = match is_flock {
            true => (LockKind::Flock, LockRange::ALL),
            false => (LockKind::Range, kernel_range(start, end)),
        };
        let asked = Asked::new(inode, handle, (kind_of_lock, owner.0), process);
        self.set_lock(asked, range, kind, waits.then(|| request.unique()), reply);
    }

    fn interrupt(&self, unique: RequestId) {
        self.waits.interrupt(unique);
    }

    fn fsync(&self, _request: &Request, _inode: INodeNo, handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        let file = opened!(self, handle, reply);
        self.start(|volume| async move {
            answer!(reply, volume.make_durable(&file).await, () => reply.ok());
        });
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let directory = DirectoryStream::new(self.volume.inode(inode));
        let handle = self.handles.add(Handle::Directory(Arc::new(directory)));
        reply.opened(handle, FopenFlags::empty());
    }

    fn readdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let directory = match self.handles.directory(handle) {
            Ok(directory) => directory,
            Err(error) => return reply.error(error),
        };
        self.list(directory, offset, reply);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let directory = match self.handles.directory(handle) {
            Ok(directory) => directory,
            Err(error) => return reply.error(error),
        };
        self.list_with_attributes(directory, offset, reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.handles.remove(handle);
        reply.ok();
    }

    /// Of the root this writes out everything, which is what unmounting asks for.
    fn fsyncdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        self.start(|volume| async move {
            if inode == INodeNo::ROOT {
                volume.settle_all().await;
            }
            let directory = volume.inode(inode);
            let delegations = &volume.cluster.delegations;
            delegations.settle(directory.home()).await;
            answer!(reply, delegations.take_error(directory), () => reply.ok());
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        entry: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (caller, entry, mode) = (caller(request), name(entry), Mode { mode, umask });
        self.start(|volume| async move {
            let directory = volume.inode(parent);
            let made = volume.make_node(caller, directory, entry, mode, device).await;
            answer!(reply, made, attributes => reply.entry(&volume.valid(), &attributes, Generation(0)));
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        attribute: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        let (attribute, value) = (name(attribute), Bytes::copy_from_slice(value));
        self.start(|volume| async move {
            let inode = volume.inode(inode);
            answer!(reply, volume.set_xattr(caller, inode, attribute, value, flags).await, () => reply.ok());
        });
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, attribute: &OsStr, size: u32, reply: ReplyXattr) {
        let attribute = name(attribute);
        self.start(|volume| async move {
            xattr::answer(reply, size, volume.xattr(volume.inode(inode), attribute).await);
        });
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        self.start(|volume| async move {
            xattr::answer(reply, size, volume.xattrs(volume.inode(inode)).await);
        });
    }

    fn removexattr(&self, _request: &Request, inode: INodeNo, attribute: &OsStr, reply: ReplyEmpty) {
        let attribute = name(attribute);
        self.start(|volume| async move {
            let removed = volume.remove_xattr(volume.inode(inode), attribute).await;
            answer!(reply, removed, () => reply.ok());
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let file = opened!(self, handle, reply);
        self.start(|volume| async move {
            answer!(reply, volume.allocate(&file, offset, length, mode).await, () => reply.ok());
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let file = opened!(self, handle, reply);
        self.start(|volume| async move {
            answer!(reply, volume.seek(&file, offset, whence).await, place => reply.offset(place));
        });
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from_inode: INodeNo,
        from: FileHandle,
        from_offset: u64,
        _to_inode: INodeNo,
        to: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = match (self.handles.file(from), self.handles.file(to)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(error), _) | (_, Err(error)) => return reply.error(error),
        };
        self.start(|volume| async move {
            let copied = volume
                .copy_range((&from, from_offset), (&to, to_offset), length)
                .await;
            answer!(reply, copied, length => reply.written(length));
        });
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        self.tell_capacity(reply);
    }
}
