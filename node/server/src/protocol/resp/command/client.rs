//! Commands about the connection: HELLO, AUTH, SELECT, RESET, CLIENT.

use bytes::Bytes;

use super::server::{REDIS_VERSION, ok, unknown_subcommand};
use super::{Action, Planned, Session, integer, is, wrong_argument_count};
use crate::protocol::resp::parse;
use crate::protocol::resp::reply::{Answer, Version};

const NO_PASSWORD: &str = "AUTH <password> called without any password configured for the default user. \
                           Are you sure your configuration is correct?";

pub fn auth(_: &mut Session, arguments: &[Bytes]) -> Planned {
    match arguments {
        [_, _] => Err(Answer::error(NO_PASSWORD)),
        [_, user, _] => authenticate(user).map_or_else(ok, Err),
        _ => Err(Answer::syntax_error()),
    }
}

/// The error, if there is one. The default user needs no password, and there is no other.
fn authenticate(user: &[u8]) -> Option<Answer> {
    let wrong = "WRONGPASS invalid username-password pair or user is disabled.";
    (user != b"default").then(|| Answer::Error(wrong.to_string()))
}

pub fn select(_: &mut Session, arguments: &[Bytes]) -> Planned {
    match integer(&arguments[1])? {
        0 => ok(),
        _ => Err(Answer::error("DB index is out of range")),
    }
}

pub fn reset(session: &mut Session, _: &[Bytes]) -> Planned {
    session.name = Bytes::new();
    session.version = Version::Two;
    Ok(Action::Switch(Version::Two, Answer::Status("RESET")))
}

/// `HELLO [2|3 [AUTH user password] [SETNAME name]]`
pub fn hello(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let mut version = session.version;
    let mut name = None;
    if let Some(wanted) = arguments.get(1) {
        let wanted = parse::integer(wanted)
            .ok_or_else(|| Answer::error("Protocol version is not an integer or out of range"))?;
        version = match wanted {
            2 => Version::Two,
            3 => Version::Three,
            _ => return Err(Answer::Error("NOPROTO unsupported protocol version".to_string())),
        };
        let mut words = &arguments[2..];
        while let Some((word, rest)) = words.split_first() {
            match rest {
                [user, _, rest @ ..] if is(word, "auth") => {
                    if let Some(error) = authenticate(user) {
                        return Err(error);
                    }
                    words = rest;
                }
                [value, rest @ ..] if is(word, "setname") => {
                    check_name(value)?;
                    name = Some(value.clone());
                    words = rest;
                }
                _ => {
                    let word = String::from_utf8_lossy(word);
                    return Err(Answer::error(format!("Syntax error in HELLO option '{word}'")));
                }
            }
        }
    }
    session.version = version;
    if let Some(name) = name {
        session.name = name;
    }
    let connection_id = i64::try_from(session.connection_id).unwrap_or(i64::MAX);
    let answer = Answer::Map(vec![
        (Answer::text("server"), Answer::text("redis")),
        (Answer::text("version"), Answer::text(REDIS_VERSION)),
        (
            Answer::text("proto"),
            Answer::Integer(if version == Version::Three { 3 } else { 2 }),
        ),
        (Answer::text("id"), Answer::Integer(connection_id)),
        (Answer::text("mode"), Answer::text("standalone")),
        (Answer::text("role"), Answer::text("master")),
        (Answer::text("modules"), Answer::Array(Vec::new())),
    ]);
    Ok(Action::Switch(version, answer))
}

fn check_name(name: &[u8]) -> Result<(), Answer> {
    if name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
        return Ok(());
    }
    Err(Answer::error(
        "Client names cannot contain spaces, newlines or special characters.",
    ))
}

/// Longest name or library name kept.
const NAME_SIZE_MAX: usize = 1024;

pub fn client(session: &mut Session, arguments: &[Bytes]) -> Planned {
    let word = &arguments[1];
    let wrong = |name: &str| Err(wrong_argument_count(&format!("client|{name}")));
    match &arguments[2..] {
        [] if is(word, "getname") => Ok(Action::Answer(if session.name.is_empty() {
            Answer::Null
        } else {
            Answer::Bulk(session.name.clone())
        })),
        [] if is(word, "id") => Ok(Action::Answer(Answer::Integer(
            i64::try_from(session.connection_id).unwrap_or(i64::MAX),
        ))),
        [] if is(word, "info") => Ok(Action::Answer(Answer::Verbatim(describe(session)))),
        // The connections of other workers and nodes are not known here: a connection sees itself.
        _ if is(word, "list") => Ok(Action::Answer(Answer::Verbatim(describe(session)))),
        [name] if is(word, "setname") => {
            check_name(name)?;
            check_size(name)?;
            session.name = Bytes::copy_from_slice(name);
            ok()
        }
        [attribute, value] if is(word, "setinfo") => {
            check_size(value)?;
            if is(attribute, "lib-name") {
                session.library_name = Bytes::copy_from_slice(value);
            } else if is(attribute, "lib-ver") {
                session.library_version = Bytes::copy_from_slice(value);
            } else {
                let attribute = String::from_utf8_lossy(attribute);
                return Err(Answer::error(format!("Unrecognized option '{attribute}'")));
            }
            ok()
        }
        [switch] if is(word, "no-evict") => {
            if is(switch, "on") || is(switch, "off") {
                ok()
            } else {
                Err(Answer::syntax_error())
            }
        }
        _ => {
            let known = ["getname", "id", "info", "setname", "setinfo", "no-evict"];
            match known.into_iter().find(|name| is(word, name)) {
                Some(name) => wrong(name),
                None => Err(unknown_subcommand("CLIENT", word)),
            }
        }
    }
}

fn check_size(name: &[u8]) -> Result<(), Answer> {
    if name.len() > NAME_SIZE_MAX {
        return Err(Answer::error(format!("a name has at most {NAME_SIZE_MAX} bytes")));
    }
    Ok(())
}

fn describe(session: &Session) -> String {
    let age_s = session
        .cluster
        .gateway
        .now()
        .unix_ms()
        .saturating_sub(session.since_unix_ms)
        / 1000;
    let version = if session.version == Version::Three { 3 } else { 2 };
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "id={} addr=?:0 laddr={} fd=0 name={} age={age_s} idle=0 flags=N db=0 cmd=client resp={version} \
         lib-name={} lib-ver={}\n",
        session.connection_id,
        own_address(session),
        text(&session.name),
        text(&session.library_name),
        text(&session.library_version),
    )
}

fn own_address(session: &Session) -> String {
    let settings = &session.cluster.settings;
    let node = settings
        .cluster
        .nodes
        .iter()
        .find(|node| node.number == settings.node);
    node.map_or_else(|| "?:0".to_string(), |node| node.resp.clone())
}
