//! The block store on a hostile disk: synced blocks stay, deleted ones stay away, damage is named.

use std::collections::BTreeMap;

use bark_core::block_store::{BlockStore, BlockStoreConfig, CompactConfig, Error, OpenReport};
use bark_core::checksum::crc32c;
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::random::Random;
use bark_schema::ids::{BlockId, ClientId};

const CONFIG: BlockStoreConfig = BlockStoreConfig {
    segment_size_bytes: 16 * 1024,
    capacity_bytes: u64::MAX,
};
/// A few blocks a step, so that much happens between two steps.
const COMPACTION: CompactConfig = CompactConfig {
    live_percent_max: 60,
    copied_bytes_max: 4000,
};
const FIRST_SEGMENT: &str = "blocks/00000001.blocks";

fn id(counter: u64) -> BlockId {
    BlockId {
        client: ClientId(1),
        counter,
    }
}

/// The one content a block of this name can have.
fn content(counter: u64) -> Vec<u8> {
    let mut random = Random::new(counter);
    let size = random.below(3000) as usize;
    (0..size).map(|_| random.next_u64() as u8).collect()
}

fn opened(disk: &mut SimulatedDisk) -> (BlockStore, OpenReport) {
    BlockStore::open(disk, "blocks", CONFIG).expect("the store opens")
}

fn put(disk: &mut SimulatedDisk, store: &mut BlockStore, counter: u64) -> Result<(), Error> {
    let data = content(counter);
    store.put(disk, id(counter), &data, crc32c(&[&data]))
}

fn assert_reads(disk: &mut SimulatedDisk, store: &mut BlockStore, counter: u64) {
    let data = content(counter);
    let read = store
        .get(disk, id(counter), 0, data.len() as u64)
        .expect("readable");
    assert_eq!(read, data, "block {counter}");
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    Be,
    NotBe,
    Either,
}

/// One step; false when the disk stopped. `expected` learns what is certain and what is not.
fn step(
    disk: &mut SimulatedDisk,
    store: &mut BlockStore,
    expected: &mut BTreeMap<u64, Must>,
    random: &mut Random,
) -> bool {
    match random.below(20) {
        0..10 => {
            let counter = random.below(60);
            if !store.contains(id(counter)) {
                expected.insert(counter, Must::Either);
            }
            put(disk, store, counter).is_ok()
        }
        10..15 => {
            let counters: Vec<u64> = (0..3).map(|_| random.below(60)).collect();
            let here = counters.iter().filter(|counter| store.contains(id(**counter)));
            here.for_each(|counter| {
                expected.insert(*counter, Must::Either);
            });
            let blocks: Vec<BlockId> = counters.into_iter().map(id).collect();
            store.delete(disk, &blocks).is_ok()
        }
        15..18 => {
            let synced = store.sync(disk).is_ok();
            if synced {
                settle(store, expected);
            }
            synced
        }
        _ => store.compact(disk, COMPACTION).is_ok(),
    }
}

/// After a sync, and after opening, what the store says now must hold for good.
fn settle(store: &BlockStore, expected: &mut BTreeMap<u64, Must>) {
    for (counter, must) in expected {
        *must = if store.contains(id(*counter)) {
            Must::Be
        } else {
            Must::NotBe
        };
    }
}

#[test]
fn synced_blocks_survive_and_deleted_blocks_stay_away_after_any_crash() {
    // Goal: puts, deletes and compaction keep their promises over crashes at any disk operation, also
    // during opening; compared with what was certain before.
    let mut compacted = 0;
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut disk = SimulatedDisk::new();
        let mut expected = BTreeMap::new();
        for _ in 0..6 {
            if random.chance(2) {
                disk.stop_after(random.below(10));
                let _ = BlockStore::open(&mut disk, "blocks", CONFIG);
                disk.crash(&mut random);
            }
            let (mut store, _) = opened(&mut disk);
            for (counter, must) in &expected {
                let here = store.contains(id(*counter));
                assert!(
                    *must == Must::Either || here == (*must == Must::Be),
                    "seed {seed}: block {counter} {must:?}, here: {here}"
                );
                if here {
                    assert_reads(&mut disk, &mut store, *counter);
                }
            }
            settle(&store, &mut expected);
            disk.stop_after(1 + random.below(200));
            while step(&mut disk, &mut store, &mut expected, &mut random) {}
            compacted += usize::from(!disk.paths().contains(&FIRST_SEGMENT.to_owned()));
            if random.chance(3) {
                disk.restart();
            } else {
                disk.crash(&mut random);
            }
        }
    }
    assert!(compacted > 50, "compaction ran: {compacted}");
}

#[test]
fn partial_reads_verify_only_the_pages_they_touch() {
    // Goal: damage in one 64 KiB page is named for reads of that page and does not hinder the others.
    let mut disk = SimulatedDisk::new();
    let (mut store, _) = opened(&mut disk);
    let data: Vec<u8> = (0..300_000_u32).map(|n| (n / 7) as u8).collect();
    store.put(&mut disk, id(1), &data, crc32c(&[&data])).expect("put");
    for (offset, length) in [
        (0, 300_000),
        (65_535, 2),
        (65_536, 65_536),
        (299_999, 1),
        (5, 0),
        (300_000, 0),
    ] {
        let read = store.get(&mut disk, id(1), offset, length).expect("get");
        assert_eq!(read, data[offset as usize..(offset + length) as usize]);
    }
    assert!(matches!(
        store.get(&mut disk, id(1), 299_999, 2),
        Err(Error::OutOfRange { .. })
    ));
    assert!(matches!(
        store.get(&mut disk, id(2), 0, 1),
        Err(Error::NotFound { .. })
    ));
    assert!(disk.flip_bit(FIRST_SEGMENT, 128 + 70_000, 1));
    assert!(store.get(&mut disk, id(1), 0, 65_536).is_ok());
    assert!(store.get(&mut disk, id(1), 131_072, 168_928).is_ok());
    let damaged = store.get(&mut disk, id(1), 65_000, 1000);
    assert!(matches!(damaged, Err(Error::Corrupt { block, segment: 1, .. }) if block == id(1)));
}

#[test]
fn a_put_checks_what_it_is_given() {
    // Goal: a wrong checksum and a second content are refused, a repetition is fine.
    let mut disk = SimulatedDisk::new();
    let (mut store, _) = opened(&mut disk);
    assert!(matches!(
        store.put(&mut disk, id(1), b"abc", 1),
        Err(Error::ChecksumMismatch { .. })
    ));
    store
        .put(&mut disk, id(1), b"abc", crc32c(&[b"abc"]))
        .expect("put");
    let space = store.space();
    store
        .put(&mut disk, id(1), b"abc", crc32c(&[b"abc"]))
        .expect("again");
    assert_eq!(store.space(), space);
    assert!(matches!(
        store.put(&mut disk, id(1), b"abd", crc32c(&[b"abd"])),
        Err(Error::Conflict { .. })
    ));
    let large = vec![0; bark_schema::limits::BLOCK_SIZE_MAX + 1];
    assert!(matches!(
        store.put(&mut disk, id(2), &large, 0),
        Err(Error::TooLarge { .. })
    ));
}

#[test]
fn a_damaged_block_in_the_unsealed_segment_is_reported_and_its_neighbours_kept() {
    // Goal: damage costs the block it hits; the report names it so that a peer can be asked.
    let mut disk = SimulatedDisk::new();
    let (mut store, _) = opened(&mut disk);
    for counter in 1..4 {
        let data = [counter as u8; 1000];
        store
            .put(&mut disk, id(counter), &data, crc32c(&[&data]))
            .expect("put");
    }
    store.sync(&mut disk).expect("sync");
    assert!(disk.flip_bit(FIRST_SEGMENT, 1152 + 128 + 500, 1));
    disk.restart();
    let (store, report) = opened(&mut disk);
    assert_eq!(report.damaged, [id(2)]);
    assert_eq!((report.block_count, report.scanned_segments), (2, 1));
    assert!(store.contains(id(1)) && !store.contains(id(2)) && store.contains(id(3)));
    disk.restart();
    let (_, again) = opened(&mut disk);
    assert_eq!((again.block_count, again.scanned_segments), (2, 0));
}

#[test]
fn a_rotten_footer_costs_a_scan_and_no_block() {
    // Goal: footers are a shortcut, not the truth; flips one bit of a sealed segment's footer.
    let mut disk = SimulatedDisk::new();
    let (mut store, _) = opened(&mut disk);
    (1..40).for_each(|counter| put(&mut disk, &mut store, counter).expect("put"));
    store.sync(&mut disk).expect("sync");
    let size = disk.contents(FIRST_SEGMENT).expect("sealed").len() as u64;
    assert!(disk.flip_bit(FIRST_SEGMENT, size - 30, 0));
    disk.restart();
    let (mut store, report) = opened(&mut disk);
    assert_eq!((report.block_count, report.scanned_segments), (39, 2));
    (1..40).for_each(|counter| assert_reads(&mut disk, &mut store, counter));
}

#[test]
fn a_full_disk_refuses_a_put_and_space_comes_back_by_deleting() {
    // Goal: NoSpace is an answer; reading, deleting and compacting go on, and then there is room.
    let mut disk = SimulatedDisk::new();
    let config = BlockStoreConfig {
        capacity_bytes: 80 * 1024,
        ..CONFIG
    };
    let (mut store, _) = BlockStore::open(&mut disk, "blocks", config).expect("open");
    disk.set_capacity(Some(100 * 1024));
    let mut full_at = 0;
    while put(&mut disk, &mut store, full_at).is_ok() {
        full_at += 1;
    }
    assert!(matches!(put(&mut disk, &mut store, full_at), Err(Error::NoSpace)));
    assert_reads(&mut disk, &mut store, 1);
    let most: Vec<BlockId> = (5..full_at).map(id).collect();
    store.delete(&mut disk, &most).expect("delete");
    while store.compact(&mut disk, COMPACTION).expect("compact").more {}
    put(&mut disk, &mut store, full_at).expect("room again");
    store.sync(&mut disk).expect("sync");
    (0..5).for_each(|counter| assert_reads(&mut disk, &mut store, counter));
}

#[test]
fn enospc_of_the_disk_itself_leaves_the_store_usable() {
    // Goal: also without a configured capacity, a failed write for want of space poisons nothing.
    let mut disk = SimulatedDisk::new();
    let (mut store, _) = opened(&mut disk);
    disk.set_capacity(Some(40 * 1024));
    let mut full_at = 0;
    while put(&mut disk, &mut store, full_at).is_ok() {
        full_at += 1;
    }
    assert!(matches!(put(&mut disk, &mut store, full_at), Err(Error::NoSpace)));
    store.sync(&mut disk).expect("sync");
    disk.set_capacity(None);
    put(&mut disk, &mut store, full_at).expect("room again");
    store.sync(&mut disk).expect("sync");
    disk.crash(&mut Random::new(1));
    let (mut store, _) = opened(&mut disk);
    (0..=full_at).for_each(|counter| assert_reads(&mut disk, &mut store, counter));
}

#[test]
fn a_failed_sync_stops_writing_and_not_reading() {
    // Goal: fail-stop for promises; blocks that are here can still be served.
    let mut disk = SimulatedDisk::new();
    let (mut store, _) = opened(&mut disk);
    put(&mut disk, &mut store, 1).expect("put");
    disk.fail_sync(1);
    assert!(matches!(store.sync(&mut disk), Err(Error::Disk { .. })));
    assert!(matches!(store.sync(&mut disk), Err(Error::Poisoned)));
    assert!(matches!(put(&mut disk, &mut store, 2), Err(Error::Poisoned)));
    assert!(matches!(store.delete(&mut disk, &[id(1)]), Err(Error::Poisoned)));
    assert_reads(&mut disk, &mut store, 1);
}

#[test]
fn a_bad_copy_is_told_once_and_replaced_by_the_next_put() {
    // Goal: damage heals in place. Method: flip a bit of one block, read it, put it again, open the store anew.
    let mut disk = SimulatedDisk::new();
    let (mut store, _) = opened(&mut disk);
    let (first, second) = (content(1), content(2));
    for counter in [1, 2] {
        put(&mut disk, &mut store, counter).expect("stored");
    }
    store.sync(&mut disk).expect("synced");
    disk.flip_bit(FIRST_SEGMENT, 130, 3);
    for _ in 0..2 {
        let read = store.get(&mut disk, id(1), 0, first.len() as u64);
        assert!(matches!(read, Err(Error::Corrupt { segment: 1, .. })), "{read:?}");
    }
    let verified = store.verify(&mut disk, id(2), Some(crc32c(&[&second])));
    assert!(verified.is_ok(), "{verified:?}");
    let found = store.take_found();
    assert_eq!(found.iter().map(|bad| bad.block).collect::<Vec<_>>(), [id(1)]);
    assert_eq!(store.take_found(), [], "it is told once");
    assert_eq!((store.is_sound(id(1)), store.is_sound(id(2))), (false, true));
    assert!(store.contains(id(1)), "what is left of it may be all there is");

    put(&mut disk, &mut store, 1).expect("replaced");
    put(&mut disk, &mut store, 2).expect("nothing to do");
    assert!(store.is_sound(id(1)));
    assert_reads(&mut disk, &mut store, 1);
    store.sync(&mut disk).expect("synced");
    let (mut store, report) = opened(&mut disk);
    assert_eq!(report.block_count, 2);
    assert_reads(&mut disk, &mut store, 1);
    assert_reads(&mut disk, &mut store, 2);
}
