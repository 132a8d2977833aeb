//! The fake cluster's state: keys, inodes, blocks and the exactly-once table, all in one place.

use std::collections::{BTreeMap, HashMap};

use bark_schema::data::{DataCommand, FileMap, Patch};
use bark_schema::ids::{BlockId, InodeId, NodeNumber, PartitionId};
use bark_schema::message::WelcomeNode;
use bark_schema::operation::*;
use bark_schema::trace::{Span, TracePhase, Traced, describe};
use bytes::Bytes;

#[derive(Clone, Debug)]
struct Inode {
    attributes: Attributes,
    parent: InodeId,
    entries: BTreeMap<Bytes, InodeId>,
    content: Content,
    target: Bytes,
}

/// What all nodes of the fake cluster share.
pub struct State {
    nodes: Vec<WelcomeNode>,
    partition_count: u16,
    pub keys: BTreeMap<Bytes, KeyValue>,
    inodes: BTreeMap<InodeId, Inode>,
    pub blocks: HashMap<(NodeNumber, BlockId), Bytes>,
    answered: HashMap<(u64, u64), Result<Reply, Failure>>,
    next: u64,
}

type Answer = Result<Reply, Failure>;

fn refuse<T>(refusal: Refusal) -> Result<T, Failure> {
    Err(Failure::refused(refusal, "refused by the fake"))
}

fn mapped(extents: Vec<Extent>) -> Content {
    let known_until = extents.last().map_or(0, Extent::end);
    Content::Mapped(FileMap {
        extents,
        patches: Vec::new(),
        known_until,
    })
}

impl State {
    pub fn new(nodes: Vec<WelcomeNode>, partition_count: u16) -> State {
        let mut state = State {
            nodes,
            partition_count,
            keys: BTreeMap::new(),
            inodes: BTreeMap::new(),
            blocks: HashMap::new(),
            answered: HashMap::new(),
            next: 2,
        };
        let attributes = NewInode {
            mode: 0o755,
            ..NewInode::default()
        };
        state.add(InodeId::ROOT, InodeId::ROOT, FileKind::Directory, &attributes);
        state
    }

    /// Who leads a partition here.
    pub fn leader(&self, partition: PartitionId) -> NodeNumber {
        NodeNumber(partition.0 % self.nodes.len() as u16 + 1)
    }

    /// Every name below the root, for tests to look at.
    pub fn names(&self) -> Vec<String> {
        let names = self.inodes.values().flat_map(|inode| inode.entries.keys());
        names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    pub fn apply(&mut self, node: NodeNumber, request: &Request) -> Answer {
        if let Some(partition) = request.partition()
            && self.leader(partition) != node
        {
            let leader = Some(self.leader(partition));
            return Err(Failure::NotLeader { leader });
        }
        match request {
            Request::Query { query, .. } => self.query(query),
            Request::Node(NodeRequest::Traced { request }) => {
                let reply = self.apply(node, request)?;
                let spans = vec![Span {
                    phase: TracePhase::Request,
                    node,
                    partition: request.partition(),
                    depth: 0,
                    from_us: 0,
                    until_us: 1,
                    what: describe(request).into(),
                }];
                Ok(Reply::Traced(Box::new(Traced { reply, spans })))
            }
            Request::Node(request) => self.node(node, request),
            Request::Command { id, command, .. } => self.once(id, |state| state.command(command)),
            Request::Namespace { id, operation } => self.once(id, |state| state.namespace(operation)),
        }
    }

    fn once(&mut self, id: &RequestId, apply: impl FnOnce(&mut State) -> Answer) -> Answer {
        let key = (id.client.0, id.sequence);
        if let Some(answer) = self.answered.get(&key) {
            return answer.clone();
        }
        let answer = apply(self);
        self.answered.insert(key, answer.clone());
        answer
    }

    fn query(&self, query: &Query) -> Answer {
        Ok(match query {
            Query::KeyGet { key } => Reply::Value(self.keys.get(key).cloned()),
            Query::KeyGetMany { keys } => {
                let value = |key| self.keys.get(key).map(|found: &KeyValue| found.value.clone());
                Reply::Values(keys.iter().map(value).collect())
            }
            Query::KeyExists { keys } => {
                Reply::Count(keys.iter().filter(|key| self.keys.contains_key(*key)).count() as u64)
            }
            Query::KeyCount => Reply::Count(self.keys.len() as u64),
            Query::KeyScan { after, prefix, limit } => {
                let matching = |key: &&Bytes| key.starts_with(prefix) && **key > *after;
                let mut keys: Vec<Bytes> = self.keys.keys().filter(matching).cloned().collect();
                let more = keys.len() > *limit as usize;
                keys.truncate(*limit as usize);
                Reply::Keys { keys, more }
            }
            Query::Attributes { inode } => Reply::Attributes(self.inode(*inode)?.attributes.clone()),
            Query::ReadLink { inode } => Reply::Link(self.inode(*inode)?.target.clone()),
            Query::Layout {
                inode,
                offset,
                length,
            } => {
                let found = self.inode(*inode)?;
                let content = match &found.content {
                    Content::Inline(bytes) => {
                        let start = (*offset as usize).min(bytes.len());
                        Content::Inline(bytes.slice(start..))
                    }
                    Content::Mapped(map) => Content::Mapped(FileMap {
                        known_until: offset.saturating_add(*length),
                        ..map.clone()
                    }),
                };
                Reply::Layout {
                    attributes: found.attributes.clone(),
                    content,
                }
            }
            Query::ReadDirectory {
                directory,
                after,
                limit,
            } => {
                let found = self.inode(*directory)?;
                let after = match after {
                    ListPosition::Start => Bytes::new(),
                    ListPosition::AfterName(name) => name.clone(),
                    ListPosition::AfterCookie(_) => panic!("the fake pages by name"),
                };
                let rest = found.entries.iter().filter(|(name, _)| **name > after);
                let mut entries = rest
                    .map(|(name, inode)| {
                        let attributes = self.inode(*inode)?.attributes.clone();
                        Ok(DirectoryEntry {
                            name: name.clone(),
                            inode: *inode,
                            kind: attributes.kind,
                            attributes: (inode.home() == directory.home()).then_some(attributes),
                            cookie: 1,
                        })
                    })
                    .collect::<Result<Vec<_>, Failure>>()?;
                // Small pages, so that going on after a page is tested too.
                let limit = (*limit as usize).min(3);
                let more = entries.len() > limit;
                entries.truncate(limit);
                let parent = found.parent;
                Reply::Directory {
                    entries,
                    more,
                    parent,
                }
            }
            Query::PartitionStatus => Reply::Partition(self.status(PartitionId(0))),
            other => panic!("the fake does not know {other:?}"),
        })
    }

    fn command(&mut self, command: &Command) -> Answer {
        match command {
            Command::KeySet {
                key,
                value,
                condition,
                return_previous,
                ..
            } => {
                let old = self.keys.get(key).cloned();
                let applied = match condition {
                    Condition::Always => true,
                    Condition::IfAbsent => old.is_none(),
                    Condition::IfPresent => old.is_some(),
                    Condition::IfVersion(version) => old.as_ref().is_some_and(|old| old.version == *version),
                };
                let version = old.as_ref().map_or(1, |old| old.version + 1);
                if applied {
                    let value = value.clone();
                    self.keys.insert(
                        key.clone(),
                        KeyValue {
                            value,
                            version,
                            expires: None,
                        },
                    );
                }
                let previous = old.map(|old| old.value).filter(|_| *return_previous);
                Ok(Reply::Set {
                    applied,
                    version,
                    previous,
                })
            }
            Command::KeyDelete { keys, .. } => Ok(Reply::Count(
                keys.iter().filter(|key| self.keys.remove(*key).is_some()).count() as u64,
            )),
            Command::KeyIncrement { key, by } => {
                let old = self
                    .keys
                    .get(key)
                    .map_or("0".into(), |old| String::from_utf8_lossy(&old.value));
                let Ok(old) = old.parse::<i64>() else {
                    return refuse(Refusal::NotInteger);
                };
                let value = Bytes::from((old + by).to_string());
                self.keys.insert(
                    key.clone(),
                    KeyValue {
                        value,
                        version: 1,
                        expires: None,
                    },
                );
                Ok(Reply::Number(old + by))
            }
            Command::Create {
                directory,
                name,
                attributes,
                content,
                exclusive,
            } => {
                if let Some(existing) = self.directory(*directory)?.entries.get(name).copied() {
                    let existing = self.inode(existing)?;
                    return match (existing.attributes.kind, exclusive) {
                        (FileKind::Regular, false) => Ok(Reply::Created {
                            attributes: existing.attributes.clone(),
                            created: false,
                        }),
                        _ => refuse(Refusal::Exists),
                    };
                }
                let inode = self.new_id(directory.home());
                let (kind, bytes, target) = match content {
                    NewContent::Inline(bytes) => (FileKind::Regular, bytes.clone(), Bytes::new()),
                    NewContent::Symlink(target) => (FileKind::Symlink, Bytes::new(), target.clone()),
                    NewContent::Special { kind, .. } => (*kind, Bytes::new(), Bytes::new()),
                };
                self.add(inode, *directory, kind, attributes);
                let made = self.inode_mut(inode)?;
                made.attributes.size = bytes.len() as u64;
                made.content = Content::Inline(bytes);
                made.target = target;
                let attributes = made.attributes.clone();
                self.inode_mut(*directory)?.entries.insert(name.clone(), inode);
                Ok(Reply::Created {
                    attributes,
                    created: true,
                })
            }
            Command::SetAttributes { inode, change } => {
                let found = self.inode_mut(*inode)?;
                let attributes = &mut found.attributes;
                attributes.mode = change.mode.unwrap_or(attributes.mode);
                if let Some(SetTime::At(time)) = change.modified {
                    attributes.modified = time;
                }
                attributes.size = change.size.unwrap_or(attributes.size);
                attributes.policy = attributes.policy.changed(&change.policy);
                Ok(Reply::Attributes(attributes.clone()))
            }
            Command::WriteInline {
                inode,
                offset,
                data,
                truncate,
            } => {
                let found = self.inode_mut(*inode)?;
                let mut bytes = match (&found.content, truncate) {
                    (_, true) => Vec::new(),
                    (Content::Inline(bytes), false) => bytes.to_vec(),
                    _ => return Err(Failure::TooLargeForInline),
                };
                bytes.resize(*offset as usize, 0);
                bytes.extend_from_slice(data);
                found.attributes.size = bytes.len() as u64;
                found.attributes.version += 1;
                found.content = Content::Inline(bytes.into());
                Ok(Reply::Attributes(found.attributes.clone()))
            }
            Command::Data(DataCommand::Write { inode, offset, data }) => {
                let found = self.inode_mut(*inode)?;
                let offset = offset.unwrap_or(found.attributes.size);
                let end = offset + data.len() as u64;
                let size = found.attributes.size.max(end);
                match &mut found.content {
                    Content::Inline(bytes) => {
                        let mut whole = bytes.to_vec();
                        whole.resize(size as usize, 0);
                        whole[offset as usize..end as usize].copy_from_slice(data);
                        found.content = Content::Inline(whole.into());
                    }
                    Content::Mapped(map) => {
                        assert_eq!(offset, map.known_until, "the fake's mapped files only grow");
                        let data = data.clone();
                        map.patches.push(Patch { offset, data });
                        map.known_until = end;
                    }
                }
                found.attributes.size = size;
                found.attributes.version += 1;
                Ok(Reply::Attributes(found.attributes.clone()))
            }
            Command::Publish {
                inode,
                extents,
                size,
                replace_all,
                base_version,
            } => {
                let found = self.inode_mut(*inode)?;
                if base_version.is_some_and(|base| base != found.attributes.version) {
                    return refuse(Refusal::Conflict);
                }
                let mut map = match (&found.content, replace_all) {
                    (Content::Mapped(old), false) => old.clone(),
                    (Content::Inline(bytes), false) => FileMap {
                        patches: vec![Patch {
                            offset: 0,
                            data: bytes.clone(),
                        }],
                        ..FileMap::default()
                    },
                    _ => FileMap::default(),
                };
                map.extents.extend(extents.iter().cloned());
                map.known_until = *size;
                found.content = Content::Mapped(map);
                found.attributes.size = *size;
                found.attributes.version += 1;
                Ok(Reply::Attributes(found.attributes.clone()))
            }
            Command::Data(DataCommand::AbandonBlocks { blocks, nodes }) => {
                self.blocks
                    .retain(|(node, block), _| !(nodes.contains(node) && blocks.contains(block)));
                Ok(Reply::Done)
            }
            other => panic!("the fake does not know {other:?}"),
        }
    }

    fn namespace(&mut self, operation: &Namespace) -> Answer {
        match operation {
            Namespace::MakeDirectory {
                directory,
                name,
                attributes,
            } => {
                if self.directory(*directory)?.entries.contains_key(name) {
                    return refuse(Refusal::Exists);
                }
                let inode = self.new_id(PartitionId((self.next % u64::from(self.partition_count)) as u16));
                self.add(inode, *directory, FileKind::Directory, attributes);
                self.inode_mut(*directory)?.entries.insert(name.clone(), inode);
            }
            Namespace::RemoveDirectory { directory, name } => {
                let inode = self.entry(*directory, name)?;
                if self.inode(inode)?.attributes.kind != FileKind::Directory {
                    return refuse(Refusal::NotDirectory);
                }
                if !self.inode(inode)?.entries.is_empty() {
                    return refuse(Refusal::NotEmpty);
                }
                self.inode_mut(*directory)?.entries.remove(name);
                self.inodes.remove(&inode);
            }
            Namespace::Unlink { directory, name } => {
                let inode = self.entry(*directory, name)?;
                if self.inode(inode)?.attributes.kind == FileKind::Directory {
                    return refuse(Refusal::IsDirectory);
                }
                self.inode_mut(*directory)?.entries.remove(name);
                self.inodes.remove(&inode);
            }
            Namespace::Rename { from, to, mode } => {
                let inode = self.entry(from.directory, &from.name)?;
                let taken = self.directory(to.directory)?.entries.contains_key(&to.name);
                if taken && *mode == RenameMode::NoReplace {
                    return refuse(Refusal::Exists);
                }
                self.inode_mut(from.directory)?.entries.remove(&from.name);
                let entries = &mut self.inode_mut(to.directory)?.entries;
                if let Some(replaced) = entries.insert(to.name.clone(), inode) {
                    self.inodes.remove(&replaced);
                }
                self.inode_mut(inode)?.parent = to.directory;
            }
            Namespace::KeyDeleteMany { keys, .. } => {
                let removed = keys.iter().filter(|(_, key)| self.keys.remove(key).is_some());
                return Ok(Reply::Count(removed.count() as u64));
            }
            other => panic!("the fake does not know {other:?}"),
        }
        Ok(Reply::Done)
    }

    fn node(&mut self, node: NodeNumber, request: &NodeRequest) -> Answer {
        match request {
            NodeRequest::Walk {
                start,
                path,
                follow_last,
                ..
            } => {
                let (inode, parent) = self.walk(*start, path, *follow_last, 0)?;
                let found = self.inode(inode)?;
                Ok(Reply::Walked {
                    attributes: found.attributes.clone(),
                    parent,
                    // Nodes may look at less than was asked for on a walk.
                    content: match &found.content {
                        Content::Mapped(map) if map.patches.is_empty() => {
                            mapped(map.extents.iter().take(2).cloned().collect())
                        }
                        Content::Mapped(_) => mapped(Vec::new()),
                        inline => inline.clone(),
                    },
                })
            }
            NodeRequest::BlockPut {
                block,
                data,
                replicas,
                ..
            } => {
                for replica in replicas {
                    self.blocks.insert((*replica, *block), data.clone());
                }
                let nodes = replicas.clone();
                Ok(Reply::Stored { nodes })
            }
            NodeRequest::BlockGet {
                block,
                offset,
                length,
            } => match self.blocks.get(&(node, *block)) {
                Some(data) => {
                    let end = (offset + length) as usize;
                    Ok(Reply::Block(data.slice(*offset as usize..end.min(data.len()))))
                }
                None => refuse(Refusal::Corrupt),
            },
            NodeRequest::ClusterStatus => Ok(Reply::Cluster(self.cluster(node))),
            NodeRequest::DirectoryUsage { .. }
            | NodeRequest::SetQuota { .. }
            | NodeRequest::GetQuota { .. }
            | NodeRequest::Drain { .. }
            | NodeRequest::Admit { .. }
            | NodeRequest::Scrub { .. }
            | NodeRequest::Orphans { .. } => panic!("nobody asks the fake about that"),
            NodeRequest::Traced { .. } => panic!("it is taken apart before"),
            NodeRequest::BlockDelete { .. }
            | NodeRequest::BlockList { .. }
            | NodeRequest::BlockVerify { .. }
            | NodeRequest::BlocksMissing { .. }
            | NodeRequest::BlockFetch { .. }
            | NodeRequest::BlockAudit { .. }
            | NodeRequest::BlockCompact => panic!("clients leave the block store alone"),
        }
    }

    fn walk(
        &self,
        start: InodeId,
        path: &[u8],
        follow_last: bool,
        depth: u32,
    ) -> Result<(InodeId, InodeId), Failure> {
        if depth > 8 {
            return refuse(Refusal::TooManySymlinks);
        }
        let (mut inode, mut parent) = (start, start);
        let mut names = path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .peekable();
        while let Some(name) = names.next() {
            parent = inode;
            inode = self.entry(inode, name)?;
            let found = self.inode(inode)?;
            if found.attributes.kind == FileKind::Symlink && (follow_last || names.peek().is_some()) {
                let from = if found.target.starts_with(b"/") {
                    InodeId::ROOT
                } else {
                    parent
                };
                (inode, parent) = self.walk(from, &found.target, true, depth + 1)?;
            }
        }
        Ok((inode, parent))
    }

    fn cluster(&self, node: NodeNumber) -> ClusterStatus {
        let nodes = self.nodes.iter().map(|node| NodeStatus {
            number: node.number,
            id: node.id.clone(),
            capnp: node.capnp.clone(),
            resp: String::new(),
            http: String::new(),
            zone: String::new(),
            reachable: true,
            draining: false,
            disk_slow: false,
            refusal: None,
        });
        ClusterStatus {
            cluster: "fake".into(),
            node,
            nodes: nodes.collect(),
            partitions: (0..self.partition_count)
                .map(|number| self.status(PartitionId(number)))
                .collect(),
            durability: "disk".into(),
            replicas: 3,
            partition_count: u32::from(self.partition_count),
            disk_total_bytes: 1 << 40,
            disk_free_bytes: 1 << 39,
            block_bytes: self.block_bytes(node),
        }
    }

    fn block_bytes(&self, node: NodeNumber) -> u64 {
        let there = self.blocks.iter().filter(|((holder, _), _)| *holder == node);
        there.map(|(_, data)| data.len() as u64).sum()
    }

    fn status(&self, partition: PartitionId) -> PartitionStatus {
        PartitionStatus {
            partition,
            leader: Some(self.leader(partition)),
            term: 1,
            applied: self.next,
            state_hash: 0,
            keys: self.keys.len() as u64,
            inodes: self.inodes.len() as u64,
            file_bytes: self.inodes.values().map(|inode| inode.attributes.size).sum(),
            allocated_bytes: 0,
            orphans: 0,
            log_entries: 0,
            snapshot_index: 0,
            block_bytes: 0,
            garbage_bytes: 0,
            patch_bytes: 0,
        }
    }

    fn new_id(&mut self, home: PartitionId) -> InodeId {
        self.next += 1;
        InodeId::new(home, self.next)
    }

    fn add(&mut self, inode: InodeId, parent: InodeId, kind: FileKind, new: &NewInode) {
        let above = self.inodes.get(&parent).map(|found| found.attributes.policy);
        let policy = above.unwrap_or_default().changed(&new.policy);
        let attributes = Attributes {
            inode,
            kind,
            mode: new.mode,
            owner: new.owner,
            group: new.group,
            size: 0,
            link_count: 1,
            accessed: 0,
            modified: 0,
            changed: 0,
            version: 1,
            device: 0,
            blocks: 0,
            policy,
            xattr_count: 0,
        };
        let inode_state = Inode {
            attributes,
            parent,
            entries: BTreeMap::new(),
            content: Content::Inline(Bytes::new()),
            target: Bytes::new(),
        };
        self.inodes.insert(inode, inode_state);
    }

    fn inode(&self, inode: InodeId) -> Result<&Inode, Failure> {
        self.inodes
            .get(&inode)
            .map_or_else(|| refuse(Refusal::NotFound), Ok)
    }

    fn inode_mut(&mut self, inode: InodeId) -> Result<&mut Inode, Failure> {
        self.inodes
            .get_mut(&inode)
            .map_or_else(|| refuse(Refusal::NotFound), Ok)
    }

    fn directory(&self, inode: InodeId) -> Result<&Inode, Failure> {
        match self.inode(inode)? {
            found if found.attributes.kind == FileKind::Directory => Ok(found),
            _ => refuse(Refusal::NotDirectory),
        }
    }

    fn entry(&self, directory: InodeId, name: &[u8]) -> Result<InodeId, Failure> {
        let entries = &self.directory(directory)?.entries;
        entries
            .get(name)
            .map_or_else(|| refuse(Refusal::NotFound), |inode| Ok(*inode))
    }
}
