//! What the mount and the kernel agree on when they meet.
//!
//! Not asked for: the kernel's write-back cache (DECISIONS); and opening
//! with O_TRUNC in one request, since for a read-only open that comes before the kernel looks whether the file is a
//! program that runs.

use bark_schema::limits::MIB;
use fuser::{InitFlags, KernelConfig};

/// Largest request of data; the kernel has no larger ones.
const REQUEST_SIZE: u32 = MIB as u32;
/// Requests the kernel keeps going by itself: read-ahead and write-back of mapped pages.
const BACKGROUND_MAX: u16 = 64;

pub(crate) fn negotiate(config: &mut KernelConfig) {
    let wanted = [
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_PARALLEL_DIROPS,
        // Without it the kernel would ask for an extended attribute before every write.
        InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        InitFlags::FUSE_ASYNC_DIO,
        // Files open for appending can be mapped too.
        InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_MAX_PAGES,
        // Locks are those of the cluster, not of this machine.
        InitFlags::FUSE_POSIX_LOCKS,
        InitFlags::FUSE_FLOCK_LOCKS,
        // The kernel asks for access control lists and checks them; then the umask counts only where no default
        // list does, which is ours to know.
        InitFlags::FUSE_POSIX_ACL,
        InitFlags::FUSE_DONT_MASK,
    ];
    for capability in wanted {
        if let Err(missing) = config.add_capabilities(capability) {
            tracing::debug!(?missing, "the kernel lacks a capability");
        }
    }
    // Each of these answers a value out of range with the nearest one it takes.
    if let Err(nearest) = config.set_max_write(REQUEST_SIZE) {
        let _ = config.set_max_write(nearest);
    }
    if let Err(nearest) = config.set_max_readahead(REQUEST_SIZE) {
        let _ = config.set_max_readahead(nearest);
    }
    let _ = config.set_max_background(BACKGROUND_MAX);
}
