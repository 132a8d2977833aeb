//! When snapshots are taken, and a count of what came of it.

/// When snapshots are taken, in which pieces, and how much log stays behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// A snapshot is due after so many entries, ...
    pub interval_entries: u64,
    /// ... or so many bytes of log, ...
    pub interval_bytes: u64,
    /// ... or this long after the last one, if anything changed.
    pub interval_us: u64,
    /// Never sooner after the last one: the tail kept for followers may itself be large.
    pub pause_us_min: u64,
    /// State encoded in one turn.
    pub chunk_size_bytes: usize,
    /// Entries kept behind a snapshot for followers that are a little behind, by count and by size.
    pub tail_entries_max: u64,
    pub tail_bytes_max: u64,
}

impl Default for SnapshotConfig {
    fn default() -> SnapshotConfig {
        SnapshotConfig {
            interval_entries: 100_000,
            interval_bytes: 32 << 20,
            interval_us: 60_000_000,
            pause_us_min: 1_000_000,
            // Encoding it takes well under a millisecond.
            chunk_size_bytes: 256 << 10,
            tail_entries_max: 2048,
            tail_bytes_max: 8 << 20,
        }
    }
}

/// Memory for the logs of all partitions of a node, as long as their states are small.
const NODE_LOG_BYTES: u64 = 256 << 20;
/// Less than this makes snapshots of nearly nothing.
const INTERVAL_BYTES_MIN: u64 = 4 << 20;

impl SnapshotConfig {
    /// The usual, with the log's memory shared among so many partitions of a node.
    pub fn shared_by(partitions: usize) -> SnapshotConfig {
        let usual = SnapshotConfig::default();
        let share = NODE_LOG_BYTES / partitions.max(1) as u64;
        let interval_bytes = share.clamp(INTERVAL_BYTES_MIN, usual.interval_bytes);
        SnapshotConfig {
            interval_bytes,
            tail_bytes_max: interval_bytes / 4,
            ..usual
        }
    }
}

/// How often it happened since the partition was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounts {
    /// Own snapshots that became durable.
    pub taken: u64,
    /// States received from a leader that took the old one's place.
    pub installed: u64,
}
