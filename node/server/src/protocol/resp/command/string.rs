//! Commands on one value: GET, SET and its older forms, counters, ranges.

use bark_schema::operation::{Command, Condition, Expiry, Query};
use bytes::{Bytes, BytesMut};

use super::expiry::{TimeUnit, parse_expiry};
use super::update::{Decision, update};
use super::{Action, Planned, Render, Session, integer, is};
use crate::protocol::resp::parse;
use crate::protocol::resp::reply::Answer;

pub fn read(session: &Session, key: &Bytes, render: Render) -> Planned {
    let partition = session.cluster.partition_of(key)?;
    Ok(Action::Query {
        partition,
        query: Query::KeyGet { key: key.clone() },
        render,
    })
}

pub fn get(session: &mut Session, arguments: &[Bytes]) -> Planned {
    read(session, &arguments[1], Render::Value)
}

pub fn size(session: &mut Session, arguments: &[Bytes]) -> Planned {
    read(session, &arguments[1], Render::ValueSize)
}

pub fn kind(session: &mut Session, arguments: &[Bytes]) -> Planned {
    read(session, &arguments[1], Render::Kind)
}

pub fn get_range(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let (start, end) = (integer(&arguments[2])?, integer(&arguments[3])?);
    read(session, &arguments[1], Render::ValueRange { start, end })
}

/// Both ends included; negative ones count from the end.
pub fn range(value: &Bytes, start: i64, end: i64) -> Bytes {
    let size = value.len() as i64;
    if size == 0 || (start < 0 && end < 0 && start > end) {
        return Bytes::new();
    }
    let from_start = |position: i64| {
        if position < 0 {
            (position + size).max(0)
        } else {
            position
        }
    };
    let (start, end) = (from_start(start), from_start(end).min(size - 1));
    if start > end {
        return Bytes::new();
    }
    value.slice(start as usize..=end as usize)
}

/// What SET was asked beside key and value.
struct SetOptions {
    expiry: Expiry,
    condition: Condition,
    return_previous: bool,
}

impl SetOptions {
    const NONE: SetOptions = SetOptions {
        expiry: Expiry::Never,
        condition: Condition::Always,
        return_previous: false,
    };
}

fn set_with(session: &Session, key: &Bytes, value: &Bytes, options: SetOptions, render: Render) -> Planned {
    let partition = session.cluster.partition_of(key)?;
    session.cluster.check_value_size(value.len())?;
    let command = Command::KeySet {
        key: key.clone(),
        value: value.clone(),
        expiry: options.expiry,
        condition: options.condition,
        return_previous: options.return_previous,
    };
    Ok(Action::Change {
        partition,
        command,
        render,
    })
}

/// `SET key value [NX|XX] [GET] [EX s|PX ms|EXAT s|PXAT ms|KEEPTTL]`, or a fourth bare number: milliseconds.
pub fn set(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let options = match &arguments[3..] {
        [] => SetOptions::NONE,
        [time] if parse::integer(time).is_some() => {
            let expiry = parse_expiry(session, "set", time, TimeUnit::Millis, false)?;
            SetOptions {
                expiry,
                ..SetOptions::NONE
            }
        }
        options => set_options(session, options)?,
    };
    let render = if options.return_previous {
        Render::Previous
    } else {
        Render::SetStatus
    };
    set_with(session, &arguments[1], &arguments[2], options, render)
}

fn set_options(session: &Session, mut words: &[Bytes]) -> Result<SetOptions, Answer> {
    let mut options = SetOptions::NONE;
    let mut time: Option<(&Bytes, TimeUnit, bool)> = None;
    while let Some((word, rest)) = words.split_first() {
        words = rest;
        let timed = [
            ("ex", TimeUnit::Seconds, false),
            ("px", TimeUnit::Millis, false),
            ("exat", TimeUnit::Seconds, true),
            ("pxat", TimeUnit::Millis, true),
        ];
        let free_of_time = time.is_none() && options.expiry == Expiry::Never;
        if is(word, "nx") && options.condition != Condition::IfPresent {
            options.condition = Condition::IfAbsent;
        } else if is(word, "xx") && options.condition != Condition::IfAbsent {
            options.condition = Condition::IfPresent;
        } else if is(word, "get") {
            options.return_previous = true;
        } else if is(word, "keepttl") && time.is_none() {
            options.expiry = Expiry::Keep;
        } else if let Some((_, unit, absolute)) = timed.iter().find(|(name, ..)| is(word, name))
            && free_of_time
            && let Some((value, rest)) = words.split_first()
        {
            words = rest;
            time = Some((value, *unit, *absolute));
        } else {
            return Err(Answer::syntax_error());
        }
    }
    if let Some((value, unit, absolute)) = time {
        options.expiry = parse_expiry(session, "set", value, unit, absolute)?;
    }
    Ok(options)
}

pub fn set_if_absent(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let options = SetOptions {
        condition: Condition::IfAbsent,
        ..SetOptions::NONE
    };
    set_with(session, &arguments[1], &arguments[2], options, Render::SetNumber)
}

pub fn set_expiring(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let expiry = parse_expiry(session, "setex", &arguments[2], TimeUnit::Seconds, false)?;
    set_with(
        session,
        &arguments[1],
        &arguments[3],
        SetOptions {
            expiry,
            ..SetOptions::NONE
        },
        Render::SetStatus,
    )
}

pub fn set_expiring_millis(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let expiry = parse_expiry(session, "psetex", &arguments[2], TimeUnit::Millis, false)?;
    set_with(
        session,
        &arguments[1],
        &arguments[3],
        SetOptions {
            expiry,
            ..SetOptions::NONE
        },
        Render::SetStatus,
    )
}

pub fn get_set(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let options = SetOptions {
        return_previous: true,
        ..SetOptions::NONE
    };
    set_with(session, &arguments[1], &arguments[2], options, Render::Previous)
}

fn add(session: &Session, key: &Bytes, by: i64, render: Render) -> Planned {
    let partition = session.cluster.partition_of(key)?;
    Ok(Action::Change {
        partition,
        command: Command::KeyIncrement { key: key.clone(), by },
        render,
    })
}

pub fn increment(session: &mut Session, arguments: &[Bytes]) -> Planned {
    add(session, &arguments[1], 1, Render::Number)
}

pub fn increment_by(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let by = integer(&arguments[2])?;
    add(session, &arguments[1], by, Render::Number)
}

pub fn decrement(session: &mut Session, arguments: &[Bytes]) -> Planned {
    add(session, &arguments[1], -1, Render::Decremented)
}

pub fn decrement_by(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let by = integer(&arguments[2])?;
    let by = by
        .checked_neg()
        .ok_or_else(|| Answer::error("decrement would overflow"))?;
    add(session, &arguments[1], by, Render::Decremented)
}

pub fn get_delete(session: &mut Session, arguments: &[Bytes]) -> Planned {
    update(session, &arguments[1], |found| match found {
        None => Decision::Answer(Answer::Null),
        Some(found) => Decision::Delete {
            answer: Answer::Bulk(found.value.clone()),
        },
    })
}

pub fn append(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let (tail, settings) = (arguments[2].clone(), session.cluster.settings.clone());
    update(session, &arguments[1], move |found| {
        let head = found.map_or(&[][..], |found| &found.value[..]);
        if head.len() + tail.len() > settings.value_size_max {
            let error = Answer::error("string exceeds maximum allowed size (proto-max-bulk-len)");
            return Decision::Answer(error);
        }
        let mut value = BytesMut::with_capacity(head.len() + tail.len());
        value.extend_from_slice(head);
        value.extend_from_slice(&tail);
        let answer = Answer::count(value.len() as u64);
        Decision::Set {
            value: value.freeze(),
            expiry: Expiry::Keep,
            answer,
        }
    })
}
