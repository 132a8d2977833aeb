//! A path inside the cluster: absolute, normalised, within the limits.
//!
//! Relative paths are taken from `/`; `.` and empty components go, `..` takes the component before it away
//! by its name alone, before any symbolic link is looked at.
//!
//! Invariant: components are not empty, not `.` or `..`, without NUL and at most NAME_SIZE_MAX bytes long.

use std::fmt;
use std::str::FromStr;

use bark_schema::limits::{NAME_SIZE_MAX, PATH_SIZE_MAX};
use bark_schema::operation::Refusal;
use bytes::Bytes;

use crate::Error;

/// An absolute path in the cluster.
///
/// ```
/// use bark_client::ClusterPath;
/// let path: ClusterPath = "a//b/./c/../d".parse().unwrap();
/// assert_eq!(path.to_string(), "/a/b/d");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterPath {
    components: Vec<Bytes>,
}

impl ClusterPath {
    pub fn root() -> ClusterPath {
        ClusterPath {
            components: Vec::new(),
        }
    }

    /// Reads a path. Errors: NameTooLong, InvalidArgument for a NUL byte.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<ClusterPath, Error> {
        let text = text.as_ref();
        let shown = || String::from_utf8_lossy(&text[..text.len().min(PATH_SIZE_MAX)]).into_owned();
        if text.len() > PATH_SIZE_MAX {
            return Err(Error::refused(shown(), Refusal::NameTooLong));
        }
        if text.contains(&0) {
            return Err(Error::refused(shown(), Refusal::InvalidArgument));
        }
        let mut components = Vec::new();
        for component in text.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop();
                }
                long if long.len() > NAME_SIZE_MAX => {
                    return Err(Error::refused(shown(), Refusal::NameTooLong));
                }
                name => components.push(Bytes::copy_from_slice(name)),
            }
        }
        Ok(ClusterPath { components })
    }

    pub fn is_root(&self) -> bool {
        self.components.is_empty()
    }

    /// The last component; none for the root.
    pub fn name(&self) -> Option<&Bytes> {
        self.components.last()
    }

    /// The path without its last component; none for the root.
    pub fn parent(&self) -> Option<ClusterPath> {
        let (_, parent) = self.components.split_last()?;
        Some(ClusterPath {
            components: parent.to_vec(),
        })
    }

    /// This path with one more component, which comes from a directory entry or another path.
    pub fn join(&self, name: &Bytes) -> ClusterPath {
        let mut components = self.components.clone();
        components.push(name.clone());
        ClusterPath { components }
    }

    /// Whether `other` is this path or lies below it.
    pub fn contains(&self, other: &ClusterPath) -> bool {
        other.components.starts_with(&self.components)
    }

    /// Relative to the root, as nodes walk it: `a/b`, empty for the root.
    pub fn relative_to_root(&self) -> Bytes {
        self.components.join(&b'/').into()
    }
}

impl FromStr for ClusterPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<ClusterPath, Error> {
        ClusterPath::parse(text)
    }
}

impl fmt::Display for ClusterPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "/{}",
            String::from_utf8_lossy(&self.relative_to_root())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised() {
        // Goal: every spelling of a path is one path. Method: table.
        for (text, expected) in [
            ("", "/"),
            ("/", "/"),
            ("..", "/"),
            ("a", "/a"),
            ("/a/", "/a"),
            ("//a//./b", "/a/b"),
            ("/a/../../b", "/b"),
        ] {
            assert_eq!(ClusterPath::parse(text).unwrap().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn paths_beyond_the_limits_are_refused() {
        // Goal: what no node would take never leaves. Method: a long name, a long path, a NUL.
        let long_name = "x".repeat(NAME_SIZE_MAX + 1);
        let long_path = "x/".repeat(PATH_SIZE_MAX);
        for (text, refusal) in [
            (long_name.as_str(), Refusal::NameTooLong),
            (long_path.as_str(), Refusal::NameTooLong),
            ("a\0b", Refusal::InvalidArgument),
        ] {
            assert_eq!(ClusterPath::parse(text).unwrap_err().refusal(), Some(refusal));
        }
    }
}
