//! How recorded answers are stored: the replies a change can have, and decided refusals.

use bark_schema::data::Copied;
use bark_schema::file_lock::LockAnswer;
use bark_schema::operation::{Attributes, Failure, KeyValue, Refusal, Reply};

use super::Error;
use super::codec::{Reader, Row, row_struct};

row_struct!(Attributes {
    inode,
    kind,
    mode,
    owner,
    group,
    size,
    link_count,
    accessed,
    modified,
    changed,
    version,
    device,
    blocks,
    policy,
    xattr_count,
});
row_struct!(KeyValue {
    value,
    version,
    expires
});

/// The bytes to keep of an answer; None if it is not final or not one a change can have.
pub(crate) fn encode_result(result: &Result<Reply, Failure>) -> Option<Box<[u8]>> {
    let mut bytes = Vec::new();
    match result {
        Ok(reply) => {
            if !encode_reply(reply, &mut bytes) {
                return None;
            }
        }
        Err(Failure::Refused(refusal, sentence)) => {
            0u8.encode(&mut bytes);
            refusal_code(*refusal).encode(&mut bytes);
            sentence.encode(&mut bytes);
        }
        Err(_) => return None,
    }
    Some(bytes.into_boxed_slice())
}

/// Whether `reply` can be the recorded answer of a change.
pub(crate) fn is_recordable(reply: &Reply) -> bool {
    encode_reply(reply, &mut Vec::new())
}

fn encode_reply(reply: &Reply, bytes: &mut Vec<u8>) -> bool {
    match reply {
        Reply::Done => 1u8.encode(bytes),
        Reply::Value(value) => {
            2u8.encode(bytes);
            value.encode(bytes);
        }
        Reply::Values(values) => {
            3u8.encode(bytes);
            values.encode(bytes);
        }
        Reply::Count(count) => {
            4u8.encode(bytes);
            count.encode(bytes);
        }
        Reply::Number(number) => {
            5u8.encode(bytes);
            number.encode(bytes);
        }
        Reply::Set {
            applied,
            version,
            previous,
        } => {
            6u8.encode(bytes);
            applied.encode(bytes);
            version.encode(bytes);
            previous.encode(bytes);
        }
        Reply::Entry {
            inode,
            kind,
            attributes,
        } => {
            7u8.encode(bytes);
            inode.encode(bytes);
            kind.encode(bytes);
            attributes.encode(bytes);
        }
        Reply::Attributes(attributes) => {
            8u8.encode(bytes);
            attributes.encode(bytes);
        }
        Reply::Created { attributes, created } => {
            9u8.encode(bytes);
            attributes.encode(bytes);
            created.encode(bytes);
        }
        Reply::Opens { missing, renewed } => {
            10u8.encode(bytes);
            missing.encode(bytes);
            renewed.encode(bytes);
        }
        Reply::Copied(copied) => {
            11u8.encode(bytes);
            copied.length.encode(bytes);
            copied.attributes.encode(bytes);
        }
        Reply::Lock(answer) => {
            12u8.encode(bytes);
            encode_lock_answer(answer, bytes);
        }
        _ => return false,
    }
    true
}

pub(crate) fn decode_result(reader: &mut Reader<'_>) -> Result<Result<Reply, Failure>, Error> {
    let reply = match u8::decode(reader)? {
        0 => {
            let refusal = refusal_from_code(u8::decode(reader)?)?;
            return Ok(Err(Failure::Refused(refusal, Row::decode(reader)?)));
        }
        1 => Reply::Done,
        2 => Reply::Value(Row::decode(reader)?),
        3 => Reply::Values(Row::decode(reader)?),
        4 => Reply::Count(Row::decode(reader)?),
        5 => Reply::Number(Row::decode(reader)?),
        6 => Reply::Set {
            applied: Row::decode(reader)?,
            version: Row::decode(reader)?,
            previous: Row::decode(reader)?,
        },
        7 => Reply::Entry {
            inode: Row::decode(reader)?,
            kind: Row::decode(reader)?,
            attributes: Row::decode(reader)?,
        },
        8 => Reply::Attributes(Row::decode(reader)?),
        9 => Reply::Created {
            attributes: Row::decode(reader)?,
            created: Row::decode(reader)?,
        },
        10 => Reply::Opens {
            missing: Row::decode(reader)?,
            renewed: Row::decode(reader)?,
        },
        11 => Reply::Copied(Copied {
            length: Row::decode(reader)?,
            attributes: Row::decode(reader)?,
        }),
        12 => Reply::Lock(match u8::decode(reader)? {
            0 => LockAnswer::Granted(Box::new(Row::decode(reader)?)),
            1 => LockAnswer::Waiting,
            2 => LockAnswer::Held(Row::decode(reader)?),
            3 => LockAnswer::Free,
            _ => return Err(Error::Corrupt("a lock's answer of unknown kind")),
        }),
        _ => return Err(Error::Corrupt("a reply of unknown kind")),
    };
    Ok(Ok(reply))
}

fn encode_lock_answer(answer: &LockAnswer, bytes: &mut Vec<u8>) {
    match answer {
        LockAnswer::Granted(attributes) => {
            0u8.encode(bytes);
            attributes.encode(bytes);
        }
        LockAnswer::Waiting => 1u8.encode(bytes),
        LockAnswer::Held(lock) => {
            2u8.encode(bytes);
            lock.encode(bytes);
        }
        LockAnswer::Free => 3u8.encode(bytes),
    }
}

/// Codes are positions here: append only.
const REFUSALS: [Refusal; 29] = [
    Refusal::NotFound,
    Refusal::Exists,
    Refusal::NotDirectory,
    Refusal::IsDirectory,
    Refusal::NotEmpty,
    Refusal::NameTooLong,
    Refusal::InvalidArgument,
    Refusal::TooManySymlinks,
    Refusal::FileTooLarge,
    Refusal::NoSpace,
    Refusal::TooManyLinks,
    Refusal::Conflict,
    Refusal::Corrupt,
    Refusal::NotInteger,
    Refusal::Overflow,
    Refusal::SessionExpired,
    Refusal::PermissionDenied,
    Refusal::Unsupported,
    Refusal::Internal,
    Refusal::NoData,
    Refusal::Range,
    Refusal::NotPermitted,
    Refusal::CrossDevice,
    Refusal::TooBig,
    Refusal::QuotaExceeded,
    Refusal::BeyondEnd,
    Refusal::NoLocks,
    Refusal::Deadlock,
    Refusal::Fenced,
];

pub(super) fn refusal_code(refusal: Refusal) -> u8 {
    let position = REFUSALS.iter().position(|known| *known == refusal);
    position.expect("every refusal is in the list") as u8
}

pub(super) fn refusal_from_code(code: u8) -> Result<Refusal, Error> {
    REFUSALS
        .get(usize::from(code))
        .copied()
        .ok_or(Error::Corrupt("a refusal of unknown kind"))
}
