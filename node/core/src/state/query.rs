//! Reads of one partition.
//!
//! A read that meets what a prepared transaction holds is refused with `Locked`: the transaction may be
//! committed already at its first partition, and answering with the old state could go back in time.
//!
//! Invariants:
//! - Reads change nothing, and keys that are due by `now_ms` count as absent.
//! - A page has at most PAGE_ENTRIES_MAX entries and about PAGE_SIZE_MAX bytes.

use std::ops::Bound;

use bark_schema::data::FileMap;
use bark_schema::ids::{InodeId, PartitionId, TransactionId};
use bark_schema::limits::{MIB, PAGE_ENTRIES_MAX, VALUE_SIZE_MAX};
use bark_schema::operation::{
    Attributes, Content, DirectoryEntry, Failure, FileKind, KeyValue, ListPosition, PartitionStatus, Query,
    Refusal, Reply, TransactionOutcome, UnixMillis, UnixNanos,
};
use bytes::Bytes;

use super::State;
use super::dentry::{DentryKey, no_such_entry};
use super::inode::{Body, is_at_home};
use super::lock::LockKey;
use super::transaction::TombstoneKind;

/// Bytes of names or keys after which a page ends.
const PAGE_SIZE_MAX: usize = MIB;
/// Most bytes of a sparse inline file that are spelled out in one answer; what follows is zeros.
const INLINE_REPLY_SIZE_MAX: u64 = MIB as u64;

impl State {
    pub fn query(&self, now_ms: UnixMillis, query: &Query) -> Result<Reply, Failure> {
        let (client, query) = match query {
            Query::By { client, query } => (Some(*client), &**query),
            query => (None, query),
        };
        self.check_query_undelegated(client, query)?;
        match query {
            Query::KeyGet { key } => {
                self.check_unlocked(&LockKey::key(key))?;
                let found = self.live_key(key, now_ms);
                Ok(Reply::Value(found.map(|row| KeyValue {
                    value: row.value.clone(),
                    version: row.version,
                    expires: row.expires,
                })))
            }
            Query::KeyGetMany { keys } => {
                self.check_keys(keys)?;
                let value = |key: &Bytes| self.live_key(key, now_ms).map(|row| row.value.clone());
                let values: Vec<Option<Bytes>> = keys.iter().map(value).collect();
                // Values are shared, so this costs nothing; but they must fit one frame to whoever asked.
                let size: usize = values.iter().flatten().map(Bytes::len).sum();
                if size > VALUE_SIZE_MAX {
                    let sentence = format!(
                        "the values have {size} bytes together, at most {VALUE_SIZE_MAX} are answered"
                    );
                    return Err(Failure::refused(Refusal::FileTooLarge, sentence));
                }
                Ok(Reply::Values(values))
            }
            Query::KeyExists { keys } => {
                self.check_keys(keys)?;
                let present = keys.iter().filter(|key| self.live_key(key, now_ms).is_some());
                Ok(Reply::Count(present.count() as u64))
            }
            Query::KeyScan { after, prefix, limit } => self.key_scan(now_ms, after, prefix, *limit),
            Query::KeyCount => Ok(Reply::Count(self.keys.len())),
            Query::Lookup { directory, name } => self.lookup(*directory, name),
            Query::Attributes { inode } => Ok(Reply::Attributes(self.settled_attributes(*inode)?)),
            Query::ReadDirectory {
                directory,
                after,
                limit,
            } => self.read_directory(*directory, after, *limit),
            Query::ReadLink { inode } => {
                self.check_inode_unlocked(*inode)?;
                match &self.inode(*inode)?.body {
                    Body::Symlink(target) => Ok(Reply::Link(Bytes::copy_from_slice(target))),
                    _ => Err(Failure::refused(Refusal::InvalidArgument, "not a symbolic link")),
                }
            }
            Query::Layout {
                inode,
                offset,
                length,
            } => self.layout(*inode, *offset, *length),
            Query::XattrGet { inode, name } => self.xattr_get(*inode, name),
            Query::XattrList { inode } => self.xattr_list(*inode),
            Query::PartitionStatus => Ok(Reply::Partition(self.status())),
            Query::TransactionOutcome { transaction } => Ok(Reply::Outcome(self.outcome(*transaction))),
            Query::Data(query) => self.query_data(query),
            Query::Usage(query) => self.query_usage(query),
            Query::Quota(query) => self.query_quota(query),
            Query::By { .. } | Query::AwaitRecall { .. } => Err(Failure::refused(
                Refusal::InvalidArgument,
                "not a question about the state",
            )),
            Query::Lock(query) => self.query_locks(query),
            Query::Audit(query) => self.query_audit(now_ms, query),
        }
    }

    /// Whether `query` touches a key that is due by `now_ms` and still present: its leader proposes
    /// `KeyExpireDue` first, so that the expiry is in the log before anybody saw it.
    pub fn query_meets_expired(&self, now_ms: UnixMillis, query: &Query) -> bool {
        let is_due = |key: &Bytes| self.keys.get(&key[..]).is_some_and(|row| row.is_due(now_ms));
        match query {
            Query::By { query, .. } => self.query_meets_expired(now_ms, query),
            Query::KeyGet { key } => is_due(key),
            Query::KeyGetMany { keys } | Query::KeyExists { keys } => keys.iter().any(is_due),
            Query::KeyScan { .. } | Query::KeyCount => self.any_due_key(now_ms),
            _ => false,
        }
    }

    /// Whether `KeyExpireDue` would drop anything.
    pub fn has_due_keys(&self, now_ms: UnixMillis) -> bool {
        self.any_due_key(now_ms)
    }

    fn check_keys(&self, keys: &[Bytes]) -> Result<(), Failure> {
        keys.iter()
            .try_for_each(|key| self.check_unlocked(&LockKey::key(key)))
    }

    fn key_scan(
        &self,
        now_ms: UnixMillis,
        after: &[u8],
        prefix: &[u8],
        limit: u32,
    ) -> Result<Reply, Failure> {
        let limit = limit.min(PAGE_ENTRIES_MAX) as usize;
        let start = if after < prefix {
            Bound::Included(prefix)
        } else {
            Bound::Excluded(after)
        };
        // An empty `after` is before every key, the empty one included.
        let start = if after.is_empty() && prefix.is_empty() {
            Bound::Unbounded
        } else {
            start
        };
        let in_prefix = self.keys.range(start);
        let live = in_prefix
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter(|row| !row.1.is_due(now_ms));
        let mut keys = Vec::new();
        let mut size = 0;
        let mut more = false;
        for (key, _) in live {
            if keys.len() >= limit || size >= PAGE_SIZE_MAX {
                more = true;
                break;
            }
            size += key.len();
            keys.push(Bytes::copy_from_slice(key));
        }
        self.check_scan_unlocked(after, prefix, more.then(|| keys.last()).flatten())?;
        Ok(Reply::Keys { keys, more })
    }

    /// No key between `after` and `last` (None: the end) that starts with `prefix` is held.
    fn check_scan_unlocked(&self, after: &[u8], prefix: &[u8], last: Option<&Bytes>) -> Result<(), Failure> {
        let first = LockKey::key(after.max(prefix));
        let held = self
            .locks
            .range((Bound::Included(&first), Bound::Excluded(&LockKey::RenameLease)));
        for (key, holder) in held {
            let LockKey::Key(key) = key else { break };
            if !key.starts_with(prefix) || last.is_some_and(|last| key[..] > last[..]) {
                break;
            }
            if &key[..] != after || after.is_empty() {
                return Err(self.locked(*holder));
            }
        }
        Ok(())
    }

    fn lookup(&self, directory: InodeId, name: &[u8]) -> Result<Reply, Failure> {
        let (parent, _) = self.directory(directory)?;
        self.check_entry_unlocked(directory, name)?;
        let (inode, kind) = match name {
            b"." => (directory, FileKind::Directory),
            b".." => (parent, FileKind::Directory),
            _ => {
                let entry = self.dentry(directory, name).ok_or_else(no_such_entry)?;
                (entry.inode, entry.kind)
            }
        };
        Ok(Reply::Entry {
            inode,
            kind,
            attributes: self.attributes_if_settled(inode),
        })
    }

    /// Attributes of an inode whose home is here and that nobody holds; otherwise None, and who wants
    /// them asks for them.
    fn attributes_if_settled(&self, inode: InodeId) -> Option<Attributes> {
        if !is_at_home(inode, self.partition) {
            return None;
        }
        self.settled_attributes(inode).ok()
    }

    fn settled_attributes(&self, inode: InodeId) -> Result<Attributes, Failure> {
        self.check_settled(inode)?;
        Ok(self.inode(inode)?.attributes(inode))
    }

    /// No transaction is about to change the attributes of the inode: of a directory, by a name in it either.
    pub(super) fn check_settled(&self, inode: InodeId) -> Result<(), Failure> {
        self.check_inode_unlocked(inode)?;
        match self.inode(inode)?.kind() {
            FileKind::Directory => self.check_entries_held_by(inode, None),
            _ => Ok(()),
        }
    }

    fn read_directory(&self, directory: InodeId, after: &ListPosition, limit: u32) -> Result<Reply, Failure> {
        let (parent, _) = self.directory(directory)?;
        self.check_inode_unlocked(directory)?;
        self.check_entries_held_by(directory, None)?;
        let limit = limit.min(PAGE_ENTRIES_MAX) as usize;
        let start = match after {
            ListPosition::Start => Bound::Included(DentryKey::first(directory, 0)),
            ListPosition::AfterName(name) => Bound::Excluded(DentryKey::new(directory, name)),
            ListPosition::AfterCookie(cookie) => {
                Bound::Included(DentryKey::first(directory, cookie.saturating_add(1)))
            }
        };
        let rows = self.dentries.range((start, Bound::Unbounded));
        let inside = rows.take_while(|(key, _)| key.directory == directory);
        #[cfg(feature = "planted-bugs")]
        let inside = inside.skip(usize::from(self.skips_one(directory, after)));
        let mut entries: Vec<DirectoryEntry> = Vec::new();
        let mut more = false;
        let mut size = 0;
        for (key, entry) in inside {
            // Those with the same cookie stay together: whoever goes on after it would miss the rest.
            let is_parted = entries.last().is_none_or(|last| last.cookie != key.cookie);
            if (entries.len() >= limit || size >= PAGE_SIZE_MAX) && is_parted {
                more = true;
                break;
            }
            size += key.name.len();
            entries.push(DirectoryEntry {
                name: Bytes::copy_from_slice(&key.name),
                inode: entry.inode,
                kind: entry.kind,
                attributes: self.attributes_if_settled(entry.inode),
                cookie: key.cookie,
            });
        }
        Ok(Reply::Directory {
            entries,
            more,
            parent,
        })
    }

    #[cfg(feature = "planted-bugs")]
    fn skips_one(&self, directory: InodeId, after: &ListPosition) -> bool {
        use crate::planted::{Defect, is_planted};
        let ListPosition::AfterCookie(cookie) = after else {
            return false;
        };
        let entry = DentryKey::first(directory, *cookie)..DentryKey::first(directory, *cookie + 1);
        is_planted(Defect::PageSkips) && self.dentries.range(entry).next().is_none()
    }

    /// Inline bytes may end before the range does: what is missing up to the size is zeros.
    fn layout(&self, inode: InodeId, offset: u64, length: u64) -> Result<Reply, Failure> {
        let row = self.regular(inode)?;
        self.check_inode_unlocked(inode)?;
        let known_until = offset.saturating_add(length);
        let end = known_until.min(row.size);
        let content = match &row.body {
            Body::Inline(bytes) if offset < bytes.len() as u64 || row.size <= INLINE_REPLY_SIZE_MAX => {
                let end = end.min(offset.saturating_add(INLINE_REPLY_SIZE_MAX)).max(offset);
                let mut range = vec![0; (end - offset) as usize];
                if let Some(stored) = bytes.get(offset as usize..) {
                    let count = stored.len().min(range.len());
                    range[..count].copy_from_slice(&stored[..count]);
                }
                Content::Inline(Bytes::from(range))
            }
            Body::Extents { .. } if offset < end => {
                Content::Mapped(self.file_map(inode, offset, known_until))
            }
            _ => Content::Mapped(FileMap {
                known_until,
                ..FileMap::default()
            }),
        };
        Ok(Reply::Layout {
            attributes: row.attributes(inode),
            content,
        })
    }

    /// What the state knows of the partition; consensus fills in the rest.
    fn status(&self) -> PartitionStatus {
        PartitionStatus {
            partition: self.partition,
            leader: None,
            term: 0,
            applied: self.applied,
            state_hash: self.hash(),
            keys: self.keys.len(),
            inodes: self.inodes.len() - self.orphan_count,
            file_bytes: self.file_bytes,
            orphans: self.orphan_count,
            log_entries: 0,
            snapshot_index: 0,
            allocated_bytes: self.allocated_bytes,
            block_bytes: self.block_bytes,
            garbage_bytes: self.garbage_bytes,
            patch_bytes: self.patch_bytes,
        }
    }

    fn outcome(&self, transaction: TransactionId) -> TransactionOutcome {
        match self.outcomes.get(&transaction) {
            Some(outcome) if outcome.commit => TransactionOutcome::Committed,
            Some(_) => TransactionOutcome::Aborted,
            None if self.tombstones.contains(&(TombstoneKind::Aborted, transaction)) => {
                TransactionOutcome::Aborted
            }
            None => TransactionOutcome::Undecided,
        }
    }

    /// Transactions that wait for their outcome here: id, first partition and when they were prepared.
    pub fn prepared(&self) -> impl Iterator<Item = (TransactionId, PartitionId, UnixNanos)> {
        self.prepared
            .iter()
            .map(|(id, prepared)| (*id, prepared.primary, prepared.since))
    }

    /// Transactions decided here whose participants have not all been told: id, whether it was
    /// committed, and the participants.
    pub fn undelivered_outcomes(&self) -> impl Iterator<Item = (TransactionId, bool, &[PartitionId])> {
        self.outcomes
            .iter()
            .map(|(id, outcome)| (*id, outcome.commit, &outcome.participants[..]))
    }

    /// Whether `transaction` is prepared here and not finished.
    pub fn is_prepared(&self, transaction: TransactionId) -> bool {
        self.prepared.contains(&transaction)
    }
}
