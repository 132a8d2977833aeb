//! Steps of transactions: what each one requires and what it changes.
//!
//! Requirements are checked when a step is prepared (or decided), and locks keep them true until it is
//! finished; so applying a step does not fail.
//!
//! Invariants:
//! - No two steps of a transaction change the same object here.
//! - A step that expects what is no longer so is refused with `Conflict`: the coordinator looks again.

use std::collections::BTreeSet;

use bark_schema::ids::{InodeId, TransactionId};
use bark_schema::operation::{Entry, Failure, FileKind, NewInode, Refusal, Step, Xattr};
use bark_schema::policy::Policy;

use super::codec::{Reader, Row, Sink, row_struct};
use super::dentry::{Dentry, check_name, no_such_entry};
use super::inode::{Body, Inode, check_new_inode, is_at_home};
use super::key::{check_key, check_value};
use super::lock::LockKey;
use super::rename::check_kinds;
use super::{Error, State};

/// Most steps one transaction has at one partition.
const STEPS_MAX: usize = 65_536;
/// Furthest a coordinator's choice may move the inode counter on, beyond one inode for every entry.
const INODE_COUNTER_SKIP_MAX: u64 = 1 << 20;

impl State {
    /// Whether all steps can be carried out now and no other transaction is in the way.
    pub(super) fn check_steps(&self, transaction: TransactionId, steps: &[Step]) -> Result<(), Failure> {
        if steps.len() > STEPS_MAX {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "too many steps in one transaction",
            ));
        }
        let mut changed = BTreeSet::new();
        for step in steps {
            let lock = LockKey::of_step(step);
            // The number of a directory still to be born is reserved: whoever else wants it takes the next
            // one instead of waiting.
            if !matches!(step, Step::CreateDirectory { .. }) {
                self.check_held_by(&lock, Some(transaction))?;
            }
            self.check_step(transaction, step)?;
            if !changed.insert(lock) {
                return Err(Failure::refused(
                    Refusal::InvalidArgument,
                    "two steps change the same object",
                ));
            }
        }
        let removed = |directory| {
            steps
                .iter()
                .any(|step| *step == Step::RemoveDirectory { inode: directory })
        };
        let mut inserts = steps.iter().filter_map(|step| match step {
            Step::InsertEntry { entry, .. } => Some(entry.directory),
            _ => None,
        });
        if inserts.any(removed) {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "a directory is filled and removed at once",
            ));
        }
        Ok(())
    }

    fn check_step(&self, transaction: TransactionId, step: &Step) -> Result<(), Failure> {
        match step {
            Step::InsertEntry {
                entry,
                inode: _,
                kind,
                expected,
                quota,
                policy,
            } => {
                self.check_entry_step(transaction, entry)?;
                self.check_quota_is(entry.directory, *quota)?;
                if let Some(policy) = policy {
                    self.check_policy_is(entry.directory, *policy)?;
                }
                self.check_expected(entry, *kind, *expected)
            }
            Step::ExchangeEntry {
                entry,
                expected,
                quota,
                ..
            } => {
                self.check_entry_step(transaction, entry)?;
                self.check_quota_is(entry.directory, *quota)?;
                match self.dentry(entry.directory, &entry.name) {
                    Some(found) if found.inode == *expected => Ok(()),
                    _ => Err(entry_changed()),
                }
            }
            Step::RemoveEntry { entry, inode } => {
                self.check_entry_step(transaction, entry)?;
                let found = self
                    .dentry(entry.directory, &entry.name)
                    .ok_or_else(no_such_entry)?;
                if found.inode == *inode {
                    Ok(())
                } else {
                    Err(entry_changed())
                }
            }
            Step::CreateDirectory {
                inode,
                attributes,
                quota,
                ..
            } => {
                check_new_inode(attributes)?;
                self.check_new_directory(*inode)?;
                self.check_birth(*quota)
            }
            Step::RemoveDirectory { inode } => {
                self.directory(*inode)?;
                if *inode == InodeId::ROOT {
                    return Err(Failure::refused(
                        Refusal::InvalidArgument,
                        "the root cannot be removed",
                    ));
                }
                self.check_empty(*inode)?;
                self.check_entries_held_by(*inode, Some(transaction))
            }
            Step::SetParent { inode, quota, .. } => {
                self.directory(*inode)?;
                self.check_quota_is(*inode, *quota)
            }
            Step::AddLinks {
                inode,
                count,
                added,
                removed,
                ..
            } => {
                let sum = i32::from(added.is_some()) - i32::from(removed.is_some());
                if sum != *count {
                    let sentence = "the count of links does not agree with the names";
                    return Err(Failure::refused(Refusal::InvalidArgument, sentence));
                }
                self.check_names(*inode, *added, *removed)
            }
            Step::HoldRenameLease if self.partition == InodeId::ROOT.home() => Ok(()),
            Step::HoldRenameLease => Err(Failure::refused(
                Refusal::InvalidArgument,
                "the rename lease is kept with the root",
            )),
            Step::KeySet { key, value } => check_key(key).and_then(|()| check_value(value)),
            Step::KeyDelete { key } => check_key(key),
        }
    }

    fn check_entry_step(&self, transaction: TransactionId, entry: &Entry) -> Result<(), Failure> {
        check_name(&entry.name)?;
        self.directory(entry.directory)?;
        self.check_held_by(&LockKey::Inode(entry.directory), Some(transaction))
    }

    fn check_expected(
        &self,
        entry: &Entry,
        kind: FileKind,
        expected: Option<InodeId>,
    ) -> Result<(), Failure> {
        match (self.dentry(entry.directory, &entry.name), expected) {
            (None, None) => self.check_room_for(entry.directory, &entry.name),
            (Some(found), Some(expected)) if found.inode == expected => check_kinds(kind, found.kind),
            // A name that was taken meanwhile, too: whether that refuses the operation is for its coordinator to say
            // when it looks again, for a rename may replace.
            _ => Err(entry_changed()),
        }
    }

    fn check_new_directory(&self, inode: InodeId) -> Result<(), Failure> {
        let counter = inode.0 & InodeId::COUNTER_MAX;
        if !is_at_home(inode, self.partition) || counter == 0 {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "not an inode of this partition",
            ));
        }
        // Below the counter are the numbers set aside for coordinators, each of which uses one once.
        let is_held = self.check_held_by(&LockKey::Inode(inode), None).is_err();
        if self.inodes.contains(&inode) || (counter < self.inode_counter_next && is_held) {
            return Err(Failure::refused(Refusal::Conflict, "the inode number is taken"));
        }
        let limit = self
            .inode_counter_next
            .max(self.applied)
            .saturating_add(INODE_COUNTER_SKIP_MAX);
        if counter > limit || counter == InodeId::COUNTER_MAX {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "the inode number is too far ahead",
            ));
        }
        Ok(())
    }

    /// Sees to it that nobody else gets the numbers of directories still to be born.
    pub(super) fn reserve_inodes(&mut self, steps: &[Step]) {
        for step in steps {
            if let Step::CreateDirectory { inode, .. } = step {
                self.reserve(*inode);
            }
        }
    }

    pub(super) fn apply_step(&mut self, step: &Step) {
        match step {
            Step::InsertEntry {
                entry, inode, kind, ..
            }
            | Step::ExchangeEntry {
                entry, inode, kind, ..
            } => {
                self.put_dentry(
                    entry.directory,
                    &entry.name,
                    Dentry {
                        inode: *inode,
                        kind: *kind,
                    },
                );
            }
            Step::RemoveEntry { entry, .. } => self.remove_dentry(entry.directory, &entry.name),
            Step::CreateDirectory {
                inode,
                parent,
                attributes,
                quota,
                born,
            } => {
                let body = Body::Directory {
                    parent: *parent,
                    children: 0,
                };
                self.put_under_quota(*inode, *quota);
                let policy = Policy::default();
                // The coordinator's clock may be ahead; times of an inode never go back.
                let born = self.time.min(*born);
                self.bear(*inode, Inode::new(attributes, policy, body, *inode, born));
                self.put_xattrs(*inode, &attributes.xattrs);
            }
            Step::RemoveDirectory { inode } => self.orphan_directory(*inode),
            Step::SetParent { inode, parent, .. } => {
                let time = self.time;
                self.change_inode(*inode, |row| {
                    if let Body::Directory { parent: old, .. } = &mut row.body {
                        *old = *parent;
                    }
                    row.changed = time;
                });
                self.note_move(*inode);
            }
            Step::AddLinks {
                inode,
                added,
                removed,
                quota,
                ..
            } => {
                if let Some(added) = added {
                    self.put_under_quota(*added, *quota);
                }
                self.change_names(*inode, *added, *removed);
            }
            Step::HoldRenameLease => {}
            Step::KeySet { key, value } => self.put_key(key, value.clone(), None),
            Step::KeyDelete { key } => self.drop_key(key),
        }
    }
}

fn entry_changed() -> Failure {
    Failure::refused(Refusal::Conflict, "the entry changed meanwhile")
}

row_struct!(Entry { directory, name });
row_struct!(NewInode {
    mode,
    owner,
    group,
    policy,
    xattrs
});
row_struct!(Xattr { name, value });

impl Row for Step {
    fn encode<S: Sink>(&self, sink: &mut S) {
        match self {
            Step::InsertEntry {
                entry,
                inode,
                kind,
                expected,
                quota,
                policy,
            } => {
                0u8.encode(sink);
                entry.encode(sink);
                inode.encode(sink);
                kind.encode(sink);
                expected.encode(sink);
                quota.encode(sink);
                policy.encode(sink);
            }
            Step::RemoveEntry { entry, inode } => {
                1u8.encode(sink);
                entry.encode(sink);
                inode.encode(sink);
            }
            Step::CreateDirectory {
                inode,
                parent,
                attributes,
                quota,
                born,
            } => {
                2u8.encode(sink);
                inode.encode(sink);
                parent.encode(sink);
                attributes.encode(sink);
                quota.encode(sink);
                born.encode(sink);
            }
            Step::RemoveDirectory { inode } => {
                3u8.encode(sink);
                inode.encode(sink);
            }
            Step::SetParent { inode, parent, quota } => {
                4u8.encode(sink);
                inode.encode(sink);
                parent.encode(sink);
                quota.encode(sink);
            }
            Step::AddLinks {
                inode,
                count,
                added,
                removed,
                quota,
            } => {
                5u8.encode(sink);
                inode.encode(sink);
                count.encode(sink);
                added.encode(sink);
                removed.encode(sink);
                quota.encode(sink);
            }
            Step::HoldRenameLease => 6u8.encode(sink),
            Step::KeySet { key, value } => {
                7u8.encode(sink);
                key.encode(sink);
                value.encode(sink);
            }
            Step::KeyDelete { key } => {
                8u8.encode(sink);
                key.encode(sink);
            }
            Step::ExchangeEntry {
                entry,
                inode,
                kind,
                expected,
                quota,
            } => {
                9u8.encode(sink);
                entry.encode(sink);
                inode.encode(sink);
                kind.encode(sink);
                expected.encode(sink);
                quota.encode(sink);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let tag = u8::decode(reader)?;
        Ok(match tag {
            0 => Step::InsertEntry {
                entry: Row::decode(reader)?,
                inode: Row::decode(reader)?,
                kind: Row::decode(reader)?,
                expected: Row::decode(reader)?,
                quota: Row::decode(reader)?,
                policy: Row::decode(reader)?,
            },
            1 => Step::RemoveEntry {
                entry: Row::decode(reader)?,
                inode: Row::decode(reader)?,
            },
            2 => Step::CreateDirectory {
                inode: Row::decode(reader)?,
                parent: Row::decode(reader)?,
                attributes: Row::decode(reader)?,
                quota: Row::decode(reader)?,
                born: Row::decode(reader)?,
            },
            3 => Step::RemoveDirectory {
                inode: Row::decode(reader)?,
            },
            4 => Step::SetParent {
                inode: Row::decode(reader)?,
                parent: Row::decode(reader)?,
                quota: Row::decode(reader)?,
            },
            5 => Step::AddLinks {
                inode: Row::decode(reader)?,
                count: Row::decode(reader)?,
                added: Row::decode(reader)?,
                removed: Row::decode(reader)?,
                quota: Row::decode(reader)?,
            },
            6 => Step::HoldRenameLease,
            7 => Step::KeySet {
                key: Row::decode(reader)?,
                value: Row::decode(reader)?,
            },
            8 => Step::KeyDelete {
                key: Row::decode(reader)?,
            },
            9 => Step::ExchangeEntry {
                entry: Row::decode(reader)?,
                inode: Row::decode(reader)?,
                kind: Row::decode(reader)?,
                expected: Row::decode(reader)?,
                quota: Row::decode(reader)?,
            },
            _ => return Err(Error::Corrupt("a step of unknown kind")),
        })
    }
}
