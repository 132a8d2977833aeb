//! Doing what was done, and putting aside what may have been.

use bark_client::session::Call;
use bark_schema::access_time::Access;
use bark_schema::ids::InodeId;
use bark_schema::operation::{
    AttributeChange, Attributes, Command, Entry, FileKind, Namespace, NewContent, NewInode, RenameMode,
    Reply, SetTime,
};
use bytes::Bytes;

use super::{Body, Inode, Reference};

impl Reference {
    /// Does what `call` did. Errors: what its answer contradicts.
    pub fn carry_out(&mut self, call: &Call, reply: &Reply) -> Result<(), String> {
        match call {
            Call::Namespace(operation) => self.carry_out_operation(operation, reply),
            Call::Command { command, .. } => self.carry_out_command(command, reply),
            _ => Ok(()),
        }
    }

    fn carry_out_operation(&mut self, operation: &Namespace, reply: &Reply) -> Result<(), String> {
        match (operation, reply) {
            (
                Namespace::MakeDirectory {
                    directory,
                    name,
                    attributes,
                },
                Reply::Created {
                    attributes: seen,
                    created: true,
                },
            ) => {
                let body = Body::empty_directory(*directory);
                let inode = Inode::new(FileKind::Directory, attributes, self.policy(*directory), 0, body);
                self.bear(*directory, name, inode, seen.inode)
            }
            (
                Namespace::RemoveDirectory { directory, name } | Namespace::Unlink { directory, name },
                Reply::Done,
            ) => {
                if let Some(inode) = self.leave(*directory, name) {
                    self.drop_link(inode);
                }
                Ok(())
            }
            (Namespace::Rename { from, to, mode }, Reply::Done) => {
                self.rename(from, to, *mode);
                Ok(())
            }
            (Namespace::Link { inode, to }, Reply::Done | Reply::Attributes(_)) => {
                self.enter(to.directory, &to.name, *inode);
                if let Some(inode) = self.inodes.get_mut(inode) {
                    inode.links += 1;
                }
                self.agree_if_told(reply)
            }
            (_, other) => Err(format!("was answered {other:?}")),
        }
    }

    fn carry_out_command(&mut self, command: &Command, reply: &Reply) -> Result<(), String> {
        match (command, reply) {
            (
                Command::Create {
                    directory,
                    name,
                    attributes,
                    content,
                    ..
                },
                Reply::Created {
                    attributes: seen,
                    created,
                },
            ) => self.create((*directory, name), attributes, content, (seen, *created)),
            (Command::SetAttributes { inode, change }, Reply::Attributes(seen)) => {
                self.set_attributes(*inode, change, seen)
            }
            (
                Command::XattrSet {
                    inode, xattr, mode, ..
                },
                Reply::Attributes(_),
            ) => {
                if let Some(inode) = self.inodes.get_mut(inode) {
                    inode.xattrs.insert(xattr.name.clone(), xattr.value.clone());
                    inode.mode = mode.map_or(inode.mode, |mode| mode & 0o7777);
                }
                self.agree_if_told(reply)
            }
            (Command::XattrRemove { inode, name }, Reply::Attributes(_)) => {
                if let Some(inode) = self.inodes.get_mut(inode) {
                    inode.xattrs.remove(name);
                }
                self.agree_if_told(reply)
            }
            (Command::MoveAccessTimes { accesses }, Reply::Done) => {
                self.were_read(accesses);
                Ok(())
            }
            (_, other) => Err(format!("was answered {other:?}")),
        }
    }

    /// Whether a time moved depends on others that are not all known; nothing but it may move.
    fn were_read(&mut self, accesses: &[Access]) {
        for access in accesses {
            if let Some(inode) = self.inodes.get_mut(&access.inode) {
                inode.accessed = None;
            }
        }
    }

    fn agree_if_told(&mut self, reply: &Reply) -> Result<(), String> {
        match reply {
            Reply::Attributes(seen) => self.agree(seen),
            _ => Ok(()),
        }
    }

    fn create(
        &mut self,
        (directory, name): (InodeId, &Bytes),
        new: &NewInode,
        content: &NewContent,
        (seen, created): (&Attributes, bool),
    ) -> Result<(), String> {
        let entry = Entry {
            directory,
            name: name.clone(),
        };
        if let Some(Some(known)) = self.entry(&entry) {
            if created || known != seen.inode {
                return Err(format!("opened {} (made: {created}), not {known}", seen.inode));
            }
            return self.agree(seen);
        }
        if !created {
            return Err(format!("opened {} under a name nothing has", seen.inode));
        }
        let (kind, device, body) = match content {
            NewContent::Inline(bytes) => {
                let content = bytes.to_vec();
                let in_blocks = false;
                (FileKind::Regular, 0, Body::File { content, in_blocks })
            }
            NewContent::Symlink(target) => (FileKind::Symlink, 0, Body::Symlink(target.clone())),
            NewContent::Special { kind, device } => {
                let has_number = matches!(kind, FileKind::CharacterDevice | FileKind::BlockDevice);
                (*kind, if has_number { *device } else { 0 }, Body::Special)
            }
        };
        let inode = Inode::new(kind, new, self.policy(directory), device, body);
        self.bear(directory, name, inode, seen.inode)?;
        self.agree(seen)
    }

    fn bear(&mut self, directory: InodeId, name: &Bytes, inode: Inode, id: InodeId) -> Result<(), String> {
        if !self.born.insert(id) {
            return Err(format!("{id} was given a second time"));
        }
        self.inodes.insert(id, inode);
        self.enter(directory, name, id);
        Ok(())
    }

    fn enter(&mut self, directory: InodeId, name: &Bytes, inode: InodeId) {
        let Some(directory) = self.inodes.get_mut(&directory) else {
            return;
        };
        directory.forget_times();
        if let Body::Directory { entries, .. } = &mut directory.body {
            entries.insert(name.clone(), inode);
        }
    }

    /// Takes a name away; answers what it led to.
    fn leave(&mut self, directory: InodeId, name: &Bytes) -> Option<InodeId> {
        let directory = self.inodes.get_mut(&directory)?;
        directory.forget_times();
        match &mut directory.body {
            Body::Directory { entries, .. } => entries.remove(name),
            _ => None,
        }
    }

    /// One name less for a file; a directory has no other.
    fn drop_link(&mut self, id: InodeId) {
        let Some(inode) = self.inodes.get_mut(&id) else {
            return;
        };
        inode.links = inode.links.saturating_sub(1);
        if (inode.links == 0 && inode.is_sure) || inode.kind == FileKind::Directory {
            self.inodes.remove(&id);
        }
    }

    fn rename(&mut self, from: &Entry, to: &Entry, mode: RenameMode) {
        let (source, target) = (self.entry(from).flatten(), self.entry(to).flatten());
        let Some(source) = source.filter(|_| source != target) else {
            return;
        };
        self.leave(from.directory, &from.name);
        if let Some(target) = target {
            self.leave(to.directory, &to.name);
            match mode {
                RenameMode::Exchange => self.place(from, target),
                _ => self.drop_link(target),
            }
        }
        self.place(to, source);
    }

    fn place(&mut self, at: &Entry, inode: InodeId) {
        self.enter(at.directory, &at.name, inode);
        if let Some(Body::Directory { parent, .. }) = self.inodes.get_mut(&inode).map(|inode| &mut inode.body)
        {
            *parent = at.directory;
        }
    }

    fn set_attributes(
        &mut self,
        id: InodeId,
        change: &AttributeChange,
        seen: &Attributes,
    ) -> Result<(), String> {
        let Some(inode) = self.inodes.get_mut(&id) else {
            return Ok(());
        };
        if let (Some(size), Body::File { content, .. }) = (change.size, &mut inode.body) {
            content.resize(size as usize, 0);
            inode.touch_content();
        }
        inode.mode = change.mode.map_or(inode.mode, |mode| mode & 0o7777);
        inode.owner = change.owner.unwrap_or(inode.owner);
        inode.group = change.group.unwrap_or(inode.group);
        inode.policy = inode.policy.map(|policy| policy.changed(&change.policy));
        let moved_now = change.size.is_some().then_some(SetTime::Now);
        let times = [
            (&mut inode.accessed, change.accessed),
            (&mut inode.modified, change.modified.or(moved_now)),
        ];
        for (known, set) in times {
            *known = match set {
                None => *known,
                Some(SetTime::At(time)) => Some(time),
                // The entry's time is that of the change.
                Some(SetTime::Now) => Some(seen.changed),
            };
        }
        self.agree(seen)
    }

    /// Forgets what a call of unknown outcome may have changed.
    pub fn doubt(&mut self, call: &Call) {
        match call {
            Call::Namespace(operation) => match operation {
                Namespace::MakeDirectory { directory, name, .. }
                | Namespace::RemoveDirectory { directory, name }
                | Namespace::Unlink { directory, name } => self.doubt_name(*directory, name),
                Namespace::Rename { from, to, .. } => {
                    self.doubt_name(from.directory, &from.name);
                    self.doubt_name(to.directory, &to.name);
                }
                Namespace::Link { inode, to } => {
                    self.doubt_name(to.directory, &to.name);
                    // A directory gets no second name, whatever else is not known.
                    if !self.is_directory(*inode) {
                        self.doubt_inode(*inode);
                    }
                }
                Namespace::KeySetMany { .. } | Namespace::KeyDeleteMany { .. } => {}
            },
            Call::Command { command, .. } => match command {
                Command::Create { directory, name, .. } => self.doubt_name(*directory, name),
                Command::MoveAccessTimes { accesses } => {
                    for access in accesses {
                        if let Some(inode) = self.inodes.get_mut(&access.inode) {
                            inode.is_sure = false;
                        }
                    }
                }
                Command::SetAttributes { inode, .. }
                | Command::XattrSet { inode, .. }
                | Command::XattrRemove { inode, .. } => {
                    if let Some(inode) = self.inodes.get_mut(inode) {
                        inode.is_sure = false;
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// Nothing is foretold about this name any more, nor about what it led to.
    fn doubt_name(&mut self, directory: InodeId, name: &Bytes) {
        let Some(known) = self.inodes.get_mut(&directory) else {
            return;
        };
        known.forget_times();
        let Body::Directory { entries, unsure, .. } = &mut known.body else {
            return;
        };
        unsure.insert(name.clone());
        if let Some(inode) = entries.remove(name) {
            self.doubt_inode(inode);
        }
    }

    pub fn doubt_inode(&mut self, id: InodeId) {
        let Some(inode) = self.inodes.get_mut(&id) else {
            return;
        };
        inode.is_sure = false;
        // What lies below is still there and unchanged, but how to get there is not certain.
        if let Body::Directory { entries, .. } = &inode.body {
            let below: Vec<InodeId> = entries.values().copied().collect();
            self.inodes.remove(&id);
            for inode in below {
                self.doubt_inode(inode);
            }
        }
    }
}
