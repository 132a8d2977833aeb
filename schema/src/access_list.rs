//! POSIX access control lists, as Linux keeps them in the extended attributes [`ACCESS`] and [`DEFAULT`].
//!
//! The permission bits of an inode are a view of its access list: owner and others are entries of it, and the
//! group bits are its mask (without a mask: its group). So whoever changes one changes the other.
//!
//! Invariants of a list: one entry each for owner, group and others; a mask if any user or group is named.
//!
//! Format, little-endian: version 2 (u32), then for each entry its tag (u16), permissions (u16) and id (u32; all
//! ones for entries without a name), in the order of the tags.

use bytes::{BufMut, Bytes, BytesMut};

/// What the inode allows to whom.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// What a directory gives to the inodes born in it.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_SIZE: usize = 4;
const ENTRY_SIZE: usize = 8;
const NOBODY: u32 = u32::MAX;
const PERMISSIONS: u32 = 0o7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Owner,
    User(u32),
    Group,
    NamedGroup(u32),
    Mask,
    Others,
}

impl Tag {
    fn from_parts(tag: u16, id: u32) -> Option<Tag> {
        match (tag, id) {
            (0x01, _) => Some(Tag::Owner),
            (0x02, id) if id != NOBODY => Some(Tag::User(id)),
            (0x04, _) => Some(Tag::Group),
            (0x08, id) if id != NOBODY => Some(Tag::NamedGroup(id)),
            (0x10, _) => Some(Tag::Mask),
            (0x20, _) => Some(Tag::Others),
            _ => None,
        }
    }

    /// The kernel asks for the order of tags, not for one among the users or groups that are named.
    fn follows(self, before: Tag) -> bool {
        let (tag, before) = (self.parts().0, before.parts().0);
        match self {
            Tag::User(_) | Tag::NamedGroup(_) => before <= tag,
            _ => before < tag,
        }
    }

    fn parts(self) -> (u16, u32) {
        match self {
            Tag::Owner => (0x01, NOBODY),
            Tag::User(id) => (0x02, id),
            Tag::Group => (0x04, NOBODY),
            Tag::NamedGroup(id) => (0x08, id),
            Tag::Mask => (0x10, NOBODY),
            Tag::Others => (0x20, NOBODY),
        }
    }
}

/// A sound access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList {
    entries: Vec<(Tag, u32)>,
}

impl AccessList {
    /// None if the bytes are no sound list.
    pub fn parse(bytes: &[u8]) -> Option<AccessList> {
        let (version, rest) = bytes.split_at_checked(HEADER_SIZE)?;
        if version != VERSION.to_le_bytes() || !rest.len().is_multiple_of(ENTRY_SIZE) {
            return None;
        }
        let mut entries = Vec::with_capacity(rest.len() / ENTRY_SIZE);
        for entry in rest.chunks_exact(ENTRY_SIZE) {
            let [a, b, c, d, id @ ..] = *entry.first_chunk::<ENTRY_SIZE>()?;
            let tag = Tag::from_parts(u16::from_le_bytes([a, b]), u32::from_le_bytes(id))?;
            let permissions = u32::from(u16::from_le_bytes([c, d]));
            let follows = entries.last().is_none_or(|(before, _)| tag.follows(*before));
            if permissions > PERMISSIONS || !follows {
                return None;
            }
            entries.push((tag, permissions));
        }
        let list = AccessList { entries };
        let whole = [Tag::Owner, Tag::Group, Tag::Others];
        let sound = whole.iter().all(|tag| list.get(*tag).is_some())
            && (list.get(Tag::Mask).is_some() || list.entries.len() == whole.len());
        sound.then_some(list)
    }

    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_SIZE + ENTRY_SIZE * self.entries.len());
        bytes.put_u32_le(VERSION);
        for (tag, permissions) in &self.entries {
            let (tag, id) = tag.parts();
            bytes.put_u16_le(tag);
            bytes.put_u16_le(*permissions as u16);
            bytes.put_u32_le(id);
        }
        bytes.freeze()
    }

    /// It says no more than permission bits do.
    pub fn is_minimal(&self) -> bool {
        self.entries.len() == 3
    }

    /// The nine permission bits of an inode with this access list.
    pub fn permissions(&self) -> u32 {
        let of = |tag| self.get(tag).unwrap_or(0);
        of(Tag::Owner) << 6 | of(self.group_class()) << 3 | of(Tag::Others)
    }

    /// The list after a chmod to `mode`.
    pub fn with_permissions(mut self, mode: u32) -> AccessList {
        let group_class = self.group_class();
        for (tag, permissions) in &mut self.entries {
            match *tag {
                Tag::Owner => *permissions = mode >> 6 & PERMISSIONS,
                Tag::Others => *permissions = mode & PERMISSIONS,
                tag if tag == group_class => *permissions = mode >> 3 & PERMISSIONS,
                _ => {}
            }
        }
        self
    }

    /// The access list of an inode that a program makes with `mode` where this is the default list: no more is
    /// allowed than the program asked for, and the umask does not count.
    pub fn inherited(&self, mode: u32) -> AccessList {
        self.clone().with_permissions(self.permissions() & mode)
    }

    fn group_class(&self) -> Tag {
        match self.get(Tag::Mask) {
            Some(_) => Tag::Mask,
            None => Tag::Group,
        }
    }

    fn get(&self, wanted: Tag) -> Option<u32> {
        let entry = self.entries.iter().find(|(tag, _)| *tag == wanted);
        entry.map(|(_, permissions)| *permissions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(Tag, u32)]) -> AccessList {
        let list = AccessList {
            entries: entries.to_vec(),
        };
        assert_eq!(AccessList::parse(&list.encode()), Some(list.clone()));
        list
    }

    fn named() -> AccessList {
        list(&[
            (Tag::Owner, 7),
            (Tag::User(5), 6),
            (Tag::User(1000), 7),
            (Tag::Group, 5),
            (Tag::NamedGroup(4), 1),
            (Tag::Mask, 6),
            (Tag::Others, 0),
        ])
    }

    #[test]
    fn permission_bits_show_the_mask() {
        // Goal: the bits and the list stay one thing through chmod. Method: both ways, with and without a mask.
        assert_eq!(named().permissions(), 0o760);
        let changed = named().with_permissions(0o4614);
        assert_eq!(changed.permissions(), 0o614);
        assert_eq!(
            (changed.get(Tag::Mask), changed.get(Tag::Group)),
            (Some(1), Some(5))
        );
        let minimal = list(&[(Tag::Owner, 6), (Tag::Group, 4), (Tag::Others, 4)]);
        assert!(minimal.is_minimal() && !named().is_minimal());
        assert_eq!(minimal.permissions(), 0o644);
        assert_eq!(minimal.with_permissions(0o750).permissions(), 0o750);
    }

    #[test]
    fn an_inode_inherits_no_more_than_was_asked_for() {
        // Goal: the rule of acl(5), "object creation and default ACLs". Method: its three classes.
        let inherited = named().inherited(0o100644);
        assert_eq!(inherited.permissions(), 0o640);
        assert_eq!(inherited.get(Tag::User(1000)), Some(7));
        assert_eq!(named().inherited(0o777).permissions(), 0o760);
    }

    #[test]
    fn bytes_that_are_no_list_are_refused() {
        // Goal: nothing from outside is taken for a list. Method: damage a sound one in each way.
        let sound = named().encode();
        for length in 0..sound.len() {
            assert_eq!(AccessList::parse(&sound[..length]), None, "{length} bytes");
        }
        let damaged = |at: usize, byte: u8| {
            let mut bytes = sound.to_vec();
            bytes[at] = byte;
            AccessList::parse(&bytes)
        };
        assert_eq!(damaged(0, 3), None);
        assert_eq!(damaged(4, 0x40), None);
        assert_eq!(damaged(6, 8), None);
        // The group twice.
        assert_eq!(damaged(4 + 4 * 8, 4), None);
        let without_mask: Vec<u8> = [&sound[..4 + 5 * 8], &sound[4 + 6 * 8..]].concat();
        assert_eq!(AccessList::parse(&without_mask), None);
        assert_eq!(AccessList::parse(&VERSION.to_le_bytes()), None);
    }
}
