//! What can be asked about the bytes of files, and about the blocks they are in.
//!
//! A file's bytes are inline in its inode, or mapped: extents point into immutable blocks, and patches are
//! bytes that came in a log entry and are folded into blocks later. What neither covers is zeros. Whoever
//! reads a [`FileMap`] goes through [`FileMap::pieces`], which puts the three together.
//!
//! Invariants:
//! - Extents and patches of one map are in order and do not overlap.
//! - A block belongs to one partition, the one its id names: only there it is counted and dropped.

use bytes::Bytes;

use crate::ids::{BlockId, InodeId, NodeNumber};
use crate::operation::{AttributeChange, Attributes, Extent, UnixNanos};

/// A change of the bytes of files, or of the ledger of blocks, by one log entry.
#[derive(Clone, Debug, PartialEq)]
pub enum DataCommand {
    /// Writes bytes that travel in the log entry: one round trip, for files of any size. At most
    /// WRITE_SIZE_MAX. `offset` None: at the end of the file as it is then (O_APPEND); the offset is the
    /// size answered less the length. Answers `Attributes`; `Busy` while too much waits to be folded.
    Write {
        inode: InodeId,
        offset: Option<u64>,
        data: Bytes,
    },
    /// fallocate. Unless `keep_size`, the file is at least `offset + length` long afterwards. Answers `Attributes`.
    Allocate {
        inode: InodeId,
        offset: u64,
        length: u64,
        how: Allocation,
        keep_size: bool,
    },
    /// Copies bytes between files, or within one where the ranges do not overlap, by sharing blocks.
    /// Both must have the same home (`CrossPartition` otherwise: read and write instead). Answers
    /// `Copied`; it may be less than asked: go on from there. 0 only at the end of the source.
    CopyRange {
        from: InodeId,
        from_offset: u64,
        to: InodeId,
        to_offset: u64,
        length: u64,
    },
    /// The bytes of `pieces` are in `block` too: lets the files point there, where a piece is still what
    /// it was. Contents do not change, nor do versions. Proposed by leaders.
    Repack {
        block: PackedBlock,
        pieces: Vec<PackedPiece>,
    },
    /// Blocks `node` has and nobody published: those not in use become garbage. Proposed by nodes.
    CondemnBlocks { node: NodeNumber, blocks: Vec<BlockId> },
    /// Blocks the sending client cut and will never publish; copies may be on `nodes`. Those not in use become garbage
    /// that nobody has to wait for.
    AbandonBlocks {
        blocks: Vec<BlockId>,
        nodes: Vec<NodeNumber>,
    },
    /// The nodes dropped these: they leave the ledger. Proposed by leaders.
    ForgetBlocks { blocks: Vec<BlockId> },
    /// Copies that were made, or found missing or bad. The last one of a block stays in its record, whatever is said
    /// of it. Answers `Blocks`, those that are in use. Proposed by nodes.
    RecordCopies { changes: Vec<CopyChange> },
    /// All that a client has of an inode, at once. Answers `Attributes`.
    /// Boxed, because it is the largest of all commands by far.
    Update(Box<FileUpdate>),
}

/// A node has a good copy of a block, or none any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CopyChange {
    pub block: BlockId,
    pub node: NodeNumber,
    pub has: bool,
}

/// What a client kept for a while: bytes, and attributes that were set after them.
#[derive(Clone, Debug, PartialEq)]
pub struct FileUpdate {
    pub inode: InodeId,
    pub bytes: NewBytes,
    /// Without a size.
    pub change: AttributeChange,
    /// The owner changed, or somebody without privileges wrote, before the mode of `change` was set: the
    /// set-user bit goes, and the set-group bit if the group may execute. Nothing happens to a directory.
    pub drops_privileges: bool,
    /// When the bytes were written, unless `change` sets that time.
    pub written: Option<UnixNanos>,
    /// When the last of it was done. Both times count as far as they lie between the inode's last change and
    /// the log entry; without them it is the entry's.
    pub changed: Option<UnixNanos>,
}

/// New bytes of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum NewBytes {
    #[default]
    Nothing,
    /// They travel in the log entry, as those of [`DataCommand::Write`]: behind each other, WRITE_SIZE_MAX of them at most,
    /// in PIECES_PER_UPDATE_MAX pieces at most. Each piece makes a version of the content.
    Pieces(Vec<NewPiece>),
    /// Blocks that are stored, laid over what the file has; it grows to `size` if it was shorter.
    Blocks { extents: Vec<Extent>, size: u64 },
}

/// Bytes and where they belong.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPiece {
    pub offset: u64,
    pub data: Bytes,
}

impl NewPiece {
    /// Behind its last byte, unless that is beyond all numbers.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.data.len() as u64)
    }
}

impl NewBytes {
    /// One piece.
    pub fn at(offset: u64, data: Bytes) -> NewBytes {
        NewBytes::Pieces(vec![NewPiece { offset, data }])
    }
}

impl FileUpdate {
    /// One that changes nothing.
    pub fn of(inode: InodeId) -> FileUpdate {
        FileUpdate {
            inode,
            bytes: NewBytes::Nothing,
            change: AttributeChange::default(),
            drops_privileges: false,
            written: None,
            changed: None,
        }
    }
}

/// A question about the bytes of files, or about blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum DataQuery {
    /// lseek: the next data or hole at or after `offset`. Answers `Count`, `BeyondEnd` beyond the end.
    Seek {
        inode: InodeId,
        offset: u64,
        target: SeekTarget,
    },
    /// Which of these blocks the partition neither uses nor has in its ledger. Answers `Blocks`.
    UnknownBlocks { blocks: Vec<BlockId> },
    /// Blocks nobody needs that are not dropped yet, in order behind `after`. Answers `Ledger`.
    Ledger { after: Option<BlockId>, limit: u32 },
    /// Which files have these blocks. Looks at a bounded part of the maps of files, from `from` on. Answers
    /// `BlockFiles`.
    BlockFiles {
        blocks: Vec<BlockId>,
        from: (InodeId, u64),
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Makes sure of the size; space is taken when bytes are written.
    Reserve,
    /// The range reads as zeros and takes no space. Always keeps the size.
    PunchHole,
    /// The range reads as zeros.
    ZeroRange,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTarget {
    Data,
    /// The end of a file counts as a hole.
    Hole,
}

/// A block that was stored: what its copies are like and who has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBlock {
    pub block: BlockId,
    pub size: u32,
    pub checksum: u32,
    pub nodes: Vec<NodeNumber>,
}

/// A run of a file that a packed block holds too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedPiece {
    pub inode: InodeId,
    pub offset: u64,
    pub length: u32,
    /// In the packed block.
    pub block_offset: u32,
    /// Where it was when it was packed; what is elsewhere by now stays there.
    pub from: PackedFrom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedFrom {
    /// The patches written by the log entry with this index.
    Patch {
        written: u64,
    },
    Block {
        block: BlockId,
        block_offset: u32,
    },
}

/// Bytes of a file that are not in a block yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub offset: u64,
    pub data: Bytes,
}

/// Where the bytes of part of a file are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileMap {
    pub extents: Vec<Extent>,
    pub patches: Vec<Patch>,
    /// Nothing is said about bytes from here on: ask again. At least the start of the range asked for.
    pub known_until: u64,
}

/// A run of a file's bytes that are in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub offset: u64,
    pub length: u64,
    pub place: Place<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In a block, from `skip` bytes into the extent on.
    Block { extent: &'a Extent, skip: u32 },
    /// Here.
    Bytes(Bytes),
    /// Nowhere: zeros.
    Hole,
}

impl Extent {
    /// Where in the file it ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }
}

impl Patch {
    /// Where in the file it ends.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.data.len() as u64)
    }
}

impl FileMap {
    /// The bytes `from .. to` piece by piece, without gaps; it ends early where the map does.
    pub fn pieces(&self, from: u64, to: u64) -> Pieces<'_> {
        let extent = self.extents.partition_point(|extent| extent.end() <= from);
        let patch = self.patches.partition_point(|patch| patch.end() <= from);
        Pieces {
            extents: &self.extents[extent..],
            patches: &self.patches[patch..],
            position: from,
            end: to.min(self.known_until),
        }
    }
}

/// Made by [`FileMap::pieces`].
#[derive(Clone, Debug)]
pub struct Pieces<'a> {
    extents: &'a [Extent],
    patches: &'a [Patch],
    position: u64,
    end: u64,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let offset = self.position;
        if offset >= self.end {
            return None;
        }
        // A map from a bad node may overlap: what is behind the position is skipped, never gone back to.
        while self.extents.first().is_some_and(|extent| extent.end() <= offset) {
            self.extents = &self.extents[1..];
        }
        while self.patches.first().is_some_and(|patch| patch.end() <= offset) {
            self.patches = &self.patches[1..];
        }
        let extent = self.extents.first();
        let patch = self.patches.first();
        let extent_start = extent.map_or(u64::MAX, |extent| extent.offset);
        let patch_start = patch.map_or(u64::MAX, |patch| patch.offset);
        let (end, place) = match (extent, patch) {
            (_, Some(patch)) if patch_start <= offset => {
                let end = patch.end().min(self.end);
                let (start, stop) = (offset - patch_start, end - patch_start);
                let bytes = patch.data.slice(start as usize..stop as usize);
                (end, Place::Bytes(bytes))
            }
            (Some(extent), _) if extent_start <= offset => {
                let skip = (offset - extent_start) as u32;
                let end = extent.end().min(patch_start);
                (end, Place::Block { extent, skip })
            }
            _ => (extent_start.min(patch_start), Place::Hole),
        };
        self.position = end.min(self.end);
        Some(Piece {
            offset,
            length: self.position - offset,
            place,
        })
    }
}

/// What `CopyRange` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    pub length: u64,
    /// Of the target.
    pub attributes: Attributes,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClientId, PartitionId};

    fn extent(offset: u64, length: u32) -> Extent {
        Extent {
            offset,
            length,
            block: BlockId::new(ClientId(1), PartitionId(0), 1),
            block_offset: 0,
            block_size: length,
            checksum: 0,
            nodes: Vec::new(),
        }
    }

    fn patch(offset: u64, data: &'static [u8]) -> Patch {
        Patch {
            offset,
            data: Bytes::from_static(data),
        }
    }

    fn describe(map: &FileMap, from: u64, to: u64) -> String {
        let pieces = map.pieces(from, to).map(|piece| {
            let what = match piece.place {
                Place::Block { skip, .. } => format!("block+{skip}"),
                Place::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Place::Hole => "hole".into(),
            };
            format!("{}:{}:{what}", piece.offset, piece.length)
        });
        pieces.collect::<Vec<_>>().join(" ")
    }

    /// Goal: every byte asked for is in exactly one piece. Method: a map with all three kinds, cut in
    /// the middle of each.
    #[test]
    fn pieces_cover_the_range_without_gaps() {
        let map = FileMap {
            extents: vec![extent(10, 10), extent(24, 6)],
            patches: vec![patch(20, b"abcd")],
            known_until: 100,
        };
        assert_eq!(
            describe(&map, 0, 40),
            "0:10:hole 10:10:block+0 20:4:abcd 24:6:block+0 30:10:hole"
        );
        assert_eq!(describe(&map, 12, 22), "12:8:block+2 20:2:ab");
        assert_eq!(describe(&map, 22, 26), "22:2:cd 24:2:block+0");
        assert_eq!(describe(&map, 95, 200), "95:5:hole");
        assert_eq!(describe(&map, 100, 200), "");
    }

    /// Goal: a map that breaks the rules cannot make a reader loop or panic. Method: overlapping parts.
    #[test]
    fn overlapping_parts_end_all_the_same() {
        let map = FileMap {
            extents: vec![extent(0, 10), extent(5, 10)],
            patches: vec![patch(3, b"xyz"), patch(4, b"uv")],
            known_until: 20,
        };
        let covered: u64 = map.pieces(0, 20).map(|piece| piece.length).sum();
        assert_eq!(covered, 20);
    }
}
