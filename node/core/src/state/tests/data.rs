//! Bytes of files: writes, holes, copies and packing, against files that are plain vectors.

use super::*;
use crate::random::Random;
use bark_schema::data::{
    Allocation, DataCommand, DataQuery, FileUpdate, NewBytes, NewPiece, PackedBlock, PackedFrom, PackedPiece,
    Place, SeekTarget,
};
use bark_schema::limits::{FILE_SIZE_MAX, INLINE_SIZE_MAX, WRITE_SIZE_MAX};
use bark_schema::operation::AttributeChange;

use crate::state::FragmentPlace;
use crate::state::extent::ExtentRow;

const ROOT: InodeId = InodeId::ROOT;
/// Files of the model stay below this.
const SIZE_MAX: u64 = 100_000;

fn write(inode: InodeId, offset: u64, data: &[u8]) -> Command {
    Command::Data(DataCommand::Write {
        inode,
        offset: Some(offset),
        data: Bytes::copy_from_slice(data),
    })
}

fn append(inode: InodeId, data: &[u8]) -> Command {
    Command::Data(DataCommand::Write {
        inode,
        offset: None,
        data: Bytes::copy_from_slice(data),
    })
}

fn allocate(inode: InodeId, offset: u64, length: u64, how: Allocation, keep_size: bool) -> Command {
    Command::Data(DataCommand::Allocate {
        inode,
        offset,
        length,
        how,
        keep_size,
    })
}

fn copy(from: InodeId, from_offset: u64, to: InodeId, to_offset: u64, length: u64) -> Command {
    Command::Data(DataCommand::CopyRange {
        from,
        from_offset,
        to,
        to_offset,
        length,
    })
}

fn resize(inode: InodeId, size: u64) -> Command {
    let change = AttributeChange {
        size: Some(size),
        ..Default::default()
    };
    Command::SetAttributes { inode, change }
}

impl Machine {
    fn allocated(&self, inode: InodeId) -> u64 {
        self.state.inode(inode).expect("it is there").allocated()
    }

    fn seek(&self, inode: InodeId, offset: u64, target: SeekTarget) -> Result<u64, Refusal> {
        let query = DataQuery::Seek {
            inode,
            offset,
            target,
        };
        match self.query(Query::Data(query)) {
            Ok(Reply::Count(found)) => Ok(found),
            other => Err(refusal(other)),
        }
    }
}

/// What a block holds, so that the model needs no block store.
fn block_byte(block: u64, offset: u64) -> u8 {
    (block.wrapping_mul(31).wrapping_add(offset.wrapping_mul(7)) % 251) as u8 + 1
}

/// Reads a file the way clients do, in pieces of the layout.
fn read(machine: &Machine, packed: &[Vec<u8>], inode: InodeId) -> Vec<u8> {
    let size = machine.attributes(inode).size;
    let mut found = Vec::new();
    while (found.len() as u64) < size {
        let from = found.len() as u64;
        match machine.layout(inode, from, size - from) {
            Content::Inline(bytes) => found.extend_from_slice(&bytes),
            Content::Mapped(map) => {
                assert!(map.known_until > from, "the map goes on");
                for piece in map.pieces(from, size) {
                    let length = piece.length as usize;
                    match piece.place {
                        Place::Hole => found.resize(found.len() + length, 0),
                        Place::Bytes(bytes) => found.extend_from_slice(&bytes),
                        Place::Block { extent, skip } => {
                            let start = u64::from(extent.block_offset + skip);
                            let counter = extent.block.counter & BlockId::COUNTER_MAX;
                            let bytes =
                                (start..start + piece.length).map(|at| match counter.checked_sub(PACKED) {
                                    Some(index) => packed[index as usize][at as usize],
                                    None => block_byte(counter, at),
                                });
                            found.extend(bytes);
                        }
                    }
                }
            }
        }
    }
    found
}

/// Numbers of blocks that were packed, whose bytes are kept beside.
const PACKED: u64 = 1 << 40;

/// A state and what its files should hold.
struct Model {
    machine: Machine,
    random: Random,
    files: Vec<(InodeId, Vec<u8>)>,
    blocks: u64,
    packed: Vec<Vec<u8>>,
    /// Made earlier, applied later: pieces may be gone by then.
    delayed: Vec<Command>,
}

impl Model {
    fn new(seed: u64) -> Model {
        let mut machine = Machine::new();
        let files = ["a", "b", "c"].map(|name| (machine.create(ROOT, name, b""), Vec::new()));
        Model {
            machine,
            random: Random::new(seed),
            files: files.to_vec(),
            blocks: 0,
            packed: Vec::new(),
            delayed: Vec::new(),
        }
    }

    fn step(&mut self) {
        let file = self.random.below(3) as usize;
        let (inode, size) = (self.files[file].0, self.files[file].1.len() as u64);
        let offset = self.random.below((size + 9_000).min(SIZE_MAX));
        let length = (1 + self.random.below(9_000)).min(SIZE_MAX - offset.min(SIZE_MAX - 1));
        let range = offset as usize..(offset + length) as usize;
        let byte = self.random.below(255) as u8 + 1;
        match self.random.below(12) {
            0..=2 => {
                let data: Vec<u8> = (0..length).map(|at| byte ^ at as u8).collect();
                self.apply(write(inode, offset, &data));
                self.lay(file, range, &data);
            }
            3 => self.write_pieces(file, offset),
            4 if size < SIZE_MAX / 2 => {
                self.apply(append(inode, &vec![byte; 300]));
                self.lay(file, size as usize..size as usize + 300, &vec![byte; 300]);
            }
            5..=6 => {
                self.blocks += 1;
                let extent = extent(offset, length as u32, self.blocks);
                self.apply(Command::Publish {
                    inode,
                    extents: vec![extent],
                    size: offset + length,
                    replace_all: false,
                    base_version: None,
                });
                let data: Vec<u8> = (0..length).map(|at| block_byte(self.blocks, at)).collect();
                self.lay(file, range, &data);
            }
            7 => {
                let how = [Allocation::PunchHole, Allocation::ZeroRange][self.random.below(2) as usize];
                let keep_size = self.random.chance(2);
                self.apply(allocate(inode, offset, length, how, keep_size));
                let model = &mut self.files[file].1;
                if how == Allocation::ZeroRange && !keep_size {
                    model.resize(model.len().max(range.end), 0);
                }
                let end = range.end.min(model.len());
                if range.start < end {
                    model[range.start..end].fill(0);
                }
            }
            8 => {
                let size = self.random.below(SIZE_MAX);
                self.apply(resize(inode, size));
                self.files[file].1.resize(size as usize, 0);
            }
            9 => self.copy(file),
            10 => self.pack(),
            _ => {
                if let Some(command) = self.delayed.pop() {
                    self.apply(command);
                }
            }
        }
    }

    fn write_pieces(&mut self, file: usize, mut offset: u64) {
        let mut pieces = Vec::new();
        for _ in 0..=self.random.below(4) {
            let data = vec![self.random.below(255) as u8 + 1; 1 + self.random.below(3_000) as usize];
            self.lay(file, offset as usize..offset as usize + data.len(), &data);
            let piece = NewPiece {
                offset,
                data: data.into(),
            };
            offset = piece.end().unwrap() + self.random.below(6_000);
            pieces.push(piece);
        }
        let version = self.machine.attributes(self.files[file].0).version;
        let count = pieces.len() as u64;
        self.apply(Command::Data(DataCommand::Update(Box::new(FileUpdate {
            bytes: NewBytes::Pieces(pieces),
            ..FileUpdate::of(self.files[file].0)
        }))));
        assert_eq!(
            self.machine.attributes(self.files[file].0).version,
            version + count
        );
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.machine.time += SECOND;
        self.machine
            .apply(command)
            .expect("the model knows what is allowed")
    }

    fn lay(&mut self, file: usize, range: std::ops::Range<usize>, data: &[u8]) {
        let model = &mut self.files[file].1;
        model.resize(model.len().max(range.end), 0);
        model[range].copy_from_slice(data);
    }

    fn copy(&mut self, to: usize) {
        let from = self.random.below(3) as usize;
        let size = self.files[from].1.len() as u64;
        let (from_offset, to_offset) = (self.random.below(size + 1), self.random.below(SIZE_MAX / 2));
        let length = self.random.below(20_000);
        let clipped = length.min(size - from_offset);
        let command = copy(
            self.files[from].0,
            from_offset,
            self.files[to].0,
            to_offset,
            length,
        );
        if from == to && from_offset < to_offset + clipped && to_offset < from_offset + clipped {
            assert_eq!(refusal(self.machine.apply(command)), Refusal::InvalidArgument);
            return;
        }
        let Reply::Copied(copied) = self.apply(command) else {
            panic!("not copied");
        };
        assert_eq!(copied.length, clipped);
        let source = self.files[from].1[from_offset as usize..(from_offset + clipped) as usize].to_vec();
        if !source.is_empty() {
            self.lay(to, to_offset as usize..to_offset as usize + source.len(), &source);
        }
    }

    /// Packs what the map has now into one block; half the time the command is applied much later.
    fn pack(&mut self) {
        let mut block = Vec::new();
        let mut pieces = Vec::new();
        for ((inode, offset), row) in self.machine.state.extents.iter() {
            let block_offset = block.len() as u32;
            let (length, from) = match row {
                ExtentRow::Patch { written, bytes } => {
                    block.extend_from_slice(bytes);
                    (bytes.len(), PackedFrom::Patch { written: *written })
                }
                ExtentRow::Block {
                    length,
                    block_offset: at,
                    block: old,
                } => {
                    let start = u64::from(*at);
                    let counter = old.counter & BlockId::COUNTER_MAX;
                    block.extend((start..start + u64::from(*length)).map(|at| {
                        match counter.checked_sub(PACKED) {
                            Some(index) => self.packed[index as usize][at as usize],
                            None => block_byte(counter, at),
                        }
                    }));
                    let from = PackedFrom::Block {
                        block: *old,
                        block_offset: *at,
                    };
                    (*length as usize, from)
                }
            };
            pieces.push(PackedPiece {
                inode: *inode,
                offset: *offset,
                length: length as u32,
                block_offset,
                from,
            });
        }
        let id = extent(0, 1, PACKED + self.packed.len() as u64).block;
        let command = Command::Data(DataCommand::Repack {
            block: PackedBlock {
                block: id,
                size: block.len() as u32,
                checksum: 9,
                nodes: vec![NodeNumber(1)],
            },
            pieces,
        });
        self.packed.push(block);
        if self.random.chance(2) {
            self.apply(command);
        } else {
            self.delayed.push(command);
        }
    }

    fn check(&self, context: &str) {
        for (inode, expected) in &self.files {
            let found = read(&self.machine, &self.packed, *inode);
            let same = found == *expected;
            assert!(same, "{context}: {inode} holds other bytes than were written");
            self.check_seek(*inode, expected, context);
        }
    }

    /// Holes read as zeros, and every byte that is not zero is in data.
    fn check_seek(&self, inode: InodeId, expected: &[u8], context: &str) {
        let mut offset = 0;
        while let Ok(data) = self.machine.seek(inode, offset, SeekTarget::Data) {
            let zeros = &expected[offset as usize..data as usize];
            assert!(zeros.iter().all(|byte| *byte == 0), "{context}: data in a hole");
            offset = self
                .machine
                .seek(inode, data, SeekTarget::Hole)
                .expect("a hole or the end");
            assert!(offset > data, "{context}: data is not empty");
        }
        assert!(expected[offset as usize..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn files_hold_what_a_plain_file_would_after_any_history() {
    // Goal: overlay, conversion, holes, copies and (late) packing agree on every byte. Method: random
    // histories against vectors.
    for seed in 1..=20 {
        let mut model = Model::new(seed);
        for step in 0..300 {
            model.step();
            if step % 10 == 0 {
                model.check(&format!("seed {seed} step {step}"));
            }
        }
        model.check(&format!("seed {seed}"));
    }
}

#[test]
fn an_inline_file_outgrows_its_inode_by_one_write() {
    // Goal: the client never rewrites what was inline. Method: one write across the limit, both parts read.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"start");
    machine
        .apply(write(file, INLINE_SIZE_MAX as u64 - 2, b"four"))
        .unwrap();
    let content = read(&machine, &[], file);
    assert_eq!((&content[..5], &content[8190..]), (&b"start"[..], &b"four"[..]));
    assert_eq!(machine.allocated(file), 5 + 4);
    machine.apply(append(file, b"end")).unwrap();
    assert!(read(&machine, &[], file).ends_with(b"fourend"));
}

#[test]
fn writes_that_follow_each_other_join_into_few_rows() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", &[1; INLINE_SIZE_MAX]);
    for _ in 0..1_000 {
        machine.apply(append(file, &[2; 100])).unwrap();
    }
    let rows = machine.state.extents.len();
    assert!(rows < 20, "{rows} rows for 100,000 bytes");
}

#[test]
fn patches_beyond_their_space_wait_until_some_are_packed() {
    // Goal: memory is bounded and nothing is lost. Method: write until Busy, pack one patch, write again.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let data = vec![7; WRITE_SIZE_MAX];
    let mut offset = 0;
    while machine.apply(write(file, offset, &data)).is_ok() {
        offset += data.len() as u64;
        assert!(offset <= crate::state::data::PATCH_SPACE_MAX);
    }
    assert!(matches!(
        machine.apply(write(file, offset, &data)),
        Err(Failure::Busy(_))
    ));
    let Some(((_, at), ExtentRow::Patch { written, .. })) = machine.state.extents.first() else {
        panic!("no patch");
    };
    let piece = PackedPiece {
        inode: file,
        offset: *at,
        length: data.len() as u32,
        block_offset: 0,
        from: PackedFrom::Patch { written: *written },
    };
    let run = extent(0, data.len() as u32, 1);
    let block = PackedBlock {
        block: run.block,
        size: run.block_size,
        checksum: 1,
        nodes: run.nodes,
    };
    let pack = Command::Data(DataCommand::Repack {
        block,
        pieces: vec![piece],
    });
    assert_eq!(machine.apply(pack), Ok(Reply::Count(1)));
    machine.apply(write(file, offset, &data)).unwrap();
}

#[test]
fn holes_take_no_space_and_files_reach_their_limit() {
    // Goal: allocated bytes are exact for sparse files, and nothing goes beyond 16 TiB.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    machine.apply(resize(file, FILE_SIZE_MAX)).unwrap();
    machine.apply(write(file, FILE_SIZE_MAX - 10, &[1; 10])).unwrap();
    assert_eq!(
        (machine.allocated(file), machine.attributes(file).blocks),
        (10, 1)
    );
    assert_eq!(machine.seek(file, 0, SeekTarget::Data), Ok(FILE_SIZE_MAX - 10));
    assert_eq!(machine.seek(file, 0, SeekTarget::Hole), Ok(0));
    assert_eq!(
        machine.seek(file, FILE_SIZE_MAX - 5, SeekTarget::Hole),
        Ok(FILE_SIZE_MAX)
    );
    assert_eq!(
        machine.seek(file, FILE_SIZE_MAX, SeekTarget::Data),
        Err(Refusal::BeyondEnd)
    );
    assert_eq!(
        refusal(machine.apply(write(file, FILE_SIZE_MAX - 1, b"ab"))),
        Refusal::FileTooLarge
    );
    assert_eq!(refusal(machine.apply(append(file, b"a"))), Refusal::FileTooLarge);
    let hole = allocate(file, 0, FILE_SIZE_MAX, Allocation::PunchHole, true);
    machine.apply(hole).unwrap();
    assert_eq!(
        (machine.allocated(file), machine.attributes(file).size),
        (0, FILE_SIZE_MAX)
    );
}

#[test]
fn allocating_changes_the_size_unless_it_is_kept() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"abc");
    machine
        .apply(allocate(file, 0, 100, Allocation::Reserve, true))
        .unwrap();
    assert_eq!(
        (machine.attributes(file).size, machine.attributes(file).version),
        (3, 1)
    );
    machine
        .apply(allocate(file, 0, 100, Allocation::Reserve, false))
        .unwrap();
    assert_eq!(machine.attributes(file).size, 100);
    assert_eq!(&read(&machine, &[], file)[..4], b"abc\0");
    let empty = allocate(file, 5, 0, Allocation::ZeroRange, false);
    assert_eq!(refusal(machine.apply(empty)), Refusal::InvalidArgument);
}

#[test]
fn copies_between_partitions_are_left_to_the_client() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"abc");
    let elsewhere = InodeId::new(PartitionId(2), 9);
    assert_eq!(
        machine.apply(copy(file, 0, elsewhere, 0, 3)),
        Err(Failure::CrossPartition)
    );
    assert_eq!(
        machine.apply(copy(elsewhere, 0, file, 0, 3)),
        Err(Failure::CrossPartition)
    );
}

#[test]
fn a_file_in_pieces_is_found_once_and_is_whole_after_packing() {
    // Goal: runs of small neighbours are found, and not again once they are one. Method: a file of 40
    // pieces with a gap in the middle, packed as the leader would.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    for piece in 0..40u64 {
        let offset = piece * 1_000 + if piece < 20 { 0 } else { 500 };
        let run = extent(offset, 1_000, piece + 1);
        let command = Command::Publish {
            inode: file,
            size: run.end(),
            extents: vec![run],
            replace_all: false,
            base_version: None,
        };
        machine.apply(command).unwrap();
    }
    let (first, cursor) = machine.state.fragments_after(None);
    assert_eq!((first.len(), first[0].offset), (20, 0));
    let (second, _) = machine.state.fragments_after(cursor);
    assert_eq!((second.len(), second[0].offset), (20, 20_500));
    let pieces = first.iter().map(|fragment| PackedPiece {
        inode: fragment.inode,
        offset: fragment.offset,
        length: fragment.length,
        block_offset: fragment.offset as u32,
        from: match &fragment.place {
            FragmentPlace::Block {
                block, block_offset, ..
            } => PackedFrom::Block {
                block: *block,
                block_offset: *block_offset,
            },
            FragmentPlace::Patch { written, .. } => PackedFrom::Patch { written: *written },
        },
    });
    let run = extent(0, 20_000, 99);
    let block = PackedBlock {
        block: run.block,
        size: 20_000,
        checksum: 1,
        nodes: run.nodes,
    };
    let pack = DataCommand::Repack {
        block,
        pieces: pieces.collect(),
    };
    assert_eq!(machine.apply(Command::Data(pack)), Ok(Reply::Count(20)));
    assert_eq!(machine.state.extents.len(), 21);
    let (found, _) = machine.state.fragments_after(None);
    assert_eq!(found[0].offset, 20_500, "what is whole is left alone");
}
