//! The program under the name `mount.fuse.bark`, as mount(8) calls it for `fuse.bark` lines of fstab.
//!
//! `mount.fuse.bark SOURCE DIR [-sfnv] [-o OPTIONS]` becomes `bark --cluster SOURCE mount DIR -o OPTIONS`;
//! a source that is no file is a list of nodes.

use std::ffi::OsString;
use std::path::Path;

const NAME: &str = "mount.fuse.bark";

/// The arguments to go on with.
pub fn translate(arguments: Vec<OsString>) -> Vec<OsString> {
    let called = arguments.first().map(Path::new).and_then(Path::file_name);
    if called.is_none_or(|called| called != NAME) {
        return arguments;
    }
    let mut rest = arguments.into_iter().skip(1);
    let mut places = Vec::new();
    let mut options = Vec::new();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => options.extend(rest.next()),
            Some(flag) if flag.starts_with('-') && flag.len() > 1 => {}
            _ => places.push(argument),
        }
    }
    let mut places = places.into_iter();
    let mut translated: Vec<OsString> = vec!["bark".into()];
    if let Some(source) = places.next() {
        match Path::new(&source).is_file() {
            true => translated.extend(["--cluster".into(), source]),
            false => {
                for node in source.to_string_lossy().split(',') {
                    translated.extend(["--node".into(), node.into()]);
                }
            }
        }
    }
    translated.push("mount".into());
    translated.extend(places);
    for option in options {
        translated.extend(["-o".into(), option]);
    }
    translated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines_become_the_verb() {
        // Goal: what mount(8) passes is understood. Method: its calling convention, word by word.
        let line = "/sbin/mount.fuse.bark 10.0.0.1:7111,10.0.0.2:7111 /mnt -n -o rw,subdir=/a";
        let words = line.split(' ').map(OsString::from).collect();
        let translated = translate(words);
        let expected = "bark --node 10.0.0.1:7111 --node 10.0.0.2:7111 mount /mnt -o rw,subdir=/a";
        assert_eq!(
            translated,
            expected.split(' ').map(OsString::from).collect::<Vec<_>>()
        );
    }

    #[test]
    fn other_names_change_nothing() {
        // Goal: bark stays bark. Method: any other first word.
        let words: Vec<OsString> = vec!["/usr/bin/bark".into(), "ls".into(), "/".into()];
        assert_eq!(translate(words.clone()), words);
    }
}
