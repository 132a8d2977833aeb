//! The write-ahead log on a hostile disk: whatever happens, what was synced comes back, in order, and
//! nothing behind a gap does.

use std::collections::BTreeMap;

use bark_core::disk::simulated::SimulatedDisk;
use bark_core::log::{Error, HardState, Log, LogConfig, Record, Recovered, RecoveredPartition};
use bark_core::random::Random;
use bark_schema::ids::PartitionId;
use bytes::Bytes;

const CONFIG: LogConfig = LogConfig {
    segment_size_bytes: 2048,
    record_size_max_bytes: 8192,
};
const FIRST_SEGMENT: &str = "log/0000000000000001.log";

type State = BTreeMap<PartitionId, RecoveredPartition>;

fn entry(partition: u16, term: u64, index: u64, data: &[u8]) -> Record {
    let data = Bytes::copy_from_slice(data);
    Record::Entry {
        partition: PartitionId(partition),
        term,
        index,
        kind: 0,
        data,
    }
}

fn opened(disk: &mut SimulatedDisk) -> (Log, Recovered) {
    Log::open(disk, "log", CONFIG).expect("the log opens")
}

fn reopened(disk: &mut SimulatedDisk) -> Recovered {
    disk.restart();
    opened(disk).1
}

/// What the records mean, told as plainly as possible.
fn apply(state: &mut State, record: &Record) {
    let partition = state.entry(record.partition()).or_default();
    match record {
        Record::Entry {
            term,
            index,
            kind,
            data,
            ..
        } => {
            partition.entries.retain(|entry| entry.1 < *index);
            partition.entries.push((*term, *index, *kind, data.clone()));
        }
        Record::HardState {
            term, vote, commit, ..
        } => {
            partition.hard_state = HardState {
                term: *term,
                vote: *vote,
                commit: *commit,
            };
        }
        Record::Snapshot { index, term, .. } => {
            if *index > partition.snapshot.0 {
                partition.snapshot = (*index, *term);
            }
            partition.entries.retain(|entry| entry.1 > partition.snapshot.0);
        }
        Record::Reset { index, term, .. } => {
            partition.snapshot = (*index, *term);
            partition.entries.clear();
        }
    }
}

/// Everything that was appended since the world began, and how much of it must survive.
#[derive(Default)]
struct Model {
    records: Vec<Record>,
    synced_count: usize,
    /// The state after `base_count` records, so that histories can be long.
    base: State,
    base_count: usize,
    serial: u64,
}

impl Model {
    fn state(&self) -> State {
        let mut state = self.base.clone();
        self.records[self.base_count..]
            .iter()
            .for_each(|record| apply(&mut state, record));
        state
    }

    /// The survivors are a prefix that holds all synced records; forgets the rest.
    fn accept(&mut self, survivors: &State, seed: u64) {
        let mut state = self.base.clone();
        let mut count = self.base_count;
        loop {
            if count >= self.synced_count && state == *survivors {
                break;
            }
            assert!(
                count < self.records.len(),
                "seed {seed}: what came back is no prefix with all {} synced records",
                self.synced_count
            );
            apply(&mut state, &self.records[count]);
            count += 1;
        }
        self.records.truncate(count);
        self.synced_count = count;
        self.base = state;
        self.base_count = count;
    }

    fn batch(&mut self, random: &mut Random) -> Vec<Record> {
        let mut state = self.state();
        (0..1 + random.below(4))
            .map(|_| {
                let record = self.record(random, &state);
                apply(&mut state, &record);
                record
            })
            .collect()
    }

    fn record(&mut self, random: &mut Random, state: &State) -> Record {
        let partition = PartitionId(random.below(3) as u16);
        let empty = RecoveredPartition::default();
        let now = state.get(&partition).unwrap_or(&empty);
        let (snapshot, _) = now.snapshot;
        let last = now.entries.last().map_or(snapshot, |entry| entry.1);
        self.serial += 1;
        match random.below(20) {
            0..3 => Record::HardState {
                partition,
                term: self.serial,
                vote: 2,
                commit: snapshot,
            },
            3..6 => Record::Snapshot {
                partition,
                index: snapshot + random.below(last - snapshot + 2),
                term: 7,
            },
            6 => Record::Reset {
                partition,
                index: last + random.below(5),
                term: 8,
            },
            7..9 => {
                let index = snapshot + 1 + random.below(last - snapshot + 1);
                entry(
                    partition.0,
                    self.serial,
                    index,
                    &vec![3; random.below(100) as usize],
                )
            }
            _ => entry(
                partition.0,
                self.serial,
                last + 1,
                &vec![4; random.below(300) as usize],
            ),
        }
    }
}

/// One step of a node's life; false when the disk stopped.
fn step(disk: &mut SimulatedDisk, log: &mut Log, model: &mut Model, random: &mut Random) -> bool {
    match random.below(10) {
        0..6 => {
            let records = model.batch(random);
            let appended = log.append(disk, &records);
            model.records.extend(records);
            appended.is_ok()
        }
        6..9 => {
            let synced = log.sync(disk);
            if synced.is_ok() {
                model.synced_count = model.records.len();
            }
            synced.is_ok()
        }
        _ => log.collect_garbage(disk).is_ok() && log.prepare(disk).is_ok(),
    }
}

/// Reopens after a crash, with further crashes during recovery.
fn recover(disk: &mut SimulatedDisk, model: &mut Model, random: &mut Random, seed: u64) -> Log {
    loop {
        if random.chance(2) {
            disk.stop_after(random.below(8));
        }
        match Log::open(disk, "log", CONFIG) {
            Ok((log, recovered)) => {
                model.accept(&recovered.partitions, seed);
                disk.restart();
                let (_, again) = Log::open(disk, "log", CONFIG).expect("opens again");
                assert_eq!(
                    again.partitions, recovered.partitions,
                    "seed {seed}: recovery is idempotent"
                );
                assert_eq!(again.cut_bytes, 0, "seed {seed}: the tail was cut for good");
                disk.crash(random);
                let (log_after_power_loss, durable) = Log::open(disk, "log", CONFIG).expect("opens");
                assert_eq!(
                    durable.partitions, recovered.partitions,
                    "seed {seed}: what was told is durable"
                );
                drop(log);
                return log_after_power_loss;
            }
            Err(Error::Disk { .. }) => disk.crash(random),
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}

#[test]
fn synced_records_survive_any_crash_and_nothing_behind_a_gap_does() {
    // Goal: the promise of the log. Random lives with crashes at any disk operation, power losses and
    // process deaths, also during recovery; compared with the plainest model.
    let mut segments_max = 0;
    for seed in 0..250 {
        let mut random = Random::new(seed);
        let mut disk = SimulatedDisk::new();
        let mut model = Model::default();
        for _ in 0..6 {
            let mut log = recover(&mut disk, &mut model, &mut random, seed);
            disk.stop_after(1 + random.below(120));
            while step(&mut disk, &mut log, &mut model, &mut random) {
                segments_max = segments_max.max(log.segment_count());
            }
            if random.chance(3) {
                disk.restart();
            } else {
                disk.crash(&mut random);
            }
        }
        recover(&mut disk, &mut model, &mut random, seed);
    }
    assert!(segments_max > 3, "the lives were long enough to roll");
}

#[test]
fn garbage_collection_keeps_every_needed_entry_and_bounds_the_log() {
    // Goal: a partition that snapshots lets old segments go and their files are used again; a partition
    // that does not holds its entries, and is named.
    let mut disk = SimulatedDisk::new();
    let (mut log, _) = opened(&mut disk);
    log.append(&mut disk, &[entry(2, 1, 1, b"kept")]).expect("append");
    for index in 1..200 {
        log.append(&mut disk, &[entry(1, 1, index, &[1; 100])])
            .expect("append");
        if index % 10 == 0 {
            let mark = Record::Snapshot {
                partition: PartitionId(1),
                index: index - 5,
                term: 1,
            };
            log.append(&mut disk, &[mark]).expect("append");
        }
    }
    assert_eq!(log.collect_garbage(&mut disk).expect("collect"), 0);
    assert_eq!(log.pinned_by(), Some(PartitionId(2)));
    let before = log.segment_count();
    let mark = Record::Snapshot {
        partition: PartitionId(2),
        index: 1,
        term: 1,
    };
    log.append(&mut disk, &[mark]).expect("append");
    assert!(log.collect_garbage(&mut disk).expect("collect") as usize >= before - 2);
    assert!(log.size_bytes() < 3 * CONFIG.segment_size_bytes);
    let files = disk.paths().len();
    for index in 200..400 {
        let mark = Record::Snapshot {
            partition: PartitionId(1),
            index,
            term: 1,
        };
        log.append(&mut disk, &[entry(1, 1, index, &[1; 100]), mark])
            .expect("append");
        log.collect_garbage(&mut disk).expect("collect");
        assert!(disk.paths().len() <= files + 1, "files are recycled");
    }
    disk.crash(&mut Random::new(1));
    let (_, recovered) = opened(&mut disk);
    assert_eq!(recovered.partitions[&PartitionId(1)].snapshot, (399, 1));
    assert_eq!(recovered.partitions[&PartitionId(2)].snapshot, (1, 1));
}

#[test]
fn a_steady_append_does_not_grow_its_file() {
    // Goal: the write path costs no file-system metadata; the size of the segment never changes.
    let mut disk = SimulatedDisk::new();
    let (mut log, _) = opened(&mut disk);
    let size = |disk: &SimulatedDisk| disk.contents(FIRST_SEGMENT).map(<[u8]>::len);
    assert_eq!(size(&disk), Some(2048));
    for index in 1..5 {
        let writes_before = disk.counts().writes;
        log.append(
            &mut disk,
            &[entry(1, 1, index, &[1; 100]), entry(2, 1, index, &[2; 100])],
        )
        .expect("append");
        assert_eq!(disk.counts().writes, writes_before + 1, "one write a batch");
        log.sync(&mut disk).expect("sync");
    }
    assert_eq!(size(&disk), Some(2048));
}

#[test]
fn a_torn_tail_is_cut_and_does_not_come_back() {
    // Goal: an unsynced batch whose first record is damaged goes entirely, and new records that end
    // exactly where its second one began do not revive it.
    let mut disk = SimulatedDisk::new();
    let (mut log, _) = opened(&mut disk);
    log.append(&mut disk, &[entry(1, 1, 1, b"safe")]).expect("append");
    log.sync(&mut disk).expect("sync");
    let end = log.size_bytes();
    log.append(&mut disk, &[entry(1, 1, 2, b"torn"), entry(1, 1, 3, b"ghost")])
        .expect("append");
    assert!(disk.flip_bit(FIRST_SEGMENT, end + 40, 0));
    let recovered = reopened(&mut disk);
    assert_eq!(recovered.partitions[&PartitionId(1)].entries.len(), 1);
    assert!(recovered.cut_bytes > 0);
    let (mut log, _) = opened(&mut disk);
    log.append(&mut disk, &[entry(1, 1, 2, b"newt")]).expect("append");
    log.sync(&mut disk).expect("sync");
    let entries = reopened(&mut disk)
        .partitions
        .remove(&PartitionId(1))
        .expect("there")
        .entries;
    assert_eq!(
        entries.iter().map(|entry| &entry.3[..]).collect::<Vec<_>>(),
        [b"safe", b"newt"]
    );
}

#[test]
fn damage_to_synced_records_is_refused_wherever_it_is() {
    // Goal: what may have been acknowledged is never cut. Flips a bit in every 8 bytes of every segment
    // of a log whose last record proves the rest; opening must refuse or change nothing.
    let mut disk = SimulatedDisk::new();
    let (mut log, _) = opened(&mut disk);
    for index in 1..30 {
        log.append(&mut disk, &[entry(1, 1, index, &[1; 100])])
            .expect("append");
        log.sync(&mut disk).expect("sync");
    }
    let whole = reopened(&mut disk).partitions;
    let last_record_size = 32 + 24 + 104;
    let paths: Vec<String> = disk
        .paths()
        .into_iter()
        .filter(|path| path.ends_with(".log"))
        .collect();
    let (mut refused, mut untouched) = (0, 0);
    for (number, path) in paths.iter().enumerate() {
        let bytes = disk.contents(path).expect("there").to_vec();
        let used = bytes.iter().rposition(|byte| *byte != 0).expect("used") + 1;
        let end = if number + 1 == paths.len() {
            used - last_record_size
        } else {
            used
        };
        for offset in (0..end as u64).step_by(8) {
            assert!(disk.flip_bit(path, offset, 3));
            disk.restart();
            match Log::open(&mut disk, "log", CONFIG) {
                Err(Error::Corrupt { .. }) => refused += 1,
                Err(error) => panic!("{path} {offset}: {error}"),
                Ok((_, recovered)) => {
                    assert_eq!(recovered.partitions, whole, "{path} {offset}");
                    untouched += 1;
                }
            }
            assert!(disk.flip_bit(path, offset, 3));
        }
    }
    assert!(refused > 100, "refused {refused}");
    // Only padding between records is not covered by a checksum.
    assert!(untouched < refused / 10, "untouched {untouched}");
}

#[test]
fn a_missing_segment_is_refused() {
    // Goal: a hole in the sequence of files is not read as the end of the log.
    let mut disk = SimulatedDisk::new();
    let (mut log, _) = opened(&mut disk);
    for index in 1..60 {
        log.append(&mut disk, &[entry(1, 1, index, &[1; 100])])
            .expect("append");
    }
    log.sync(&mut disk).expect("sync");
    assert!(log.segment_count() > 3);
    disk.restart();
    bark_core::disk::Disk::remove(&mut disk, "log/0000000000000002.log").expect("remove");
    assert!(matches!(
        Log::open(&mut disk, "log", CONFIG),
        Err(Error::Corrupt {
            segment: 2,
            offset: 0
        })
    ));
}

#[test]
fn a_failed_sync_or_write_poisons_the_log_for_ever() {
    // Goal: fail-stop. After one EIO every call answers Poisoned; reopening after the crash works.
    for fail in [SimulatedDisk::fail_sync, SimulatedDisk::fail_write] {
        let mut disk = SimulatedDisk::new();
        let (mut log, _) = opened(&mut disk);
        fail(&mut disk, 1);
        let first = log
            .append(&mut disk, &[entry(1, 1, 1, b"x")])
            .and_then(|()| log.sync(&mut disk));
        assert!(matches!(first, Err(Error::Disk { .. })));
        assert!(matches!(log.sync(&mut disk), Err(Error::Poisoned)));
        assert!(matches!(log.append(&mut disk, &[]), Err(Error::Poisoned)));
        assert!(matches!(log.collect_garbage(&mut disk), Err(Error::Poisoned)));
        assert!(matches!(log.prepare(&mut disk), Err(Error::Poisoned)));
        disk.crash(&mut Random::new(5));
        opened(&mut disk);
    }
}

#[test]
fn a_full_disk_refuses_the_batch_and_leaves_the_log_usable() {
    // Goal: ENOSPC is an answer, not an end: nothing is written, the log goes on once there is room.
    let mut disk = SimulatedDisk::new();
    let (mut log, _) = opened(&mut disk);
    disk.set_capacity(Some(disk.used_bytes() + 100));
    let mut index = 1;
    while log.append(&mut disk, &[entry(1, 1, index, &[1; 100])]).is_ok() {
        index += 1;
    }
    assert!(matches!(
        log.append(&mut disk, &[entry(1, 1, index, &[1; 100])]),
        Err(Error::NoSpace)
    ));
    log.sync(&mut disk).expect("still usable");
    disk.set_capacity(None);
    log.append(&mut disk, &[entry(1, 1, index, &[1; 100])])
        .expect("room again");
    log.sync(&mut disk).expect("sync");
    assert_eq!(
        reopened(&mut disk).partitions[&PartitionId(1)].entries.len() as u64,
        index
    );
}

#[test]
fn entries_that_do_not_continue_the_log_are_refused_before_writing() {
    // Goal: a gap can never get on disk through append; batches are judged as a whole.
    let mut disk = SimulatedDisk::new();
    let (mut log, _) = opened(&mut disk);
    let size_before = log.size_bytes();
    for records in [
        vec![entry(1, 1, 2, b"")],
        vec![entry(1, 1, 1, b""), entry(1, 1, 3, b"")],
        vec![
            Record::Reset {
                partition: PartitionId(1),
                index: 9,
                term: 1,
            },
            entry(1, 1, 9, b""),
        ],
    ] {
        assert!(matches!(
            log.append(&mut disk, &records),
            Err(Error::OutOfOrder { .. })
        ));
    }
    let large = log.append(&mut disk, &[entry(1, 1, 1, &[0; 8192])]);
    assert!(matches!(large, Err(Error::RecordTooLarge { .. })));
    assert_eq!(log.size_bytes(), size_before);
}

#[test]
fn a_record_larger_than_a_segment_is_kept() {
    // Goal: the largest values are not bounded by the segment size; the segment grows and is not reused.
    let mut disk = SimulatedDisk::new();
    let (mut log, _) = opened(&mut disk);
    for index in 1..6 {
        log.append(&mut disk, &[entry(1, 1, index, &[9; 5000])])
            .expect("append");
        log.append(&mut disk, &[entry(2, 1, index, &[9; 50])])
            .expect("append");
    }
    log.sync(&mut disk).expect("sync");
    disk.crash(&mut Random::new(3));
    let (mut log, recovered) = opened(&mut disk);
    assert_eq!(recovered.partitions[&PartitionId(1)].entries.len(), 5);
    let marks = [1, 2].map(|n| Record::Snapshot {
        partition: PartitionId(n),
        index: 5,
        term: 1,
    });
    log.append(&mut disk, &marks).expect("append");
    log.append(&mut disk, &[entry(1, 1, 6, &[9; 1500])])
        .expect("append");
    assert!(log.collect_garbage(&mut disk).expect("collect") > 0);
    assert_eq!(reopened(&mut disk).partitions[&PartitionId(1)].entries.len(), 1);
}
