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
//! With `--peers` three distributed file systems of three replicas each run beside ours ([`peers`]). One that is missing or
//! fails is named and left out, in all or in that group; our own failures end the run.
//!
//! What is read is compared with what was written, in every row.

mod large_file;
mod meter;
mod peers;
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
use small_files::By;
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
    /// Directories of 20 files each in the archive and the repository
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    directories: u32,
    /// Size of the large file
    #[arg(long, default_value_t = 128, value_name = "MIB", value_parser = clap::value_parser!(u32).range(8..))]
    size: u32,
    /// Length of one measurement of random access or commits
    #[arg(long, default_value_t = 1500, value_name = "MS", value_parser = clap::value_parser!(u64).range(100..))]
    milliseconds: u64,
    /// Beside CephFS, GlusterFS and MooseFS, three replicas each
    #[arg(long)]
    peers: bool,
    /// Smaller: a round of everything in some minutes
    #[arg(long, conflicts_with_all = ["files", "directories", "size", "milliseconds"])]
    quick: bool,
    /// Only places whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Only groups of workloads whose name contains this: storm-1, storm-4, storm-second, large, sqlite,
    /// dbench, tree, git
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

const GROUPS: [(&str, Group); 8] = [
    ("storm-1", |setting, meter| {
        small_files::storm(setting, meter, By::Processes(1))
    }),
    ("storm-4", |setting, meter| {
        small_files::storm(setting, meter, By::Processes(4))
    }),
    ("storm-second", |setting, meter| {
        small_files::storm(setting, meter, By::SecondMount)
    }),
    ("large", large_file::run),
    ("sqlite", programs::sqlite),
    ("dbench", programs::dbench),
    ("tree", programs::tree),
    ("git", programs::clone),
];

/// What the workloads are given.
pub struct Setting {
    files_count: usize,
    tree_directories: u32,
    large_size_bytes: u64,
    duration: Duration,
    /// An archive of a tree of small files.
    archive: PathBuf,
    /// The same as a repository.
    repository: PathBuf,
}

impl Setting {
    fn new(arguments: &Arguments, directory: &Path) -> anyhow::Result<Setting> {
        let (files, tree_directories, size, milliseconds) = match arguments.quick {
            true => (800, 40, 64, 1000),
            false => (
                arguments.files,
                arguments.directories,
                arguments.size,
                arguments.milliseconds,
            ),
        };
        let archive = programs::make_archive(directory, tree_directories)?;
        Ok(Setting {
            files_count: files as usize,
            tree_directories,
            large_size_bytes: u64::from(size) << 20,
            duration: Duration::from_millis(milliseconds),
            repository: programs::make_repository(directory, &archive)?,
            archive,
        })
    }
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let origin = origin::origin();
    let directory = tempfile::Builder::new()
        .prefix("bark-bench-files-")
        .tempdir_in(&arguments.directory)?;
    let programs = Programs::beside_this_one()?;
    let setting = Setting::new(arguments, directory.path())?;
    let places = start(&programs, directory.path(), arguments)?;
    let mut table = Table::default();
    let mut loads = Vec::new();
    for round in 0..u64::from(arguments.rounds) {
        for group in GROUPS.iter().filter(|(name, _)| name.contains(&arguments.group)) {
            for index in origin::shuffled(places.len(), round) {
                let place = &places[index];
                eprintln!(
                    "round {} of {}: {} on {}",
                    round + 1,
                    arguments.rounds,
                    group.0,
                    place.name
                );
                match measure(*group, &setting, place, &mut table) {
                    Err(error) if place.is_peer() => eprintln!("  failed: {error:#}"),
                    result => result?,
                }
                loads.push(origin::load_average());
            }
        }
    }
    loads.sort_by(f64::total_cmp);
    origin::print(&origin);
    println!(
        "{} files of 4 KiB a storm, one of {} MiB, {} ms a measurement, medians of {} interleaved rounds; everything \
         on this machine, load average {:.1} to {:.1}, median {:.1}",
        setting.files_count,
        setting.large_size_bytes >> 20,
        setting.duration.as_millis(),
        arguments.rounds,
        loads.first().unwrap_or(&f64::NAN),
        loads.last().unwrap_or(&f64::NAN),
        origin::median(loads.clone())
    );
    for place in &places {
        println!("  {:12} {}", place.name, place.setting);
    }
    let names: Vec<&str> = places.iter().map(|place| place.name).collect();
    table.print(&names);
    if arguments.peers {
        peers::print(&table, &names);
    }
    if let Some(path) = &arguments.json {
        let json = json!({
            "benchmark": "files", "origin": origin, "rounds": arguments.rounds, "files": setting.files_count,
            "size_mib": setting.large_size_bytes >> 20, "milliseconds": setting.duration.as_millis() as u64,
            "load_averages": loads,
            "settings": places.iter().map(|place| (place.name, &place.setting)).collect::<Vec<_>>(),
            "rows": table.json(),
        });
        fs::write(path, format!("{json:#}\n")).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// One group in one place, which leaves nothing behind; what it measured before it failed counts.
fn measure(group: (&str, Group), setting: &Setting, place: &Place, table: &mut Table) -> anyhow::Result<()> {
    let mut meter = Meter::new(place);
    let work = meter.directory().to_owned();
    let context = || format!("{} on {}", group.0, place.name);
    fs::create_dir(&work).with_context(context)?;
    let result = group.1(setting, &mut meter).with_context(context);
    for sample in &meter.samples {
        eprintln!("  {}: {:.2} {}", sample.row, sample.value, sample.unit.name());
    }
    table.add(place.name, meter.samples);
    let removed = fs::remove_dir_all(&work).with_context(context);
    result.and(removed)
}

fn start(programs: &Programs, directory: &Path, arguments: &Arguments) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    let wanted = |name: &&&str| name.contains(&arguments.only);
    for name in place::NAMES.iter().filter(wanted) {
        places.push(match *name {
            place::LOCAL => Place::local(directory)?,
            place::PASS_THROUGH => Place::pass_through(programs, directory)?,
            _ => Place::bark(programs, directory, &arguments.durability)?,
        });
    }
    for name in place::PEERS.iter().filter(|_| arguments.peers).filter(wanted) {
        match Place::peer(name, directory) {
            Ok(place) => places.push(place),
            Err(error) => println!("left out: {name}: {error:#}"),
        }
    }
    ensure!(!places.is_empty(), "--only {}: no such place", arguments.only);
    Ok(places)
}
