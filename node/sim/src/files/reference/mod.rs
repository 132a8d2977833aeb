//! A tree that does what POSIX says, in a few maps: the reference that every answer is compared with.
//!
//! It knows one client's part of the name space, which nobody else changes. [`Reference::foretell`] says what must
//! become of a call, [`Reference::carry_out`] does it and compares the answer, [`Reference::doubt`] forgets what a
//! call of unknown outcome may have changed.
//!
//! Invariants:
//! - What it knows is certain: names and inodes that are not are marked or left out.
//! - No inode number is ever given to two inodes.

mod carry_out;
mod foretell;

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::ids::InodeId;
use bark_schema::operation::{Attributes, Entry, FileKind, NewInode, Refusal, UnixNanos};
use bark_schema::policy::Policy;
use bytes::Bytes;

pub struct Reference {
    inodes: BTreeMap<InodeId, Inode>,
    /// Every number that was ever given out here.
    born: BTreeSet<InodeId>,
}

#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: FileKind,
    pub mode: u32,
    pub owner: u32,
    pub group: u32,
    /// Of anything but directories, whose names are counted.
    links: u32,
    pub device: u64,
    /// None until seen since the last change that set it to a time only the cluster knows.
    pub accessed: Option<UnixNanos>,
    pub modified: Option<UnixNanos>,
    /// Every change of content raises it by one.
    version: Option<u64>,
    /// The newest time of change that was seen: it never goes back.
    pub changed_min: UnixNanos,
    pub xattrs: BTreeMap<Bytes, Bytes>,
    /// None until seen, if it was inherited from who knows what.
    policy: Option<Policy>,
    pub body: Body,
    /// Attributes, links and content are certain; names in a directory are marked one by one.
    pub is_sure: bool,
}

#[derive(Clone, Debug)]
pub enum Body {
    File {
        content: Vec<u8>,
        in_blocks: bool,
    },
    Directory {
        parent: InodeId,
        entries: BTreeMap<Bytes, InodeId>,
        /// Names nothing is foretold about.
        unsure: BTreeSet<Bytes>,
    },
    Symlink(Bytes),
    Special,
}

/// What must become of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foretold {
    Done,
    /// For one of these reasons.
    Refused(Vec<Refusal>),
    /// It depends on what is not certain.
    Open,
}

impl Inode {
    /// `above`: the policy of its directory, if that is certain.
    fn new(kind: FileKind, new: &NewInode, above: Option<Policy>, device: u64, body: Body) -> Inode {
        let xattrs = new.xattrs.iter();
        Inode {
            kind,
            mode: new.mode & 0o7777,
            owner: new.owner,
            group: new.group,
            links: 1,
            device,
            accessed: None,
            modified: None,
            version: None,
            changed_min: UnixNanos::MIN,
            xattrs: xattrs
                .map(|xattr| (xattr.name.clone(), xattr.value.clone()))
                .collect(),
            policy: above.map(|policy| policy.changed(&new.policy)),
            body,
            is_sure: true,
        }
    }

    fn size(&self) -> u64 {
        match &self.body {
            Body::File { content, .. } => content.len() as u64,
            Body::Symlink(target) => target.len() as u64,
            Body::Directory { .. } | Body::Special => 0,
        }
    }

    /// A directory's times and version move with its names, how often is not foretold.
    fn forget_times(&mut self) {
        self.modified = None;
        self.version = None;
    }

    /// The content changed at a time only the cluster knows.
    fn touch_content(&mut self) {
        self.modified = None;
        self.version = self.version.map(|version| version + 1);
    }
}

impl Reference {
    /// An empty directory `root`, made in `parent`.
    pub fn new(root: InodeId, parent: InodeId, new: &NewInode) -> Reference {
        let body = Body::empty_directory(parent);
        let inode = Inode::new(FileKind::Directory, new, Some(Policy::default()), 0, body);
        Reference {
            inodes: BTreeMap::from([(root, inode)]),
            born: BTreeSet::from([root]),
        }
    }

    pub fn get(&self, inode: InodeId) -> Option<&Inode> {
        self.inodes.get(&inode)
    }

    /// Directories that are certain to be where they are.
    pub fn directories(&self) -> Vec<InodeId> {
        self.select(|inode| inode.kind == FileKind::Directory)
    }

    /// Inodes all of which is certain.
    pub fn sure(&self) -> Vec<InodeId> {
        self.select(|inode| inode.is_sure)
    }

    /// Regular files all of which is certain.
    pub fn sure_files(&self) -> Vec<InodeId> {
        self.select(|inode| inode.is_sure && inode.kind == FileKind::Regular)
    }

    fn select(&self, choose: impl Fn(&Inode) -> bool) -> Vec<InodeId> {
        let chosen = self.inodes.iter().filter(|(_, inode)| choose(inode));
        chosen.map(|(id, _)| *id).collect()
    }

    /// All names that are certain: directory, name, what it leads to.
    pub fn entries(&self) -> Vec<(InodeId, Bytes, InodeId)> {
        let mut all = Vec::new();
        for (id, inode) in &self.inodes {
            if let Body::Directory { entries, .. } = &inode.body {
                all.extend(entries.iter().map(|(name, to)| (*id, name.clone(), *to)));
            }
        }
        all
    }

    pub fn content(&self, inode: InodeId) -> Option<(&Vec<u8>, bool)> {
        match &self.inodes.get(&inode)?.body {
            Body::File { content, in_blocks } => Some((content, *in_blocks)),
            _ => None,
        }
    }

    /// What is made in a directory, or a file's blocks, must be like; None if it is not certain.
    pub fn policy(&self, inode: InodeId) -> Option<Policy> {
        let inode = self.inodes.get(&inode)?;
        inode.policy.filter(|_| inode.is_sure)
    }

    /// Changes a file's content; the version goes up by one.
    pub fn write(&mut self, inode: InodeId, change: impl FnOnce(&mut Vec<u8>, &mut bool)) {
        let Some(inode) = self.inodes.get_mut(&inode) else {
            return;
        };
        inode.touch_content();
        if let Body::File { content, in_blocks } = &mut inode.body {
            change(content, in_blocks);
        }
    }

    /// Compares attributes with what is known, and learns what is not.
    pub fn agree(&mut self, seen: &Attributes) -> Result<(), String> {
        let links = self.link_count(seen.inode);
        let Some(known) = self.inodes.get_mut(&seen.inode) else {
            return Ok(());
        };
        if known.kind != seen.kind {
            return Err(format!("{} is {:?}, not {:?}", seen.inode, seen.kind, known.kind));
        }
        if seen.changed < known.changed_min {
            let (before, now) = (known.changed_min, seen.changed);
            return Err(format!(
                "{} was changed at {before}, and then at {now}",
                seen.inode
            ));
        }
        known.changed_min = seen.changed;
        if !known.is_sure {
            return Ok(());
        }
        if matches!(&known.body, Body::Directory { unsure, .. } if !unsure.is_empty()) {
            known.forget_times();
        }
        let mut differences = Vec::new();
        let mut compare = |what: &str, known: i64, seen: i64| {
            if known != seen {
                differences.push(format!("{what} {seen} instead of {known}"));
            }
        };
        compare("mode", i64::from(known.mode), i64::from(seen.mode));
        compare("owner", i64::from(known.owner), i64::from(seen.owner));
        compare("group", i64::from(known.group), i64::from(seen.group));
        compare("device", known.device as i64, seen.device as i64);
        compare("size", known.size() as i64, seen.size as i64);
        compare("xattrs", known.xattrs.len() as i64, i64::from(seen.xattr_count));
        if let Some(links) = links {
            compare("link count", i64::from(links), i64::from(seen.link_count));
        }
        let times = [
            ("accessed", &mut known.accessed, seen.accessed),
            ("modified", &mut known.modified, seen.modified),
        ];
        for (what, known, seen) in times {
            compare(what, *known.get_or_insert(seen), seen);
        }
        let version = *known.version.get_or_insert(seen.version);
        compare("version", version as i64, seen.version as i64);
        let policy = *known.policy.get_or_insert(seen.policy);
        if policy != seen.policy {
            differences.push(format!("{:?} instead of {policy:?}", seen.policy));
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(format!("{} has {}", seen.inode, differences.join(", "))),
        }
    }

    /// None if it is not certain.
    fn link_count(&self, inode: InodeId) -> Option<u32> {
        let inode = self.inodes.get(&inode)?;
        let Body::Directory { entries, unsure, .. } = &inode.body else {
            return Some(inode.links);
        };
        let below = entries.values().filter(|entry| self.is_directory(**entry));
        unsure.is_empty().then(|| 2 + below.count() as u32)
    }

    fn is_directory(&self, inode: InodeId) -> bool {
        let inode = self.inodes.get(&inode);
        inode.is_some_and(|inode| inode.kind == FileKind::Directory)
    }

    /// What a name leads to: None if nobody can tell.
    fn entry(&self, entry: &Entry) -> Option<Option<InodeId>> {
        match &self.inodes.get(&entry.directory)?.body {
            Body::Directory { entries, unsure, .. } => {
                (!unsure.contains(&entry.name)).then(|| entries.get(&entry.name).copied())
            }
            _ => None,
        }
    }

    fn is_below(&self, mut directory: InodeId, ancestor: InodeId) -> bool {
        while let Some(Body::Directory { parent, .. }) = self.inodes.get(&directory).map(|inode| &inode.body)
        {
            if directory == ancestor {
                return true;
            }
            directory = *parent;
        }
        false
    }
}

impl Body {
    fn empty_directory(parent: InodeId) -> Body {
        Body::Directory {
            parent,
            entries: BTreeMap::new(),
            unsure: BTreeSet::new(),
        }
    }
}
