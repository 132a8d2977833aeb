//! The work of the disk thread: blocks and snapshot files, in the order it was asked for.
//!
//! Previous in the flow: workers' `StorageRequest`s. Next: their `StorageEvent`s.
//!
//! A batch of requests shares one sync: all blocks of the batch are written, synced once, then answered.
//!
//! Invariants:
//! - A block is answered as stored only after the sync that covers it.
//! - A snapshot is answered as finished only when its file is durable under its final name.

use std::collections::BTreeMap;

use bark_schema::audit::{AuditBlock, AuditPage};
use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::limits::BLOCKS_PER_COMMAND_MAX;
use bark_schema::operation::{Failure, Refusal, Reply};
use bytes::Bytes;

use crate::block_store::{self, BlockStore, CompactConfig};
use crate::disk::Disk;
use crate::partition::event::{CallId, SnapshotEvent, SnapshotRequest};
use crate::snapshot_file::{self, SnapshotName, SnapshotReader, SnapshotWriter};
use crate::worker::event::{StorageEvent, StorageRequest};

pub const BLOCK_DIRECTORY: &str = "blocks";
pub const SNAPSHOT_DIRECTORY: &str = "snapshots";

/// Blocks and snapshots of one node.
pub struct Storage {
    blocks: BlockStore,
    writers: BTreeMap<PartitionId, (u64, SnapshotWriter)>,
    readers: BTreeMap<(PartitionId, NodeNumber), OpenReader>,
}

struct OpenReader {
    index: u64,
    offset: u64,
    reader: SnapshotReader,
    /// Read ahead, to know which part is the last.
    next: Option<Bytes>,
}

impl Storage {
    pub fn new(blocks: BlockStore) -> Storage {
        Storage {
            blocks,
            writers: BTreeMap::new(),
            readers: BTreeMap::new(),
        }
    }

    pub fn blocks(&self) -> &BlockStore {
        &self.blocks
    }

    /// Carries out a batch; `events` gets one answer for each request that has one, with the worker it is for.
    pub fn execute<D: Disk>(
        &mut self,
        disk: &mut D,
        requests: Vec<(u16, StorageRequest)>,
        events: &mut Vec<(u16, StorageEvent)>,
    ) {
        let mut stored: Vec<(u16, CallId)> = Vec::new();
        for (worker, request) in requests {
            match request {
                StorageRequest::BlockPut {
                    call,
                    block,
                    data,
                    checksum,
                    is_spare,
                } => {
                    let result = match is_spare {
                        true => self.blocks.put_spare(disk, block, &data, checksum),
                        false => self.blocks.put(disk, block, &data, checksum),
                    };
                    match result {
                        Ok(()) => stored.push((worker, call)),
                        Err(error) => events.push((worker, block_event(call, Err(failure(&error))))),
                    }
                }
                StorageRequest::BlockGet {
                    call,
                    block,
                    offset,
                    length,
                } => {
                    let result = self
                        .blocks
                        .get(disk, block, u64::from(offset), u64::from(length))
                        .map(Reply::Block)
                        .map_err(|error| failure(&error));
                    events.push((worker, block_event(call, result)));
                }
                StorageRequest::BlockDelete { call, blocks } => match self.blocks.delete(disk, &blocks) {
                    Ok(()) => stored.push((worker, call)),
                    Err(error) => events.push((worker, block_event(call, Err(failure(&error))))),
                },
                StorageRequest::BlockList { call, after, limit } => {
                    let limit = (limit as usize).min(BLOCKS_PER_COMMAND_MAX);
                    let blocks = self.blocks.blocks_after(after, limit);
                    events.push((worker, block_event(call, Ok(Reply::Blocks(blocks)))));
                }
                StorageRequest::BlockVerify {
                    call,
                    block,
                    checksum,
                } => {
                    let result = self.blocks.verify(disk, block, checksum);
                    let result = result
                        .map(|size| Reply::Count(u64::from(size)))
                        .map_err(|error| failure(&error));
                    events.push((worker, block_event(call, result)));
                }
                StorageRequest::BlocksMissing { call, mut blocks } => {
                    blocks.truncate(BLOCKS_PER_COMMAND_MAX);
                    blocks.retain(|block| !self.blocks.is_sound(*block));
                    events.push((worker, block_event(call, Ok(Reply::Blocks(blocks)))));
                }
                StorageRequest::BlockAudit { call, after, limit } => {
                    let page = self.audit_blocks(after, limit);
                    events.push((worker, block_event(call, Ok(Reply::Audit(Box::new(page))))));
                }
                StorageRequest::BlockCompact { call } => {
                    let result = self.compact(disk).map_err(|error| failure(&error));
                    events.push((worker, block_event(call, result)));
                }
                StorageRequest::Snapshot(request) => {
                    if let Some((partition, event)) = self.snapshot(disk, request) {
                        events.push((worker, StorageEvent::Snapshot { partition, event }));
                    }
                }
            }
        }
        let bad = self.blocks.take_found();
        if !bad.is_empty() {
            events.push((0, StorageEvent::BadCopies(bad)));
        }
        if stored.is_empty() {
            return;
        }
        let synced = self.blocks.sync(disk).map_err(|error| failure(&error));
        for (worker, call) in stored {
            events.push((worker, block_event(call, synced.clone().map(|()| Reply::Done))));
        }
    }

    /// A page of the blocks that are here, as they were written.
    fn audit_blocks(&self, after: Option<BlockId>, limit: u32) -> AuditPage {
        let limit = (limit as usize).min(BLOCKS_PER_COMMAND_MAX);
        let blocks = self.blocks.blocks_after(after, limit);
        let described = blocks.into_iter().filter_map(|block| {
            let (size, checksum) = self.blocks.describe(block)?;
            Some(AuditBlock {
                block,
                size,
                checksum,
                nodes: Vec::new(),
            })
        });
        AuditPage {
            blocks: described.collect(),
            ..AuditPage::default()
        }
    }

    /// One step. Answers 0 when there is nothing more to do.
    fn compact<D: Disk>(&mut self, disk: &mut D) -> Result<Reply, block_store::Error> {
        let report = self.blocks.compact(disk, CompactConfig::default())?;
        for block in &report.damaged {
            tracing::warn!(%block, "a copy was damaged and is given up; other nodes have theirs");
        }
        Ok(Reply::Count(u64::from(report.more)))
    }

    fn snapshot<D: Disk>(
        &mut self,
        disk: &mut D,
        request: SnapshotRequest,
    ) -> Option<(PartitionId, SnapshotEvent)> {
        match request {
            SnapshotRequest::Create {
                partition,
                writer,
                index,
                term,
            } => {
                if let Some((_, abandoned)) = self.writers.remove(&partition) {
                    abandon(disk, abandoned);
                }
                let created = SnapshotWriter::create(disk, SNAPSHOT_DIRECTORY, partition, index, term);
                Some((
                    partition,
                    self.keep_writer(partition, writer, created, SnapshotEvent::Created { writer }),
                ))
            }
            SnapshotRequest::Write {
                partition,
                writer,
                chunk,
            } => {
                let mut file = self.take_writer(partition, writer)?;
                let written = file.write(disk, &chunk).map(|()| file);
                Some((
                    partition,
                    self.keep_writer(partition, writer, written, SnapshotEvent::Written { writer }),
                ))
            }
            SnapshotRequest::Finish { partition, writer } => {
                let file = self.take_writer(partition, writer)?;
                let event = match file.finish(disk) {
                    Ok(name) => {
                        if let Err(error) = snapshot_file::remove_older(disk, SNAPSHOT_DIRECTORY, name) {
                            tracing::warn!(%error, "older snapshots stay and take space");
                        }
                        SnapshotEvent::Finished { writer }
                    }
                    Err(error) => failed(partition, writer, &error),
                };
                Some((partition, event))
            }
            SnapshotRequest::Abandon { partition, writer } => {
                abandon(disk, self.take_writer(partition, writer)?);
                None
            }
            SnapshotRequest::Read {
                partition,
                index,
                term,
                offset,
                to,
            } => {
                let event = match self.read_part(disk, partition, index, term, offset, to) {
                    Ok(event) => event,
                    Err(error) => {
                        tracing::warn!(partition = partition.0, index, %error, "a snapshot to be sent cannot be read");
                        self.readers.remove(&(partition, to));
                        SnapshotEvent::Unreadable { to, index }
                    }
                };
                Some((partition, event))
            }
        }
    }

    fn take_writer(&mut self, partition: PartitionId, writer: u64) -> Option<SnapshotWriter> {
        let (known, _) = self.writers.get(&partition)?;
        if *known != writer {
            return None;
        }
        self.writers.remove(&partition).map(|(_, file)| file)
    }

    fn keep_writer(
        &mut self,
        partition: PartitionId,
        writer: u64,
        result: Result<SnapshotWriter, snapshot_file::Error>,
        done: SnapshotEvent,
    ) -> SnapshotEvent {
        match result {
            Ok(file) => {
                self.writers.insert(partition, (writer, file));
                done
            }
            Err(error) => failed(partition, writer, &error),
        }
    }

    /// Parts are the chunks the file was written in; a reader goes on where it was.
    fn read_part<D: Disk>(
        &mut self,
        disk: &mut D,
        partition: PartitionId,
        index: u64,
        term: u64,
        offset: u64,
        to: NodeNumber,
    ) -> Result<SnapshotEvent, snapshot_file::Error> {
        let key = (partition, to);
        let goes_on = self
            .readers
            .get(&key)
            .is_some_and(|open| open.index == index && open.offset <= offset);
        if !goes_on {
            let mut reader = SnapshotReader::open(
                disk,
                SNAPSHOT_DIRECTORY,
                SnapshotName {
                    partition,
                    index,
                    term,
                },
            )?;
            let next = reader.next_chunk(disk)?;
            if let Some(replaced) = self.readers.insert(
                key,
                OpenReader {
                    index,
                    offset: 0,
                    reader,
                    next,
                },
            ) {
                replaced.reader.close(disk);
            }
        }
        loop {
            let Some(open) = self.readers.get_mut(&key) else {
                return Ok(SnapshotEvent::Unreadable { to, index });
            };
            let at = open.offset;
            let Some(data) = open.next.take() else {
                return Ok(SnapshotEvent::Unreadable { to, index });
            };
            open.next = open.reader.next_chunk(disk)?;
            open.offset += data.len() as u64;
            if at < offset {
                continue;
            }
            let last = open.next.is_none();
            if last && let Some(finished) = self.readers.remove(&key) {
                finished.reader.close(disk);
            }
            return Ok(SnapshotEvent::Part {
                to,
                index,
                offset: at,
                data,
                last,
            });
        }
    }
}

fn abandon<D: Disk>(disk: &mut D, file: SnapshotWriter) {
    if let Err(error) = file.abandon(disk) {
        tracing::warn!(%error, "the rest of an abandoned snapshot stays until the next one");
    }
}

fn block_event(call: CallId, result: Result<Reply, Failure>) -> StorageEvent {
    StorageEvent::Block { call, result }
}

fn failed(partition: PartitionId, writer: u64, error: &snapshot_file::Error) -> SnapshotEvent {
    tracing::error!(partition = partition.0, %error, "a snapshot could not be written; the log keeps growing until one can");
    SnapshotEvent::Failed { writer }
}

fn failure(error: &block_store::Error) -> Failure {
    let refusal = match error {
        block_store::Error::NotFound { .. } => Refusal::NotFound,
        block_store::Error::Corrupt { .. } | block_store::Error::ChecksumMismatch { .. } => Refusal::Corrupt,
        block_store::Error::OutOfRange { .. } | block_store::Error::TooLarge { .. } => {
            Refusal::InvalidArgument
        }
        block_store::Error::Conflict { .. } => Refusal::Conflict,
        block_store::Error::NoSpace => Refusal::NoSpace,
        block_store::Error::Poisoned | block_store::Error::Config(_) | block_store::Error::Disk { .. } => {
            tracing::error!(%error, "the block store refused");
            Refusal::Internal
        }
    };
    Failure::refused(refusal, error.to_string())
}
