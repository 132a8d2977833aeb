//! `bark mount`: the cluster as a directory of this machine.
//!
//! Without `--foreground` the command starts itself again as a daemon and ends when that says it has mounted;
//! a daemon that fails says why on the same standard error.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use bark_client::{Client, ClusterPath};
use bark_fuse::{Mount as Mounted, MountOptions, Patience, Trust, remount};
use clap::{Args, ValueEnum};

use crate::arguments::GlobalArguments;
use crate::problem::Problem;

/// Says on standard output that the daemon serves.
const READY: &str = "mounted";
const READY_FLAG: &str = "--ready-signal";
/// Threads that take requests from the kernel; what waits for the cluster waits in tasks.
const KERNEL_THREADS: usize = 2;

#[derive(Debug, Args)]
pub struct Mount {
    directory: PathBuf,
    /// Refuse every change.
    #[arg(long)]
    read_only: bool,
    /// What other clients see when.
    #[arg(long, value_enum, default_value_t = Consistency::CloseToOpen)]
    consistency: Consistency,
    /// Let programs of other users in.
    #[arg(long)]
    allow_other: bool,
    /// Stay, instead of becoming a daemon.
    #[arg(long)]
    foreground: bool,
    /// fsname=NAME, subdir=PATH, ro, sync, noatime, allow_other, nonempty, hard, soft, timeout=SECONDS, consistency=NAME, suid, dev, noexec,
    /// and remount with ro, rw, sync, suid, dev or noexec.
    #[arg(short, value_delimiter = ',', value_name = "OPTION,...")]
    options: Vec<String>,
    /// Where a daemon writes its log.
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    #[arg(long, hide = true)]
    ready_signal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Consistency {
    /// An open sees what was closed or synced before, anywhere.
    CloseToOpen,
    /// Every read sees every write. Nothing is kept here, so everything takes a round trip.
    Strict,
}

impl From<Consistency> for bark_fuse::Consistency {
    fn from(consistency: Consistency) -> bark_fuse::Consistency {
        match consistency {
            Consistency::CloseToOpen => bark_fuse::Consistency::CloseToOpen,
            Consistency::Strict => bark_fuse::Consistency::Strict,
        }
    }
}

impl Mount {
    /// Options of mount(8) are set here too: they say the same as flags.
    fn mount_options(&self, global: &mut GlobalArguments) -> Result<MountOptions, Problem> {
        let mut options = MountOptions {
            directory: self.directory.clone(),
            subdirectory: ClusterPath::root(),
            name: "bark".into(),
            read_only: self.read_only,
            synchronous: false,
            consistency: self.consistency.into(),
            access_times: true,
            allow_other: self.allow_other,
            allow_non_empty: false,
            trust: Trust::default(),
            patience: Patience::Soft,
            threads: KERNEL_THREADS,
        };
        for option in &self.options {
            match option.split_once('=').unwrap_or((option.as_str(), "")) {
                ("fsname", name) => options.name = name.into(),
                ("subdir", path) => options.subdirectory = ClusterPath::parse(path)?,
                ("ro", _) => options.read_only = true,
                ("rw", _) => options.read_only = self.read_only,
                ("sync", _) => options.synchronous = true,
                ("async", _) => options.synchronous = false,
                ("relatime" | "atime", _) => options.access_times = true,
                ("noatime", _) => options.access_times = false,
                ("suid", _) => options.trust.set_user = true,
                ("nosuid", _) => options.trust.set_user = false,
                ("dev", _) => options.trust.devices = true,
                ("nodev", _) => options.trust.devices = false,
                ("exec", _) => options.trust.execution = true,
                ("noexec", _) => options.trust.execution = false,
                ("remount", _) => {}
                ("allow_other", _) => options.allow_other = true,
                ("nonempty", _) => options.allow_non_empty = true,
                ("consistency", name) => options.consistency = parse_consistency(name)?,
                ("hard", _) => options.patience = Patience::Hard,
                ("soft", _) => options.patience = Patience::Soft,
                ("timeout", seconds) => global.timeout = parse_seconds(seconds)?,
                (known, _) if means_nothing_here(known) => {}
                _ => return Err(Problem::usage("-o", format!("unknown option {option}"))),
            }
        }
        Ok(options)
    }

    pub fn run(self, mut global: GlobalArguments, arguments: Vec<std::ffi::OsString>) -> Result<(), Problem> {
        let options = self.mount_options(&mut global)?;
        if self.options.iter().any(|option| option == "remount") {
            return remount(&options).map_err(problem);
        }
        if !self.foreground && !self.ready_signal {
            return start_daemon(arguments);
        }
        if self.ready_signal {
            // It fails only for the leader of a process group, which a child just started is not.
            let _ = rustix::process::setsid();
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Problem::failed("runtime", error))?;
        runtime.block_on(async {
            let client = Client::connect(global.client_config()?).await?;
            let mount = Mounted::open(client, options).await.map_err(problem)?;
            if self.ready_signal {
                self.leave_terminal()?;
            }
            mount.serve().await.map_err(problem)
        })
    }

    /// Tells whoever waits that the mount is there, and lets go of its terminal.
    fn leave_terminal(&self) -> Result<(), Problem> {
        let failed = |error: io::Error| Problem::failed("daemon", error);
        let mut output = io::stdout();
        writeln!(output, "{READY}")
            .and_then(|()| output.flush())
            .map_err(failed)?;
        let nothing = OpenOptions::new().read(true).write(true).open("/dev/null");
        let nothing = nothing.map_err(failed)?;
        let log = match &self.log_file {
            Some(file) => File::options()
                .create(true)
                .append(true)
                .open(file)
                .map_err(failed)?,
            None => nothing.try_clone().map_err(failed)?,
        };
        let replaced = rustix::stdio::dup2_stdin(&nothing)
            .and_then(|()| rustix::stdio::dup2_stdout(&nothing))
            .and_then(|()| rustix::stdio::dup2_stderr(&log));
        replaced.map_err(|error| failed(error.into()))?;
        // The daemon must not keep a directory busy that somebody wants to unmount.
        std::env::set_current_dir("/").map_err(failed)
    }
}

fn start_daemon(arguments: Vec<std::ffi::OsString>) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::failed("daemon", error);
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(arguments.into_iter().skip(1))
        .arg(READY_FLAG)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line).map_err(failed)?;
    }
    if line.trim_end() == READY {
        return Ok(());
    }
    // It has said why on the standard error we share.
    let status = child.wait().map_err(failed)?;
    std::process::exit(status.code().unwrap_or(1));
}

fn parse_seconds(text: &str) -> Result<u64, Problem> {
    text.parse()
        .map_err(|_| Problem::usage("-o timeout", format!("{text} is not a number of seconds")))
}

fn parse_consistency(text: &str) -> Result<bark_fuse::Consistency, Problem> {
    let parsed = Consistency::from_str(text, false).map(Into::into);
    parsed.map_err(|_| {
        Problem::usage(
            "-o consistency",
            format!("{text} is neither close-to-open nor strict"),
        )
    })
}

/// What mount(8) and fstab lines carry that the kernel or mount(8) itself has dealt with.
fn means_nothing_here(option: &str) -> bool {
    const IGNORED: [&str; 10] = [
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "nofail",
        "_netdev",
        "default_permissions",
    ];
    // What the kernel's table of mounts says of every mount, and mount(8) repeats for a remount.
    const TOLD: [&str; 4] = ["user_id=", "group_id=", "rootmode=", "max_read="];
    let told = TOLD.iter().any(|name| option.starts_with(name));
    told || IGNORED.contains(&option) || option.starts_with("x-")
}

pub(super) fn problem(error: bark_fuse::Error) -> Problem {
    match error {
        bark_fuse::Error::Cluster(error) => error.into(),
        bark_fuse::Error::Directory { directory, sentence } => Problem::failed(directory, sentence),
        bark_fuse::Error::Kernel { directory, source } => Problem::failed(directory, source),
    }
}
