//! Bounds on everything that comes from outside, shared by nodes and clients.

pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

/// Longest key, in bytes.
pub const KEY_SIZE_MAX: usize = 64 * KIB;
/// Longest value a cluster file may allow; a value travels in one frame and one log entry.
/// One byte below 512 MiB: the length of a list in a Cap'n Proto pointer has 29 bits.
pub const VALUE_SIZE_MAX: usize = 512 * MIB - 1;
/// Longest value unless the cluster file says otherwise, in MiB. 32: the largest that was replicated on
/// a busy machine without a change of leaders (DECISIONS 2026-11-21).
pub const VALUE_SIZE_MAX_MIB_DEFAULT: u32 = 32;
/// What a frame may hold beside the value in it: names, ids, the message around it.
pub const FRAME_ENVELOPE_MAX: usize = MIB;
/// Longest name of a directory entry, in bytes.
pub const NAME_SIZE_MAX: usize = 255;
/// Longest path, in bytes.
pub const PATH_SIZE_MAX: usize = 4096;
/// A file up to this size lives inside its inode.
pub const INLINE_SIZE_MAX: usize = 8 * KIB;
/// The block size clients cut files into unless told otherwise.
pub const BLOCK_SIZE_DEFAULT: usize = MIB;
/// Smallest block size a file can be cut into.
pub const BLOCK_SIZE_MIN: usize = 64 * KIB;
/// Largest block.
pub const BLOCK_SIZE_MAX: usize = 4 * MIB;
/// Most copies of a block a policy can ask for. 7: what three bits of an inode hold.
pub const POLICY_REPLICAS_MAX: u32 = 7;
/// Longest name of an extended attribute, in bytes.
pub const XATTR_NAME_SIZE_MAX: usize = 255;
/// Largest value of an extended attribute.
pub const XATTR_SIZE_MAX: usize = 64 * KIB;
/// Most extended attributes of one inode.
pub const XATTRS_MAX: usize = 255;
/// Names and values of all extended attributes of one inode together.
pub const XATTRS_SIZE_MAX: usize = 128 * KIB;
/// Most inodes one client can have told to be open in one partition, and most of them in one command.
pub const OPENS_PER_CLIENT_MAX: usize = 1 << 20;
pub const OPENS_PER_COMMAND_MAX: usize = 4096;
/// In one `MoveAccessTimes`.
pub const ACCESSES_PER_COMMAND_MAX: usize = 4096;
/// How long a client may stay silent before what it has open is released; bounds of what it asks for.
pub const LEASE_MS_MIN: u32 = 1_000;
pub const LEASE_MS_DEFAULT: u32 = 10_000;
pub const LEASE_MS_MAX: u32 = 600_000;
/// Directories in one command about delegations, and those one client has of one partition.
pub const DELEGATIONS_PER_COMMAND_MAX: usize = 1024;
pub const DELEGATIONS_PER_CLIENT_MAX: usize = 4096;
/// Most locks and waits one client can have in one partition, locks and waits on one file.
pub const LOCKS_PER_CLIENT_MAX: usize = 16_384;
pub const LOCKS_PER_FILE_MAX: usize = 4096;
pub const LOCK_WAITS_PER_FILE_MAX: usize = 1024;
/// For how long the locks of a silent client are kept. Others wait that long for one that died.
pub const LOCK_LEASE_MS_DEFAULT: u32 = 10_000;
/// For how long a client whose lease ran out is remembered: longer than anything it sent is on its way.
pub const LOCK_FENCE_MS: u64 = 86_400_000;
/// How long an inode stays after its last name or its last known open went. Clients tell what they have
/// open well before: after a tenth of it.
pub const ORPHAN_GRACE_MS: u64 = 10_000;
/// Largest file: 16 TiB.
pub const FILE_SIZE_MAX: u64 = 16 << 40;
/// Most symbolic links followed in one walk.
pub const SYMLINKS_MAX: u32 = 40;
/// Most entries in one page of a directory or key listing.
pub const PAGE_ENTRIES_MAX: u32 = 4096;
/// Largest extent list in one publish command; a longer file is published in several.
pub const EXTENTS_PER_COMMAND_MAX: usize = 4096;
/// Most bytes of one write that travels in the log entry; more goes into blocks.
pub const WRITE_SIZE_MAX: usize = 64 * KIB;
/// Most pieces of one file in one log entry: more would be a long step of a worker.
pub const PIECES_PER_UPDATE_MAX: usize = 128;
/// Bytes of patches after which one answer about a file's layout ends.
pub const LAYOUT_PATCH_BYTES_MAX: usize = MIB;
/// Most blocks in one question or command about blocks.
pub const BLOCKS_PER_COMMAND_MAX: usize = 4096;
/// Most reports of what directories take in one command or answer.
pub const USAGE_REPORTS_MAX: usize = 4096;
/// Most rows an audit looks at for one answer, but for those of one directory: some milliseconds of a worker.
pub const AUDIT_ROWS_MAX: u32 = 16_384;
/// Most rows one repair changes.
pub const REPAIR_EDITS_MAX: usize = 4096;
/// Most rows of which sums are made anew for one answer.
pub const AUDIT_SUM_ROWS_MAX: u64 = 500_000;
/// Largest frame from a client that has not logged in.
pub const FRAME_SIZE_GREETING_MAX: usize = 64 * KIB;
/// Largest frame without a large value: one block and its envelope.
pub const FRAME_SIZE_MAX: usize = 5 * MIB;
/// Largest frame between nodes: a value of the largest size and its envelope.
pub const FRAME_SIZE_PEER_MAX: usize = VALUE_SIZE_MAX + FRAME_ENVELOPE_MAX;
/// Most segments in one frame.
pub const FRAME_SEGMENTS_MAX: u32 = 64;
