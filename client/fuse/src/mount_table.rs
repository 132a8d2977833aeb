//! The kernel's table of mounts, read without touching any of them.
//!
//! Looking at a directory whose daemon hangs would hang too; `/proc/self/mountinfo` never does.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What mounts of this program are called in the table.
pub(crate) const SUBTYPE: &str = "bark";
const TYPE: &str = "fuse.bark";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// `major:minor`
    pub(crate) device: String,
    pub(crate) directory: PathBuf,
    pub(crate) kind: String,
    /// Reads do not move times of access.
    pub(crate) has_noatime: bool,
}

impl MountEntry {
    pub(crate) fn is_bark(&self) -> bool {
        self.kind == TYPE
    }
}

/// The mount on top at `directory`, if there is one.
pub(crate) fn find(directory: &Path) -> io::Result<Option<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut entries = table.split(|byte| *byte == b'\n').filter_map(parse);
    Ok(entries.rfind(|entry| entry.directory == directory))
}

/// An absolute path whose last component is not looked at, since it may be a mount that hangs.
pub(crate) fn absolute(directory: &Path) -> io::Result<PathBuf> {
    let whole = std::path::absolute(directory)?;
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(whole),
    }
}

/// `36 35 98:0 /root /directory options - type source options`, octal escapes in the directory.
fn parse(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-")?;
    Some(MountEntry {
        device: String::from_utf8(fields.get(2)?.to_vec()).ok()?,
        directory: PathBuf::from(OsString::from_vec(unescape(fields.get(4)?))),
        kind: String::from_utf8_lossy(fields.get(separator + 1)?).into_owned(),
        has_noatime: fields
            .get(5)?
            .split(|byte| *byte == b',')
            .any(|option| option == b"noatime"),
    })
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                plain.push(byte);
                rest = &tail[3..];
            }
            _ => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

/// How far the kernel reads ahead in files of this mount. Without the right to say so the default stays.
pub(crate) fn set_read_ahead(entry: &MountEntry, kib: u32) {
    let file = format!("/sys/class/bdi/{}/read_ahead_kb", entry.device);
    if let Err(error) = std::fs::write(&file, kib.to_string()) {
        tracing::debug!(file, %error, "read-ahead stays as it is");
    }
}

/// A path as people write it.
pub(crate) fn shown(directory: &Path) -> String {
    String::from_utf8_lossy(directory.as_os_str().as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_under_names_with_spaces() {
        // Goal: the table's escapes are undone. Method: one line as the kernel writes it.
        let line = br"40 29 0:45 / /tmp/a\040b\134c rw,nosuid shared:1 - fuse.bark dev rw,user_id=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.directory, Path::new(r"/tmp/a b\c"));
        assert_eq!(entry.device, "0:45");
        assert!(entry.is_bark() && !entry.has_noatime);
        let line = br"40 29 0:45 / /tmp rw,nosuid,noatime shared:1 - fuse.bark dev rw,user_id=0";
        assert!(parse(line).unwrap().has_noatime);
    }
}
