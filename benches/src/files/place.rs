//! The directories that are compared, and what runs to make them.
//!
//! What was mounted is unmounted and what was started is killed when a place is dropped, on every way out.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::mount::{UnmountFlags, unmount};

use crate::cluster::Cluster;

pub const LOCAL: &str = "local disk";
pub const PASS_THROUGH: &str = "pass-through";
pub const BARK: &str = "bark";
pub const NAMES: [&str; 3] = [LOCAL, PASS_THROUGH, BARK];
/// The scripts of `compare/`, by the names of their files.
pub const PEERS: [&str; 3] = ["ceph", "gluster", "moosefs"];

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// What is started.
pub struct Programs {
    bark: PathBuf,
    bark_node: PathBuf,
    pass_through: PathBuf,
}

impl Programs {
    /// `scripts/bench` builds them where it builds this program.
    pub fn beside_this_one() -> anyhow::Result<Programs> {
        let here = std::env::current_exe()?;
        let beside = |name: &str| -> anyhow::Result<PathBuf> {
            let program = here.with_file_name(name);
            ensure!(program.exists(), "{}: not built", program.display());
            Ok(program)
        };
        Ok(Programs {
            bark: beside("bark")?,
            bark_node: beside("bark-node")?,
            pass_through: beside("fuse-pass-through")?,
        })
    }
}

pub struct Place {
    pub name: &'static str,
    pub directory: PathBuf,
    /// Where the same files are seen by another client.
    pub second_directory: Option<PathBuf>,
    /// What it is, for the table's header.
    pub setting: String,
    pub mount_processes: Vec<u32>,
    pub node_processes: Vec<u32>,
    mounted: Vec<PathBuf>,
    children: Vec<Child>,
    /// What a script started is stopped by it.
    stop: Option<Command>,
}

impl Drop for Place {
    fn drop(&mut self) {
        for mounted in &self.mounted {
            // Nothing is in it that anybody needs, so it goes at once; it may be gone already.
            let _ = unmount(mounted, UnmountFlags::DETACH);
        }
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(stop) = &mut self.stop
            && let Err(error) = succeed(stop)
        {
            eprintln!("stopping {}: {error:#}", self.name);
        }
    }
}

impl Place {
    pub fn local(directory: &Path) -> anyhow::Result<Place> {
        let own = own_directory(directory, LOCAL)?;
        let setting = format!("a directory of {}", file_system_of(&own)?);
        Ok(Place::new(LOCAL, own, setting))
    }

    pub fn pass_through(programs: &Programs, directory: &Path) -> anyhow::Result<Place> {
        let own = own_directory(directory, PASS_THROUGH)?;
        let (source, target) = (own.join("source"), own.join("mounted"));
        fs::create_dir(&source)?;
        fs::create_dir(&target)?;
        let setting = "libfuse's passthrough_ll over the local disk, its defaults".to_string();
        let mut place = Place::new(PASS_THROUGH, target.clone(), setting);
        let mut command = Command::new(&programs.pass_through);
        command
            .args(["-f", "-o"])
            .arg(format!("source={}", source.display()));
        command.arg(&target);
        let process = place.spawn(command, directory)?;
        place.mount_processes.push(process);
        place.mounted.push(target);
        place.await_mounts()?;
        Ok(place)
    }

    pub fn bark(programs: &Programs, directory: &Path, durability: &str) -> anyhow::Result<Place> {
        let own = own_directory(directory, BARK)?;
        let targets = [own.join("mounted"), own.join("mounted-too")];
        let cluster = Cluster::new(&programs.bark_node, &own, 3, durability)?;
        let setting = format!(
            "{}, mounts with their defaults: an fsync reaches two of three nodes' disks",
            cluster.setting
        );
        let mut place = Place::new(BARK, targets[0].clone(), setting);
        for command in cluster.commands {
            let process = place.spawn(command, directory)?;
            place.node_processes.push(process);
        }
        let bark = |words: &[&str]| {
            let mut command = Command::new(&programs.bark);
            command.arg("--cluster").arg(&cluster.file).args(words);
            command
        };
        let healthy = || {
            let status = bark(&["status", "--json"]).stdin(Stdio::null()).output();
            status.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("\"healthy\""))
        };
        place.await_true("the cluster", healthy)?;
        for target in &targets {
            fs::create_dir(target)?;
            let mut command = bark(&["--log-level", "warn", "mount", "--foreground"]);
            command.arg(target);
            let process = place.spawn(command, directory)?;
            place.mount_processes.push(process);
            place.mounted.push(target.clone());
        }
        place.await_mounts()?;
        place.second_directory = Some(targets[1].clone());
        Ok(place)
    }

    /// Another file system, which `compare/peer` starts, mounts twice and stops.
    pub fn peer(name: &'static str, directory: &Path) -> anyhow::Result<Place> {
        let own = own_directory(directory, name)?;
        let servers = own.join("servers");
        fs::create_dir(&servers)?;
        let script = |verb: &str| {
            let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/compare/peer"));
            command.args([name, verb]).arg(&servers);
            command
        };
        let targets = [own.join("mounted"), own.join("mounted-too")];
        let mut place = Place::new(name, targets[0].clone(), String::new());
        place.stop = Some(script("stop"));
        let log = || fs::read_to_string(servers.join("peer.log")).unwrap_or_default();
        let started = succeed(&mut script("setting")).and_then(|setting| {
            place.setting = setting.trim().to_owned();
            succeed(&mut script("start"))?;
            for target in &targets {
                fs::create_dir(target)?;
                succeed(script("mount").arg(target))?;
            }
            Ok(())
        });
        started.with_context(|| log().lines().rev().take(3).collect::<Vec<_>>().join("; "))?;
        place.second_directory = Some(targets[1].clone());
        Ok(place)
    }

    pub fn is_peer(&self) -> bool {
        PEERS.contains(&self.name)
    }

    fn new(name: &'static str, directory: PathBuf, setting: String) -> Place {
        Place {
            name,
            directory,
            second_directory: None,
            setting,
            mount_processes: Vec::new(),
            node_processes: Vec::new(),
            mounted: Vec::new(),
            children: Vec::new(),
            stop: None,
        }
    }

    fn spawn(&mut self, mut command: Command, logs: &Path) -> anyhow::Result<u32> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(logs.join("processes.log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let program = Path::new(command.get_program()).display().to_string();
        let child = command.spawn().with_context(|| format!("starting {program}"))?;
        let id = child.id();
        self.children.push(child);
        Ok(id)
    }

    fn await_mounts(&self) -> anyhow::Result<()> {
        for mounted in &self.mounted {
            let target = format!(" {} fuse", mounted.display());
            self.await_true("the mount", || {
                fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains(&target))
            })?;
        }
        Ok(())
    }

    fn await_true(&self, what: &str, condition: impl Fn() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !condition() {
            if Instant::now() > deadline {
                bail!("{}: {what} is not there after {START_TIMEOUT:?}", self.name);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Runs a script to its end and answers what it said.
fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{:?}: {}", command, output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn own_directory(directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let own = directory.join(name.replace(' ', "-"));
    fs::create_dir(&own).with_context(|| own.display().to_string())?;
    Ok(own)
}

/// The type of the file system a directory is on.
fn file_system_of(directory: &Path) -> anyhow::Result<String> {
    let output = Command::new("df")
        .arg("--output=fstype")
        .arg(directory)
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(said.lines().last().unwrap_or("unknown").trim().to_owned())
}
