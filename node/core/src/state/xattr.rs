//! Extended attributes: names and small values that belong to an inode.
//!
//! They are rows of their own, since few inodes have any; the inode counts them. Access control lists are
//! among them: clients honour them, and what they inherit is in the command that creates an inode; here they
//! and the permission bits are kept equal.
//!
//! Invariants:
//! - The permission bits of an inode with an access list are those of the list. A list that says no more than
//!   the bits do is not kept.
//! - An inode counts its rows, and has at most XATTRS_MAX of them with XATTRS_SIZE_MAX bytes in all.
//! - Every row belongs to an inode that exists.

use bark_schema::access_list::{self, AccessList};
use bark_schema::ids::InodeId;
use bark_schema::limits::{XATTR_NAME_SIZE_MAX, XATTR_SIZE_MAX, XATTRS_MAX, XATTRS_SIZE_MAX};
use bark_schema::operation::{Condition, Failure, Refusal, Reply, Xattr};
use bytes::Bytes;

use super::State;
use super::inode::mode_bits;

/// The bits an access list shows in.
const PERMISSIONS: u32 = 0o777;

/// Inode and name.
pub(crate) type XattrKey = (InodeId, Box<[u8]>);

impl State {
    pub(super) fn xattr_set(
        &mut self,
        inode: InodeId,
        xattr: &Xattr,
        condition: Condition,
        mode: Option<u32>,
    ) -> Result<Reply, Failure> {
        check_xattr(xattr)?;
        let list = access_list(xattr)?;
        self.inode(inode)?;
        self.check_settled(inode)?;
        let old = self.xattrs.get(&(inode, Box::from(&xattr.name[..])));
        let old_size = old.map(|value| value.len());
        match (condition, old_size) {
            (Condition::Always, _) | (Condition::IfAbsent, None) | (Condition::IfPresent, Some(_)) => {}
            (Condition::IfAbsent, Some(_)) => {
                return Err(Failure::refused(Refusal::Exists, "the attribute exists"));
            }
            (Condition::IfPresent, None) => return Err(no_such_xattr()),
            (Condition::IfVersion(_), _) => {
                return Err(Failure::refused(
                    Refusal::InvalidArgument,
                    "extended attributes have no versions",
                ));
            }
        }
        let (count, size) = self.xattr_totals(inode);
        let added = match old_size {
            Some(old_size) => xattr.value.len().saturating_sub(old_size),
            None => xattr.name.len() + xattr.value.len(),
        };
        if (old_size.is_none() && count >= XATTRS_MAX) || (added > 0 && size + added > XATTRS_SIZE_MAX) {
            return Err(too_many());
        }
        match &list {
            Some(list) if list.is_minimal() => self.take_xattr(inode, &xattr.name),
            _ => {
                self.put_xattr(inode, xattr);
                true
            }
        };
        let time = self.moment();
        self.change_inode(inode, |row| {
            row.mode = mode.map_or(row.mode, mode_bits);
            if let Some(list) = &list {
                row.mode = row.mode & !mode_bits(PERMISSIONS) | mode_bits(list.permissions());
            }
            row.changed = time;
        });
        self.answer_attributes(inode)
    }

    /// The permission bits of an inode were changed, so its access list says the same.
    pub(super) fn change_access_list(&mut self, inode: InodeId, mode: u32) {
        if self.inodes.get(&inode).is_none_or(|row| row.xattr_count == 0) {
            return;
        }
        let key: XattrKey = (inode, Box::from(access_list::ACCESS));
        let list = self.xattrs.get(&key).and_then(|value| AccessList::parse(value));
        if let Some(list) = list {
            let value = list.with_permissions(mode).encode();
            self.xattrs.insert(key, Box::from(&value[..]));
        }
    }

    pub(super) fn xattr_remove(&mut self, inode: InodeId, name: &[u8]) -> Result<Reply, Failure> {
        self.inode(inode)?;
        self.check_settled(inode)?;
        if !self.take_xattr(inode, name) {
            return Err(no_such_xattr());
        }
        let time = self.moment();
        self.change_inode(inode, |row| row.changed = time);
        self.answer_attributes(inode)
    }

    /// Says whether there was one.
    fn take_xattr(&mut self, inode: InodeId, name: &[u8]) -> bool {
        let found = self.xattrs.remove(&(inode, Box::from(name))).is_some();
        if found {
            self.change_inode(inode, |row| row.xattr_count -= 1);
        }
        found
    }

    pub(super) fn xattr_get(&self, inode: InodeId, name: &[u8]) -> Result<Reply, Failure> {
        self.inode(inode)?;
        self.check_inode_unlocked(inode)?;
        let value = self.xattrs.get(&(inode, Box::from(name)));
        value
            .map(|value| Reply::Xattr(Bytes::copy_from_slice(value)))
            .ok_or_else(no_such_xattr)
    }

    pub(super) fn xattr_list(&self, inode: InodeId) -> Result<Reply, Failure> {
        self.inode(inode)?;
        self.check_inode_unlocked(inode)?;
        let names = self.xattrs_of(inode);
        Ok(Reply::Xattrs(
            names.map(|(name, _)| Bytes::copy_from_slice(name)).collect(),
        ))
    }

    /// What an inode is born with. Checked before with [`check_xattrs`].
    pub(super) fn put_xattrs(&mut self, inode: InodeId, xattrs: &[Xattr]) {
        for xattr in xattrs {
            self.put_xattr(inode, xattr);
        }
    }

    fn put_xattr(&mut self, inode: InodeId, xattr: &Xattr) {
        let key = (inode, Box::from(&xattr.name[..]));
        let is_new = !self.xattrs.contains(&key);
        self.xattrs.insert(key, Box::from(&xattr.value[..]));
        if is_new {
            self.change_inode(inode, |row| row.xattr_count += 1);
        }
    }

    pub(super) fn remove_xattrs(&mut self, inode: InodeId) {
        let names: Vec<Box<[u8]>> = self.xattrs_of(inode).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.xattrs.remove(&(inode, name));
        }
    }

    fn xattrs_of(&self, inode: InodeId) -> impl Iterator<Item = (&Box<[u8]>, &Box<[u8]>)> {
        let first: XattrKey = (inode, Box::default());
        self.xattrs
            .range(first..)
            .take_while(move |((of, _), _)| *of == inode)
            .map(|((_, name), value)| (name, value))
    }

    fn xattr_totals(&self, inode: InodeId) -> (usize, usize) {
        let rows = self.xattrs_of(inode);
        rows.fold((0, 0), |(count, size), (name, value)| {
            (count + 1, size + name.len() + value.len())
        })
    }
}

fn check_xattr(xattr: &Xattr) -> Result<(), Failure> {
    if xattr.name.is_empty() || xattr.name.len() > XATTR_NAME_SIZE_MAX || xattr.name.contains(&0) {
        return Err(Failure::refused(
            Refusal::Range,
            "not a name an extended attribute can have",
        ));
    }
    if xattr.value.len() > XATTR_SIZE_MAX {
        return Err(Failure::refused(
            Refusal::TooBig,
            "the value of an extended attribute is too large",
        ));
    }
    Ok(())
}

/// The access list an attribute is, if it is one. Default lists are checked as well.
fn access_list(xattr: &Xattr) -> Result<Option<AccessList>, Failure> {
    let is_access = xattr.name == access_list::ACCESS;
    if !is_access && xattr.name != access_list::DEFAULT {
        return Ok(None);
    }
    match AccessList::parse(&xattr.value) {
        Some(list) => Ok(is_access.then_some(list)),
        None => Err(Failure::refused(
            Refusal::InvalidArgument,
            "not an access control list",
        )),
    }
}

/// What an inode may be born with: sound, each name once, and not too many. An access list says what the
/// permission bits do.
pub(super) fn check_xattrs(xattrs: &[Xattr], mode: u32) -> Result<(), Failure> {
    if xattrs.is_empty() {
        return Ok(());
    }
    for xattr in xattrs {
        check_xattr(xattr)?;
        let list = access_list(xattr)?;
        if list.is_some_and(|list| list.is_minimal() || list.permissions() != mode & PERMISSIONS) {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "the access control list and the permission bits differ",
            ));
        }
    }
    let sizes = xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
    if xattrs.len() > XATTRS_MAX || sizes.sum::<usize>() > XATTRS_SIZE_MAX {
        return Err(too_many());
    }
    let mut names: Vec<&Bytes> = xattrs.iter().map(|xattr| &xattr.name).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Failure::refused(
            Refusal::InvalidArgument,
            "an extended attribute is named twice",
        ));
    }
    Ok(())
}

fn no_such_xattr() -> Failure {
    Failure::refused(Refusal::NoData, "no such extended attribute")
}

fn too_many() -> Failure {
    Failure::refused(
        Refusal::NoSpace,
        "the inode has no room for the extended attribute",
    )
}
