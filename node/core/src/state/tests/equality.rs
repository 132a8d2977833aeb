//! What must hold after any history: equal replicas, exact snapshots, exact counters, exactly-once.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::random::Random;
use crate::state::extent::ExtentRow;
use crate::state::inode::Body;
use crate::state::{Error, StateLoader, each_table};
use bark_schema::access_time::Access;
use bark_schema::data::{
    Allocation, DataCommand, FileUpdate, NewBytes, PackedBlock, PackedFrom, PackedPiece,
};
use bark_schema::ids::TransactionId;
use bark_schema::operation::{AttributeChange, Entry, RenameMode, Step, UnixNanos, Xattr};
use bark_schema::usage::{Usage, UsageCommand};

const OPERATIONS: u64 = 2_000;

/// Draws commands that meet each other often: few names, few keys, few files.
struct Workload {
    random: Random,
    blocks: u64,
    pending: Vec<TransactionId>,
}

impl Workload {
    fn command(&mut self, state: &State) -> Command {
        match self.random.below(28) {
            0..=2 => set_with(
                &self.key(),
                &"v".repeat(self.below(400)),
                self.expiry(),
                Condition::Always,
            ),
            3 => Command::KeyDelete {
                keys: vec![bytes(&self.key())],
                condition: Condition::Always,
            },
            4 => Command::KeyIncrement {
                key: bytes("n"),
                by: 3,
            },
            5 => Command::KeyExpireDue { limit: 3 },
            6..=7 => create(self.directory(state), &self.name(), &vec![1; self.below(9_000)]),
            8 => Command::Unlink {
                directory: self.directory(state),
                name: bytes(&self.name()),
            },
            9 => Command::Rename {
                from: self.entry(state),
                to: self.entry(state),
                mode: match self.random.below(4) {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                },
            },
            10 => Command::SetAttributes {
                inode: self.inode(state),
                change: AttributeChange {
                    size: Some(self.random.below(20_000)),
                    ..Default::default()
                },
            },
            11 => Command::WriteInline {
                inode: self.inode(state),
                offset: self.random.below(5_000),
                data: Bytes::from(vec![2; self.below(4_000)]),
                truncate: self.random.chance(4),
            },
            12..=13 => self.publish(state),
            14..=19 => Command::Data(self.data(state)),
            22 => Command::Link {
                inode: self.inode(state),
                to: self.entry(state),
            },
            23 if self.random.chance(4) => Command::XattrRemove {
                inode: self.inode(state),
                name: bytes(&self.key()),
            },
            23 => Command::XattrSet {
                inode: self.inode(state),
                xattr: Xattr {
                    name: bytes(&self.key()),
                    value: Bytes::from(vec![3; self.below(30_000)]),
                },
                condition: Condition::Always,
                mode: None,
            },
            24 => Command::UpdateOpens {
                client: ClientId(self.random.below(3)),
                opened: vec![self.inode(state), self.inode(state), InodeId(1 << 40)],
                closed: vec![self.inode(state)],
                lease_ms: self.random.below(60_000) as u32,
            },
            25 if self.random.chance(2) => Command::MoveAccessTimes {
                accesses: vec![Access {
                    inode: self.inode(state),
                    at: UnixNanos::MAX,
                }],
            },
            25..=26 => Command::ReapOrphans {
                limit: self.random.below(10) as u32,
            },
            27 if self.random.chance(2) => {
                let (reports, _) = state.unreported_usage(InodeId(0), 20);
                Command::Usage(match self.random.chance(2) {
                    true => UsageCommand::Report { reports },
                    false => UsageCommand::Reported { reports },
                })
            }
            _ => self.transaction(state),
        }
    }

    fn data(&mut self, state: &State) -> DataCommand {
        let (inode, offset) = (self.inode(state), self.random.below(20_000));
        let known = |skip: u64| state.extents.iter().nth(skip as usize);
        match self.random.below(9) {
            3 => DataCommand::Update(Box::new(FileUpdate {
                bytes: NewBytes::Bytes {
                    offset,
                    data: Bytes::from(vec![4; self.below(5_000)]),
                },
                change: AttributeChange {
                    mode: Some(self.below(0o10000) as u32).filter(|_| !self.random.chance(2)),
                    ..AttributeChange::default()
                },
                drops_privileges: self.random.chance(2),
                written: Some(self.random.below(100) as i64).filter(|_| !self.random.chance(2)),
                ..FileUpdate::of(inode)
            })),
            0..=2 => DataCommand::Write {
                inode,
                offset: Some(offset).filter(|_| !self.random.chance(3)),
                data: Bytes::from(vec![3; self.below(5_000)]),
            },
            4 => DataCommand::Allocate {
                inode,
                offset,
                length: self.random.below(9_000),
                how: [Allocation::PunchHole, Allocation::ZeroRange, Allocation::Reserve][self.below(3)],
                keep_size: self.random.chance(2),
            },
            5 => DataCommand::CopyRange {
                from: inode,
                from_offset: offset,
                to: self.inode(state),
                to_offset: self.random.below(20_000),
                length: self.random.below(9_000),
            },
            6 => {
                let blocks = state.garbage.iter().map(|(block, _)| *block).take(self.below(3));
                DataCommand::ForgetBlocks {
                    blocks: blocks.collect(),
                }
            }
            7 => {
                let blocks = (0..2).map(|_| BlockId::new(ClientId(8), PartitionId(0), self.random.below(50)));
                DataCommand::CondemnBlocks {
                    node: NodeNumber(1),
                    blocks: blocks.collect(),
                }
            }
            _ => match known(self.random.below(state.extents.len() + 1)) {
                Some(((inode, offset), row)) => self.repack(*inode, *offset, row),
                None => DataCommand::ForgetBlocks { blocks: Vec::new() },
            },
        }
    }

    /// Moves one row, or what is left of it in the state that applies it.
    fn repack(&mut self, inode: InodeId, offset: u64, row: &ExtentRow) -> DataCommand {
        self.blocks += 1;
        let from = match row {
            ExtentRow::Block {
                block, block_offset, ..
            } => PackedFrom::Block {
                block: *block,
                block_offset: *block_offset,
            },
            ExtentRow::Patch { written, .. } => PackedFrom::Patch { written: *written },
        };
        let length = row.length() as u32;
        let block = extent(0, length, self.blocks);
        DataCommand::Repack {
            block: PackedBlock {
                block: block.block,
                size: length,
                checksum: block.checksum,
                nodes: block.nodes,
            },
            pieces: vec![PackedPiece {
                inode,
                offset,
                length,
                block_offset: 0,
                from,
            }],
        }
    }

    fn publish(&mut self, state: &State) -> Command {
        let mut offset = self.random.below(3) * 5_000;
        let extents: Vec<_> = (0..self.random.below(4))
            .map(|_| {
                self.blocks += 1;
                let run = extent(offset, 1 + self.random.below(6_000) as u32, self.blocks);
                offset += u64::from(run.length) + self.random.below(2) * 100;
                run
            })
            .collect();
        let replace_all = self.random.chance(3);
        Command::Publish {
            inode: self.inode(state),
            extents,
            size: offset,
            replace_all,
            base_version: None,
        }
    }

    fn transaction(&mut self, state: &State) -> Command {
        let fresh = TransactionId {
            client: ClientId(5),
            sequence: self.random.next_u64(),
            attempt: 1,
        };
        let steps = match self.random.below(5) {
            0 => vec![Step::KeySet {
                key: bytes(&self.key()),
                value: bytes("t"),
            }],
            1 => {
                let (inode, parent) = (state.allocate_inode_hint(), self.directory(state));
                let entry = Entry {
                    directory: parent,
                    name: bytes(&self.name()),
                };
                vec![
                    Step::CreateDirectory {
                        inode,
                        parent,
                        attributes: new_inode(),
                        quota: None,
                        born: i64::MAX,
                    },
                    Step::InsertEntry {
                        entry,
                        inode,
                        kind: FileKind::Directory,
                        expected: None,
                        quota: None,
                        policy: None,
                    },
                ]
            }
            2 => {
                let inode = self.inode(state);
                let added = Some(self.directory(state)).filter(|_| self.random.chance(2));
                let counted_in = state.inodes.get(&inode).map(|row| row.directory);
                let removed = counted_in.filter(|_| self.random.chance(2));
                vec![Step::AddLinks {
                    inode,
                    count: i32::from(added.is_some()) - i32::from(removed.is_some()),
                    added,
                    removed,
                    quota: None,
                }]
            }
            3 => vec![Step::RemoveDirectory {
                inode: self.inode(state),
            }],
            _ => vec![
                Step::HoldRenameLease,
                Step::KeyDelete {
                    key: bytes(&self.key()),
                },
            ],
        };
        match self.random.below(3) {
            0 => {
                self.pending.push(fresh);
                Command::Prepare {
                    transaction: fresh,
                    primary: PartitionId(1),
                    steps,
                }
            }
            1 => Command::Decide {
                transaction: fresh,
                commit: self.random.chance(2),
                steps,
                participants: vec![PartitionId(1); self.below(2)],
                reply: Box::new(Reply::Done),
                acknowledged_below: 0,
            },
            _ => match self.pending.pop() {
                Some(transaction) => Command::Finish {
                    transaction,
                    commit: self.random.chance(2),
                },
                None => Command::Forget { transaction: fresh },
            },
        }
    }

    fn below(&mut self, bound: u64) -> usize {
        self.random.below(bound) as usize
    }

    fn key(&mut self) -> String {
        format!("k{}", self.random.below(20))
    }

    fn name(&mut self) -> String {
        format!("f{}", self.random.below(12))
    }

    fn expiry(&mut self) -> Expiry {
        if self.random.chance(3) {
            Expiry::After(self.random.below(9_000))
        } else {
            Expiry::Never
        }
    }

    fn entry(&mut self, state: &State) -> Entry {
        Entry {
            directory: self.directory(state),
            name: bytes(&self.name()),
        }
    }

    fn inode(&mut self, state: &State) -> InodeId {
        let skip = self.random.below(state.inodes.len());
        *state.inodes.iter().nth(skip as usize).unwrap().0
    }

    fn directory(&mut self, state: &State) -> InodeId {
        let inode = self.inode(state);
        if state.directory(inode).is_ok() {
            inode
        } else {
            InodeId::ROOT
        }
    }
}

fn workload(seed: u64) -> Workload {
    Workload {
        random: Random::new(seed),
        blocks: 0,
        pending: Vec::new(),
    }
}

fn proposals(seed: u64) -> Vec<Proposal> {
    let mut machine = Machine::new();
    let mut workload = workload(seed);
    (1..=OPERATIONS)
        .map(|sequence| {
            machine.time += workload.random.below(2 * SECOND as u64) as i64;
            let command = workload.command(&machine.state);
            let id = RequestId {
                client: ClientId(sequence % 3),
                sequence,
                acknowledged_below: 0,
            };
            let proposal = Proposal {
                time: machine.time,
                id: Some(id),
                command,
            };
            let _ = machine.state.apply(sequence, &proposal);
            proposal
        })
        .collect()
}

/// The digest and every counter, recomputed by a full scan.
fn check_everything(state: &mut State) {
    let mut digest = 0u64;
    each_table!(shared state, table, digest = digest.wrapping_add(table.digest_from_scratch()));
    assert_eq!(digest, state.tables_digest());

    let mut children = BTreeMap::<InodeId, (u64, u32)>::new();
    for (key, entry) in state.dentries.iter() {
        let counts = children.entry(key.directory).or_default();
        counts.0 += 1;
        counts.1 += u32::from(entry.kind == FileKind::Directory);
    }
    let mut references = BTreeMap::new();
    let mut runs = BTreeMap::<InodeId, (u64, u64, u64)>::new();
    for ((inode, offset), row) in state.extents.iter() {
        if let ExtentRow::Block { block, .. } = row {
            *references.entry(*block).or_insert(0) += 1;
        }
        let (count, bytes, end) = runs.entry(*inode).or_default();
        assert!(
            *end <= *offset && row.length() > 0,
            "extents overlap or are empty"
        );
        *count += 1;
        *bytes += row.length();
        *end = offset + row.length();
    }
    let mut xattrs = BTreeMap::<InodeId, u8>::new();
    for ((inode, _), _) in state.xattrs.iter() {
        *xattrs.entry(*inode).or_default() += 1;
    }
    check_usage(state);
    let due: BTreeSet<InodeId> = state.orphans.iter().map(|(inode, _)| *inode).collect();
    let open: BTreeSet<InodeId> = state.opens.iter().map(|((inode, _), ())| *inode).collect();
    let (mut file_bytes, mut allocated_bytes, mut orphans) = (0, 0, 0);
    for (inode, row) in state.inodes.iter() {
        let (count, bytes, end) = runs.remove(inode).unwrap_or_default();
        assert_eq!(row.xattr_count, xattrs.remove(inode).unwrap_or_default());
        match &row.body {
            Body::Directory {
                children: counted, ..
            } => {
                let (entries, directories) = children.remove(inode).unwrap_or_default();
                let links = if row.link_count == 0 { 0 } else { 2 + directories };
                assert_eq!((*counted, row.link_count), (entries, links));
            }
            Body::Inline(bytes) => assert!(bytes.len() as u64 <= row.size && count == 0),
            Body::Symlink(_) | Body::Special { .. } => assert_eq!(count, 0),
            Body::Extents {
                count: counted,
                allocated,
            } => assert_eq!((*counted, *allocated), (count, bytes)),
        }
        assert!(end <= row.size, "an extent beyond the end");
        if row.link_count == 0 {
            orphans += 1;
            assert!(due.contains(inode) || open.contains(inode), "an orphan for ever");
            continue;
        }
        allocated_bytes += row.allocated();
        file_bytes += if row.kind() == FileKind::Regular {
            row.size
        } else {
            0
        };
    }
    assert_eq!(
        (file_bytes, allocated_bytes, orphans),
        (state.file_bytes, state.allocated_bytes, state.orphan_count)
    );
    assert!(
        children.is_empty() && runs.is_empty() && xattrs.is_empty(),
        "entries, extents or attributes without inode"
    );
    let open_by_client: BTreeSet<_> = state.opens_by_client.iter().map(|(pair, ())| *pair).collect();
    let turned = state.opens.iter().map(|((inode, client), ())| (*client, *inode));
    assert_eq!(turned.collect::<BTreeSet<_>>(), open_by_client);
    let told: u32 = state.leases.iter().map(|(_, lease)| lease.opens).sum();
    assert_eq!(u64::from(told), state.opens.len());
    let counted: BTreeMap<_, _> = state
        .blocks
        .iter()
        .map(|(block, row)| (*block, row.references))
        .collect();
    assert_eq!(counted, references);
    assert!(
        state
            .garbage
            .iter()
            .all(|(block, _)| !references.contains_key(block))
    );
    let counted = state.space();
    let patches = state.patches.clone();
    state.recount();
    assert_eq!((counted, patches), (state.space(), state.patches.clone()));
    let expiring = state.keys.iter().filter(|(_, row)| row.expires.is_some()).count();
    assert_eq!(expiring as u64, state.expiries.len());
    let held: usize = state
        .prepared
        .iter()
        .map(|(_, prepared)| prepared.steps.len())
        .sum();
    assert_eq!(held as u64, state.locks.len());
    let recorded: u32 = state.sessions.iter().map(|(_, session)| session.replies).sum();
    assert_eq!(u64::from(recorded), state.replies.len());
    assert_eq!(state.audit(), Ok(()));
}

/// What directories take here, what was reported to them, and the names of files with several.
fn check_usage(state: &mut State) {
    let mut own = BTreeMap::<InodeId, Usage>::new();
    let mut links = BTreeMap::<InodeId, (u32, bool)>::new();
    for ((inode, directory), count) in state.names.iter() {
        let (links, counts) = links.entry(*inode).or_default();
        *links += count;
        *counts |= state
            .inodes
            .get(inode)
            .is_some_and(|row| row.directory == *directory);
    }
    for (inode, row) in state.inodes.iter() {
        let several = row.kind() != FileKind::Directory && row.link_count > 1;
        let expected = several.then_some((row.link_count, true));
        assert_eq!(links.remove(inode), expected, "names of {inode}");
        let sum = own.entry(row.directory).or_default();
        *sum = sum.plus(row.counted().usage);
    }
    assert!(links.is_empty(), "names without inode");
    let is_alive = |directory: &InodeId| state.directory(*directory).is_ok();
    own.retain(|directory, sum| is_alive(directory) && *sum != Usage::default());
    let mut below = BTreeMap::<InodeId, Usage>::new();
    for ((directory, contributor), row) in state.contributions.iter() {
        let is_here = state.dentries.iter().any(|(key, dentry)| {
            key.directory == *directory && dentry.inode == *contributor && dentry.kind == FileKind::Directory
        });
        assert!(is_here, "a contribution without entry");
        let sum = below.entry(*directory).or_default();
        *sum = sum.plus(row.usage);
    }
    for (directory, row) in state.usages.iter() {
        assert_eq!(row.own, own.remove(directory).unwrap_or_default());
        assert_eq!(row.below, below.remove(directory).unwrap_or_default());
    }
    assert!(own.is_empty() && below.values().all(|sum| *sum == Usage::default()));
    let unreported = state.unreported.clone();
    state.recount_unreported();
    assert_eq!(unreported, state.unreported);
}

#[test]
fn replicas_that_apply_the_same_entries_are_equal() {
    // Goal: hash and replies agree at every index; digest and counters equal a full scan.
    for seed in 1..=4 {
        let mut states = [Machine::new().state, Machine::new().state];
        for (index, proposal) in (1..).zip(proposals(seed)) {
            let [left, right] = states.each_mut().map(|state| state.apply(index, &proposal));
            assert_eq!(left, right);
            assert_eq!(states[0].hash(), states[1].hash(), "seed {seed} index {index}");
            if index % 50 == 0 {
                check_everything(&mut states[0]);
            }
        }
        assert!(
            states[0].inodes.len() > 5 && states[0].garbage.len() > 5,
            "the workload does something"
        );
    }
}

#[test]
fn a_snapshot_is_the_state_as_it_was_though_entries_go_on() {
    // Goal: begin at a random index, draw small chunks between entries, load in odd pieces: equal.
    for seed in 1..=12 {
        let mut random = Random::new(seed);
        let begin = random.below(OPERATIONS * 3 / 4);
        let mut state = Machine::new().state;
        let mut mark = None;
        let mut snapshot = Vec::new();
        for (index, proposal) in (1..).zip(proposals(seed)) {
            let _ = state.apply(index, &proposal);
            if index == begin {
                mark = Some(state.begin_snapshot());
            }
            if random.chance(3) {
                snapshot.extend(
                    state
                        .snapshot_chunk(random.below(2_000) as usize)
                        .unwrap_or_default(),
                );
            }
        }
        while let Some(chunk) = state.snapshot_chunk(1_000) {
            snapshot.extend(chunk);
        }
        each_table!(shared state, table, assert_eq!(table.saved_rows(), 0));
        let Some(mark) = mark else { continue };
        let mut loader = StateLoader::new();
        for piece in snapshot.chunks(1 + random.below(999) as usize) {
            loader.feed(piece).unwrap();
        }
        let mut loaded = loader.finish().unwrap();
        assert_eq!(
            (loaded.applied(), loaded.hash()),
            (mark.index, mark.hash),
            "seed {seed}"
        );
        check_everything(&mut loaded);
    }
}

#[test]
fn a_loaded_state_goes_on_like_the_one_it_was_taken_from() {
    let history = proposals(77);
    let (first, second) = history.split_at(1_000);
    let mut state = Machine::new().state;
    for (index, proposal) in (1..).zip(first) {
        let _ = state.apply(index, proposal);
    }
    state.begin_snapshot();
    let mut loader = StateLoader::new();
    while let Some(chunk) = state.snapshot_chunk(64 * 1024) {
        loader.feed(&chunk).unwrap();
    }
    let mut loaded = loader.finish().unwrap();
    for (index, proposal) in (1_001..).zip(second) {
        assert_eq!(state.apply(index, proposal), loaded.apply(index, proposal));
    }
    assert_eq!(state.hash(), loaded.hash());
}

#[test]
fn repeating_any_request_changes_nothing() {
    // Goal: straight after it and at the end, a recorded request gives the same reply, no row changes.
    let mut state = Machine::new().state;
    let mut index = 0;
    for proposal in proposals(5) {
        index += 1;
        let first = state.apply(index, &proposal);
        let is_plain = !matches!(
            proposal.command,
            Command::Prepare { .. }
                | Command::Decide { .. }
                | Command::Finish { .. }
                | Command::Forget { .. }
        );
        let id = proposal.id.unwrap();
        if is_plain && state.recorded(&id).is_some() {
            let digest = state.tables_digest();
            index += 1;
            assert_eq!(state.apply(index, &proposal), first);
            assert_eq!(state.tables_digest(), digest);
        }
    }
}

#[test]
fn damaged_snapshots_are_refused_without_panic() {
    // Goal: any flipped bit, cut end or garbage is an error.
    let mut state = Machine::new().state;
    for (index, proposal) in (1..).zip(proposals(3).into_iter().take(300)) {
        let _ = state.apply(index, &proposal);
    }
    state.begin_snapshot();
    let mut snapshot = Vec::new();
    while let Some(chunk) = state.snapshot_chunk(4_000) {
        snapshot.extend(chunk);
    }
    let load = |bytes: &[u8]| {
        let mut loader = StateLoader::new();
        loader.feed(bytes)?;
        loader.finish()
    };
    assert!(load(&snapshot).is_ok());
    assert_eq!(load(&[]).err(), Some(Error::Incomplete));
    let mut random = Random::new(1);
    for _ in 0..500 {
        let position = random.below(snapshot.len() as u64) as usize;
        assert!(load(&snapshot[..position]).is_err());
        let mut damaged = snapshot.clone();
        damaged[position] ^= 1 << random.below(8);
        assert!(load(&damaged).is_err(), "bit flip at {position}");
    }
}
