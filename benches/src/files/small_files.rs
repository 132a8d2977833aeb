//! A storm of small files: what programs that make, look at, move and remove many files meet.
//!
//! Each worker is a process of its own with directories of its own. A phase begins when all workers are ready and
//! ends when the last is done; between phases they wait.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};

use super::Setting;
use super::meter::{Meter, Unit};

const FILE_SIZE_BYTES: usize = 4096;
const FILES_PER_DIRECTORY: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    Mkdir,
    Create,
    Stat,
    Readdir,
    Read,
    Rename,
    Unlink,
    CreateElsewhere,
    Rmdir,
}

impl Phase {
    const ALL: [Phase; 9] = [
        Phase::Mkdir,
        Phase::Create,
        Phase::Stat,
        Phase::Readdir,
        Phase::Read,
        Phase::Rename,
        Phase::Unlink,
        Phase::CreateElsewhere,
        Phase::Rmdir,
    ];

    fn word(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// What the table calls it; phases that only prepare have no row.
    fn row(self, by: By) -> Option<&'static str> {
        match self {
            Phase::Mkdir | Phase::Rmdir => None,
            Phase::Create if by == By::SecondMount => None,
            Phase::CreateElsewhere if by != By::SecondMount => None,
            Phase::Create | Phase::CreateElsewhere => Some("create + write 4 KiB + close"),
            Phase::Stat => Some("stat"),
            Phase::Readdir => Some("readdir, entries"),
            Phase::Read => Some("open + read 4 KiB + close"),
            Phase::Rename => Some("rename"),
            Phase::Unlink => Some("unlink"),
        }
    }
}

/// Who looks at, moves and removes what was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Those who made it: so many processes.
    Processes(usize),
    /// One process on another mount than the one it was made on.
    SecondMount,
}

/// One process of a storm; it is told phases on its standard input.
#[derive(clap::Args)]
pub struct WorkerArguments {
    /// Where it makes directories and files.
    directory: PathBuf,
    /// Where it looks at them, and makes more: the same directory, by this mount or another.
    second_directory: PathBuf,
    number: usize,
    files_count: usize,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(
        directory: &Path,
        second_directory: &Path,
        number: usize,
        files_count: usize,
    ) -> anyhow::Result<Worker> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("files-worker")
            .arg(directory)
            .arg(second_directory)
            .args([number.to_string(), files_count.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        Ok(Worker {
            child,
            input: input.context("no input")?,
            output: BufReader::new(output.context("no output")?),
        })
    }

    /// The number it answers.
    fn hear(&mut self) -> anyhow::Result<u64> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim()
            .parse()
            .with_context(|| format!("a worker stopped; it said {line:?}"))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that was not told to end is in the middle of something that failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn storm(setting: &Setting, meter: &mut Meter<'_>, by: By) -> anyhow::Result<()> {
    let directory = meter.directory().to_owned();
    let (processes_count, second_directory) = match by {
        By::Processes(count) => (count, directory.clone()),
        By::SecondMount => match meter.second_directory() {
            Some(second) => (1, second),
            None => return Ok(()),
        },
    };
    let who = match by {
        By::Processes(1) => "1 process".to_owned(),
        By::Processes(count) => format!("{count} processes"),
        By::SecondMount => "from a second mount".to_owned(),
    };
    let each = setting.files_count / processes_count;
    let mut workers = (0..processes_count)
        .map(|number| Worker::start(&directory, &second_directory, number, each))
        .collect::<anyhow::Result<Vec<_>>>()?;
    for worker in &mut workers {
        worker.hear()?;
    }
    for phase in Phase::ALL {
        let mut run = || -> anyhow::Result<u64> {
            for worker in &mut workers {
                writeln!(worker.input, "{}", phase.word())?;
            }
            let mut count = 0;
            for worker in &mut workers {
                count += worker.hear()?;
            }
            Ok(count)
        };
        match phase.row(by) {
            Some(row) => {
                meter.measure(format!("{row}, {who}"), Unit::PerSecond, run)?;
            }
            None if phase == Phase::CreateElsewhere => {}
            None => {
                run()?;
            }
        }
    }
    Ok(())
}

/// The other side: does each phase it is told and answers with how much it did.
pub fn run_worker(arguments: &WorkerArguments) -> anyhow::Result<()> {
    let answer = |count: u64| -> io::Result<()> {
        println!("{count}");
        io::stdout().flush()
    };
    answer(0)?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let phase = Phase::ALL.into_iter().find(|phase| phase.word() == line);
        let Some(phase) = phase else {
            bail!("{line}: no such phase");
        };
        answer(work(arguments, phase).with_context(|| line.clone())?)?;
    }
    Ok(())
}

fn work(arguments: &WorkerArguments, phase: Phase) -> anyhow::Result<u64> {
    let root = match phase {
        Phase::Mkdir | Phase::Create => &arguments.directory,
        _ => &arguments.second_directory,
    };
    let directories: Vec<PathBuf> = (0..arguments.files_count.div_ceil(FILES_PER_DIRECTORY))
        .map(|index| root.join(format!("{}-{index}", arguments.number)))
        .collect();
    let names = |tag: char| {
        (0..arguments.files_count)
            .map(move |index| (index / FILES_PER_DIRECTORY, format!("{tag}-{index:06}")))
            .map(|(place, name)| directories[place].join(name))
    };
    let body: Vec<u8> = (0..FILE_SIZE_BYTES)
        .map(|index| (index * 31 + arguments.number) as u8)
        .collect();
    let mut count = 0;
    match phase {
        Phase::Mkdir => {
            for directory in &directories {
                fs::create_dir(directory)?;
            }
        }
        Phase::Create | Phase::CreateElsewhere => {
            let tag = if phase == Phase::Create { 'a' } else { 'c' };
            for file in names(tag) {
                let file = OpenOptions::new().write(true).create_new(true).open(file)?;
                file.write_all_at(&body, 0)?;
                count += 1;
            }
        }
        Phase::Stat => {
            for file in names('a') {
                let size = fs::metadata(&file)?.len();
                ensure!(size == FILE_SIZE_BYTES as u64, "{}: {size} bytes", file.display());
                count += 1;
            }
        }
        Phase::Readdir => {
            for directory in &directories {
                for entry in fs::read_dir(directory)? {
                    entry?;
                    count += 1;
                }
            }
            ensure!(count == arguments.files_count as u64, "{count} entries");
        }
        Phase::Read => {
            let mut bytes = Vec::new();
            for file in names('a') {
                bytes.clear();
                File::open(&file)?.read_to_end(&mut bytes)?;
                ensure!(bytes == body, "{}: other content", file.display());
                count += 1;
            }
        }
        Phase::Rename => {
            for (from, to) in names('a').zip(names('b')) {
                fs::rename(from, to)?;
                count += 1;
            }
        }
        Phase::Unlink => {
            for file in names('b') {
                fs::remove_file(file)?;
                count += 1;
            }
        }
        Phase::Rmdir => {
            for directory in &directories {
                fs::remove_dir_all(directory)?;
            }
        }
    }
    Ok(count)
}
