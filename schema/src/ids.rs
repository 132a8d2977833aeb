//! The names of things: numbers that are never reused and never mean two things.
//!
//! Invariants:
//! - Every id here travels on wires and lies on disks: its width and layout are frozen.
//! - Inode ids carry their home partition, so that any holder of one knows where to ask.

use std::fmt;

/// A member of the cluster: its 1-based place in the cluster file. The order there is append-only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNumber(pub u16);

/// One Raft group with its share of the inodes and keys; 0-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u16);

/// An inode: home partition in the upper 16 bits, a counter that is never reused in the lower 48.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u64);

/// A client of the exactly-once tables: 64 random bits drawn when the client starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// An immutable block: the client that cut it and that client's counter, whose upper 16 bits name the
/// partition that keeps the block's record (its number and one; 0 in ids from before there were homes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    pub client: ClientId,
    pub counter: u64,
}

/// A cross-partition transaction: the request it carries out and the attempt, which is the
/// coordinator's Raft term and a count within it, so that no two attempts share a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    pub client: ClientId,
    pub sequence: u64,
    pub attempt: u64,
}

impl InodeId {
    /// The directory every path starts from; partition 0, counter 1.
    pub const ROOT: InodeId = InodeId(1);
    pub const COUNTER_BITS: u32 = 48;
    pub const COUNTER_MAX: u64 = (1 << Self::COUNTER_BITS) - 1;

    pub fn new(home: PartitionId, counter: u64) -> InodeId {
        assert!(
            counter > 0 && counter <= Self::COUNTER_MAX,
            "inode counter out of range"
        );
        InodeId(u64::from(home.0) << Self::COUNTER_BITS | counter)
    }

    pub fn home(self) -> PartitionId {
        PartitionId((self.0 >> Self::COUNTER_BITS) as u16)
    }
}

impl BlockId {
    pub const COUNTER_BITS: u32 = 48;
    pub const COUNTER_MAX: u64 = (1 << Self::COUNTER_BITS) - 1;

    /// A block for files whose inodes live in `home`.
    pub fn new(client: ClientId, home: PartitionId, counter: u64) -> BlockId {
        assert!(counter <= Self::COUNTER_MAX, "block counter out of range");
        let home = u64::from(home.0) + 1;
        BlockId {
            client,
            counter: home << Self::COUNTER_BITS | counter,
        }
    }

    /// The partition that says whether the block is in use.
    pub fn home(self) -> Option<PartitionId> {
        let named = (self.counter >> Self::COUNTER_BITS) as u16;
        named.checked_sub(1).map(PartitionId)
    }
}

macro_rules! display_as {
    ($name:ident, $format:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, $format, self.0)
            }
        }
    };
}
display_as!(NodeNumber, "node {}");
display_as!(PartitionId, "partition {}");
display_as!(InodeId, "inode {}");
display_as!(ClientId, "client {:016x}");

impl fmt::Display for BlockId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "block {:016x}-{}", self.client.0, self.counter)
    }
}
