//! Entity tags, preconditions and ranges of RFC 9110.
//!
//! All tags given out are strong: a file's is its inode and version, a key's is its version.
//! Ranges: one range of bytes is served; several at once, other units and what cannot be read are ignored,
//! as the RFC allows, and the whole is answered.

use axum::http::{HeaderMap, HeaderName, header};

use crate::problem::Problem;

/// What a request says of the tags it wants or does not want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    Any,
    /// With quotes, and with `W/` where it is weak.
    List(Vec<String>),
}

/// `If-Match` and `If-None-Match`.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    pub if_match: Option<Tags>,
    pub if_none_match: Option<Tags>,
}

/// What is to be done with a `GET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

impl Preconditions {
    pub fn of(headers: &HeaderMap) -> Result<Preconditions, Problem> {
        Ok(Preconditions {
            if_match: tags(headers, header::IF_MATCH)?,
            if_none_match: tags(headers, header::IF_NONE_MATCH)?,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// In the order of RFC 9110, 13.2.2. `tag` is none where there is nothing yet.
    pub fn judge(&self, tag: Option<&str>) -> Verdict {
        let holds = match (&self.if_match, tag) {
            (None, _) => true,
            (Some(Tags::Any), tag) => tag.is_some(),
            (Some(Tags::List(wanted)), Some(tag)) => wanted.iter().any(|wanted| wanted == tag),
            (Some(Tags::List(_)), None) => false,
        };
        if !holds {
            return Verdict::Failed;
        }
        match (&self.if_none_match, tag) {
            (Some(Tags::Any), Some(_)) => Verdict::NotModified,
            (Some(Tags::List(known)), Some(tag))
                if known.iter().any(|known| known.trim_start_matches("W/") == tag) =>
            {
                Verdict::NotModified
            }
            _ => Verdict::Proceed,
        }
    }

    /// For methods other than GET and HEAD, where nothing is "not modified".
    pub fn check(&self, tag: Option<&str>) -> Result<(), Problem> {
        match self.judge(tag) {
            Verdict::Proceed => Ok(()),
            Verdict::NotModified | Verdict::Failed => Err(Problem::precondition(match tag {
                Some(tag) => format!("the entity tag is now {tag}"),
                None => "there is nothing with an entity tag here".into(),
            })),
        }
    }
}

fn tags(headers: &HeaderMap, name: HeaderName) -> Result<Option<Tags>, Problem> {
    let mut list = Vec::new();
    for value in headers.get_all(&name) {
        let unreadable = || Problem::field(name.as_str(), "must be * or entity tags in quotes");
        let mut rest = value.to_str().map_err(|_| unreadable())?.trim();
        if rest == "*" {
            return Ok(Some(Tags::Any));
        }
        // A tag may contain commas, so they do not separate blindly.
        while !rest.is_empty() {
            let start = if rest.starts_with("W/\"") { 3 } else { 1 };
            if start == 1 && !rest.starts_with('"') {
                return Err(unreadable());
            }
            let end = rest[start..].find('"').ok_or_else(unreadable)? + start + 1;
            list.push(rest[..end].to_string());
            rest = rest[end..].trim_start();
            match rest.strip_prefix(',') {
                Some(next) => rest = next.trim_start(),
                None if rest.is_empty() => {}
                None => return Err(unreadable()),
            }
        }
    }
    Ok((!list.is_empty()).then_some(Tags::List(list)))
}

/// A range of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// `start..end`, not empty and within the size.
    Part {
        start: u64,
        end: u64,
    },
    Whole,
    /// 416.
    Unsatisfiable,
}

/// Whether a range is asked for at all, before anything is known of the size.
pub fn asks_for_range(headers: &HeaderMap) -> bool {
    headers.contains_key(header::RANGE)
}

/// The range that `headers` ask for of what has this tag and size.
pub fn range(headers: &HeaderMap, tag: &str, size: u64) -> Range {
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition != tag
    {
        return Range::Whole;
    }
    let mut values = headers.get_all(header::RANGE).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(text), None) => parse_range(text, size),
        _ => Range::Whole,
    }
}

fn parse_range(text: &str, size: u64) -> Range {
    let Some(set) = text.trim().strip_prefix("bytes=") else {
        return Range::Whole;
    };
    let Some((first, last)) = set.trim().split_once('-') else {
        return Range::Whole;
    };
    let number = |digits: &str| match digits.bytes().all(|digit| digit.is_ascii_digit()) {
        // A number beyond 64 bits is beyond every file.
        true => Some(digits.parse::<u64>().unwrap_or(u64::MAX)),
        false => None,
    };
    let (start, end) = match (first.is_empty(), last.is_empty()) {
        (true, true) => return Range::Whole,
        (true, false) => match number(last) {
            Some(length) => (size.saturating_sub(length), if length == 0 { 0 } else { size }),
            None => return Range::Whole,
        },
        (false, true) => match number(first) {
            Some(start) => (start, size),
            None => return Range::Whole,
        },
        (false, false) => match (number(first), number(last)) {
            (Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(size)),
            _ => return Range::Whole,
        },
    };
    match start < end {
        true => Range::Part { start, end },
        false => Range::Unsatisfiable,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let values = pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        values.collect()
    }

    #[test]
    fn ranges_follow_rfc_9110() {
        // Goal: every form means what the RFC says. Method: table over a body of 100 bytes.
        let part = |start, end| Range::Part { start, end };
        for (text, expected) in [
            ("bytes=0-0", part(0, 1)),
            ("bytes=10-19", part(10, 20)),
            ("bytes=90-", part(90, 100)),
            ("bytes=90-1000", part(90, 100)),
            ("bytes=-10", part(90, 100)),
            ("bytes=-1000", part(0, 100)),
            ("bytes=0-99999999999999999999999", part(0, 100)),
            ("bytes=100-", Range::Unsatisfiable),
            ("bytes=100-200", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=5-4", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=-", Range::Whole),
            ("bytes=a-b", Range::Whole),
            ("bytes=+1-2", Range::Whole),
            ("lines=0-1", Range::Whole),
            ("", Range::Whole),
        ] {
            assert_eq!(parse_range(text, 100), expected, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Range::Unsatisfiable);
    }

    #[test]
    fn a_range_of_something_else_is_not_served() {
        // Goal: a resumed download is never of two versions. Method: If-Range with both tags and a date.
        for (condition, expected) in [
            ("\"1\"", Range::Part { start: 1, end: 2 }),
            ("\"2\"", Range::Whole),
            ("W/\"1\"", Range::Whole),
            ("Sat, 29 Oct 1994 19:43:31 GMT", Range::Whole),
        ] {
            let headers = headers(&[(header::RANGE, "bytes=1-1"), (header::IF_RANGE, condition)]);
            assert_eq!(range(&headers, "\"1\"", 10), expected, "{condition}");
        }
    }

    #[test]
    fn preconditions_follow_rfc_9110() {
        // Goal: strong comparison for If-Match, weak for If-None-Match. Method: table.
        let (matches, none) = (header::IF_MATCH, header::IF_NONE_MATCH);
        for (name, text, tag, expected) in [
            (&matches, "\"1\"", Some("\"1\""), Verdict::Proceed),
            (&matches, "\"2\", \"1\"", Some("\"1\""), Verdict::Proceed),
            (&matches, "W/\"1\"", Some("\"1\""), Verdict::Failed),
            (&matches, "\"1\"", None, Verdict::Failed),
            (&matches, "*", None, Verdict::Failed),
            (&matches, "*", Some("\"1\""), Verdict::Proceed),
            (&none, "*", None, Verdict::Proceed),
            (&none, "*", Some("\"1\""), Verdict::NotModified),
            (&none, "\"a,b\" , W/\"1\"", Some("\"1\""), Verdict::NotModified),
            (&none, "\"2\"", Some("\"1\""), Verdict::Proceed),
        ] {
            let preconditions = Preconditions::of(&headers(&[(name.clone(), text)])).unwrap();
            assert_eq!(preconditions.judge(tag), expected, "{name}: {text}");
        }
        for text in ["1", "\"1", "\"1\" \"2\"", "w/\"1\""] {
            assert!(
                Preconditions::of(&headers(&[(matches.clone(), text)])).is_err(),
                "{text}"
            );
        }
    }
}
