//! Answers and how RESP2 and RESP3 write them.
//!
//! Previous in the flow: `command`, which makes answers. Next: the wire.
//!
//! Invariants:
//! - An error or a status is one line whatever text it carries.

use bark_schema::operation::{Failure, Refusal};
use bytes::Bytes;

/// The version of the protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Two,
    Three,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Status(&'static str),
    /// With its prefix: `ERR …`.
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    Null,
    Array(Vec<Answer>),
    Map(Vec<(Answer, Answer)>),
    Set(Vec<Answer>),
    /// Text for people.
    Verbatim(String),
}

pub const OK: Answer = Answer::Status("OK");

impl Answer {
    pub fn text(text: impl Into<String>) -> Answer {
        Answer::Bulk(Bytes::from(text.into()))
    }

    pub fn error(sentence: impl AsRef<str>) -> Answer {
        Answer::Error(format!("ERR {}", sentence.as_ref()))
    }

    /// What it holds in memory, for bounds.
    pub fn size_bytes(&self) -> usize {
        match self {
            Answer::Bulk(bytes) => bytes.len(),
            Answer::Error(text) | Answer::Verbatim(text) => text.len(),
            Answer::Array(items) | Answer::Set(items) => items.iter().map(Answer::size_bytes).sum(),
            Answer::Map(pairs) => pairs
                .iter()
                .map(|(key, value)| key.size_bytes() + value.size_bytes())
                .sum(),
            Answer::Status(_) | Answer::Integer(_) | Answer::Null => 0,
        }
    }

    pub fn count(count: u64) -> Answer {
        Answer::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub fn bulk_or_null(value: Option<Bytes>) -> Answer {
        value.map_or(Answer::Null, Answer::Bulk)
    }

    pub fn syntax_error() -> Answer {
        Answer::error("syntax error")
    }

    pub fn not_an_integer() -> Answer {
        Answer::error("value is not an integer or out of range")
    }

    /// A failure by its outcome: TRYAGAIN was not applied and may succeed later, UNKNOWN may have been applied.
    pub fn failure(failure: &Failure) -> Answer {
        match failure {
            Failure::NotLeader { .. }
            | Failure::Busy(_)
            | Failure::Locked { .. }
            | Failure::Delegated { .. }
            | Failure::OverAllowance { .. } => Answer::Error(format!("TRYAGAIN {failure}")),
            Failure::Unknown(_) => Answer::Error(format!("UNKNOWN {failure}")),
            Failure::Refused(Refusal::NoSpace, _) => Answer::Error(format!("OOM {failure}")),
            Failure::CrossPartition | Failure::TooLargeForInline | Failure::Refused(..) => {
                Answer::error(failure.to_string())
            }
        }
    }

    pub fn write(&self, version: Version, out: &mut Vec<u8>) {
        match self {
            Answer::Status(text) => line(out, b'+', text.as_bytes()),
            Answer::Error(text) => {
                out.push(b'-');
                out.extend(text.bytes().map(|byte| {
                    if byte == b'\r' || byte == b'\n' {
                        b' '
                    } else {
                        byte
                    }
                }));
                out.extend_from_slice(b"\r\n");
            }
            Answer::Integer(number) => header(out, b':', *number),
            Answer::Bulk(bytes) => bulk(out, b'$', b"", bytes),
            Answer::Null if version == Version::Three => out.extend_from_slice(b"_\r\n"),
            Answer::Null => out.extend_from_slice(b"$-1\r\n"),
            Answer::Array(items) => list(out, b'*', items, version),
            Answer::Set(items) if version == Version::Three => list(out, b'~', items, version),
            Answer::Set(items) => list(out, b'*', items, version),
            Answer::Map(pairs) => {
                match version {
                    Version::Two => header(out, b'*', 2 * pairs.len() as i64),
                    Version::Three => header(out, b'%', pairs.len() as i64),
                }
                for (key, value) in pairs {
                    key.write(version, out);
                    value.write(version, out);
                }
            }
            Answer::Verbatim(text) if version == Version::Three => bulk(out, b'=', b"txt:", text.as_bytes()),
            Answer::Verbatim(text) => bulk(out, b'$', b"", text.as_bytes()),
        }
    }
}

/// What `Answer::bulk_or_null` writes, without the answer.
pub fn write_bulk_or_null(value: Option<&[u8]>, version: Version, out: &mut Vec<u8>) {
    match value {
        Some(bytes) => bulk(out, b'$', b"", bytes),
        None => Answer::Null.write(version, out),
    }
}

fn list(out: &mut Vec<u8>, kind: u8, items: &[Answer], version: Version) {
    header(out, kind, items.len() as i64);
    for item in items {
        item.write(version, out);
    }
}

fn bulk(out: &mut Vec<u8>, kind: u8, prefix: &[u8], bytes: &[u8]) {
    header(out, kind, (prefix.len() + bytes.len()) as i64);
    out.extend_from_slice(prefix);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// A number needs no allocation: this is on the way of every reply.
fn header(out: &mut Vec<u8>, kind: u8, number: i64) {
    out.push(kind);
    if number < 0 {
        out.push(b'-');
    }
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answer: &Answer, two: &str, three: &str) {
        for (version, expected) in [(Version::Two, two), (Version::Three, three)] {
            let mut out = Vec::new();
            answer.write(version, &mut out);
            assert_eq!(
                String::from_utf8_lossy(&out),
                expected,
                "{answer:?} in {version:?}"
            );
        }
    }

    #[test]
    fn answers_are_written_as_each_version_wants() {
        // Goal: every kind of answer in both versions.
        check(&OK, "+OK\r\n", "+OK\r\n");
        check(&Answer::error("a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n");
        check(&Answer::Integer(0), ":0\r\n", ":0\r\n");
        check(
            &Answer::Integer(i64::MIN),
            ":-9223372036854775808\r\n",
            ":-9223372036854775808\r\n",
        );
        check(&Answer::text("ab"), "$2\r\nab\r\n", "$2\r\nab\r\n");
        check(&Answer::Null, "$-1\r\n", "_\r\n");
        check(&Answer::Array(vec![Answer::Null]), "*1\r\n$-1\r\n", "*1\r\n_\r\n");
        check(&Answer::Set(vec![OK]), "*1\r\n+OK\r\n", "~1\r\n+OK\r\n");
        check(
            &Answer::Map(vec![(OK, Answer::Integer(7))]),
            "*2\r\n+OK\r\n:7\r\n",
            "%1\r\n+OK\r\n:7\r\n",
        );
        check(
            &Answer::Verbatim("hi".to_string()),
            "$2\r\nhi\r\n",
            "=6\r\ntxt:hi\r\n",
        );
    }

    #[test]
    fn failures_say_by_their_prefix_what_is_certain() {
        // Goal: the prefix a client may act on, for each outcome.
        check_failure(Failure::Busy("no leader".to_string()), "TRYAGAIN ");
        check_failure(Failure::NotLeader { leader: None }, "TRYAGAIN ");
        check_failure(Failure::refused(Refusal::NoSpace, "full"), "OOM ");
        check_failure(Failure::Unknown("the deadline passed".to_string()), "UNKNOWN ");
        check_failure(Failure::refused(Refusal::NotInteger, "no"), "ERR no");
    }

    fn check_failure(failure: Failure, prefix: &str) {
        match Answer::failure(&failure) {
            Answer::Error(text) => assert!(text.starts_with(prefix), "{text}"),
            other => panic!("{other:?} is not an error"),
        }
    }
}
