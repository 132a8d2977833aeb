//! Attributes as the kernel wants them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bark_schema::operation::{Attributes, FileKind, UnixNanos};
use fuser::{FileAttr, FileType, INodeNo};

/// What `st_blksize` says: the size of requests the mount likes best.
const PREFERRED_SIZE: u32 = 1 << 20;

pub(crate) fn file_attributes(attributes: &Attributes, inode: INodeNo) -> FileAttr {
    FileAttr {
        ino: inode,
        size: attributes.size,
        blocks: attributes.blocks,
        atime: system_time(attributes.accessed),
        mtime: system_time(attributes.modified),
        ctime: system_time(attributes.changed),
        crtime: UNIX_EPOCH,
        kind: file_type(attributes.kind),
        perm: (attributes.mode & 0o7777) as u16,
        nlink: attributes.link_count,
        uid: attributes.owner,
        gid: attributes.group,
        rdev: attributes.device as u32,
        blksize: PREFERRED_SIZE,
        flags: 0,
    }
}

/// A directory of which only the number counts.
pub(crate) fn bare_directory(inode: INodeNo) -> FileAttr {
    FileAttr {
        ino: inode,
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_SIZE,
        flags: 0,
    }
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharacterDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

fn system_time(nanos: UnixNanos) -> SystemTime {
    let distance = Duration::from_nanos(nanos.unsigned_abs());
    match nanos {
        0.. => UNIX_EPOCH + distance,
        _ => UNIX_EPOCH - distance,
    }
}

/// Nanoseconds since the epoch; times out of range become the nearest that is in it.
pub(crate) fn unix_nanos(time: SystemTime) -> UnixNanos {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_round_trip() {
        // Goal: what utimensat sets is what stat shows, before 1970 too. Method: there and back.
        for nanos in [0, 1, -1, 1_700_000_000_123_456_789, -2_000_000_000_000_000_001] {
            assert_eq!(unix_nanos(system_time(nanos)), nanos);
        }
    }
}
