//! Deciding what becomes of names and files in directories this mount has for itself.
//!
//! Each function decides one kind of change, or says that it cannot (`None`): then the cluster is asked. What it shows
//! of times, sizes and modes is what the cluster will make of the command, by the rules of its state; where those
//! depend on what is not known here (how many units a file takes) the answer puts it right a moment later.

use std::sync::Arc;

use bark_schema::data::{DataCommand, FileUpdate, NewBytes, NewPiece};
use bark_schema::ids::InodeId;
use bark_schema::limits::INLINE_SIZE_MAX;
use bark_schema::operation::{
    Attributes, Command, Entry, Failure, FileKind, NewContent, NewInode, Refusal, RenameMode, SetTime,
    UnixNanos,
};

use super::line::{Change, Haste, Ticket};
use super::read::is_decided_here;
use super::take::CHANGE;
use super::{Delegations, Name, Table, now};
use crate::kept_attributes::without_privileges;

/// The unit of `Attributes::blocks`.
const BLOCK_UNIT: u64 = 512;
/// What a change takes on its way beside its names and bytes.
const CHANGE_SIZE: usize = 256;

/// Decided: what the program is told, and what to wait for before.
type Decided<T> = Option<(Result<T, Failure>, Option<Ticket>)>;

impl Delegations {
    /// A new file, symbolic link or special file. Says whether it is new.
    pub(crate) async fn create(
        self: &Arc<Self>,
        entry: &Entry,
        new: &NewInode,
        content: &NewContent,
        exclusive: bool,
    ) -> Option<Result<(Attributes, bool), Failure>> {
        let decided = self.decide_create(entry, new, content, exclusive);
        self.finish(entry.directory, decided).await
    }

    pub(crate) async fn unlink(self: &Arc<Self>, entry: &Entry) -> Option<Result<(), Failure>> {
        let decided = self.decide_unlink(entry);
        self.finish(entry.directory, decided).await
    }

    pub(crate) async fn rename(
        self: &Arc<Self>,
        from: &Entry,
        to: &Entry,
        mode: RenameMode,
    ) -> Option<Result<(), Failure>> {
        let decided = self.decide_rename(from, to, mode);
        self.finish(from.directory, decided).await
    }

    /// New bytes and attributes of a file, or attributes of a directory.
    pub(crate) async fn update(
        self: &Arc<Self>,
        update: &FileUpdate,
        haste: Haste,
    ) -> Option<Result<Attributes, Failure>> {
        let (ticket, attributes) = self.decide_update(update, haste)?;
        self.wait_for(ticket).await;
        Some(Ok(attributes))
    }

    async fn finish<T>(
        self: &Arc<Self>,
        directory: InodeId,
        decided: Decided<T>,
    ) -> Option<Result<T, Failure>> {
        let Some((result, ticket)) = decided else {
            self.note_interest(directory, CHANGE);
            return None;
        };
        self.wait_for(ticket).await;
        Some(result)
    }

    fn decide_create(
        &self,
        entry: &Entry,
        new: &NewInode,
        content: &NewContent,
        exclusive: bool,
    ) -> Decided<(Attributes, bool)> {
        let mut table = self.lock();
        let directory = table.ready(entry.directory)?;
        match directory.name(&entry.name) {
            Name::Nothing => {}
            Name::Member(_) | Name::Elsewhere(..) if exclusive => {
                return Some((Err(Failure::refused(Refusal::Exists, "file exists")), None));
            }
            _ => return None,
        }
        let parent = directory.attributes.as_ref()?;
        let time = now().max(parent.changed);
        let policy = parent.policy.changed(&new.policy);
        let line = table.lines.get_mut(&entry.directory.home())?;
        if !line.has_room() {
            return None;
        }
        let inode = line.take_number(entry.directory.home())?;
        let (kind, size, device) = match content {
            NewContent::Inline(bytes) => (FileKind::Regular, bytes.len() as u64, 0),
            NewContent::Symlink(target) => (FileKind::Symlink, target.len() as u64, 0),
            NewContent::Special { kind, device } => (*kind, 0, *device),
        };
        let attributes = Attributes {
            inode,
            kind,
            mode: new.mode & 0o7777,
            owner: new.owner,
            group: new.group,
            size,
            link_count: 1,
            accessed: time,
            modified: time,
            changed: time,
            version: 1,
            device,
            blocks: size.div_ceil(BLOCK_UNIT),
            policy,
            xattr_count: new.xattrs.len() as u32,
        };
        let known = table.add(entry.directory, &attributes);
        table.note_unlocked_elsewhere(known);
        let directory = table.directories.get_mut(&entry.directory)?;
        directory.set(entry.name.clone(), known);
        directory.touch(time);
        let change = Change {
            partition: entry.directory.home(),
            time,
            number: Some(inode),
            command: Command::Create {
                directory: entry.directory,
                name: entry.name.clone(),
                attributes: new.clone(),
                content: content.clone(),
                exclusive: true,
            },
            haste: Haste::Relaxed,
            member: Some(inode),
            directories: vec![entry.directory],
        };
        let ticket = self.send(&mut table, change, CHANGE_SIZE + size as usize);
        Some((Ok((attributes, true)), ticket))
    }

    fn decide_unlink(&self, entry: &Entry) -> Decided<()> {
        let mut table = self.lock();
        let directory = table.ready(entry.directory)?;
        let inode = match directory.name(&entry.name) {
            Name::Nothing => return Some((Err(no_such_entry()), None)),
            Name::Member(inode) => inode,
            Name::Elsewhere(..) | Name::Unknown { .. } => return None,
        };
        let parent_changed = directory.attributes.as_ref()?.changed;
        let time = now().max(parent_changed).max(table.changed(inode)?);
        if !table.lines.get(&entry.directory.home())?.has_room() {
            return None;
        }
        table.files.remove(&inode);
        let directory = table.directories.get_mut(&entry.directory)?;
        directory.set(entry.name.clone(), Name::Nothing);
        directory.touch(time);
        let change = Change {
            partition: entry.directory.home(),
            time,
            number: None,
            command: Command::Unlink {
                directory: entry.directory,
                name: entry.name.clone(),
            },
            haste: Haste::Relaxed,
            member: None,
            directories: vec![entry.directory],
        };
        let ticket = self.send(&mut table, change, CHANGE_SIZE);
        Some((Ok(()), ticket))
    }

    fn decide_rename(&self, from: &Entry, to: &Entry, mode: RenameMode) -> Decided<()> {
        let partition = from.directory.home();
        if mode == RenameMode::Exchange || to.directory.home() != partition {
            return None;
        }
        let mut table = self.lock();
        let target = table.ready(to.directory)?.name(&to.name);
        let to_changed = table.ready(to.directory)?.attributes.as_ref()?.changed;
        let source = table.ready(from.directory)?;
        let from_changed = source.attributes.as_ref()?.changed;
        let inode = match source.name(&from.name) {
            Name::Nothing => return Some((Err(no_such_entry()), None)),
            Name::Member(inode) => inode,
            Name::Elsewhere(..) | Name::Unknown { .. } => return None,
        };
        let replaced = match (target, mode) {
            (Name::Nothing, _) => None,
            (Name::Member(_) | Name::Elsewhere(..), RenameMode::NoReplace) => {
                return Some((Err(Failure::refused(Refusal::Exists, "file exists")), None));
            }
            (Name::Member(target), _) if target == inode => return Some((Ok(()), None)),
            (Name::Member(target), _) => Some(target),
            (Name::Elsewhere(..) | Name::Unknown { .. }, _) => return None,
        };
        let mut time = now().max(from_changed).max(to_changed).max(table.changed(inode)?);
        if let Some(replaced) = replaced {
            time = time.max(table.changed(replaced)?);
        }
        if !table.lines.get(&partition)?.has_room() {
            return None;
        }
        if let Some(replaced) = replaced {
            table.files.remove(&replaced);
        }
        let member = table.files.get_mut(&inode)?;
        member.directory = to.directory;
        if let Some(attributes) = &mut member.attributes {
            attributes.changed = time;
        }
        let directory = table.directories.get_mut(&from.directory)?;
        directory.set(from.name.clone(), Name::Nothing);
        directory.touch(time);
        let directory = table.directories.get_mut(&to.directory)?;
        directory.set(to.name.clone(), Name::Member(inode));
        directory.touch(time);
        let change = Change {
            partition,
            time,
            number: None,
            command: Command::Rename {
                from: from.clone(),
                to: to.clone(),
                mode,
            },
            haste: Haste::Relaxed,
            member: Some(inode),
            directories: vec![from.directory, to.directory],
        };
        let ticket = self.send(&mut table, change, CHANGE_SIZE);
        Some((Ok(()), ticket))
    }

    fn decide_update(&self, update: &FileUpdate, haste: Haste) -> Option<(Option<Ticket>, Attributes)> {
        let mut table = self.lock();
        let is_directory = table.directories.contains_key(&update.inode);
        let covering = match is_directory {
            true => update.inode,
            false => table.files.get(&update.inode)?.directory,
        };
        table.ready(covering)?;
        let partition = update.inode.home();
        if !table.lines.get(&partition)?.has_room() {
            return None;
        }
        let attributes = match is_directory {
            true => &mut table.directories.get_mut(&update.inode)?.attributes,
            false => &mut table.files.get_mut(&update.inode)?.attributes,
        };
        let attributes = attributes.as_mut()?;
        let time = now().max(attributes.changed);
        update_attributes(attributes, update, time);
        let attributes = attributes.clone();
        if let NewBytes::Pieces(pieces) = &update.bytes
            && let [NewPiece { offset: 0, data }] = &pieces[..]
            && attributes.size == data.len() as u64
        {
            // The kernel keeps whole pages of what is written; what is in the last one it asks for.
            table.kept.add(update.inode, attributes.version, data);
        }
        let size = match &update.bytes {
            NewBytes::Nothing => 0,
            NewBytes::Pieces(pieces) => pieces.iter().map(|piece| piece.data.len()).sum(),
            NewBytes::Blocks { extents, .. } => size_of_val(&extents[..]),
        };
        let change = Change {
            partition,
            time,
            number: None,
            command: Command::Data(DataCommand::Update(Box::new(update.clone()))),
            haste,
            member: (!is_directory).then_some(update.inode),
            directories: Vec::from_iter(is_directory.then_some(update.inode)),
        };
        let ticket = self.send(&mut table, change, CHANGE_SIZE + size);
        Some((ticket, attributes))
    }
}

impl Table {
    /// When a file was changed last, if it is known and may be decided on.
    fn changed(&self, inode: InodeId) -> Option<UnixNanos> {
        let attributes = self.files.get(&inode)?.attributes.as_ref()?;
        is_decided_here(attributes).then_some(attributes.changed)
    }
}

/// What the state makes of attributes by an update at that time.
fn update_attributes(attributes: &mut Attributes, update: &FileUpdate, time: UnixNanos) {
    let last_change = attributes.changed;
    let then =
        |claimed: Option<UnixNanos>| claimed.map_or(time, |claimed| time.min(last_change.max(claimed)));
    let units = |bytes: u64| bytes.div_ceil(BLOCK_UNIT);
    let old_size = attributes.size;
    match &update.bytes {
        NewBytes::Nothing => {}
        NewBytes::Pieces(pieces) => {
            let end = pieces.last().and_then(NewPiece::end).unwrap_or_default();
            let bytes: usize = pieces.iter().map(|piece| piece.data.len()).sum();
            attributes.size = old_size.max(end);
            let whole = units(attributes.size);
            attributes.blocks = match attributes.size <= INLINE_SIZE_MAX as u64 {
                true => whole,
                false => whole
                    .max(attributes.blocks)
                    .min(attributes.blocks + units(bytes as u64)),
            };
        }
        NewBytes::Blocks { extents, size } => {
            attributes.size = old_size.max(*size);
            let bytes: u64 = extents.iter().map(|extent| u64::from(extent.length)).sum();
            let whole = units(attributes.size).max(attributes.blocks);
            attributes.blocks = whole.min(attributes.blocks + units(bytes));
        }
    }
    attributes.version += match &update.bytes {
        NewBytes::Nothing => 0,
        NewBytes::Pieces(pieces) => pieces.len() as u64,
        NewBytes::Blocks { .. } => 1,
    };
    if update.bytes != NewBytes::Nothing {
        attributes.modified = then(update.written);
    }
    if update.drops_privileges && attributes.kind != FileKind::Directory {
        attributes.mode = without_privileges(attributes.mode);
    }
    let change = &update.change;
    attributes.mode = change.mode.map_or(attributes.mode, |mode| mode & 0o7777);
    attributes.owner = change.owner.unwrap_or(attributes.owner);
    attributes.group = change.group.unwrap_or(attributes.group);
    let set = |change: Option<SetTime>, old| match change {
        None => old,
        Some(SetTime::Now) => time,
        Some(SetTime::At(at)) => at,
    };
    attributes.accessed = set(change.accessed, attributes.accessed);
    attributes.modified = set(change.modified, attributes.modified);
    attributes.changed = then(update.changed);
}

fn no_such_entry() -> Failure {
    Failure::refused(Refusal::NotFound, "no such file or directory")
}
