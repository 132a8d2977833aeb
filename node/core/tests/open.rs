//! Starting from disks as crashes leave them.

use std::sync::Arc;

use bark_core::block_store::BlockStoreConfig;
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::log::{LogConfig, Record};
use bark_core::open::{self, Opened};
use bark_core::partition::SnapshotConfig;
use bark_core::snapshot_file::SnapshotWriter;
use bark_core::state::State;
use bark_core::storage::SNAPSHOT_DIRECTORY;
use bark_core::worker::{CleaningConfig, Durability, WorkerConfig};
use bark_schema::ids::{NodeNumber, PartitionId};
use bytes::Bytes;

const PARTITION: PartitionId = PartitionId(0);

fn open(log_disk: &mut SimulatedDisk) -> Opened {
    let config = WorkerConfig {
        cluster: "test".to_string(),
        node: NodeNumber(1),
        worker: 0,
        worker_count: 1,
        partition_count: 1,
        replicas: 3,
        durability: Durability::Disk,
        nodes: Arc::default(),
        placement: Arc::new(vec![(1..=3).map(NodeNumber).collect()]),
        ring: Arc::default(),
        cleaning: CleaningConfig::STANDARD,
        snapshots: SnapshotConfig::default(),
    };
    let mut data_disk = SimulatedDisk::new();
    write_snapshot(&mut data_disk);
    let opened = open::open(
        log_disk,
        &mut data_disk,
        &config,
        LogConfig::default(),
        BlockStoreConfig::default(),
    );
    opened.expect("opens")
}

/// The state at index 37 of term 3, as a leader sent it.
fn write_snapshot(disk: &mut SimulatedDisk) {
    let mut state = State::new(PARTITION, 1);
    let mut writer = SnapshotWriter::create(disk, SNAPSHOT_DIRECTORY, PARTITION, 37, 3).expect("creates");
    state.begin_snapshot();
    while let Some(chunk) = state.snapshot_chunk(1 << 10) {
        writer.write(disk, &chunk).expect("writes");
    }
    writer.finish(disk).expect("finishes");
}

fn entry(index: u64) -> Record {
    Record::Entry {
        partition: PARTITION,
        term: 3,
        index,
        kind: 0,
        data: Bytes::new(),
    }
}

#[test]
fn the_log_goes_on_behind_a_received_snapshot_it_never_heard_of() {
    // Goal: the power goes between a received snapshot becoming durable and its mark in the log; what follows
    // the snapshot is then taken by the log, and is there the next time. Found by the simulator.
    let mut disk = SimulatedDisk::new();
    let mut opened = open(&mut disk);
    assert_eq!(opened.starts[&PARTITION].snapshot, (37, 3));
    opened
        .log
        .append(&mut disk, &[entry(38), entry(39)])
        .expect("appends");
    opened.log.sync(&mut disk).expect("syncs");
    let opened = open(&mut disk);
    let start = &opened.starts[&PARTITION];
    assert_eq!(start.snapshot, (37, 3));
    assert_eq!(
        start.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(),
        [38, 39]
    );
}
