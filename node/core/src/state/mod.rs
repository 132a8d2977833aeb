//! The state of one partition: what applying its log, entry by entry, makes of nothing.
//!
//! Previous in the flow: consensus hands over committed proposals. Next: the reply goes to whoever asked.
//!
//! Keys, inodes, dentries, extents, sessions and transactions are rows of ordered tables ([`table`]), and
//! nothing is remembered elsewhere, so the digest of the tables is the digest of the state, and a snapshot
//! of the tables is a snapshot of the state. The price: every change hashes the row it changes.
//!
//! Invariants:
//! - What `apply` does depends on the state, the index and the proposal alone; time is the proposal's.
//! - Replicas that applied the same entries have the same [`State::hash`].
//! - A failure other than a recorded refusal leaves no trace, apart from `applied` and `time`; but for
//!   commands too long for one entry ([`unfinished`]).
//! - `file_bytes` is the sum of the sizes of the regular files that have a name, `allocated_bytes` of what is
//!   stored of these and of links, `orphans` the number of inodes without a name, at all times. The first
//!   wraps, because a million sparse files of the largest size exceed 64 bits and must not stop the partition.

mod access_time;
mod attributes;
mod audit;
mod block;
mod codec;
mod copies;
mod counters;
mod data;
mod delegation;
mod dentry;
mod entry_name;
mod extent;
mod file_lock;
mod fragment;
mod inode;
mod key;
mod key_run;
mod key_table;
mod link;
mod lock;
mod lock_lease;
mod names;
mod node_list;
mod open;
mod policy;
mod publish;
mod query;
mod quota;
pub(crate) mod refusal;
mod rename;
mod repair;
mod reply;
mod seek;
mod session;
mod snapshot;
mod step;
mod table;
#[cfg(test)]
mod tests;
mod transaction;
mod unfinished;
mod update;
mod usage;
mod xattr;

use std::collections::BTreeSet;

use bark_schema::file_lock::LockCommand;
use bark_schema::ids::{BlockId, ClientId, InodeId, PartitionId, TransactionId};
use bark_schema::operation::{Command, Failure, Proposal, Refusal, Reply, RequestId, UnixMillis, UnixNanos};
use bark_schema::quota::Allowance;

pub use copies::BlockCopies;
pub use counters::SpaceCounters;
pub use data::PatchToPack;
pub use fragment::{Fragment, FragmentPlace};
pub(crate) use quota::other_quota;

use block::{BlockRow, GarbageRow};
use copies::Shortage;
use delegation::Foretold;
use dentry::{Dentry, DentryKey};
use extent::ExtentRow;
use file_lock::{LockPlace, LockRow, WaitRow};
use inode::Inode;
pub use key::{KeyFound, TOUCHED_KEYS_MAX};
use key_table::KeyTable;
use lock::LockKey;
use lock_lease::{FenceRow, LockLeaseRow};
use open::LeaseRow;
use quota::{AllowanceRow, QuotaRow};
use session::{Retiree, SessionRow};
use snapshot::Snapshot;
pub use snapshot::{SnapshotMark, StateLoader};
use table::Table;
use transaction::{OutcomeRow, Prepared, TombstoneKind};
use usage::{ContributionRow, UsageChanges, UsageRow};
use xattr::XattrKey;

/// Why a snapshot could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("snapshot is corrupt: {0}")]
    Corrupt(&'static str),
    #[error("snapshot has format version {found}, this program reads {expected}")]
    Version { found: u16, expected: u16 },
    #[error("snapshot ends before its last chunk")]
    Incomplete,
    #[error("snapshot says hash {expected:016x}, its rows have {found:016x}")]
    Hash { expected: u64, found: u64 },
}

/// Everything one partition holds.
pub struct State {
    partition: PartitionId,
    partition_count: u16,
    applied: u64,
    time: UnixNanos,
    /// Every inode born here has a counter below this one.
    inode_counter_next: u64,
    file_bytes: u64,
    orphan_count: u64,
    /// Sums over the rows below, kept up to date by every change; not part of snapshots.
    allocated_bytes: u64,
    block_bytes: u64,
    garbage_bytes: u64,
    patch_bytes: u64,
    /// The rows of `extents` that are patches.
    patches: BTreeSet<(InodeId, u64)>,
    /// The rows of `usages` that have something to report.
    unreported: BTreeSet<InodeId>,
    usage_changes: UsageChanges,
    /// The rows of `blocks` that name too few nodes.
    shortage: Shortage,
    snapshot: Option<Snapshot>,
    /// The entry applied last did only a part of its command; see [`unfinished`].
    unfinished: bool,
    /// Of the ordered command that is being applied.
    foretold: Option<Foretold>,

    keys: KeyTable,
    expiries: Table<(UnixMillis, Box<[u8]>), ()>,
    inodes: Table<InodeId, Inode>,
    dentries: Table<DentryKey, Dentry>,
    extents: Table<(InodeId, u64), ExtentRow>,
    blocks: Table<BlockId, BlockRow>,
    garbage: Table<BlockId, GarbageRow>,
    sessions: Table<ClientId, SessionRow>,
    replies: Table<(ClientId, u64), Box<[u8]>>,
    retirements: Table<(UnixNanos, Retiree), ()>,
    prepared: Table<TransactionId, Prepared>,
    locks: Table<LockKey, TransactionId>,
    tombstones: Table<(TombstoneKind, TransactionId), ()>,
    outcomes: Table<TransactionId, OutcomeRow>,
    xattrs: Table<XattrKey, Box<[u8]>>,
    orphans: Table<InodeId, UnixNanos>,
    due_orphans: Table<(UnixNanos, InodeId), ()>,
    opens: Table<(InodeId, ClientId), ()>,
    opens_by_client: Table<(ClientId, InodeId), ()>,
    leases: Table<ClientId, LeaseRow>,
    /// The youngest condemned block of each client that is forgotten by now.
    fences: Table<ClientId, u64>,
    /// What directories take: those at home here, and those elsewhere that files here count in.
    usages: Table<InodeId, UsageRow>,
    /// What was reported to a directory at home here, by directory and contributor.
    contributions: Table<(InodeId, InodeId), ContributionRow>,
    /// How many names an inode with several of them has in a directory.
    names: Table<(InodeId, InodeId), u32>,
    /// Of directories at home here.
    quotas: Table<InodeId, QuotaRow>,
    /// What partitions were granted of them.
    grants: Table<(InodeId, PartitionId), Allowance>,
    /// What is used here of quotas, wherever their directories are.
    allowances: Table<InodeId, AllowanceRow>,
    /// Directories at home here that one client has for itself.
    delegations: Table<InodeId, ClientId>,
    delegations_by_client: Table<(ClientId, InodeId), ()>,
    /// Advisory locks of files; `locks` are those of transactions.
    file_locks: Table<LockPlace, LockRow>,
    /// Who waits for one, by file and the index of the entry that asked.
    lock_waits: Table<(InodeId, u64), WaitRow>,
    /// How many of both a client has on a file.
    lock_files: Table<(ClientId, InodeId), u32>,
    lock_leases: Table<ClientId, LockLeaseRow>,
    lock_fences: Table<ClientId, FenceRow>,
    /// Not replicated: those who are told of the ends of waits look when this has moved.
    ended_waits: u64,
}

/// Does the same with every table of a state, in the order of their tags.
macro_rules! each_table {
    ($state:expr, $table:ident, $action:expr) => {
        each_table!(@ (&mut $state), $table, $action, keys expiries inodes dentries extents blocks garbage
            sessions replies retirements prepared locks tombstones outcomes
            xattrs orphans opens opens_by_client leases fences usages contributions names
            quotas grants allowances due_orphans delegations delegations_by_client
            file_locks lock_waits lock_files lock_leases lock_fences)
    };
    (shared $state:expr, $table:ident, $action:expr) => {
        each_table!(@ (&$state), $table, $action, keys expiries inodes dentries extents blocks garbage
            sessions replies retirements prepared locks tombstones outcomes
            xattrs orphans opens opens_by_client leases fences usages contributions names
            quotas grants allowances due_orphans delegations delegations_by_client
            file_locks lock_waits lock_files lock_leases lock_fences)
    };
    (@ (&mut $state:expr), $table:ident, $action:expr, $($field:ident)*) => {
        $( { let $table = &mut $state.$field; $action; } )*
    };
    (@ (& $state:expr), $table:ident, $action:expr, $($field:ident)*) => {
        $( { let $table = &$state.$field; $action; } )*
    };
}
pub(crate) use each_table;

impl State {
    /// The state before the first log entry. Partition 0 is born with the root directory.
    pub fn new(partition: PartitionId, partition_count: u16) -> State {
        let mut state = State::empty(partition, partition_count);
        if partition == InodeId::ROOT.home() {
            state.bear(InodeId::ROOT, Inode::root());
            state.settle_usage();
        }
        state
    }

    fn empty(partition: PartitionId, partition_count: u16) -> State {
        State {
            partition,
            partition_count,
            applied: 0,
            time: 0,
            inode_counter_next: 1,
            file_bytes: 0,
            allocated_bytes: 0,
            block_bytes: 0,
            garbage_bytes: 0,
            patch_bytes: 0,
            patches: BTreeSet::new(),
            unreported: BTreeSet::new(),
            usage_changes: UsageChanges::default(),
            shortage: Shortage::default(),
            orphan_count: 0,
            snapshot: None,
            unfinished: false,
            foretold: None,
            keys: KeyTable::new(1),
            expiries: Table::new(2),
            inodes: Table::new(3),
            dentries: Table::new(4),
            extents: Table::new(5),
            blocks: Table::new(6),
            garbage: Table::new(7),
            sessions: Table::new(8),
            replies: Table::new(9),
            retirements: Table::new(10),
            prepared: Table::new(11),
            locks: Table::new(12),
            tombstones: Table::new(13),
            outcomes: Table::new(14),
            xattrs: Table::new(15),
            orphans: Table::new(16),
            opens: Table::new(17),
            opens_by_client: Table::new(18),
            leases: Table::new(19),
            fences: Table::new(20),
            usages: Table::new(21),
            contributions: Table::new(22),
            names: Table::new(23),
            quotas: Table::new(24),
            grants: Table::new(25),
            allowances: Table::new(26),
            due_orphans: Table::new(27),
            delegations: Table::new(28),
            delegations_by_client: Table::new(29),
            file_locks: Table::new(30),
            lock_waits: Table::new(31),
            lock_files: Table::new(32),
            lock_leases: Table::new(33),
            lock_fences: Table::new(34),
            ended_waits: 0,
        }
    }

    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// For the hash map of the keys; nothing that replicas compare depends on it.
    pub fn set_hash_seed(&mut self, seed: u64) {
        self.keys.set_hash_seed(seed);
    }

    pub fn partition_count(&self) -> u16 {
        self.partition_count
    }

    /// Index of the last entry applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Time of the last proposal applied.
    pub fn time(&self) -> UnixNanos {
        self.time
    }

    /// Digest of the whole state, `applied` and `time` included.
    pub fn hash(&self) -> u64 {
        use codec::{DigestSink, Row};
        let mut sink = DigestSink::new();
        self.partition.encode(&mut sink);
        self.partition_count.encode(&mut sink);
        self.applied.encode(&mut sink);
        self.time.encode(&mut sink);
        self.inode_counter_next.encode(&mut sink);
        self.file_bytes.encode(&mut sink);
        self.tables_digest().encode(&mut sink);
        sink.finish()
    }

    fn tables_digest(&self) -> u64 {
        let mut digest = 0u64;
        each_table!(shared self, table, digest = digest.wrapping_add(table.digest()));
        digest
    }

    /// Wall clock of the last proposal in milliseconds, for keys.
    fn time_ms(&self) -> UnixMillis {
        u64::try_from(self.time / 1_000_000).unwrap_or(0)
    }

    /// Applies the entry at `index`. Panics if `index` was applied before (a bug, never input).
    pub fn apply(&mut self, index: u64, proposal: &Proposal) -> Result<Reply, Failure> {
        self.apply_empty(index);
        self.time = self.time.max(proposal.time);
        self.retire();
        let result = self.apply_command(proposal);
        self.settle_usage();
        result
    }

    fn apply_command(&mut self, proposal: &Proposal) -> Result<Reply, Failure> {
        match (&proposal.command, &proposal.id) {
            (
                Command::Prepare {
                    transaction,
                    primary,
                    steps,
                },
                _,
            ) => {
                self.check_steps_undelegated(transaction.client, steps)?;
                self.prepare(*transaction, *primary, steps)
            }
            (
                Command::Decide {
                    transaction,
                    commit: false,
                    reply,
                    acknowledged_below,
                    ..
                },
                _,
            ) if refusal::is_refusal(*transaction) => {
                self.record_refusal(*transaction, reply, *acknowledged_below)
            }
            (
                Command::Decide {
                    transaction,
                    commit: false,
                    participants,
                    ..
                },
                _,
            ) => self.decide_abort(*transaction, participants),
            (
                Command::Decide {
                    transaction,
                    commit: true,
                    steps,
                    participants,
                    reply,
                    acknowledged_below,
                },
                _,
            ) => {
                self.check_steps_undelegated(transaction.client, steps)?;
                self.decide_commit(*transaction, steps, participants, reply, *acknowledged_below)
            }
            (Command::Finish { transaction, commit }, _) => self.finish(*transaction, *commit),
            (Command::Forget { transaction }, _) => self.forget(*transaction),
            (command, None) => self.execute(command),
            (Command::Lock(command), Some(id)) => self.change_locks_as(id, command),
            (command, Some(id)) => {
                if let Some(result) = self.recorded(id) {
                    return result;
                }
                self.admit(id)?;
                if !lock_lease::passes_fence(command) {
                    self.check_fence(id.client, id.sequence)?;
                }
                let result = match command {
                    Command::Ordered {
                        after,
                        time,
                        inode,
                        command,
                        awaited: _,
                    } => {
                        let foretold = Foretold {
                            time: *time,
                            inode: *inode,
                        };
                        self.apply_ordered(id, *after, foretold, command)
                    }
                    command => {
                        self.check_undelegated(id.client, command)?;
                        block::check_own_blocks(id.client, command)?;
                        self.execute(command)
                    }
                };
                self.record(id.client, id.sequence, id.acknowledged_below, &result);
                result
            }
        }
    }

    /// A fence comes before the answer that was recorded: a lock that was granted may be lost by now.
    fn change_locks_as(&mut self, id: &RequestId, command: &LockCommand) -> Result<Reply, Failure> {
        if command.client().is_some_and(|client| client != id.client) {
            let sentence = "a client takes locks for itself only";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        self.check_fence_of(id, command)?;
        if let Some(result) = self.recorded(id) {
            return result;
        }
        self.admit(id)?;
        self.check_lock_undelegated(id.client, command)?;
        let result = match command {
            LockCommand::Rejoin { client } => self.rejoin(*client, id.sequence),
            command => self.change_locks(command),
        };
        self.record(id.client, id.sequence, id.acknowledged_below, &result);
        result
    }

    fn check_fence_of(&self, id: &RequestId, command: &LockCommand) -> Result<(), Failure> {
        match command {
            LockCommand::Rejoin { .. } => Ok(()),
            _ => self.check_fence(id.client, id.sequence),
        }
    }

    /// Moves past an entry that holds nothing: a new leader's first.
    pub fn apply_empty(&mut self, index: u64) {
        assert!(index > self.applied, "an entry is applied once, in order");
        self.applied = index;
    }

    /// Carries out a plain command. Checks come first: a failure has changed nothing.
    fn execute(&mut self, command: &Command) -> Result<Reply, Failure> {
        match command {
            Command::KeySet {
                key,
                value,
                expiry,
                condition,
                return_previous,
            } => self.key_set(key, value, *expiry, *condition, *return_previous),
            Command::KeyDelete { keys, condition } => self.key_delete(keys, *condition),
            Command::KeyIncrement { key, by } => self.key_increment(key, *by),
            Command::KeyExpireDue { limit } => self.key_expire_due(*limit),
            Command::ReserveInodes { count } => self.reserve_inode_numbers(*count),
            Command::Create {
                directory,
                name,
                attributes,
                content,
                exclusive,
            } => self.create(*directory, name, attributes, content, *exclusive),
            Command::Unlink { directory, name } => self.unlink(*directory, name),
            Command::Rename { from, to, mode } => self.rename(from, to, *mode),
            Command::SetAttributes { inode, change } => self.set_attributes(*inode, change),
            Command::Data(command) => self.change_data(command),
            Command::Usage(command) => self.change_usage(command),
            Command::Quota(command) => self.change_quota(command),
            Command::Delegation(command) => self.change_delegations(command),
            Command::Ordered { .. } => Err(Failure::refused(
                Refusal::InvalidArgument,
                "an ordered change needs the name of its request",
            )),
            Command::Lock(command) => self.change_locks(command),
            Command::Repair(command) => self.repair(command),
            Command::WriteInline {
                inode,
                offset,
                data,
                truncate,
            } => self.write_inline(*inode, *offset, data, *truncate),
            Command::Publish {
                inode,
                extents,
                size,
                replace_all,
                base_version,
            } => self.publish(*inode, extents, *size, *replace_all, *base_version),
            Command::Link { inode, to } => self.link(*inode, to),
            Command::XattrSet {
                inode,
                xattr,
                condition,
                mode,
            } => self.xattr_set(*inode, xattr, *condition, *mode),
            Command::XattrRemove { inode, name } => self.xattr_remove(*inode, name),
            Command::UpdateOpens {
                client,
                opened,
                closed,
                lease_ms,
            } => self.update_opens(*client, opened, closed, *lease_ms),
            Command::ReapOrphans { limit } => self.reap_orphans(*limit),
            Command::MoveAccessTimes { accesses } => self.move_access_times(accesses),
            Command::Prepare { .. }
            | Command::Decide { .. }
            | Command::Finish { .. }
            | Command::Forget { .. } => unreachable!("apply takes transactions' commands itself"),
        }
    }
}
