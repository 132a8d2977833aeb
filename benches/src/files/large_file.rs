//! One large file: sequential and random access by one program that waits for each call.
//!
//! Every 4 KiB of the file begin with their own number, which reads check.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::fs::{Advice, fadvise};

use super::Setting;
use super::meter::{Meter, Unit, Work};

const CHUNK_BYTES: usize = 1 << 20;
const PIECE_BYTES: u64 = 4096;

pub fn run(setting: &Setting, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let path = meter.directory().join("large");
    let size = setting.large_size_bytes;
    let create = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
    };
    meter.measure("sequential write", Unit::MebibytesPerSecond, || {
        let file = create()?;
        write_all(&file, size)?;
        drop(file); // which a file system may use to send what it kept
        Ok(size)
    })?;
    meter.measure("sequential write + fsync", Unit::MebibytesPerSecond, || {
        let file = create()?;
        write_all(&file, size)?;
        file.sync_all()?;
        Ok(size)
    })?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    forget_pages(&file)?;
    meter.measure("sequential read", Unit::MebibytesPerSecond, || {
        let mut chunk = vec![0; CHUNK_BYTES];
        for offset in (0..size).step_by(CHUNK_BYTES) {
            file.read_exact_at(&mut chunk, offset)?;
            check(&chunk, offset)?;
        }
        Ok(size)
    })?;
    forget_pages(&file)?;
    let mut random = Random(1);
    let pieces = size / PIECE_BYTES;
    meter.measure("random read 4 KiB", Unit::PerSecond, || {
        let mut piece = vec![0; PIECE_BYTES as usize];
        repeat(setting.duration, || {
            let offset = random.below(pieces) * PIECE_BYTES;
            file.read_exact_at(&mut piece, offset)?;
            check(&piece, offset)
        })
    })?;
    meter.measure("random write 4 KiB", Unit::PerSecond, || {
        repeat(setting.duration, || {
            let offset = random.below(pieces) * PIECE_BYTES;
            Ok(file.write_all_at(&content(offset, PIECE_BYTES as usize), offset)?)
        })
    })?;
    file.sync_all()?;
    meter.measure("random write 4 KiB + fsync each", Unit::PerSecond, || {
        repeat(setting.duration, || {
            let offset = random.below(pieces) * PIECE_BYTES;
            file.write_all_at(&content(offset, PIECE_BYTES as usize), offset)?;
            Ok(file.sync_data()?)
        })
    })?;
    forget_pages(&file)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    for offset in (0..size).step_by(CHUNK_BYTES) {
        file.read_exact_at(&mut chunk, offset)?;
        check(&chunk, offset)?;
    }
    Ok(())
}

fn write_all(file: &File, size: u64) -> anyhow::Result<()> {
    for offset in (0..size).step_by(CHUNK_BYTES) {
        file.write_all_at(&content(offset, CHUNK_BYTES), offset)?;
    }
    Ok(())
}

/// The file's bytes from `offset` on.
fn content(offset: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![b'.'; size];
    for (index, piece) in bytes.chunks_mut(PIECE_BYTES as usize).enumerate() {
        let number = offset / PIECE_BYTES + index as u64;
        piece[..8].copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

fn check(bytes: &[u8], offset: u64) -> anyhow::Result<()> {
    for (index, piece) in bytes.chunks(PIECE_BYTES as usize).enumerate() {
        let number = offset / PIECE_BYTES + index as u64;
        ensure!(piece[..8] == number.to_le_bytes(), "other content at {offset}");
    }
    Ok(())
}

/// What the kernel has of the file in memory goes, so that reading it means something.
fn forget_pages(file: &File) -> anyhow::Result<()> {
    file.sync_all()?;
    fadvise(file, 0, None, Advice::DontNeed)?;
    Ok(())
}

fn repeat(duration: Duration, mut action: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Work> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < duration {
        action()?;
        count += 1;
    }
    Ok(Work {
        count,
        elapsed: Some(start.elapsed()),
    })
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 20) % bound
    }
}
