//! Histories of commands that meet each other often: few names, few keys, few files.

use super::*;
use crate::random::Random;
use crate::state::extent::ExtentRow;
use bark_schema::access_time::Access;
use bark_schema::data::{
    Allocation, DataCommand, FileUpdate, NewBytes, NewPiece, PackedBlock, PackedFrom, PackedPiece,
};
use bark_schema::ids::TransactionId;
use bark_schema::operation::{AttributeChange, Entry, RenameMode, Step, UnixNanos, Xattr};
use bark_schema::usage::UsageCommand;

/// Commands of a history.
pub(super) const OPERATIONS: u64 = 2_000;

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

    /// Some that are refused, too.
    fn pieces(&mut self, mut offset: u64) -> NewBytes {
        let pieces = (0..self.below(4)).map(|_| {
            let data = Bytes::from(vec![4; self.below(5_000)]);
            let piece = NewPiece { offset, data };
            offset += self.random.below(9_000);
            piece
        });
        NewBytes::Pieces(pieces.collect())
    }

    fn data(&mut self, state: &State) -> DataCommand {
        let (inode, offset) = (self.inode(state), self.random.below(20_000));
        let known = |skip: u64| state.extents.iter().nth(skip as usize);
        match self.random.below(9) {
            3 => DataCommand::Update(Box::new(FileUpdate {
                bytes: self.pieces(offset),
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

/// The commands a machine was given that met them one after the other.
pub(super) fn proposals(seed: u64) -> Vec<Proposal> {
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
