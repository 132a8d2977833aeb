//! The journal of a repair: a line of JSON for each step before it is done, and one for how it ended.
//!
//! ```text
//! {"journal":"bark doctor","cluster":"dev","version":1}
//! {"step":1,"partition":3,"what":"/a: ...","format":8,"edits":[{"table":"inodes","key":"…","before":"…","after":"…"}]}
//! {"ended":1,"how":"done"}
//! ```
//! Keys and rows are hexadecimal; a row that does not exist is null. Every line is on the disk before what it says is
//! done. A step without an end may have been done: taking it back finds out.
//!
//! Invariants:
//! - A journal that exists is never written over: a repair makes a new one, taking it back goes on in it.
//! - A last line that is cut short is none; any other line that cannot be read ends it with an error.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bark_client::doctor::{End, Kept};
use bark_schema::ids::PartitionId;
use bark_schema::repair::{RepairCommand, RepairTable, RowEdit};
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Of the lines.
const VERSION: u64 = 1;
const NAME: &str = "bark doctor";
/// Longer journals are not of our making: a step has at most 4096 rows.
const SIZE_BYTES_MAX: u64 = 1 << 30;

/// A journal being written. The file comes into being with the first step.
pub struct Journal {
    path: PathBuf,
    cluster: String,
    file: Option<File>,
}

/// A journal as it was read.
pub struct Read {
    pub cluster: String,
    /// Steps that were done, or may have been, and were not taken back.
    pub steps: Vec<Kept>,
}

impl Journal {
    pub fn new(path: PathBuf, cluster: &str) -> Journal {
        Journal {
            path,
            cluster: cluster.to_owned(),
            file: None,
        }
    }

    /// Goes on in a journal that is there.
    pub fn open(path: &Path, cluster: &str) -> io::Result<Journal> {
        let mut file = OpenOptions::new().append(true).open(path)?;
        // Behind a line that was cut short.
        file.write_all(b"\n")?;
        Ok(Journal {
            path: path.to_owned(),
            cluster: cluster.to_owned(),
            file: Some(file),
        })
    }

    /// Where it is, once there is anything in it.
    pub fn written(&self) -> Option<&Path> {
        self.file.is_some().then_some(&self.path)
    }

    pub fn keep(&mut self, step: &Kept) -> io::Result<()> {
        self.line(&step_json(step))
    }

    pub fn ended(&mut self, step: &Kept, end: End) -> io::Result<()> {
        let how = match end {
            End::Done => "done",
            End::Refused => "refused",
            End::Undone => "undone",
        };
        self.line(&json!({ "ended": step.number, "how": how }))
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let mut file = OpenOptions::new().write(true).create_new(true).open(&self.path)?;
                let head = json!({ "journal": NAME, "cluster": self.cluster, "version": VERSION });
                writeln!(file, "{head}")?;
                sync_directory(&self.path)?;
                self.file.insert(file)
            }
        };
        file.write_all(format!("{value}\n").as_bytes())?;
        file.sync_data()
    }
}

/// The name of a file is durable only with its directory.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

/// Errors: what is wrong, and in which line.
pub fn read(path: &Path) -> io::Result<Read> {
    if std::fs::metadata(path)?.len() > SIZE_BYTES_MAX {
        return Err(bad("is too large for a journal"));
    }
    parse(&std::fs::read_to_string(path)?)
}

fn parse(text: &str) -> io::Result<Read> {
    let mut lines = text.split_inclusive('\n').enumerate();
    let head = lines
        .next()
        .and_then(|(_, line)| serde_json::from_str::<Value>(line).ok());
    let head = head
        .filter(|head| head["journal"] == NAME)
        .ok_or_else(|| bad("is not a journal of bark doctor"))?;
    if head["version"] != VERSION {
        return Err(bad("is a journal of another version of bark"));
    }
    let mut steps: BTreeMap<u64, Kept> = BTreeMap::new();
    for (index, line) in lines {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = || bad(&format!("line {}: not a line of a journal", index + 1));
        let value: Map<String, Value> = match serde_json::from_str(line) {
            Ok(value) => value,
            // It was being written when its writer ended, so nothing was done of it.
            Err(_) if !line.ends_with('\n') || !line.trim_end().ends_with('}') => continue,
            Err(_) => return Err(wrong()),
        };
        match (
            value.get("ended").and_then(Value::as_u64),
            value.get("how").and_then(Value::as_str),
        ) {
            (Some(_), Some("done")) => {}
            (Some(number), Some("refused" | "undone")) => drop(steps.remove(&number)),
            _ => {
                let step = step_of(&value).ok_or_else(wrong)?;
                steps.insert(step.number, step);
            }
        }
    }
    Ok(Read {
        cluster: head["cluster"].as_str().unwrap_or_default().to_owned(),
        steps: steps.into_values().collect(),
    })
}

fn step_json(step: &Kept) -> Value {
    let edits = step.command.edits.iter().map(|edit| {
        json!({
            "table": edit.table.name(),
            "key": hex(&edit.key),
            "before": edit.before.as_deref().map(hex),
            "after": edit.after.as_deref().map(hex),
        })
    });
    json!({
        "step": step.number,
        "partition": step.partition.0,
        "what": step.what,
        "format": step.command.format,
        "recount": step.command.recount,
        "edits": edits.collect::<Vec<_>>(),
    })
}

fn step_of(value: &Map<String, Value>) -> Option<Kept> {
    let number = |name: &str| value.get(name)?.as_u64();
    let edits = value.get("edits")?.as_array()?.iter().map(edit_of);
    Some(Kept {
        number: number("step")?,
        partition: PartitionId(u16::try_from(number("partition")?).ok()?),
        what: value.get("what")?.as_str()?.to_owned(),
        command: RepairCommand {
            format: u16::try_from(number("format")?).ok()?,
            edits: edits.collect::<Option<Vec<_>>>()?,
            recount: value.get("recount").and_then(Value::as_bool).unwrap_or(false),
        },
    })
}

fn edit_of(value: &Value) -> Option<RowEdit> {
    let name = value["table"].as_str()?;
    let row = |name: &str| match value.get(name)? {
        Value::Null => Some(None),
        Value::String(text) => bytes_of(text).map(Some),
        _ => None,
    };
    Some(RowEdit {
        table: RepairTable::ALL.into_iter().find(|table| table.name() == name)?,
        key: bytes_of(value["key"].as_str()?)?,
        before: row("before")?,
        after: row("after")?,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let pairs = text.as_bytes().chunks(2);
    let bytes = pairs.map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
}

fn bad(sentence: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(number: u64) -> Kept {
        let edit = |table, row: Option<&'static [u8]>| RowEdit {
            table,
            key: Bytes::from_static(b"\x00\xffkey"),
            before: row.map(Bytes::from_static),
            after: Some(Bytes::new()),
        };
        Kept {
            number,
            partition: PartitionId(7),
            what: format!("/place {number}: a \"sentence\""),
            command: RepairCommand {
                format: 8,
                edits: RepairTable::ALL
                    .into_iter()
                    .flat_map(|table| [edit(table, None), edit(table, Some(b"\x01\x02"))])
                    .collect(),
                recount: number == 2,
            },
        }
    }

    fn written(act: impl FnOnce(&mut Journal)) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut journal = Journal::new(path.clone(), "dev");
        assert_eq!(journal.written(), None);
        act(&mut journal);
        (directory, path)
    }

    #[test]
    fn what_was_done_or_may_have_been_is_read_back() {
        // Goal: exactly the steps that are to be taken back. Method: one of each end, and one without.
        let (_directory, path) = written(|journal| {
            for (number, end) in [
                (1, Some(End::Done)),
                (2, Some(End::Refused)),
                (3, None),
                (4, Some(End::Undone)),
            ] {
                journal.keep(&kept(number)).unwrap();
                if let Some(end) = end {
                    journal.ended(&kept(number), end).unwrap();
                }
            }
        });
        let found = read(&path).unwrap();
        assert_eq!(found.cluster, "dev");
        assert_eq!(found.steps, [kept(1), kept(3)]);
        // What was taken back is said in the same file.
        let mut journal = Journal::open(&path, "dev").unwrap();
        journal.ended(&kept(3), End::Undone).unwrap();
        assert_eq!(read(&path).unwrap().steps, [kept(1)]);
    }

    #[test]
    fn a_line_cut_short_is_none_and_anything_else_is_refused() {
        // Goal: no half-read journal is believed. Method: cut at every byte; other files; a line changed inside.
        let (_directory, path) = written(|journal| {
            journal.keep(&kept(1)).unwrap();
            journal.keep(&kept(2)).unwrap();
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.find('\n').unwrap() + 1;
        for end in first..text.len() {
            let found = parse(&text[..end]).unwrap();
            assert!(found.steps.len() <= 2 && found.steps.iter().all(|step| *step == kept(step.number)));
        }
        for wrong in [
            "",
            "{}\n",
            "hello\n",
            &text.replace("\"version\":1", "\"version\":2"),
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&text.replace("inodes", "outodes")).is_err());
        assert!(parse(&text.replace("00ff", "00f")).is_err());
    }

    #[test]
    fn a_journal_is_never_written_over() {
        // Goal: one repair does not take away another's way back. Method: the same name twice.
        let (_directory, path) = written(|journal| journal.keep(&kept(1)).unwrap());
        let again = Journal::new(path.clone(), "dev").keep(&kept(9));
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path).unwrap().steps, [kept(1)]);
    }
}
