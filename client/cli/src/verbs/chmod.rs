//! `bark chmod`: octal (`0644`) or symbolic (`u+x,go-w`) modes.

use std::ffi::OsString;

use bark_client::Client;
use bark_schema::operation::{AttributeChange, FileKind};
use clap::Args;
use serde_json::json;

use super::{cluster_paths, each_below};
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Chmod {
    /// Everything below, too, except what symbolic links point at.
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Octal, like 0644, or symbolic, like u+x,go-w.
    #[arg(allow_hyphen_values = true)]
    mode: String,
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Chmod {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let new_mode = |mode, is_directory| {
            changed_mode(&self.mode, mode, is_directory).ok_or_else(|| {
                let sentence = "Not a mode; write octal digits up to 7777, or something like u+x,go-w";
                Problem::usage(&self.mode, sentence)
            })
        };
        new_mode(0, false)?;
        let paths = cluster_paths(&self.paths)?;
        output.begin_array();
        each_below(&files, paths, self.recursive, async |path, attributes| {
            let mode = new_mode(attributes.mode, attributes.kind == FileKind::Directory)?;
            let change = AttributeChange {
                mode: Some(mode),
                ..AttributeChange::default()
            };
            files.set_inode_attributes(path, attributes.inode, change).await?;
            output.element(json!({ "path": path.to_string(), "mode": format!("{mode:04o}") }))
        })
        .await
    }
}

/// What `mode` is after the change that `text` describes; none if it describes none.
///
/// Symbolic: comma-separated clauses of `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`. Nobody named means everybody.
fn changed_mode(text: &str, mode: u32, is_directory: bool) -> Option<u32> {
    if text.bytes().all(|byte| matches!(byte, b'0'..=b'7')) {
        return u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    }
    text.split(',')
        .try_fold(mode, |mode, clause| changed_by_clause(clause, mode, is_directory))
}

fn changed_by_clause(clause: &str, mut mode: u32, is_directory: bool) -> Option<u32> {
    let actions_at = clause.find(['-', '+', '='])?;
    let (who, mut actions) = clause.split_at(actions_at);
    // Each class has its three permission bits and one of the special ones.
    let mut classes = 0;
    for class in who.chars() {
        classes |= match class {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o1007,
            'a' => 0o7777,
            _ => return None,
        };
    }
    if who.is_empty() {
        classes = 0o7777;
    }
    while let Some(operator) = actions.chars().next() {
        let rest = &actions[1..];
        let (what, next) = rest.split_at(rest.find(['-', '+', '=']).unwrap_or(rest.len()));
        let bits = classes & permissions(what, mode, is_directory)?;
        mode = match operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // A directory keeps its special bits unless they are named, as with coreutils.
            _ if is_directory => (mode & !(classes & 0o1777)) | bits,
            _ => (mode & !classes) | bits,
        };
        actions = next;
    }
    Some(mode)
}

/// The bits that `what` means, for every class.
fn permissions(what: &str, mode: u32, is_directory: bool) -> Option<u32> {
    let copied = match what {
        "u" => Some(mode >> 6 & 7),
        "g" => Some(mode >> 3 & 7),
        "o" => Some(mode & 7),
        _ => None,
    };
    if let Some(bits) = copied {
        return Some(bits * 0o111);
    }
    what.chars().try_fold(0, |bits, letter| {
        Some(
            bits | match letter {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                'X' if is_directory || mode & 0o111 != 0 => 0o111,
                'X' => 0,
                's' => 0o6000,
                't' => 0o1000,
                _ => return None,
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_with_the_local_chmod() {
        // Goal: habits hold. Method: table; the expected modes are those of coreutils.
        for (text, mode, is_directory, expected) in [
            ("0644", 0o777, false, 0o644),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("go-w,u=rwx", 0o666, false, 0o744),
            ("g=u", 0o640, false, 0o660),
            ("a=r", 0o4755, false, 0o444),
            ("u=rwx", 0o4755, true, 0o4755),
            ("a+X", 0o600, false, 0o600),
            ("a+X", 0o700, false, 0o711),
            ("a+X", 0o600, true, 0o711),
            ("u+s,+t", 0o755, true, 0o5755),
            ("o+t", 0o755, true, 0o1755),
            ("g-s", 0o2755, true, 0o755),
            ("u=rw+x-w", 0o000, false, 0o500),
            ("o=", 0o777, false, 0o770),
        ] {
            assert_eq!(changed_mode(text, mode, is_directory), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_mode_changes_nothing() {
        // Goal: a slip of the finger is told. Method: table.
        for text in ["", "u", "u+z", "8", "77777", "u+x,", "q+x", "+ä", "u+x g", "rwx"] {
            assert_eq!(changed_mode(text, 0o644, false), None, "{text}");
        }
    }
}
