//! The one way a push fails: no room. The value comes back to the caller.

use std::fmt;

/// The queue had no room; here is the value again. Keep it and stop reading the source that produced it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Full<T>(pub T);

impl<T> fmt::Debug for Full<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Full(..)")
    }
}

impl<T> fmt::Display for Full<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("queue is full")
    }
}

impl<T> std::error::Error for Full<T> {}
