//! Changing a file in place: its attributes and its inline content.
//!
//! Invariants:
//! - Shrinking a file really drops what lay beyond: extending it again reads zeros.
//! - Whatever changes content raises `version` by one and moves `modified`; every change moves `changed`.

use bark_schema::ids::InodeId;
use bark_schema::limits::{FILE_SIZE_MAX, INLINE_SIZE_MAX};
use bark_schema::operation::{AttributeChange, Failure, Refusal, Reply, SetTime, UnixNanos};

use super::State;
use super::inode::{Body, mode_bits};
use super::policy::PolicyByte;

impl State {
    pub(super) fn set_attributes(
        &mut self,
        inode: InodeId,
        change: &AttributeChange,
    ) -> Result<Reply, Failure> {
        self.check_settled(inode)?;
        if !change.policy.is_empty() {
            change.policy.check()?;
            self.directory(inode)?;
            let policy = self.policy_of(inode)?.changed(&change.policy);
            if change.size.is_none() {
                self.change_inode(inode, |row| row.policy = PolicyByte::new(policy));
            }
        }
        if let Some(size) = change.size {
            self.regular(inode)?;
            if size > FILE_SIZE_MAX {
                return Err(Failure::refused(Refusal::FileTooLarge, "file is too large"));
            }
            self.shorten_in_part(inode, size)?;
            self.resize(inode, size);
        }
        self.change_attributes(inode, change);
        self.answer_attributes(inode)
    }

    /// Everything but the size and the policy.
    pub(super) fn change_attributes(&mut self, inode: InodeId, change: &AttributeChange) {
        let time = self.moment();
        self.change_inode(inode, |row| {
            row.mode = change.mode.map_or(row.mode, mode_bits);
            row.owner = change.owner.unwrap_or(row.owner);
            row.group = change.group.unwrap_or(row.group);
            row.accessed = time_after(change.accessed, row.accessed, time);
            row.modified = time_after(change.modified, row.modified, time);
            row.changed = time;
        });
        if let Some(mode) = change.mode {
            self.change_access_list(inode, mode);
        }
    }

    pub(super) fn resize(&mut self, inode: InodeId, size: u64) {
        let time = self.moment();
        self.cut_extents(inode, size, u64::MAX);
        self.settle_body(inode);
        self.set_size(inode, size);
        if let Some(Body::Inline(bytes)) = self.inodes.get(&inode).map(|row| &row.body)
            && bytes.len() as u64 > size
        {
            let kept = bytes[..size as usize].to_vec();
            self.set_inline(inode, kept);
        }
        self.change_inode(inode, |row| row.touch_content(time));
    }

    pub(super) fn write_inline(
        &mut self,
        inode: InodeId,
        offset: u64,
        data: &[u8],
        truncate: bool,
    ) -> Result<Reply, Failure> {
        let row = self.regular(inode)?;
        self.check_inode_unlocked(inode)?;
        let end = offset.saturating_add(data.len() as u64);
        if end > INLINE_SIZE_MAX as u64 {
            return Err(Failure::TooLargeForInline);
        }
        let (mut bytes, size) = match &row.body {
            _ if truncate => (Vec::new(), end),
            Body::Inline(bytes) => (bytes.to_vec(), row.size.max(end)),
            _ => return Err(Failure::TooLargeForInline),
        };
        if data.is_empty() && !truncate {
            return Ok(Reply::Attributes(row.attributes(inode)));
        }
        let (start, end) = (offset as usize, end as usize);
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(data);
        let stored = row.allocated();
        self.check_content_growth(inode, stored, bytes.len() as u64)?;
        if truncate {
            self.shorten_in_part(inode, 0)?;
        }
        self.clear_content(inode);
        self.set_inline(inode, bytes);
        self.set_size(inode, size);
        self.touch_content(inode)
    }
}

fn time_after(change: Option<SetTime>, old: UnixNanos, now: UnixNanos) -> UnixNanos {
    match change {
        None => old,
        Some(SetTime::Now) => now,
        Some(SetTime::At(time)) => time,
    }
}
