//! The block store with many blocks, on real files: its index, opening it, and winning space back.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use bark_core::block_store::{BlockStore, BlockStoreConfig, CompactConfig};
use bark_core::checksum::crc32c;
use bark_node::file_disk::FileDisk;
use bark_schema::ids::{BlockId, ClientId};
use serde_json::{Value, json};

use super::{milliseconds, nanoseconds_each, resident_bytes};

/// Small, so that a million fit on any disk; the index does not depend on it.
const DATA: [u8; 256] = [7; 256];
const DIRECTORY: &str = "blocks";
/// Clients that write at the same time.
const WRITERS: u64 = 16;

fn block(number: u64) -> BlockId {
    BlockId {
        client: ClientId(1 + number % WRITERS),
        counter: number / WRITERS,
    }
}

pub fn measure_writing(directory: &Path, blocks: u64) -> anyhow::Result<Value> {
    let directory = directory.join("store");
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    let mut disk = FileDisk::open(&directory)?;
    let (mut store, _) = BlockStore::open(&mut disk, DIRECTORY, BlockStoreConfig::default())?;
    let checksum = crc32c(&[&DATA]);
    let start = Instant::now();
    for number in 0..blocks {
        store.put(&mut disk, block(number), &DATA, checksum)?;
    }
    store.sync(&mut disk)?;
    Ok(json!({"case": "store-write", "blocks": blocks, "put_ns": nanoseconds_each(start, blocks)}))
}

pub fn measure_opening(directory: &Path) -> anyhow::Result<Value> {
    let mut disk = FileDisk::open(&directory.join("store"))?;
    let memory = resident_bytes();
    let start = Instant::now();
    let (mut store, report) = BlockStore::open(&mut disk, DIRECTORY, BlockStoreConfig::default())?;
    let open_ms = milliseconds(start);
    let blocks = report.block_count;
    let bytes_per_block = (resident_bytes().saturating_sub(memory)) as f64 / blocks as f64;

    // Three in four go, evenly: every segment is rewritten.
    let mut gone = Vec::new();
    for number in (0..blocks).filter(|number| number % 4 != 0) {
        gone.push(block(number));
        if gone.len() == 4096 {
            store.delete(&mut disk, &gone)?;
            gone.clear();
        }
    }
    store.delete(&mut disk, &gone)?;
    store.sync(&mut disk)?;
    let (_, before) = store.space();
    let (mut steps, mut longest_ms) = (0, 0.0_f64);
    let all = Instant::now();
    loop {
        let start = Instant::now();
        let report = store.compact(&mut disk, CompactConfig::default())?;
        longest_ms = longest_ms.max(milliseconds(start));
        steps += 1;
        if !report.more {
            break;
        }
    }
    let (live, after) = store.space();
    Ok(
        json!({"case": "store-open", "blocks": blocks, "bytes_per_block": bytes_per_block, "open_ms": open_ms,
        "compact_steps": steps, "compact_longest_ms": longest_ms, "compact_ms": milliseconds(all),
        "live_bytes": live, "bytes_before": before, "bytes_after": after}),
    )
}

pub fn print(rows: &[Value]) {
    let find = |case: &str| rows.iter().find(|row| row["case"] == case);
    let (Some(written), Some(opened)) = (find("store-write"), find("store-open")) else {
        return;
    };
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or(f64::NAN);
    let mebibytes = |name: &str| number(opened, name) / f64::from(1 << 20);
    println!(
        "\nblock store of {} blocks of {} B: put {:.0} ns, index {:.0} B a block, opened in {:.0} ms",
        number(opened, "blocks"),
        DATA.len(),
        number(written, "put_ns"),
        number(opened, "bytes_per_block"),
        number(opened, "open_ms")
    );
    println!(
        "three in four deleted, then compacted: {:.0} to {:.0} MiB ({:.0} alive) in {} steps, the longest {:.1} ms, all {:.0} ms",
        mebibytes("bytes_before"),
        mebibytes("bytes_after"),
        mebibytes("live_bytes"),
        number(opened, "compact_steps"),
        number(opened, "compact_longest_ms"),
        number(opened, "compact_ms")
    );
}
