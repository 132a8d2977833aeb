//! Everything that goes wrong, as RFC 9457 tells it: `application/problem+json` with an errno name.
//!
//! `type` is a URN out of the errno name, `title` the sentence people know, `detail` what was at fault, and
//! `path`, `key` or `field` names it for programs.
//!
//! Invariant: status 504 with errno `UNKNOWN`, and nothing else, says that a change may have been applied.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bark_client::Error;
use bark_schema::operation::{Failure, Refusal};
use serde_json::{Map, Value};

use crate::text;

/// Elections end within a second.
const RETRY_AFTER_SECONDS: u32 = 1;

#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    errno: &'static str,
    detail: String,
    subject: Map<String, Value>,
}

pub type Answer = Result<Response, Problem>;

impl Problem {
    pub fn new(status: StatusCode, errno: &'static str, detail: impl Into<String>) -> Problem {
        Problem {
            status,
            errno,
            detail: detail.into(),
            subject: Map::new(),
        }
    }

    pub fn invalid(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "EINVAL", detail)
    }

    /// A field of the body, a query parameter or a header that cannot be used.
    pub fn field(field: impl Into<String>, what: &str) -> Problem {
        let field = field.into();
        let mut problem = Problem::invalid(format!("{field}: {what}"));
        problem.subject.insert("field".into(), field.into());
        problem
    }

    pub fn precondition(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::PRECONDITION_FAILED, "ECANCELED", detail)
    }

    /// Surely not applied; the same may succeed later.
    pub fn unavailable(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "EAGAIN", detail)
    }

    pub fn refused(refusal: Refusal, detail: impl Into<String>) -> Problem {
        Problem::new(status(refusal), errno(refusal), detail)
    }

    /// A failure of a request that went to the cluster as it is.
    pub fn failure(subject: &str, failure: Failure) -> Problem {
        Error::new(subject, failure).into()
    }

    pub fn path(mut self, path: &[u8]) -> Problem {
        text::insert(&mut self.subject, "path", path);
        self
    }

    pub fn key(mut self, key: &[u8]) -> Problem {
        text::insert(&mut self.subject, "key", key);
        self
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    fn title(&self) -> &'static str {
        match self.errno {
            "ENOENT" => "No such file, directory or key",
            "EEXIST" => "File exists",
            "ENOTDIR" => "Not a directory",
            "EISDIR" => "Is a directory",
            "ENOTEMPTY" => "Directory not empty",
            "ENAMETOOLONG" => "File name too long",
            "EINVAL" => "Invalid argument",
            "ELOOP" => "Too many levels of symbolic links",
            "EFBIG" => "File or value too large",
            "ENOSPC" => "No space left on device",
            "EMLINK" => "Too many links",
            "ESTALE" => "Changed by someone else meanwhile",
            "EOVERFLOW" => "Value too large",
            "EACCES" => "Permission denied",
            "EOPNOTSUPP" => "Operation not supported",
            "ECANCELED" => "Precondition does not hold",
            "EAGAIN" => "Not available now",
            "UNKNOWN" => "The outcome is not known",
            _ => self.status.canonical_reason().unwrap_or("Failed"),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let detail = error.to_string();
        match error {
            Error::Refused { refusal, .. } => Problem::refused(refusal, detail),
            Error::Unknown { .. } => Problem::new(StatusCode::GATEWAY_TIMEOUT, "UNKNOWN", detail),
            Error::Unavailable { .. } => Problem::unavailable(detail),
            Error::Protocol { .. } => Problem::new(StatusCode::BAD_GATEWAY, "EPROTO", detail),
            Error::Local { .. } | Error::Configuration { .. } => {
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "EIO", detail)
            }
        }
    }
}

fn status(refusal: Refusal) -> StatusCode {
    match refusal {
        Refusal::NotFound | Refusal::NoData => StatusCode::NOT_FOUND,
        Refusal::Exists
        | Refusal::NotDirectory
        | Refusal::IsDirectory
        | Refusal::NotEmpty
        | Refusal::TooManySymlinks
        | Refusal::TooManyLinks
        | Refusal::CrossDevice
        | Refusal::Conflict
        | Refusal::Deadlock
        | Refusal::Fenced
        // The request is well formed; it is the key's present value that does not allow it.
        | Refusal::NotInteger
        | Refusal::Overflow => StatusCode::CONFLICT,
        Refusal::NameTooLong | Refusal::InvalidArgument | Refusal::Range | Refusal::BeyondEnd => StatusCode::BAD_REQUEST,
        Refusal::FileTooLarge | Refusal::TooBig => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::NoSpace | Refusal::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
        Refusal::NoLocks => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::SessionExpired => StatusCode::GATEWAY_TIMEOUT,
        Refusal::PermissionDenied | Refusal::NotPermitted => StatusCode::FORBIDDEN,
        Refusal::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Refusal::Corrupt | Refusal::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn errno(refusal: Refusal) -> &'static str {
    match refusal {
        // The cluster no longer remembers whether it was applied.
        Refusal::SessionExpired => "UNKNOWN",
        other => other.errno_name(),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.title();
        let mut object = self.subject;
        object.insert("type".into(), format!("urn:bark:problem:{}", self.errno).into());
        object.insert("title".into(), title.into());
        object.insert("status".into(), self.status.as_u16().into());
        object.insert("detail".into(), self.detail.into());
        object.insert("errno".into(), self.errno.into());
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let body = Value::Object(object).to_string();
        let mut response = (self.status, content_type, body).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from(RETRY_AFTER_SECONDS);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_their_meaning_as_statuses() {
        // Goal: a program that only reads the status acts rightly. Method: table over the client's errors.
        let new = |failure| Problem::failure("/a", failure);
        for (failure, status, errno) in [
            (Failure::refused(Refusal::NotFound, ""), 404, "ENOENT"),
            (Failure::refused(Refusal::Exists, ""), 409, "EEXIST"),
            (Failure::refused(Refusal::NotEmpty, ""), 409, "ENOTEMPTY"),
            (Failure::refused(Refusal::IsDirectory, ""), 409, "EISDIR"),
            (Failure::refused(Refusal::NameTooLong, ""), 400, "ENAMETOOLONG"),
            (Failure::refused(Refusal::FileTooLarge, ""), 413, "EFBIG"),
            (Failure::refused(Refusal::NoSpace, ""), 507, "ENOSPC"),
            (Failure::refused(Refusal::SessionExpired, ""), 504, "UNKNOWN"),
            (Failure::Unknown("lost".into()), 504, "UNKNOWN"),
            (Failure::NotLeader { leader: None }, 503, "EAGAIN"),
            (Failure::Busy("full".into()), 503, "EAGAIN"),
        ] {
            let problem = new(failure.clone());
            assert_eq!(
                (problem.status.as_u16(), problem.errno),
                (status, errno),
                "{failure:?}"
            );
        }
    }

    #[test]
    fn only_refusals_for_now_say_when_to_come_back() {
        // Goal: Retry-After is on 503 and nowhere else. Method: one of each.
        let later = Problem::unavailable("no leader").into_response();
        assert_eq!(later.headers()[header::RETRY_AFTER], "1");
        let never = Problem::invalid("no").into_response();
        assert!(!never.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(never.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
