//! Which content of a file the kernel shows: by its pages, and by the size it has of it.
//!
//! Somebody who comes to a file (an open, a lock that was granted) sees what others wrote before: where the kernel may show older
//! content, it is told to drop what it has.
//!
//! Invariant: the kernel counts as showing a version only when it has dropped whatever it had before. That it was answered
//! with something newer does not count: other answers may arrive later, and whoever comes meanwhile, by another
//! handle, would be served what is old.

use crate::open_file::OpenFile;
use crate::open_files::OpenFiles;

/// No content has this version: who shows it is wrong.
const NOTHING: u64 = 0;

/// What the kernel may have of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages {
    /// The oldest content it may show, own writes included.
    pub(crate) oldest: u64,
    /// It may have pages, and not only attributes.
    pub(crate) has_some: bool,
    /// The content it will show when it has taken a notice that was sent.
    leaving: Option<u64>,
    /// How often it was found to be wrong.
    wrong: u64,
}

impl Pages {
    pub(crate) fn new(oldest: u64, has_some: bool) -> Pages {
        Pages {
            oldest,
            has_some,
            leaving: None,
            wrong: 0,
        }
    }

    /// Of a file of which it is not known what the kernel has.
    pub(crate) fn unknown() -> Pages {
        Pages::new(NOTHING, true)
    }

    /// This mount alone changed the content from one version to another, and the kernel has what it wrote.
    pub(crate) fn wrote(&mut self, from: u64, to: u64) {
        if self.oldest == from {
            self.oldest = to;
        }
    }

    /// The kernel shows bytes where these are not.
    pub(crate) fn distrust(&mut self) {
        self.oldest = NOTHING;
        self.leaving = None;
        self.wrong += 1;
    }

    /// What there was when `before` held is dropped; what the kernel read since is of this version or a later one.
    fn dropped(&mut self, before: Pages, version: u64) {
        if self.leaving == Some(version) {
            self.leaving = None;
        }
        if self.wrong == before.wrong {
            self.oldest = version;
        }
    }
}

/// What has become of pages that were to show the content as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// They showed it already.
    Right,
    /// The kernel had none, and its attributes are right.
    Absent,
    /// The kernel has dropped them, and the attributes it had.
    Dropped,
}

impl OpenFiles {
    /// From now on programs see the content that is known of a file, or newer.
    ///
    /// There is one notice for each version, for all who come: the kernel does not take the size of a file from an answer
    /// to a question it asked before a notice, and somebody who waited for the first one may be reading by the second.
    pub(crate) async fn renew_pages(&self, file: &OpenFile) -> Renewed {
        let mut renewed = Renewed::Right;
        loop {
            let progress = file.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            let (before, version) = {
                let mut state = file.lock();
                let version = state.attributes.version;
                if state.pages.oldest == version {
                    let had_some = std::mem::replace(&mut state.pages.has_some, true);
                    return if had_some { renewed } else { Renewed::Absent };
                }
                renewed = Renewed::Dropped;
                state.pages.has_some = true;
                let before = state.pages;
                if before.leaving < Some(version) {
                    state.pages.leaving = Some(version);
                }
                (before, version)
            };
            if before.leaving >= Some(version) {
                progress.await;
                continue;
            }
            self.notices.content_renewed(file.inode).await;
            file.lock().pages.dropped(before, version);
            file.progress.notify_waiters();
            return renewed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_writes_keep_pages_and_nothing_else_does() {
        // Goal: pages stay right through own changes only. Method: own changes from the version they show and from another.
        let mut pages = Pages::new(3, true);
        pages.wrote(3, 4);
        assert_eq!(pages.oldest, 4);
        pages.wrote(5, 6);
        assert_eq!(pages.oldest, 4);
    }

    #[test]
    fn pages_found_wrong_while_others_are_dropped_stay_wrong() {
        // Goal: a notice that left before says nothing about what became wrong after it. Method: one of each, in this order.
        let mut pages = Pages::new(3, true);
        let before = pages;
        pages.distrust();
        pages.dropped(before, 4);
        assert_eq!(pages.oldest, NOTHING);
        let before = pages;
        pages.dropped(before, 4);
        assert_eq!(pages.oldest, 4);
    }
}
