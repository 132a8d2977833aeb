//! All that a client kept of an inode for a while, in one entry: bytes or blocks, then attributes.
//!
//! A program that makes a file writes it, sets its times, its owner and its mode, and closes it. A mount keeps
//! all of that until the close, and it arrives here as one command. So the times of what was done are those the
//! mount showed meanwhile, as far as they can be true: not before the inode's last change and not after the entry.
//!
//! Invariants:
//! - The bytes are checked first; what follows them cannot fail, so an update is carried out whole or not at all.
//! - Times that a client claims never go behind the inode's last change, nor beyond the entry's.

use bark_schema::data::{FileUpdate, NewBytes};
use bark_schema::operation::{AttributeChange, Failure, FileKind, Refusal, Reply};

use super::State;

const SET_USER: u16 = 0o4000;
const SET_GROUP: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;

impl State {
    pub(super) fn update(&mut self, update: &FileUpdate) -> Result<Reply, Failure> {
        let FileUpdate {
            inode, ref change, ..
        } = *update;
        if change.size.is_some() || !change.policy.is_empty() {
            let sentence = "an update sets neither size nor policy: use setAttributes";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        let last_change = self.inode(inode)?.changed;
        self.check_settled(inode)?;
        match &update.bytes {
            NewBytes::Nothing => {}
            NewBytes::Pieces(pieces) => self.write_pieces(inode, pieces)?,
            NewBytes::Blocks { extents, size } => {
                self.publish(inode, extents, *size, false, None)?;
            }
        }
        let now = self.moment();
        let then = |claimed: Option<_>| claimed.map_or(now, |time| now.min(last_change.max(time)));
        let has_bytes = update.bytes != NewBytes::Nothing;
        self.change_inode(inode, |row| {
            if has_bytes {
                row.modified = then(update.written);
            }
            if update.drops_privileges && row.kind() != FileKind::Directory {
                row.mode = without_privileges(row.mode);
            }
        });
        if *change != AttributeChange::default() {
            self.change_attributes(inode, change);
        }
        self.change_inode(inode, |row| row.changed = then(update.changed));
        self.answer_attributes(inode)
    }
}

/// What is left of a mode when the owner or, by somebody without privileges, the content changes.
fn without_privileges(mode: u16) -> u16 {
    match mode & GROUP_EXECUTE {
        0 => mode & !SET_USER,
        _ => mode & !(SET_USER | SET_GROUP),
    }
}
