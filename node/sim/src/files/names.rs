//! Directories and names: made, moved, removed, each answer foretold.

use std::collections::{BTreeMap, BTreeSet};

use bark_client::session::Call;
use bark_schema::ids::InodeId;
use bark_schema::operation::{Entry, Namespace, RenameMode, Reply};

use super::{ATTRIBUTES, Directory, Fate, Private, bytes};

impl Private {
    pub(super) async fn make_directory_at(&mut self, directory: InodeId, name: &str) -> Fate {
        let operation = Namespace::MakeDirectory {
            directory,
            name: bytes(name),
            attributes: ATTRIBUTES,
        };
        let fate = self.change(Call::Namespace(operation)).await;
        self.must_be_done(&format!("mkdir {directory}/{name}"), &fate);
        fate
    }

    pub(super) async fn make_directory(&mut self) {
        let directory = self.any_directory();
        if self.random.chance(5)
            && let Some(name) = self.directories[&directory].entries.keys().next().cloned()
        {
            let operation = Namespace::MakeDirectory {
                directory,
                name: bytes(&name),
                attributes: ATTRIBUTES,
            };
            let fate = self.change(Call::Namespace(operation)).await;
            return self.must_be_refused("mkdir of a taken name", &fate);
        }
        let name = self.new_name();
        match self.make_directory_at(directory, &name).await {
            Fate::Done(Reply::Created { attributes, .. }) => {
                let made = Directory {
                    parent: directory,
                    entries: BTreeMap::new(),
                    unsure: BTreeSet::new(),
                };
                self.directories.insert(attributes.inode, made);
                self.enter(directory, name, attributes.inode);
            }
            Fate::Unsure => self.doubt(directory, name),
            _ => {}
        }
    }

    fn is_below(&self, mut directory: InodeId, ancestor: InodeId) -> bool {
        while let Some(known) = self.directories.get(&directory) {
            if directory == ancestor {
                return true;
            }
            directory = known.parent;
        }
        false
    }

    pub(super) async fn rename(&mut self) {
        let Some((from_directory, from_name, inode)) = self.any_entry() else {
            return;
        };
        let to_directory = if self.random.chance(3) {
            from_directory
        } else {
            self.any_directory()
        };
        let taken = match self.random.below(3) {
            0 => self.directories[&to_directory]
                .entries
                .iter()
                .next()
                .map(|(name, it)| (name.clone(), *it)),
            _ => None,
        };
        let to_name = taken
            .as_ref()
            .map_or_else(|| self.new_name(), |(name, _)| name.clone());
        let target = taken.map(|(_, target)| target);
        let operation = Namespace::Rename {
            from: Entry {
                directory: from_directory,
                name: bytes(&from_name),
            },
            to: Entry {
                directory: to_directory,
                name: bytes(&to_name),
            },
            mode: RenameMode::Replace,
        };
        let what = format!("rename {from_directory}/{from_name} to {to_directory}/{to_name}");
        let fate = self.change(Call::Namespace(operation)).await;
        let moves_directory = self.directories.contains_key(&inode);
        let unsure_target = target
            .and_then(|it| self.directories.get(&it))
            .is_some_and(|it| !it.unsure.is_empty());
        let refusal_due = if moves_directory && self.is_below(to_directory, inode) && target != Some(inode) {
            true
        } else {
            match target {
                Some(target) if target == inode => false,
                Some(target) => match (moves_directory, self.directories.get(&target)) {
                    (true, Some(replaced)) => !replaced.entries.is_empty(),
                    (false, None) => false,
                    _ => true,
                },
                None => false,
            }
        };
        if refusal_due {
            self.must_be_refused(&what, &fate);
        } else if !unsure_target {
            self.must_be_done(&what, &fate);
        }
        match fate {
            Fate::Done(_) if target == Some(inode) => {}
            Fate::Done(_) => {
                if let Some(target) = target {
                    self.directories.remove(&target);
                    self.drop_link(target);
                }
                if let Some(from) = self.directories.get_mut(&from_directory) {
                    from.entries.remove(&from_name);
                }
                if let Some(moved) = self.directories.get_mut(&inode) {
                    moved.parent = to_directory;
                }
                self.enter(to_directory, to_name, inode);
            }
            Fate::Unsure => {
                self.doubt(from_directory, from_name);
                self.doubt(to_directory, to_name);
            }
            _ => {}
        }
    }

    fn drop_link(&mut self, inode: InodeId) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.links -= 1;
            if file.links == 0 {
                self.files.remove(&inode);
            }
        }
    }

    pub(super) async fn unlink(&mut self) {
        let Some((directory, name, inode)) = self.any_entry() else {
            return;
        };
        let operation = Namespace::Unlink {
            directory,
            name: bytes(&name),
        };
        let fate = self.change(Call::Namespace(operation)).await;
        if self.directories.contains_key(&inode) {
            return self.must_be_refused("unlink of a directory", &fate);
        }
        self.must_be_done(&format!("unlink {directory}/{name}"), &fate);
        match fate {
            Fate::Done(_) => {
                if let Some(directory) = self.directories.get_mut(&directory) {
                    directory.entries.remove(&name);
                }
                self.drop_link(inode);
            }
            Fate::Unsure => self.doubt(directory, name),
            _ => {}
        }
    }

    pub(super) async fn remove_directory(&mut self) {
        let Some((directory, name, inode)) = self.any_entry() else {
            return;
        };
        let operation = Namespace::RemoveDirectory {
            directory,
            name: bytes(&name),
        };
        let fate = self.change(Call::Namespace(operation)).await;
        match self.directories.get(&inode) {
            None => return self.must_be_refused("rmdir of a file", &fate),
            Some(known) if !known.entries.is_empty() => {
                return self.must_be_refused(&format!("rmdir {directory}/{name}, which has entries,"), &fate);
            }
            Some(known) if known.unsure.is_empty() => {
                self.must_be_done(&format!("rmdir {directory}/{name}"), &fate)
            }
            Some(_) => {}
        }
        match fate {
            Fate::Done(_) => {
                self.directories.remove(&inode);
                if let Some(directory) = self.directories.get_mut(&directory) {
                    directory.entries.remove(&name);
                }
            }
            Fate::Unsure => self.doubt(directory, name),
            _ => {}
        }
    }

    pub(super) async fn link(&mut self) {
        let Some(inode) = self.any_file() else { return };
        let directory = self.any_directory();
        let name = self.new_name();
        let operation = Namespace::Link {
            inode,
            to: Entry {
                directory,
                name: bytes(&name),
            },
        };
        let fate = self.change(Call::Namespace(operation)).await;
        self.must_be_done(&format!("link {inode} as {directory}/{name}"), &fate);
        match fate {
            Fate::Done(_) => {
                if let Some(file) = self.files.get_mut(&inode) {
                    file.links += 1;
                }
                self.enter(directory, name, inode);
            }
            Fate::Unsure => {
                self.doubt(directory, name);
                self.doubt_inode(inode);
            }
            _ => {}
        }
    }
}
