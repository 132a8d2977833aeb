//! What a partition costs as it grows: memory of an inode, time of one operation, snapshots, files of a terabyte, and the
//! index of the block store.
//!
//! Design. Everything runs on the real state and the real block store, without consensus and sockets: what is flat or
//! logarithmic here can be no better above. Each case runs in a process of its own, so that memory is what that
//! case took and not what one before it left; cases are run in rounds, and the tables show medians.
//!
//! Memory is the growth of the process's resident set, allocator and all. What an inode counts: its row, its directory
//! entry with the name, and their shares of the tables. Content of small files is said apart; logs and caches are
//! not part of a state.

mod large_file;
mod ratios;
mod store;
mod tree;

use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs, process};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::origin;

#[derive(clap::Args)]
pub struct Arguments {
    /// Write the tables to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Interleaved rounds; the tables show their medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Files, one line of the table for each number
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    files: Vec<u64>,
    /// Blocks of the large file, and of the block store
    #[arg(long, default_value_t = 1_000_000)]
    blocks: u64,
    /// Where the block store's files are made for the time of the run
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Measure one case in this process
    #[arg(long, hide = true)]
    case: Option<String>,
}

/// Nanoseconds since `start` for each of `count`.
fn nanoseconds_each(start: Instant, count: u64) -> f64 {
    start.elapsed().as_nanos() as f64 / count.max(1) as f64
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Bytes of this process in memory.
fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(case) = &arguments.case {
        println!("{}", measure(case, arguments)?);
        return Ok(());
    }
    let origin = origin::origin();
    fs::create_dir_all(&arguments.dir)?;
    let directory = tempfile::tempdir_in(&arguments.dir)?;
    let mut trees: Vec<String> = Vec::new();
    for files in &arguments.files {
        trees.extend(["one", "many"].map(|layout| format!("tree {layout} {files} 0")));
    }
    trees.push("tree many 100000 1024".into());
    let others = ["large", "store-write", "store-open"];
    let cases: Vec<String> = trees.into_iter().chain(others.map(str::to_owned)).collect();
    let mut measured: Vec<Vec<Value>> = vec![Vec::new(); cases.len()];
    for _ in 0..arguments.rounds {
        for (case, results) in cases.iter().zip(&mut measured) {
            results.push(in_child(case, arguments, directory.path())?);
        }
    }
    let rows: Vec<Value> = measured.iter().map(|results| medians(results)).collect();
    origin::print(&origin);
    println!("medians of {} interleaved rounds\n", arguments.rounds);
    ratios::print(&rows);
    tree::print(&rows);
    large_file::print(&rows);
    store::print(&rows);
    if let Some(path) = &arguments.json {
        let table =
            json!({"benchmark": "growth", "origin": origin, "rounds": arguments.rounds, "rows": rows});
        fs::write(path, format!("{table:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn in_child(case: &str, arguments: &Arguments, directory: &Path) -> anyhow::Result<Value> {
    let output = process::Command::new(env::current_exe()?)
        .arg("growth")
        .args(["--case", case, "--blocks", &arguments.blocks.to_string(), "--dir"])
        .arg(directory)
        .stderr(process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("{case}: {}", output.status);
    }
    serde_json::from_slice(&output.stdout).with_context(|| case.to_owned())
}

/// The median of each number; what is no number is the same in all.
fn medians(results: &[Value]) -> Value {
    let mut row = results.first().cloned().unwrap_or_default();
    if let Some(fields) = row.as_object_mut() {
        for (name, value) in fields {
            if value.is_number() {
                let numbers = results
                    .iter()
                    .filter_map(|result| result[name].as_f64())
                    .collect();
                *value = json!(origin::median(numbers));
            }
        }
    }
    row
}

fn measure(case: &str, arguments: &Arguments) -> anyhow::Result<Value> {
    let words: Vec<&str> = case.split(' ').collect();
    match words[..] {
        ["tree", layout, files, content] => tree::measure(layout, files.parse()?, content.parse()?),
        ["large"] => large_file::measure(arguments.blocks),
        ["store-write"] => store::measure_writing(&arguments.dir, arguments.blocks),
        ["store-open"] => store::measure_opening(&arguments.dir),
        _ => bail!("{case}: no such case"),
    }
}
