//! Why `bark` did not do it: one line on standard error and an exit status.

use std::process::ExitCode;

/// A failed verb. `line` is `subject: sentence`.
#[derive(Debug)]
pub struct Problem {
    line: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Failed,
    Usage,
    /// Whoever read our output has seen enough: nothing to complain about.
    OutputClosed,
}

impl Problem {
    /// The operation failed.
    pub fn failed(subject: impl std::fmt::Display, sentence: impl std::fmt::Display) -> Problem {
        Problem {
            line: format!("{subject}: {sentence}"),
            kind: Kind::Failed,
        }
    }

    /// Wrong usage or configuration.
    pub fn usage(subject: impl std::fmt::Display, sentence: impl std::fmt::Display) -> Problem {
        Problem {
            line: format!("{subject}: {sentence}"),
            kind: Kind::Usage,
        }
    }

    /// Standard output could not be written.
    pub fn output(error: std::io::Error) -> Problem {
        Problem::from(bark_client::Error::local("standard output", error))
    }

    /// A local file at fault.
    pub fn local(path: &std::path::Path, error: std::io::Error) -> Problem {
        Problem::from(bark_client::Error::local(path.display().to_string(), error))
    }

    /// Says what went wrong, as one line, and gives the exit status.
    pub fn report(&self, verb: &str) -> ExitCode {
        if self.kind == Kind::OutputClosed {
            return ExitCode::SUCCESS;
        }
        eprintln!("bark: {verb}: {}", self.line.replace('\n', " "));
        match self.kind {
            Kind::Usage => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

impl From<bark_client::Error> for Problem {
    fn from(error: bark_client::Error) -> Problem {
        let kind = match &error {
            bark_client::Error::Configuration { .. } => Kind::Usage,
            error if error.is_broken_pipe() => Kind::OutputClosed,
            _ => Kind::Failed,
        };
        let line = error.to_string();
        Problem { line, kind }
    }
}
