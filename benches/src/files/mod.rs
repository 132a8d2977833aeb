//! What files cost: the mount of a three-node cluster beside the limits of this machine.
//!
//! Design. Every place is a directory: one on the mount, one on the local disk (ext4, where it is), one on libfuse's
//! own pass-through example, which shows what going through FUSE alone costs. The same workloads run in all of them.
//! A round runs each group of workloads in each place, in an order of its own, so that a noisy minute hits everybody;
//! the table shows medians over the rounds, and our place as a ratio to the others.
//!
//! Beside the speed stands the time on processors per operation, of the mount and of all nodes together: it tells
//! where the time goes, and depends far less on what else the machine does.
//!
//! What is read is compared with what was written, in every row.

mod large_file;
mod meter;
mod place;
mod programs;
mod small_files;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::origin;
pub use small_files::{WorkerArguments, run_worker};

use meter::Meter;
use place::{Place, Programs};
use table::Table;

#[derive(clap::Args)]
pub struct Arguments {
    /// Write the table to this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Interleaved rounds; the table shows their medians
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Small files of each storm
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(8..))]
    files: u32,
    /// Size of the large file
    #[arg(long, default_value_t = 128, value_name = "MIB", value_parser = clap::value_parser!(u32).range(8..))]
    size: u32,
    /// Length of one measurement of random access or commits
    #[arg(long, default_value_t = 1500, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..))]
    milliseconds: u64,
    /// Only places whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Only groups of workloads whose name contains this: storm-1, storm-4, large, sqlite, tree
    #[arg(long, value_name = "TEXT", default_value = "")]
    group: String,
    /// The cluster's durability
    #[arg(long, default_value = "disk", value_parser = ["disk", "memory"])]
    durability: String,
    /// Data of all places; a new directory below it is made and removed
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    directory: PathBuf,
}

/// What runs in a place without interruption.
type Group = fn(&Setting, &mut Meter<'_>) -> anyhow::Result<()>;

const GROUPS: [(&str, Group); 5] = [
    ("storm-1", |setting, meter| small_files::storm(setting, meter, 1)),
    ("storm-4", |setting, meter| small_files::storm(setting, meter, 4)),
    ("large", large_file::run),
    ("sqlite", programs::sqlite),
    ("tree", programs::tree),
];

/// What the workloads are given.
pub struct Setting {
    files_count: usize,
    large_size_bytes: u64,
    duration: Duration,
    /// An archive of a tree of small files.
    archive: PathBuf,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let origin = origin::origin();
    let directory = tempfile::Builder::new()
        .prefix("bark-bench-files-")
        .tempdir_in(&arguments.directory)?;
    let programs = Programs::beside_this_one()?;
    let setting = Setting {
        files_count: arguments.files as usize,
        large_size_bytes: u64::from(arguments.size) << 20,
        duration: Duration::from_millis(arguments.milliseconds),
        archive: programs::make_archive(directory.path())?,
    };
    let places = start(&programs, directory.path(), arguments)?;
    let mut table = Table::default();
    for round in 0..u64::from(arguments.rounds) {
        for (name, group) in GROUPS.iter().filter(|(name, _)| name.contains(&arguments.group)) {
            for index in origin::shuffled(places.len(), round) {
                let place = &places[index];
                eprintln!(
                    "round {} of {}: {name} on {}",
                    round + 1,
                    arguments.rounds,
                    place.name
                );
                let mut meter = Meter::new(place);
                let context = || format!("{name} on {}", place.name);
                fs::create_dir(meter.directory()).with_context(context)?;
                group(&setting, &mut meter).with_context(context)?;
                fs::remove_dir_all(meter.directory()).with_context(context)?;
                table.add(place.name, meter.samples);
            }
        }
    }
    origin::print(&origin);
    println!(
        "{} files of 4 KiB a storm, one of {} MiB, {} ms a measurement, medians of {} interleaved rounds; everything \
         on this machine",
        arguments.files, arguments.size, arguments.milliseconds, arguments.rounds
    );
    for place in &places {
        println!("  {:12} {}", place.name, place.setting);
    }
    let names: Vec<&str> = places.iter().map(|place| place.name).collect();
    table.print(&names);
    if let Some(path) = &arguments.json {
        let json = json!({
            "benchmark": "files", "origin": origin, "rounds": arguments.rounds, "files": arguments.files,
            "size_mib": arguments.size, "milliseconds": arguments.milliseconds,
            "settings": places.iter().map(|place| (place.name, &place.setting)).collect::<Vec<_>>(),
            "rows": table.json(),
        });
        fs::write(path, format!("{json:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn start(programs: &Programs, directory: &Path, arguments: &Arguments) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    for name in place::NAMES.iter().filter(|name| name.contains(&arguments.only)) {
        places.push(match *name {
            place::LOCAL => Place::local(directory)?,
            place::PASS_THROUGH => Place::pass_through(programs, directory)?,
            _ => Place::bark(programs, directory, &arguments.durability)?,
        });
    }
    ensure!(!places.is_empty(), "--only {}: no such place", arguments.only);
    Ok(places)
}
