//! Snapshot files on a hostile disk: a snapshot is whole or it is not there.

use bark_core::disk::Disk;
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::random::Random;
use bark_core::snapshot_file::{CHUNK_SIZE_MAX, Error, SnapshotReader, SnapshotWriter, list, remove_older};
use bark_schema::ids::PartitionId;

const PARTITION: PartitionId = PartitionId(3);

fn write(disk: &mut SimulatedDisk, index: u64) -> Result<(), Error> {
    let mut writer = SnapshotWriter::create(disk, "snapshots", PARTITION, index, 1)?;
    for chunk in chunks(index) {
        writer.write(disk, &chunk)?;
    }
    writer.finish(disk).map(|_| ())
}

fn chunks(index: u64) -> Vec<Vec<u8>> {
    (0..3)
        .map(|n| vec![(index + n) as u8; 700 * n as usize])
        .collect()
}

fn newest(disk: &mut SimulatedDisk) -> Option<u64> {
    let (reader, damaged) = SnapshotReader::open_newest(disk, "snapshots", PARTITION).expect("open");
    assert_eq!(damaged, []);
    let mut reader = reader?;
    let index = reader.name().index;
    for chunk in chunks(index) {
        assert_eq!(reader.next_chunk(disk).expect("chunk").expect("present"), chunk);
    }
    assert_eq!(reader.next_chunk(disk).expect("end"), None);
    reader.close(disk);
    Some(index)
}

#[test]
fn a_finished_snapshot_survives_any_crash_and_an_unfinished_one_is_never_taken() {
    // Goal: crash at any disk operation while newer snapshots are written and older ones removed; the
    // newest valid one is the last finished, or the one being finished.
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let mut disk = SimulatedDisk::new();
        let mut finished = None;
        for index in 1..8 {
            disk.stop_after(random.below(20));
            let written = write(&mut disk, index);
            if written.is_ok() {
                let keep = list(&mut disk, "snapshots", PARTITION).expect("list")[..]
                    .last()
                    .copied();
                let _ = remove_older(&mut disk, "snapshots", keep.expect("just written"));
            }
            disk.crash(&mut random);
            let found = newest(&mut disk);
            match written {
                Ok(()) => assert_eq!(found, Some(index), "seed {seed}"),
                Err(_) => assert!(
                    found == finished || found == Some(index),
                    "seed {seed}: {found:?}"
                ),
            }
            finished = found;
        }
    }
}

#[test]
fn damage_anywhere_is_noticed_and_the_snapshot_before_is_taken() {
    // Goal: flips one bit in every byte of the newer of two snapshots.
    let mut disk = SimulatedDisk::new();
    write(&mut disk, 1).expect("write");
    write(&mut disk, 2).expect("write");
    let path = "snapshots/p3-2-1.snap";
    for offset in 0..disk.contents(path).expect("there").len() as u64 {
        assert!(disk.flip_bit(path, offset, 5));
        let (reader, damaged) = SnapshotReader::open_newest(&mut disk, "snapshots", PARTITION).expect("open");
        assert_eq!(reader.expect("the older one").name().index, 1);
        assert_eq!(damaged.len(), 1);
        assert!(disk.flip_bit(path, offset, 5));
    }
    assert_eq!(newest(&mut disk), Some(2));
}

#[test]
fn a_follower_rebuilds_the_same_file_from_pieces_of_the_stream() {
    // Goal: read_at and write_stream carry a snapshot in pieces that know nothing of chunks.
    let (mut leader, mut follower) = (SimulatedDisk::new(), SimulatedDisk::new());
    write(&mut leader, 9).expect("write");
    let (reader, _) = SnapshotReader::open_newest(&mut leader, "snapshots", PARTITION).expect("open");
    let reader = reader.expect("there");
    let mut writer = SnapshotWriter::create(&mut follower, "snapshots", PARTITION, 9, 1).expect("create");
    while writer.stream_size_bytes() < reader.stream_size_bytes() {
        let offset = writer.stream_size_bytes();
        let length = (reader.stream_size_bytes() - offset).min(333);
        let piece = reader.read_at(&mut leader, offset, length).expect("piece");
        writer.write_stream(&mut follower, &piece).expect("write");
    }
    assert!(matches!(
        reader.read_at(&mut leader, 1, u64::MAX),
        Err(Error::OutOfRange { .. })
    ));
    writer.finish(&mut follower).expect("finish");
    assert_eq!(newest(&mut follower), Some(9));
    let path = "snapshots/p3-9-1.snap";
    assert_eq!(leader.contents(path), follower.contents(path));
}

#[test]
fn older_snapshots_and_abandoned_attempts_are_removed_and_other_partitions_kept() {
    // Goal: cleaning up touches what is older of the same partition and nothing else.
    let mut disk = SimulatedDisk::new();
    for index in 1..4 {
        write(&mut disk, index).expect("write");
    }
    let other = SnapshotWriter::create(&mut disk, "snapshots", PartitionId(4), 1, 1).expect("create");
    other.finish(&mut disk).expect("finish");
    SnapshotWriter::create(&mut disk, "snapshots", PARTITION, 2, 2).expect("left half done");
    let gone = SnapshotWriter::create(&mut disk, "snapshots", PARTITION, 9, 2).expect("create");
    gone.abandon(&mut disk).expect("abandon");
    let keep = list(&mut disk, "snapshots", PARTITION).expect("list")[2];
    assert_eq!(remove_older(&mut disk, "snapshots", keep).expect("remove"), 3);
    assert_eq!(
        disk.list("snapshots").expect("list"),
        ["p3-3-1.snap", "p4-1-1.snap"]
    );
}

#[test]
fn a_full_disk_is_named() {
    // Goal: an error of its own, so that the caller can go on with the old snapshot.
    let mut disk = SimulatedDisk::new();
    write(&mut disk, 1).expect("write");
    disk.set_capacity(Some(disk.used_bytes() + 500));
    assert!(matches!(write(&mut disk, 2), Err(Error::NoSpace { .. })));
    assert_eq!(newest(&mut disk), Some(1));
}

#[test]
fn a_row_larger_than_a_chunk_is_written_in_several() {
    // Goal: values of any size can be in a snapshot; they could not, and the log grew for ever. Method: two chunks and a
    // half in one piece, read back.
    let mut disk = SimulatedDisk::new();
    let large: Vec<u8> = (0..CHUNK_SIZE_MAX * 5 / 2)
        .map(|place| (place % 251) as u8)
        .collect();
    let mut writer = SnapshotWriter::create(&mut disk, "snapshots", PARTITION, 3, 1).expect("create");
    writer.write(&mut disk, &large).expect("write");
    writer.finish(&mut disk).expect("finish");
    let (reader, _) = SnapshotReader::open_newest(&mut disk, "snapshots", PARTITION).expect("open");
    let mut reader = reader.expect("there");
    let mut found = Vec::new();
    while let Some(chunk) = reader.next_chunk(&mut disk).expect("sound") {
        assert!(chunk.len() <= CHUNK_SIZE_MAX);
        found.extend_from_slice(&chunk);
    }
    assert!(found == large);
}

#[test]
fn the_format_is_frozen() {
    // Goal: a change of the bytes on disk is noticed; computed by another implementation of the table.
    let mut disk = SimulatedDisk::new();
    write(&mut disk, 9).expect("write");
    let bytes = disk.contents("snapshots/p3-9-1.snap").expect("there");
    assert_eq!(
        (bytes.len(), bark_core::checksum::crc32c(&[bytes])),
        (2180, 0x48674bc7)
    );
}
