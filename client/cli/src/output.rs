//! Standard output: text for people or JSON for programs, and how attributes look in both.
//!
//! Invariant: under `--json` a verb's standard output is one JSON value: an object, or an array that is
//! written element by element, so that a listing of any length needs no memory.

use std::io::{BufWriter, Stdout, Write};

use bark_schema::operation::{Attributes, FileKind};
use serde_json::{Value, json};

use crate::problem::Problem;

/// Where a verb writes its answer.
pub struct Output {
    stdout: BufWriter<Stdout>,
    json: bool,
    elements: Option<u64>,
}

impl Output {
    pub fn new(json: bool) -> Output {
        Output {
            stdout: BufWriter::new(std::io::stdout()),
            json,
            elements: None,
        }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// One line for people; nothing under `--json`.
    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Problem> {
        match self.json {
            true => Ok(()),
            false => writeln!(self.stdout, "{text}").map_err(Problem::output),
        }
    }

    /// Raw bytes for people or files; nothing under `--json`.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        match self.json {
            true => Ok(()),
            false => self.stdout.write_all(bytes).map_err(Problem::output),
        }
    }

    /// Raw bytes of content that was asked for as it is, whatever the format of answers.
    pub fn content(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.stdout.write_all(bytes).map_err(Problem::output)
    }

    /// The whole answer under `--json`; nothing for people.
    pub fn value(&mut self, value: Value) -> Result<(), Problem> {
        match self.json {
            true => writeln!(self.stdout, "{value}").map_err(Problem::output),
            false => Ok(()),
        }
    }

    /// Starts an answer that is an array under `--json`.
    pub fn begin_array(&mut self) {
        self.elements = Some(0);
    }

    /// One more element of the array under `--json`; nothing for people.
    pub fn element(&mut self, value: Value) -> Result<(), Problem> {
        if !self.json {
            return Ok(());
        }
        let count = self.elements.get_or_insert(0);
        let before = if *count == 0 { "[\n" } else { ",\n" };
        *count += 1;
        write!(self.stdout, "{before}{value}").map_err(Problem::output)
    }

    /// Ends the array, if there is one, and writes out what is buffered.
    pub fn finish(&mut self) -> Result<(), Problem> {
        let end = match self.elements.take() {
            Some(0) => "[]\n",
            Some(_) => "\n]\n",
            None => "",
        };
        if self.json {
            self.stdout.write_all(end.as_bytes()).map_err(Problem::output)?;
        }
        self.flush()
    }

    pub fn flush(&mut self) -> Result<(), Problem> {
        self.stdout.flush().map_err(Problem::output)
    }
}

/// Attributes for programs. Inode and version are strings: they may exceed what JavaScript counts to.
pub fn attributes_json(path: &str, attributes: &Attributes) -> Value {
    json!({
        "path": path,
        "inode": attributes.inode.0.to_string(),
        "kind": kind_name(attributes.kind),
        "mode": format!("{:04o}", attributes.mode),
        "owner": attributes.owner,
        "group": attributes.group,
        "size": attributes.size,
        "links": attributes.link_count,
        "accessed_ns": attributes.accessed,
        "modified_ns": attributes.modified,
        "changed_ns": attributes.changed,
        "version": attributes.version.to_string(),
    })
}

pub fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharacterDevice => "character device",
        FileKind::BlockDevice => "block device",
    }
}

/// `drwxr-xr-x`.
pub fn mode_string(kind: FileKind, mode: u32) -> String {
    let mut text = String::with_capacity(10);
    text.push(match kind {
        FileKind::Regular => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharacterDevice => 'c',
        FileKind::BlockDevice => 'b',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// `2026-11-21 04:49:07`, in UTC. Days to dates after Howard Hinnant's `civil_from_days`.
pub fn time_string(nanoseconds: i64) -> String {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// `12.3 GiB`.
pub fn size_string(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_of_the_calendar() {
        // Goal: `ls -l` shows the right day. Method: the epoch, a leap day, a second before the epoch.
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_795_236_547, "2026-11-21 04:49:07"),
            (-1, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(time_string(seconds * 1_000_000_000), expected);
        }
    }

    #[test]
    fn modes_look_as_ls_shows_them() {
        // Goal: special bits are seen. Method: table.
        for (kind, mode, expected) in [
            (FileKind::Directory, 0o1777, "drwxrwxrwt"),
            (FileKind::Regular, 0o4755, "-rwsr-xr-x"),
            (FileKind::Regular, 0o640, "-rw-r-----"),
            (FileKind::Symlink, 0o777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode_string(kind, mode), expected);
        }
    }
}
