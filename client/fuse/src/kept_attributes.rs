//! Attributes of a file that were set here and that the cluster does not have yet.
//!
//! A program that makes a file sets its times, its owner and its mode one by one and then closes it. Each would
//! be a commit of its own; kept until the file is published, all of them travel with its bytes.
//!
//! Invariant: what is shown is what the cluster shows after it took them, in the order they were set.

use bark_schema::data::FileUpdate;
use bark_schema::operation::{AttributeChange, Attributes, SetTime, UnixNanos};

const SET_USER: u32 = libc::S_ISUID;
const SET_GROUP: u32 = libc::S_ISGID;
const GROUP_EXECUTE: u32 = libc::S_IXGRP;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct KeptAttributes {
    /// Without a size, and with times instead of "now".
    change: AttributeChange,
    /// The bits of a privileged program went before `change` set a mode.
    drops_privileges: bool,
    /// When the last of it was done.
    changed: Option<UnixNanos>,
}

/// What is left of the mode of a file when its owner changes or somebody without privileges writes to it.
pub(crate) fn without_privileges(mode: u32) -> u32 {
    match mode & GROUP_EXECUTE {
        0 => mode & !SET_USER,
        _ => mode & !(SET_USER | SET_GROUP),
    }
}

impl KeptAttributes {
    pub(crate) fn is_empty(&self) -> bool {
        *self == KeptAttributes::default()
    }

    /// Sets attributes, at the time `now`. A change of the owner drops the bits of a privileged program first.
    pub(crate) fn set(&mut self, change: &AttributeChange, drops_privileges: bool, now: UnixNanos) {
        debug_assert!(change.size.is_none());
        if drops_privileges {
            self.drop_privileges();
        }
        let at = |time| match time {
            SetTime::Now => SetTime::At(now),
            time => time,
        };
        if change.mode.is_some() {
            self.change.mode = change.mode;
        }
        self.change.owner = change.owner.or(self.change.owner);
        self.change.group = change.group.or(self.change.group);
        self.change.accessed = change.accessed.map(at).or(self.change.accessed);
        self.change.modified = change.modified.map(at).or(self.change.modified);
        self.changed = Some(now);
    }

    fn drop_privileges(&mut self) {
        match &mut self.change.mode {
            Some(mode) => *mode = without_privileges(*mode),
            None => self.drops_privileges = true,
        }
    }

    /// Bytes are written: the time that was set before is none any more, and a mode loses the bits of a privileged
    /// program if who wrote has no privileges.
    pub(crate) fn wrote(&mut self, is_privileged: bool) {
        self.change.modified = None;
        if !is_privileged {
            self.change.mode = self.change.mode.map(without_privileges);
        }
    }

    /// Puts what was set later on top.
    pub(crate) fn lay_over(&mut self, newer: &KeptAttributes) {
        if let Some(changed) = newer.changed {
            self.set(&newer.change, newer.drops_privileges, changed);
        }
    }

    pub(crate) fn show_in(&self, attributes: &mut Attributes) {
        if self.drops_privileges {
            attributes.mode = without_privileges(attributes.mode);
        }
        attributes.mode = self.change.mode.unwrap_or(attributes.mode);
        attributes.owner = self.change.owner.unwrap_or(attributes.owner);
        attributes.group = self.change.group.unwrap_or(attributes.group);
        if let Some(SetTime::At(time)) = self.change.accessed {
            attributes.accessed = time;
        }
        if let Some(SetTime::At(time)) = self.change.modified {
            attributes.modified = time;
        }
        if let Some(changed) = self.changed {
            attributes.changed = attributes.changed.max(changed);
        }
    }

    pub(crate) fn put_into(self, update: &mut FileUpdate) {
        update.change = self.change;
        update.drops_privileges |= self.drops_privileges;
        update.changed = update.changed.max(self.changed);
    }
}

#[cfg(test)]
mod tests {
    use bark_schema::ids::InodeId;
    use bark_schema::operation::FileKind;
    use bark_schema::policy::Policy;

    use super::*;

    fn attributes() -> Attributes {
        Attributes {
            inode: InodeId(9),
            kind: FileKind::Regular,
            mode: 0o6755,
            owner: 1,
            group: 2,
            size: 0,
            link_count: 1,
            accessed: 10,
            modified: 10,
            changed: 10,
            version: 1,
            device: 0,
            blocks: 0,
            policy: Policy::default(),
            xattr_count: 0,
        }
    }

    fn mode(mode: u32) -> AttributeChange {
        AttributeChange {
            mode: Some(mode),
            ..AttributeChange::default()
        }
    }

    fn owner(owner: u32) -> AttributeChange {
        AttributeChange {
            owner: Some(owner),
            ..AttributeChange::default()
        }
    }

    #[test]
    fn a_change_of_owner_takes_bits_that_were_set_before_it_only() {
        // Goal: the order in which a program sets owner and mode counts. Method: both orders, and the bits of the
        // file itself.
        let shown = |changes: &[(AttributeChange, bool)]| {
            let mut kept = KeptAttributes::default();
            for (change, drops) in changes {
                kept.set(change, *drops, 20);
            }
            let mut attributes = attributes();
            kept.show_in(&mut attributes);
            (attributes.mode, attributes.owner)
        };
        assert_eq!(shown(&[(owner(7), true)]), (0o755, 7));
        assert_eq!(shown(&[(owner(7), true), (mode(0o4711), false)]), (0o4711, 7));
        assert_eq!(shown(&[(mode(0o6711), false), (owner(7), true)]), (0o711, 7));
        assert_eq!(shown(&[(mode(0o2700), false), (owner(7), true)]), (0o2700, 7));
    }

    #[test]
    fn what_was_set_later_counts_when_both_are_put_together() {
        // Goal: a publication that failed loses nothing and undoes nothing. Method: an older and a newer one.
        let mut older = KeptAttributes::default();
        older.set(&mode(0o4700), false, 20);
        older.set(&owner(7), false, 21);
        let mut newer = KeptAttributes::default();
        newer.set(&owner(8), true, 30);
        older.lay_over(&newer);
        let mut attributes = attributes();
        older.show_in(&mut attributes);
        assert_eq!((attributes.mode, attributes.owner), (0o700, 8));
        assert_eq!((attributes.modified, attributes.changed), (10, 30));
    }

    #[test]
    fn now_is_the_moment_it_was_asked_for() {
        // Goal: the cluster gets the time that was shown here. Method: "now", then a write, then the update.
        let mut kept = KeptAttributes::default();
        let touch = AttributeChange {
            accessed: Some(SetTime::Now),
            modified: Some(SetTime::Now),
            ..AttributeChange::default()
        };
        kept.set(&touch, false, 40);
        kept.set(&mode(0o4755), false, 40);
        kept.wrote(false);
        let mut update = FileUpdate::of(InodeId(9));
        update.changed = Some(50);
        kept.put_into(&mut update);
        assert_eq!(update.change.accessed, Some(SetTime::At(40)));
        assert_eq!((update.change.modified, update.changed), (None, Some(50)));
        assert_eq!(update.change.mode, Some(0o755));
    }
}
