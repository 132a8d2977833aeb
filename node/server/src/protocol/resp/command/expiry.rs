//! Commands on times to live.

use bark_schema::operation::{Expiry, KeyValue, UnixMillis};
use bytes::Bytes;

use super::string::read;
use super::update::{Decision, update};
use super::{Planned, Render, Session, integer, is};
use crate::protocol::resp::reply::Answer;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    Seconds,
    Millis,
}

fn invalid(command: &str) -> Answer {
    Answer::error(format!("invalid expire time in '{command}' command"))
}

/// A time in milliseconds that can still be added to the clock.
fn millis(
    session: &Session,
    command: &str,
    number: i64,
    unit: TimeUnit,
    absolute: bool,
) -> Result<i64, Answer> {
    let factor = if unit == TimeUnit::Seconds { 1000 } else { 1 };
    let time = number.checked_mul(factor).ok_or_else(|| invalid(command))?;
    let now = i64::try_from(session.cluster.gateway.now().unix_ms()).unwrap_or(i64::MAX);
    if !absolute && time.checked_add(now).is_none() {
        return Err(invalid(command));
    }
    Ok(time)
}

/// The expiry of SET and its kind: a time that is not positive is an error.
pub fn parse_expiry(
    session: &Session,
    command: &str,
    text: &[u8],
    unit: TimeUnit,
    absolute: bool,
) -> Result<Expiry, Answer> {
    let number = integer(text)?;
    if number <= 0 {
        return Err(invalid(command));
    }
    let time = millis(session, command, number, unit, absolute)?.unsigned_abs();
    Ok(if absolute {
        Expiry::At(time)
    } else {
        Expiry::After(time)
    })
}

/// `expires`: None without a key, Some(None) without a time to live.
pub fn render(expires: Option<Option<UnixMillis>>, shown: impl Fn(UnixMillis) -> u64) -> Answer {
    match expires {
        None => Answer::Integer(-2),
        Some(None) => Answer::Integer(-1),
        Some(Some(at)) => Answer::count(shown(at)),
    }
}

pub fn remaining(session: &mut Session, arguments: &[Bytes]) -> Planned {
    read(session, &arguments[1], Render::RemainingSeconds)
}

pub fn remaining_millis(session: &mut Session, arguments: &[Bytes]) -> Planned {
    read(session, &arguments[1], Render::RemainingMillis)
}

pub fn expire_time(session: &mut Session, arguments: &[Bytes]) -> Planned {
    read(session, &arguments[1], Render::ExpiresSeconds)
}

pub fn expire_time_millis(session: &mut Session, arguments: &[Bytes]) -> Planned {
    read(session, &arguments[1], Render::ExpiresMillis)
}

pub fn expire(session: &mut Session, arguments: &[Bytes]) -> Planned {
    expire_with(session, arguments, "expire", TimeUnit::Seconds, false)
}

pub fn expire_millis(session: &mut Session, arguments: &[Bytes]) -> Planned {
    expire_with(session, arguments, "pexpire", TimeUnit::Millis, false)
}

pub fn expire_at(session: &mut Session, arguments: &[Bytes]) -> Planned {
    expire_with(session, arguments, "expireat", TimeUnit::Seconds, true)
}

pub fn expire_at_millis(session: &mut Session, arguments: &[Bytes]) -> Planned {
    expire_with(session, arguments, "pexpireat", TimeUnit::Millis, true)
}

/// When EXPIRE may change the time there is.
#[derive(Clone, Copy, Default)]
struct Only {
    absent: bool,
    present: bool,
    later: bool,
    earlier: bool,
}

impl Only {
    fn parse(words: &[Bytes]) -> Result<Only, Answer> {
        let mut only = Only::default();
        for word in words {
            let flag = match () {
                () if is(word, "nx") => &mut only.absent,
                () if is(word, "xx") => &mut only.present,
                () if is(word, "gt") => &mut only.later,
                () if is(word, "lt") => &mut only.earlier,
                () => {
                    let shown = String::from_utf8_lossy(word);
                    return Err(Answer::error(format!("Unsupported option {shown}")));
                }
            };
            *flag = true;
        }
        if only.absent && (only.present || only.later || only.earlier) {
            return Err(Answer::error(
                "NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if only.later && only.earlier {
            return Err(Answer::error(
                "GT and LT options at the same time are not compatible",
            ));
        }
        Ok(only)
    }

    fn allows(self, current: Option<UnixMillis>, at: i64) -> bool {
        // No time to live is later than any.
        let current_or_never = current.map_or(i64::MAX, |current| i64::try_from(current).unwrap_or(i64::MAX));
        !(self.absent && current.is_some()
            || self.present && current.is_none()
            || self.later && (current.is_none() || at <= current_or_never)
            || self.earlier && at >= current_or_never)
    }
}

fn expire_with(
    session: &Session,
    arguments: &[Bytes],
    command: &'static str,
    unit: TimeUnit,
    absolute: bool,
) -> Planned {
    let only = Only::parse(&arguments[3..])?;
    let time = millis(session, command, integer(&arguments[2])?, unit, absolute)?;
    let gateway = session.cluster.gateway.clone();
    update(session, &arguments[1], move |found| {
        let Some(found) = found else {
            return Decision::Answer(Answer::Integer(0));
        };
        let now = i64::try_from(gateway.now().unix_ms()).unwrap_or(i64::MAX);
        let at = if absolute { time } else { time.saturating_add(now) };
        if !only.allows(found.expires, at) {
            return Decision::Answer(Answer::Integer(0));
        }
        let answer = Answer::Integer(1);
        if at <= now {
            return Decision::Delete { answer };
        }
        Decision::Set {
            value: found.value.clone(),
            expiry: Expiry::At(at.unsigned_abs()),
            answer,
        }
    })
}

pub fn persist(session: &mut Session, arguments: &[Bytes]) -> Planned {
    update(session, &arguments[1], |found| match found {
        Some(KeyValue {
            value,
            expires: Some(_),
            ..
        }) => Decision::Set {
            value: value.clone(),
            expiry: Expiry::Never,
            answer: Answer::Integer(1),
        },
        _ => Decision::Answer(Answer::Integer(0)),
    })
}

/// `GETEX key [EX s|PX ms|EXAT s|PXAT ms|PERSIST]`
pub fn get_expire(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let expiry = match &arguments[2..] {
        [] => return read(session, &arguments[1], Render::Value),
        [word] if is(word, "persist") => Expiry::Never,
        [word, time] => {
            let (unit, absolute) = match () {
                () if is(word, "ex") => (TimeUnit::Seconds, false),
                () if is(word, "px") => (TimeUnit::Millis, false),
                () if is(word, "exat") => (TimeUnit::Seconds, true),
                () if is(word, "pxat") => (TimeUnit::Millis, true),
                () => return Err(Answer::syntax_error()),
            };
            parse_expiry(session, "getex", time, unit, absolute)?
        }
        _ => return Err(Answer::syntax_error()),
    };
    update(session, &arguments[1], move |found| match found {
        None => Decision::Answer(Answer::Null),
        Some(found) => {
            let value = found.value.clone();
            Decision::Set {
                value: value.clone(),
                expiry,
                answer: Answer::Bulk(value),
            }
        }
    })
}
