//! Bringing a node's partitions back from its disks: snapshots first, then the log behind them.
//!
//! Beside the log lies an empty file, `rejoining`, while this node may have forgotten what it acknowledged: from
//! before a log is made where none was, until every partition has rejoined (`partition::rejoin`). A start that
//! ends half-way leaves it, so the next one knows as well. The file itself is the mark, so it needs no format.
//!
//! Invariants:
//! - A log is never made without the mark being durable before it.
//! - A partition starts at its newest whole snapshot, with every log entry behind it.
//! - A snapshot the log counts on and the disk does not have stops the node: it must be replaced, not guessed.

use std::collections::BTreeMap;

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::message::LogEntry;

use crate::block_store::{self, BlockStore, BlockStoreConfig};
use crate::consensus;
use crate::disk::Disk;
use crate::log::{self, Log, LogConfig, Record, RecoveredPartition};
use crate::partition::{Partition, Start};
use crate::random::Random;
use crate::snapshot_file::{self, SnapshotReader};
use crate::state::{self, State, StateLoader};
use crate::storage::{BLOCK_DIRECTORY, SNAPSHOT_DIRECTORY, Storage};
use crate::time::Now;
use crate::worker::WorkerConfig;

pub const LOG_DIRECTORY: &str = "log";
const REJOINING: &str = "rejoining";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] log::Error),
    #[error(transparent)]
    Blocks(#[from] block_store::Error),
    #[error(transparent)]
    SnapshotFile(#[from] snapshot_file::Error),
    #[error("snapshot of {partition} at index {index}: {source}")]
    Snapshot {
        partition: PartitionId,
        index: u64,
        source: state::Error,
    },
    #[error(
        "{partition}: the log counts on a snapshot at index {wanted}, the newest on disk is {found}; replace this node's copy"
    )]
    SnapshotMissing {
        partition: PartitionId,
        wanted: u64,
        found: u64,
    },
    #[error("the mark {REJOINING}: {0}")]
    Mark(std::io::Error),
    #[error("{partition}: {source}")]
    Consensus {
        partition: PartitionId,
        source: consensus::Error,
    },
}

/// What was read from the log's disk and from the disk of blocks and snapshots.
pub struct Opened {
    pub log: Log,
    pub storage: Storage,
    pub starts: BTreeMap<PartitionId, Start>,
    /// The partitions rejoin; when all have, [`clear_rejoining`].
    pub rejoining: bool,
}

/// Reads everything a node has. `log_disk` and `storage_disk` may be views of one disk.
pub fn open<D: Disk>(
    log_disk: &mut D,
    storage_disk: &mut D,
    config: &WorkerConfig,
    log_config: LogConfig,
    block_config: BlockStoreConfig,
) -> Result<Opened, Error> {
    let rejoining = must_rejoin(log_disk)?;
    if rejoining {
        mark_rejoining(log_disk)?;
    }
    let (mut log, mut recovered) = Log::open(log_disk, LOG_DIRECTORY, log_config)?;
    if recovered.cut_bytes > 0 {
        tracing::info!(
            bytes = recovered.cut_bytes,
            "cut a torn tail off the log: it was never acknowledged"
        );
    }
    let (blocks, report) = BlockStore::open(storage_disk, BLOCK_DIRECTORY, block_config)?;
    if !report.damaged.is_empty() {
        tracing::warn!(
            count = report.damaged.len(),
            "blocks are damaged here; other nodes have them"
        );
    }
    let mut starts = BTreeMap::new();
    let mut resets = Vec::new();
    for number in 0..config.partition_count {
        let partition = PartitionId(number);
        let replicas = config.replicas_of(partition);
        if replicas.contains(&config.node) {
            let recovered = recovered.partitions.remove(&partition).unwrap_or_default();
            let marked = recovered.snapshot;
            let (start, follows) = start(storage_disk, config, partition, replicas.to_vec(), recovered)?;
            let start = Start {
                rejoin: rejoining,
                ..start
            };
            if !follows {
                // The crash came between the snapshot's file and its mark in the log, which must go on behind it.
                let (index, term) = start.snapshot;
                assert!(index > marked.0, "an unmarked snapshot is newer than the mark");
                resets.push(Record::Reset {
                    partition,
                    index,
                    term,
                });
            }
            starts.insert(partition, start);
        }
    }
    if !resets.is_empty() {
        log.append(log_disk, &resets)?;
        log.sync(log_disk)?;
    }
    Ok(Opened {
        log,
        storage: Storage::new(blocks),
        starts,
        rejoining,
    })
}

/// What the partition starts from, and whether the log's entries go on behind that snapshot.
fn start<D: Disk>(
    disk: &mut D,
    config: &WorkerConfig,
    partition: PartitionId,
    replicas: Vec<NodeNumber>,
    recovered: RecoveredPartition,
) -> Result<(Start, bool), Error> {
    let (newest, damaged) = SnapshotReader::open_newest(disk, SNAPSHOT_DIRECTORY, partition)?;
    for name in damaged {
        tracing::warn!(
            partition = partition.0,
            index = name.index,
            "a snapshot is damaged and was passed over"
        );
    }
    let (state, snapshot) = match newest {
        Some(mut reader) => {
            let (index, term) = (reader.name().index, reader.name().term);
            let at = |source| Error::Snapshot {
                partition,
                index,
                source,
            };
            let mut loader = StateLoader::new();
            while let Some(chunk) = reader.next_chunk(disk)? {
                loader.feed(&chunk).map_err(at)?;
            }
            reader.close(disk);
            (loader.finish().map_err(at)?, (index, term))
        }
        None => (State::new(partition, config.partition_count), (0, 0)),
    };
    if snapshot.0 < recovered.snapshot.0 {
        return Err(Error::SnapshotMissing {
            partition,
            wanted: recovered.snapshot.0,
            found: snapshot.0,
        });
    }
    // A snapshot newer than the log's mark was finished just before the crash. Entries behind it follow on
    // if the log has the snapshot's last entry; otherwise it came from the leader and replaced them.
    let contained = recovered
        .entries
        .iter()
        .any(|(term, index, _, _)| (*index, *term) == snapshot);
    let follows = snapshot == recovered.snapshot || contained;
    let entries = recovered
        .entries
        .into_iter()
        .filter(|(_, index, _, _)| follows && *index > snapshot.0)
        .map(|(term, index, kind, data)| LogEntry {
            term,
            index,
            kind,
            data,
            context: bytes::Bytes::new(),
        })
        .collect();
    let hard_state = recovered.hard_state;
    let start = Start {
        replicas,
        state,
        snapshot,
        hard_state: (hard_state.term, hard_state.vote, hard_state.commit),
        entries,
        rejoin: false,
    };
    Ok((start, follows))
}

/// There is no log, or the mark says that the one there is cannot be relied on.
pub fn must_rejoin<D: Disk>(log_disk: &mut D) -> Result<bool, Error> {
    Ok(is_marked_rejoining(log_disk)? || !Log::exists(log_disk, LOG_DIRECTORY)?)
}

pub fn is_marked_rejoining<D: Disk>(log_disk: &mut D) -> Result<bool, Error> {
    let names = log_disk.list("").map_err(Error::Mark)?;
    Ok(names.iter().any(|name| name == REJOINING))
}

/// From now on this node rejoins at every start. Durable when it returns.
pub fn mark_rejoining<D: Disk>(log_disk: &mut D) -> Result<(), Error> {
    let file = log_disk.open(REJOINING, true).map_err(Error::Mark)?;
    log_disk.close(file);
    log_disk.sync_directory("").map_err(Error::Mark)
}

/// Every partition of every worker has rejoined.
pub fn clear_rejoining<D: Disk>(log_disk: &mut D) -> Result<(), Error> {
    if is_marked_rejoining(log_disk)? {
        log_disk.remove(REJOINING).map_err(Error::Mark)?;
        log_disk.sync_directory("").map_err(Error::Mark)?;
    }
    Ok(())
}

/// The partitions of one worker, ready to take part.
pub fn partitions(
    starts: &mut BTreeMap<PartitionId, Start>,
    config: &WorkerConfig,
    now: Now,
    random: &mut Random,
) -> Result<Vec<Partition>, Error> {
    let own: Vec<PartitionId> = starts
        .keys()
        .copied()
        .filter(|partition| config.worker_of(*partition) == config.worker)
        .collect();
    let mut partitions = Vec::new();
    for partition in own {
        let Some(start) = starts.remove(&partition) else {
            continue;
        };
        let seed = Random::new(random.next_u64() ^ u64::from(config.node.0));
        let opened = Partition::open(partition, config.node, start, config.snapshots, seed, now)
            .map_err(|source| Error::Consensus { partition, source })?;
        partitions.push(opened);
    }
    Ok(partitions)
}
