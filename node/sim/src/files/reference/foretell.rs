//! What must become of a call, by what is certain before it.
//!
//! Where several reasons for a refusal hold at once, POSIX leaves open which is told: any of them will do.

use bark_client::session::Call;
use bark_schema::ids::InodeId;
use bark_schema::limits::NAME_SIZE_MAX;
use bark_schema::operation::{
    AttributeChange, Command, Condition, Entry, FileKind, Namespace, NewContent, Refusal, RenameMode,
};
use bark_schema::policy::PolicyChange;
use bytes::Bytes;

use super::{Body, Foretold, Reference};

impl Reference {
    pub fn foretell(&self, call: &Call) -> Foretold {
        match call {
            Call::Namespace(operation) => self.foretell_operation(operation),
            Call::Command { command, .. } => self.foretell_command(command),
            _ => Foretold::Open,
        }
    }

    fn foretell_operation(&self, operation: &Namespace) -> Foretold {
        match operation {
            Namespace::MakeDirectory {
                directory,
                name,
                attributes,
            } => self.foretell_new(*directory, name, &attributes.policy),
            Namespace::RemoveDirectory { directory, name } => self.foretell_remove(*directory, name),
            Namespace::Unlink { directory, name } => self.foretell_unlink(*directory, name),
            Namespace::Rename { from, to, mode } => self.foretell_rename(from, to, *mode),
            Namespace::Link { inode, to } => self.foretell_link(*inode, to),
            Namespace::KeySetMany { .. } | Namespace::KeyDeleteMany { .. } => Foretold::Open,
        }
    }

    fn foretell_command(&self, command: &Command) -> Foretold {
        match command {
            Command::Create {
                directory,
                name,
                exclusive,
                content,
                attributes,
            } => {
                let opens = !exclusive && matches!(content, NewContent::Inline(_));
                self.foretell_create(*directory, name, opens, &attributes.policy)
            }
            Command::SetAttributes { inode, change } => self.foretell_change(*inode, change),
            Command::XattrSet {
                inode,
                xattr,
                condition,
                ..
            } => self.foretell_xattr(*inode, &xattr.name, *condition),
            // Whatever became of the inode.
            Command::MoveAccessTimes { .. } => Foretold::Done,
            Command::XattrRemove { inode, name } => self.foretell_xattr(*inode, name, Condition::IfPresent),
            _ => Foretold::Open,
        }
    }

    fn foretell_new(&self, directory: InodeId, name: &Bytes, policy: &PolicyChange) -> Foretold {
        if !is_name(name) {
            return bad_name();
        }
        if policy.check().is_err() {
            return refused(&[Refusal::InvalidArgument]);
        }
        match self.entry(&entry(directory, name)) {
            None => Foretold::Open,
            Some(None) => Foretold::Done,
            Some(Some(_)) => refused(&[Refusal::Exists]),
        }
    }

    /// `opens`: a regular file that has the name is opened as it is.
    fn foretell_create(
        &self,
        directory: InodeId,
        name: &Bytes,
        opens: bool,
        policy: &PolicyChange,
    ) -> Foretold {
        // Looked at before anything else.
        if policy.check().is_err() {
            return self.foretell_new(directory, name, policy);
        }
        let Some(taken) = self.entry(&entry(directory, name)) else {
            return Foretold::Open;
        };
        let kind = taken
            .and_then(|inode| self.inodes.get(&inode))
            .map(|inode| inode.kind);
        match kind {
            Some(FileKind::Directory) if opens => refused(&[Refusal::IsDirectory]),
            Some(FileKind::Symlink) | None => self.foretell_new(directory, name, policy),
            Some(_) if opens => Foretold::Done,
            Some(_) => self.foretell_new(directory, name, policy),
        }
    }

    fn foretell_link(&self, inode: InodeId, to: &Entry) -> Foretold {
        let Some(known) = self.inodes.get(&inode) else {
            return Foretold::Open;
        };
        match known.kind {
            FileKind::Directory if is_name(&to.name) => refused(&[Refusal::NotPermitted, Refusal::Exists]),
            FileKind::Directory => Foretold::Open,
            _ if !known.is_sure => Foretold::Open,
            _ => self.foretell_new(to.directory, &to.name, &PolicyChange::default()),
        }
    }

    fn foretell_unlink(&self, directory: InodeId, name: &Bytes) -> Foretold {
        match self.entry(&entry(directory, name)) {
            None => Foretold::Open,
            Some(None) => refused(&[Refusal::NotFound]),
            Some(Some(inode)) if self.is_directory(inode) => refused(&[Refusal::IsDirectory]),
            Some(Some(_)) => Foretold::Done,
        }
    }

    fn foretell_remove(&self, directory: InodeId, name: &Bytes) -> Foretold {
        let inode = match self.entry(&entry(directory, name)) {
            None => return Foretold::Open,
            Some(None) => return refused(&[Refusal::NotFound]),
            Some(Some(inode)) => inode,
        };
        match self.inodes.get(&inode).map(|inode| &inode.body) {
            Some(Body::Directory { entries, .. }) if !entries.is_empty() => refused(&[Refusal::NotEmpty]),
            Some(Body::Directory { unsure, .. }) if unsure.is_empty() => Foretold::Done,
            Some(Body::Directory { .. }) | None => Foretold::Open,
            Some(_) => refused(&[Refusal::NotDirectory]),
        }
    }

    fn foretell_rename(&self, from: &Entry, to: &Entry, mode: RenameMode) -> Foretold {
        let (Some(source), Some(target)) = (self.entry(from), self.entry(to)) else {
            return Foretold::Open;
        };
        let source = match (source, target, mode) {
            (None, ..) => return refused(&[Refusal::NotFound]),
            (Some(_), Some(_), RenameMode::NoReplace) => return refused(&[Refusal::Exists]),
            (Some(_), None, RenameMode::Exchange) => return refused(&[Refusal::NotFound]),
            (Some(source), Some(target), _) if source == target => return Foretold::Done,
            (Some(source), ..) => source,
        };
        let mut reasons = Vec::new();
        let moves_directory = self.is_directory(source);
        if moves_directory && self.is_below(to.directory, source) {
            reasons.push(Refusal::InvalidArgument);
        }
        let Some(target) = target else {
            return done_unless(reasons);
        };
        let target_body = self.inodes.get(&target).map(|inode| &inode.body);
        match (mode, target_body) {
            (RenameMode::Exchange, Some(Body::Directory { .. })) if self.is_below(from.directory, target) => {
                reasons.push(Refusal::InvalidArgument);
            }
            (RenameMode::Exchange, _) => {}
            (_, Some(Body::Directory { entries, unsure, .. })) if moves_directory => {
                if !entries.is_empty() {
                    reasons.push(Refusal::NotEmpty);
                } else if !unsure.is_empty() && reasons.is_empty() {
                    return Foretold::Open;
                }
            }
            (_, Some(Body::Directory { .. })) => reasons.push(Refusal::IsDirectory),
            _ if moves_directory => reasons.push(Refusal::NotDirectory),
            _ => {}
        }
        done_unless(reasons)
    }

    fn foretell_change(&self, inode: InodeId, change: &AttributeChange) -> Foretold {
        match self.inodes.get(&inode).map(|inode| inode.kind) {
            None => Foretold::Open,
            Some(_) if change.policy.check().is_err() => refused(&[Refusal::InvalidArgument]),
            Some(kind) if !change.policy.is_empty() && kind != FileKind::Directory => {
                refused(&[Refusal::NotDirectory])
            }
            Some(_) if change.size.is_none() => Foretold::Done,
            Some(FileKind::Regular) => Foretold::Done,
            Some(FileKind::Directory) => refused(&[Refusal::IsDirectory]),
            Some(_) => refused(&[Refusal::InvalidArgument]),
        }
    }

    fn foretell_xattr(&self, inode: InodeId, name: &Bytes, condition: Condition) -> Foretold {
        let Some(known) = self.inodes.get(&inode).filter(|inode| inode.is_sure) else {
            return Foretold::Open;
        };
        match (condition, known.xattrs.contains_key(name)) {
            (Condition::IfAbsent, true) => refused(&[Refusal::Exists]),
            (Condition::IfPresent, false) => refused(&[Refusal::NoData]),
            _ => Foretold::Done,
        }
    }
}

fn entry(directory: InodeId, name: &Bytes) -> Entry {
    Entry {
        directory,
        name: name.clone(),
    }
}

fn is_name(name: &[u8]) -> bool {
    let is_special = name.is_empty() || name == b"." || name == b"..";
    !is_special && name.len() <= NAME_SIZE_MAX && !name.contains(&b'/') && !name.contains(&0)
}

fn bad_name() -> Foretold {
    refused(&[
        Refusal::InvalidArgument,
        Refusal::NameTooLong,
        Refusal::NotFound,
        Refusal::Exists,
    ])
}

fn refused(reasons: &[Refusal]) -> Foretold {
    Foretold::Refused(reasons.to_vec())
}

fn done_unless(reasons: Vec<Refusal>) -> Foretold {
    match reasons.is_empty() {
        true => Foretold::Done,
        false => Foretold::Refused(reasons),
    }
}
