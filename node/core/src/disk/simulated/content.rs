//! The bytes of one simulated file, and what becomes of those that were not synced.
//!
//! A crash takes all unsynced changes back, newest first, and then lets each happen again wholly, in part, in some
//! of its sectors, or not at all.

use crate::random::Random;

const SECTOR_SIZE_BYTES: u64 = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) bytes: Vec<u8>,
    pub(super) unsynced: Vec<Undo>,
    pub(super) sync_lies: bool,
}

/// What a write or a truncation replaced, so that it can be taken back.
#[derive(Clone, Debug)]
pub(super) struct Undo {
    offset: usize,
    /// Bytes written; `None` for a truncation to `offset`.
    written: Option<usize>,
    replaced: Vec<u8>,
    size_before: usize,
}

enum Redo {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { size: usize },
}

impl Inode {
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        let size_before = self.bytes.len();
        let replaced = self.bytes[offset.min(size_before)..end.min(size_before)].to_vec();
        if end > size_before {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
        self.unsynced.push(Undo {
            offset,
            written: Some(bytes.len()),
            replaced,
            size_before,
        });
    }

    pub(super) fn truncate(&mut self, size: usize) {
        let size_before = self.bytes.len();
        let replaced = self.bytes[size.min(size_before)..].to_vec();
        self.bytes.resize(size, 0);
        self.unsynced.push(Undo {
            offset: size,
            written: None,
            replaced,
            size_before,
        });
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        let mut lost = Vec::with_capacity(self.unsynced.len());
        while let Some(undo) = self.unsynced.pop() {
            lost.push(self.take_back(undo));
        }
        for redo in lost.into_iter().rev() {
            self.put_back(redo, random);
        }
        // Whatever reached the platter is on it.
        self.unsynced.clear();
        self.sync_lies = false;
    }

    /// Undoes the newest unsynced change. The bytes it wrote are still in place just then, which is why
    /// the undo list need not hold them.
    fn take_back(&mut self, undo: Undo) -> Redo {
        let redo = match undo.written {
            Some(count) => Redo::Write {
                offset: undo.offset,
                bytes: self.bytes[undo.offset..undo.offset + count].to_vec(),
            },
            None => Redo::Truncate { size: undo.offset },
        };
        self.bytes.resize(undo.size_before, 0);
        let start = undo.offset.min(undo.size_before);
        self.bytes[start..start + undo.replaced.len()].copy_from_slice(&undo.replaced);
        redo
    }

    fn put_back(&mut self, redo: Redo, random: &mut Random) {
        match (redo, random.below(4)) {
            (_, 0) => {}
            (Redo::Truncate { size }, _) => self.truncate(size),
            (Redo::Write { offset, bytes }, 1) => self.write(offset, &bytes),
            (Redo::Write { offset, bytes }, 2) => {
                let kept = random.below(bytes.len() as u64 + 1) as usize;
                self.write(offset, &bytes[..kept]);
            }
            (Redo::Write { offset, bytes }, _) => {
                let mut start = 0;
                while start < bytes.len() {
                    let into_sector = (offset + start) as u64 % SECTOR_SIZE_BYTES;
                    let end = bytes
                        .len()
                        .min(start + (SECTOR_SIZE_BYTES - into_sector) as usize);
                    if random.chance(2) {
                        self.write(offset + start, &bytes[start..end]);
                    }
                    start = end;
                }
            }
        }
    }
}
