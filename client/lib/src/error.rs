//! What can go wrong, always with the path, key or node at fault.
//!
//! Invariant: a change that may have been applied is `Unknown`, and nothing else is.

use std::io;

use bark_schema::operation::{Failure, Refusal};

/// Why an operation of the client did not succeed. `Display` is `subject: sentence`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Decided by the cluster and final.
    #[error("{subject}: {sentence}")]
    Refused {
        subject: String,
        refusal: Refusal,
        sentence: String,
    },
    /// The change may or may not have been applied.
    #[error("{subject}: outcome not known: {reason}")]
    Unknown { subject: String, reason: String },
    /// Surely not applied; the same may succeed later.
    #[error("{subject}: {reason}")]
    Unavailable { subject: String, reason: String },
    /// Something on this machine: a local file, a pipe.
    #[error("{subject}: {}", io_sentence(.source))]
    Local {
        subject: String,
        #[source]
        source: io::Error,
    },
    /// The node and this client do not understand each other.
    #[error("{subject}: unexpected answer: {reason}")]
    Protocol { subject: String, reason: String },
    /// The caller's configuration or argument is wrong.
    #[error("{subject}: {reason}")]
    Configuration { subject: String, reason: String },
}

impl Error {
    /// Puts the name of what was worked on to a failure.
    pub fn new(subject: impl Into<String>, failure: Failure) -> Error {
        let subject = subject.into();
        match failure {
            Failure::Refused(refusal, detail) => Error::Refused {
                subject,
                refusal,
                sentence: sentence(refusal, detail),
            },
            Failure::Unknown(reason) => Error::Unknown { subject, reason },
            Failure::Busy(reason) => Error::Unavailable { subject, reason },
            Failure::NotLeader { .. }
            | Failure::Locked { .. }
            | Failure::Delegated { .. }
            | Failure::OverAllowance { .. } => Error::Unavailable {
                subject,
                reason: failure.to_string(),
            },
            Failure::CrossPartition | Failure::TooLargeForInline => Error::Protocol {
                subject,
                reason: failure.to_string(),
            },
        }
    }

    pub fn refused(subject: impl Into<String>, refusal: Refusal) -> Error {
        Error::new(subject, Failure::refused(refusal, ""))
    }

    pub fn local(subject: impl Into<String>, source: io::Error) -> Error {
        let subject = subject.into();
        Error::Local { subject, source }
    }

    /// A reply of a kind that does not answer the request.
    pub fn protocol(subject: impl Into<String>, reply: &impl std::fmt::Debug) -> Error {
        let mut reason = format!("{reply:?}");
        reason.truncate(reason.floor_char_boundary(120));
        let subject = subject.into();
        Error::Protocol { subject, reason }
    }

    /// The refusal, if the cluster decided.
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Error::Refused { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.refusal() == Some(Refusal::NotFound)
    }

    /// A pipe whose reader went away.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Local { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// `No such file or directory (os error 2)` without the part in parentheses.
fn io_sentence(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

/// The words people know from their own file system; the node's words where there are none.
fn sentence(refusal: Refusal, detail: String) -> String {
    let known = match refusal {
        Refusal::NotFound => "No such file or directory",
        Refusal::Exists => "File exists",
        Refusal::NotDirectory => "Not a directory",
        Refusal::IsDirectory => "Is a directory",
        Refusal::NotEmpty => "Directory not empty",
        Refusal::NameTooLong => "File name too long",
        Refusal::InvalidArgument => "Invalid argument",
        Refusal::TooManySymlinks => "Too many levels of symbolic links",
        Refusal::FileTooLarge => "File too large",
        Refusal::NoSpace => "No space left on device",
        Refusal::TooManyLinks => "Too many links",
        Refusal::Conflict => "Changed by someone else meanwhile",
        Refusal::PermissionDenied => "Permission denied",
        Refusal::Unsupported => "Operation not supported",
        Refusal::Corrupt => "Input/output error",
        Refusal::NotInteger => "Value is not an integer",
        Refusal::Overflow => "Value too large",
        Refusal::SessionExpired => "Session expired",
        Refusal::Internal => "Internal error",
        Refusal::NoData => "No data available",
        Refusal::Range => "Numerical result out of range",
        Refusal::NotPermitted => "Operation not permitted",
        Refusal::CrossDevice => "Invalid cross-device link",
        Refusal::TooBig => "Argument list too long",
        Refusal::QuotaExceeded => "Disk quota exceeded",
        Refusal::BeyondEnd => "No such device or address",
        Refusal::NoLocks => "No locks available",
        Refusal::Deadlock => "Resource deadlock avoided",
        Refusal::Fenced => "The lease of this client's locks ran out",
    };
    let adds_nothing = matches!(
        refusal,
        Refusal::NotFound
            | Refusal::Exists
            | Refusal::NotDirectory
            | Refusal::IsDirectory
            | Refusal::NotEmpty
            | Refusal::NameTooLong
            | Refusal::TooManySymlinks
    );
    match adds_nothing || detail.is_empty() {
        true => known.to_string(),
        false => format!("{known}: {detail}"),
    }
}
