//! Ranges of files: allocating, punching, seeking data and holes, copying on the servers.
//!
//! Invariant: what was written here is published first, so that the cluster sees the file as programs do.

use std::sync::Arc;

use bark_schema::data::{Allocation, SeekTarget};
use bark_schema::limits::{FILE_SIZE_MAX, MIB};
use bark_schema::operation::{Attributes, Failure};
use fuser::Errno;

use crate::delegations::Haste;
use crate::errno::errno;
use crate::open_file::{OpenFile, Way};
use crate::volume::Volume;

/// Where files cannot share blocks, bytes are copied in steps of this.
const COPY_STEP: u64 = MIB as u64;
/// Largest answer of one request to copy: the answer has 32 bits.
const COPY_MAX: u64 = 1 << 30;

impl Volume {
    pub(crate) async fn allocate(
        &self,
        file: &Arc<OpenFile>,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let how = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Allocation::Reserve,
            libc::FALLOC_FL_PUNCH_HOLE => Allocation::PunchHole,
            libc::FALLOC_FL_ZERO_RANGE => Allocation::ZeroRange,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        if offset.saturating_add(length) > FILE_SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        let _hold = file.hold().await;
        file.publish_held(Haste::Relaxed).await?;
        let allocated = self.cluster.allocate(file.inode, offset, length, how, keep_size);
        changed(file, &allocated.await.map_err(errno)?);
        Ok(())
    }

    /// The next data or hole; ENXIO beyond the end.
    pub(crate) async fn seek(&self, file: &Arc<OpenFile>, offset: i64, whence: i32) -> Result<i64, Errno> {
        let target = match whence {
            libc::SEEK_DATA => SeekTarget::Data,
            libc::SEEK_HOLE => SeekTarget::Hole,
            _ => return Err(Errno::EINVAL),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        self.publish(file).await?;
        let place = self
            .cluster
            .seek(file.inode, offset, target)
            .await
            .map_err(errno)?;
        i64::try_from(place).map_err(|_| Errno::EOVERFLOW)
    }

    /// Copies up to `length` bytes and says how many.
    pub(crate) async fn copy_range(
        &self,
        from: (&Arc<OpenFile>, u64),
        to: (&Arc<OpenFile>, u64),
        length: u64,
    ) -> Result<u32, Errno> {
        let length = length.min(COPY_MAX);
        if to.1.saturating_add(length) > FILE_SIZE_MAX {
            return Err(Errno::EFBIG);
        }
        self.settle_locks(from.0).await?;
        self.settle_locks(to.0).await?;
        self.publish(from.0).await?;
        let hold = to.0.hold().await;
        to.0.publish_held(Haste::Relaxed).await?;
        let shared = self
            .cluster
            .copy_range((from.0.inode, from.1), (to.0.inode, to.1), length);
        match shared.await {
            Ok(copied) => {
                changed(to.0, &copied.attributes);
                Ok(u32::try_from(copied.length).unwrap_or(u32::MAX))
            }
            Err(Failure::CrossPartition) => {
                // Reading may have to hold the other file, and somebody may be copying from this one to that.
                drop(hold);
                self.copy_bytes(from, to, length).await
            }
            Err(failure) => Err(errno(failure)),
        }
    }

    /// The same by reading and writing, one step; the caller asks for the rest.
    async fn copy_bytes(
        &self,
        from: (&Arc<OpenFile>, u64),
        to: (&Arc<OpenFile>, u64),
        length: u64,
    ) -> Result<u32, Errno> {
        let size = length.min(COPY_STEP) as u32;
        let bytes = from.0.read(from.1, size, self.sight()).await?;
        let way = Way {
            is_privileged: true,
            appends: false,
        };
        while !bytes.is_empty() && to.0.write(to.1, &bytes, way).is_none() {
            self.publish(to.0).await?;
        }
        if self.is_synchronous {
            self.publish(to.0).await?;
        }
        Ok(bytes.len() as u32)
    }
}

fn changed(file: &OpenFile, attributes: &Attributes) {
    let mut state = file.lock();
    state.layout.forget();
    state.learn_own(attributes, 1);
}
