//! Keys without sockets: what one owner behind queues reaches, beside maps that threads share; and the node's own worker.
//!
//! Design. [`KEYS`] keys of 16 B, values of 64 B, half reads and half writes, values copied in and out, the same hash
//! function in every map, two threads in every case but the first and the worker's:
//! - owner: one thread makes batches of commands and takes the answers, the other owns the map. Between them are the
//!   node's own queues: a `spsc` ring there, a `notify` mesh back. Batches go round, so nothing is allocated.
//! - shared: both threads do commands straight on a map that both can lock.
//! - worker: the whole turn of a real `bark_core` worker, one thread: gateway, 16 partitions, Raft with one voter,
//!   exactly-once table, state with its digest, no log. What it does more than a map is replication and recovery.
//!
//! Rounds are interleaved; the table shows medians.

mod maps;
mod worker_turn;

use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;

use crate::origin;

pub const KEYS: u64 = 1_000_000;

#[derive(clap::Args)]
pub struct Arguments {
    /// Write the table to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Interleaved rounds; the table shows their medians
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Commands in one measurement
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    commands: u64,
}

/// Draws keys and verbs, the same for every case.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A key's number, and whether it is written.
    pub fn next(&mut self) -> (u64, bool) {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let number = ((u128::from(self.0 >> 16) * u128::from(KEYS)) >> 48) as u64;
        (number, self.0 & 0x8000 != 0)
    }
}

pub type Key = [u8; 16];
pub type Value = [u8; 64];

pub fn key(number: u64) -> Key {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let origin = origin::origin();
    let mut cases = maps::cases();
    cases.extend(worker_turn::cases());
    let mut measured = vec![Vec::new(); cases.len()];
    for _ in 0..arguments.rounds {
        for (case, rates) in cases.iter_mut().zip(&mut measured) {
            rates.push((case.run)(arguments.commands) / 1e6);
        }
    }
    origin::print(&origin);
    println!(
        "{KEYS} keys of 16 B, values of 64 B, half GET half SET unless named; medians of {} interleaved rounds of {} \
         commands\n",
        arguments.rounds, arguments.commands
    );
    let medians: Vec<f64> = measured.into_iter().map(origin::median).collect();
    let of = |name: &str| {
        let found = cases.iter().position(|case| case.name == name);
        found.map_or(f64::NAN, |position| medians[position])
    };
    let (mutex, sharded, dashmap) = (of(maps::MUTEX), of(maps::SHARDED), of(maps::DASHMAP));
    println!(
        "{:44} {:>8} {:>9} {:>9} {:>9} {:>9}",
        "case", "Mops/s", "ns/op", "x Mutex", "x 512", "x dashmap"
    );
    let mut rows = Vec::new();
    for (case, rate) in cases.iter().zip(&medians) {
        let ratios = [rate / mutex, rate / sharded, rate / dashmap];
        println!(
            "{:44} {rate:>8.2} {:>9.1} {:>9.2} {:>9.2} {:>9.2}",
            case.name,
            1000.0 / rate,
            ratios[0],
            ratios[1],
            ratios[2]
        );
        rows.push(
            json!({"case": case.name, "million_per_second": rate, "x_mutex": ratios[0],
            "x_512_shards": ratios[1], "x_dashmap": ratios[2]}),
        );
    }
    if let Some(path) = &arguments.json {
        let table =
            json!({"benchmark": "pipeline", "origin": origin, "rounds": arguments.rounds, "rows": rows});
        std::fs::write(path, format!("{table:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Does so many commands and says how many a second that was.
pub struct Case {
    pub name: &'static str,
    pub run: Box<dyn FnMut(u64) -> f64>,
}
