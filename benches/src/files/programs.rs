//! Programs people run: a database that commits, an archive that is unpacked, listed, searched and removed, a repository that
//! is cloned, and dbench, the calls of office programs on a file server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Setting;
use super::meter::{Meter, Unit, Work};

const FILES_PER_DIRECTORY: u32 = 20;

/// Commits of one row each with `synchronous=full`, then the integrity check. Prints commits and seconds.
const SQLITE: &str = r#"
import os, sqlite3, sys, time
path, mode, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
base = sqlite3.connect(path, isolation_level=None)
assert base.execute(f"pragma journal_mode={mode}").fetchone()[0] == mode
base.execute("pragma synchronous=full")
base.execute("create table t(id integer primary key, k text, v blob)")
count, start = 0, time.monotonic()
while time.monotonic() - start < seconds:
    base.execute("insert into t(k, v) values(?, ?)", (f"k{count}", os.urandom(200)))
    count += 1
print(count, time.monotonic() - start)
assert base.execute("pragma integrity_check").fetchone()[0] == "ok"
assert base.execute("select count(*) from t").fetchone()[0] == count
"#;

pub fn sqlite(setting: &Setting, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    for (mode, row) in [
        ("delete", "SQLite commits, rollback journal"),
        ("wal", "SQLite commits, write-ahead log"),
    ] {
        let path = meter.directory().join(mode);
        meter.measure(row, Unit::PerSecond, || {
            let mut command = Command::new("python3");
            command.args(["-c", SQLITE]).arg(&path).arg(mode);
            command.arg(setting.duration.as_secs_f64().to_string());
            let said = run(&mut command)?;
            let (count, seconds) = said.trim().split_once(' ').context("sqlite said nothing")?;
            Ok(Work {
                count: count.parse()?,
                elapsed: Some(Duration::from_secs_f64(seconds.parse()?)),
            })
        })?;
    }
    Ok(())
}

pub fn tree(setting: &Setting, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let tree = meter.directory().join("tree");
    fs::create_dir(&tree)?;
    let count = u64::from(setting.tree_directories * FILES_PER_DIRECTORY);
    let mut step =
        |row: &str, command: &mut Command| meter.measure(row, Unit::Seconds, || run(command).map(|_| count));
    let files = format!("{count} files");
    step(
        &format!("untar, {files}"),
        Command::new("tar")
            .arg("-xf")
            .arg(&setting.archive)
            .arg("-C")
            .arg(&tree),
    )?;
    step(
        &format!("ls -lR, {files}"),
        Command::new("ls").arg("-lR").arg(&tree),
    )?;
    // It finds nothing, which grep calls 1.
    let search = "grep -rq 'no such word' \"$0\"; test $? = 1";
    step(
        &format!("grep -r, {files}"),
        Command::new("sh").args(["-c", search]).arg(&tree),
    )?;
    let compare = Command::new("tar")
        .args(["--compare", "-f"])
        .arg(&setting.archive)
        .arg("-C")
        .arg(&tree)
        .status()?;
    ensure!(compare.success(), "what was unpacked is not what was packed");
    step(
        &format!("rm -rf, {files}"),
        Command::new("rm").arg("-rf").arg(&tree),
    )
}

/// An archive of files as large as those of source code are.
pub fn make_archive(directory: &Path, directories: u32) -> anyhow::Result<PathBuf> {
    let (tree, archive) = (directory.join("tree"), directory.join("tree.tar"));
    for number in 0..directories {
        let place = tree.join(format!("{}/{number}", number / 10));
        fs::create_dir_all(&place)?;
        for file in 0..FILES_PER_DIRECTORY {
            let index = number * FILES_PER_DIRECTORY + file;
            let spread = index.wrapping_mul(2_654_435_761) >> 8;
            let size = match spread % 100 {
                0..60 => 200 + spread % 3_900,
                60..90 => 4_096 + spread % 12_288,
                90..99 => 16_384 + spread % 49_152,
                _ => 262_144,
            };
            let text = format!("line of file {index}\n");
            let content: String = text.chars().cycle().take(size as usize).collect();
            fs::write(place.join(format!("file-{file}.rs")), content)?;
        }
    }
    run(Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&tree)
        .arg("."))?;
    fs::remove_dir_all(&tree)?;
    Ok(archive)
}

/// A repository of what is in an archive, one commit and one pack.
pub fn make_repository(directory: &Path, archive: &Path) -> anyhow::Result<PathBuf> {
    let repository = directory.join("repository");
    fs::create_dir(&repository)?;
    run(Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(&repository))?;
    let author = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"];
    run(git(&repository).args(["init", "-q"]))?;
    run(git(&repository).args(["add", "."]))?;
    run(git(&repository)
        .args(author)
        .args(["commit", "-q", "-m", "Files"]))?;
    run(git(&repository).args(["repack", "-adq"]))?;
    Ok(repository)
}

/// As it comes, whatever this user has set.
fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .arg("-C")
        .arg(directory);
    command
}

pub fn clone(setting: &Setting, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    let clone = meter.directory().join("clone");
    let count = u64::from(setting.tree_directories * FILES_PER_DIRECTORY);
    meter.measure(format!("git clone, {count} files"), Unit::Seconds, || {
        let mut command = git(&setting.repository);
        command
            .args(["clone", "-q", "--no-hardlinks"])
            .arg(&setting.repository)
            .arg(&clone);
        run(&mut command).map(|_| count)
    })?;
    meter.measure(format!("git status, {count} files"), Unit::Seconds, || {
        let said = run(git(&clone).args(["status", "--short"]))?;
        ensure!(said.is_empty(), "the clone differs: {said}");
        Ok(count)
    })?;
    run(git(&clone).args(["fsck", "--no-progress"])).map(|_| ())
}

pub fn dbench(setting: &Setting, meter: &mut Meter<'_>) -> anyhow::Result<()> {
    const CLIENTS: &str = "4";
    // dbench counts whole seconds, after a warm-up of a fifth of them.
    let seconds = (6 * setting.duration).as_secs().max(6);
    let directory = meter.directory().to_owned();
    meter.measure("dbench, 4 clients", Unit::MebibytesPerSecond, || {
        let mut command = Command::new("dbench");
        command
            .args([
                "-c",
                "/usr/share/dbench/client.txt",
                "-t",
                &seconds.to_string(),
                "-D",
            ])
            .arg(&directory)
            .arg(CLIENTS);
        let said = run(&mut command)?;
        let throughput = said.lines().find_map(|line| line.strip_prefix("Throughput "));
        let megabytes = throughput.and_then(|line| line.split(' ').next()?.parse::<f64>().ok());
        let each_second = megabytes.with_context(|| format!("dbench said {said}"))?;
        Ok(Work {
            count: (each_second * 1e6 * seconds as f64) as u64,
            elapsed: Some(Duration::from_secs(seconds)),
        })
    })
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| program.clone())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}: {error}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
