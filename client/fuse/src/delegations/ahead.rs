//! Reading small files before they are asked for.
//!
//! A program that reads one file of a directory after the other would wait for each of them. In a directory this mount
//! has for itself nobody else changes them meanwhile, so the next ones are fetched together: in the order of names or of listings,
//! whichever the program follows.
//!
//! Invariants:
//! - What is kept is used once, and only for a file the table knows to be of that version, with no change under way.
//! - Nothing is fetched further ahead of the program than WINDOW files, and no more is kept than KEPT_BYTES_MAX.

use std::collections::HashMap;
use std::sync::Arc;

use bark_schema::ids::InodeId;
use bark_schema::limits::{INLINE_SIZE_MAX, MIB};
use bark_schema::listing::cookie;
use bark_schema::operation::{Attributes, Content, FileKind, Query, Reply};
use bytes::Bytes;

use super::list::NAMES_SORTED_MAX;
use super::{Delegations, Name, Table};

/// Files fetched ahead of a program; it is asked for more when half of them are read.
const WINDOW: usize = 32;
/// Of all directories together. What nobody reads is dropped, with all the rest, when it comes to more.
const KEPT_BYTES_MAX: usize = 8 * MIB;
/// The reads after which it is first looked for an order in them; if there is none, after twice as many again.
const READS_MIN: u32 = 3;
/// Names a program may pass over from one read to the next.
const SKIPS_MAX: usize = 4;
/// Reads out of order after which the order is given up.
const STRAYS_MAX: u32 = 8;

/// Small files that were fetched or written, with the versions of their contents.
#[derive(Debug, Default)]
pub(super) struct Kept {
    contents: HashMap<InodeId, (u64, Bytes)>,
    bytes: usize,
}

/// What programs read in a directory.
#[derive(Debug, Default)]
pub(super) struct Reads {
    last: Option<InodeId>,
    count: u32,
    next_look: u32,
    order: Option<Order>,
}

/// The files a program is expected to read.
#[derive(Debug)]
struct Order {
    files: Vec<InodeId>,
    /// Those before it are read, and those before the other fetched.
    read: usize,
    fetched: usize,
    strays: u32,
}

impl Delegations {
    /// A program reads a file from its start: what is in it, if that is known here.
    pub(crate) fn read(self: &Arc<Self>, inode: InodeId) -> Option<(Attributes, Content)> {
        let mut table = self.lock();
        let directory = table.files.get(&inode)?.directory;
        table.ready(directory)?;
        let next = table.note_read(directory, inode);
        let content = table.take_content(inode);
        drop(table);
        if !next.is_empty() {
            tokio::spawn(self.clone().fetch(next));
        }
        content
    }

    async fn fetch(self: Arc<Self>, files: Vec<InodeId>) {
        let fetched = files.into_iter().map(|inode| {
            let delegations = &self;
            async move {
                let query = Query::Layout {
                    inode,
                    offset: 0,
                    length: INLINE_SIZE_MAX as u64,
                };
                // What cannot be had is asked for again by who needs it.
                if let Ok(Reply::Layout { attributes, content }) = delegations.query(inode, query).await
                    && let Content::Inline(bytes) = content
                {
                    delegations.lock().kept.add(inode, attributes.version, &bytes);
                }
            }
        });
        futures::future::join_all(fetched).await;
    }
}

impl Table {
    /// Says what to fetch now.
    fn note_read(&mut self, directory: InodeId, inode: InodeId) -> Vec<InodeId> {
        let Some(found) = self.directories.get_mut(&directory) else {
            return Vec::new();
        };
        let last = found.reads.last.replace(inode);
        if let Some(order) = &mut found.reads.order {
            if order.note_read(inode) {
                return order.next();
            }
            if order.strays > STRAYS_MAX {
                found.reads = Reads::default();
            }
            return Vec::new();
        }
        found.reads.count += 1;
        if found.reads.count < found.reads.next_look.max(READS_MIN) {
            return Vec::new();
        }
        found.reads.next_look = found.reads.count.saturating_mul(2);
        let order = last.and_then(|last| self.order(directory, last, inode));
        let Some(found) = self.directories.get_mut(&directory) else {
            return Vec::new();
        };
        found.reads.order = order;
        found.reads.order.as_mut().map(Order::next).unwrap_or_default()
    }

    /// The small files behind `inode`, in the order in which it comes soon after `last`.
    fn order(&self, directory: InodeId, last: InodeId, inode: InodeId) -> Option<Order> {
        let names = &self.directories.get(&directory)?.names;
        if names.len() > NAMES_SORTED_MAX {
            return None;
        }
        let mut files: Vec<(&Bytes, InodeId)> = names
            .iter()
            .filter_map(|(name, leads_to)| match leads_to {
                Name::Member(inode) => Some((name, *inode)),
                _ => None,
            })
            .collect();
        files.sort_unstable();
        let follows = |files: &[(&Bytes, InodeId)]| {
            let at = files.iter().position(|(_, file)| *file == inode)?;
            let before = &files[at.saturating_sub(SKIPS_MAX + 1)..at];
            before.iter().any(|(_, file)| *file == last).then_some(at + 1)
        };
        let behind = follows(&files).or_else(|| {
            files.sort_by_cached_key(|(name, _)| cookie(name));
            follows(&files)
        })?;
        let is_small = |attributes: &Attributes| {
            attributes.kind == FileKind::Regular && (1..=INLINE_SIZE_MAX as u64).contains(&attributes.size)
        };
        let files = files[behind..].iter().map(|(_, inode)| *inode);
        let files = files.filter(|inode| {
            let member = self.files.get(inode);
            member.is_some_and(|member| member.attributes.as_ref().is_some_and(is_small))
        });
        Some(Order {
            files: files.collect(),
            read: 0,
            fetched: 0,
            strays: 0,
        })
    }

    fn take_content(&mut self, inode: InodeId) -> Option<(Attributes, Content)> {
        let kept = self.kept.take(inode);
        let attributes = self.files.get(&inode)?.attributes.as_ref()?;
        if attributes.kind != FileKind::Regular || self.is_pending(inode) {
            return None;
        }
        match kept {
            _ if attributes.size == 0 => Some((attributes.clone(), Content::Inline(Bytes::new()))),
            Some((version, bytes)) if version == attributes.version => {
                Some((attributes.clone(), Content::Inline(bytes)))
            }
            _ => None,
        }
    }
}

impl Order {
    /// Says whether the file is among those expected next.
    fn note_read(&mut self, inode: InodeId) -> bool {
        let expected = self.files.iter().skip(self.read).take(WINDOW);
        match expected.copied().position(|file| file == inode) {
            Some(skipped) => {
                self.read += skipped + 1;
                self.strays = 0;
                true
            }
            None => {
                self.strays += 1;
                false
            }
        }
    }

    /// What to fetch, if little is left.
    fn next(&mut self) -> Vec<InodeId> {
        self.fetched = self.fetched.max(self.read);
        if self.fetched - self.read > WINDOW / 2 {
            return Vec::new();
        }
        let until = self.files.len().min(self.read + WINDOW);
        let next = self.files[self.fetched..until].to_vec();
        self.fetched = until;
        next
    }
}

impl Kept {
    /// Takes all that is in a file of that version: a copy, because it may be a small part of something large.
    pub(super) fn add(&mut self, inode: InodeId, version: u64, bytes: &[u8]) {
        if self.bytes + bytes.len() > KEPT_BYTES_MAX {
            *self = Kept::default();
        }
        self.take(inode);
        self.bytes += bytes.len();
        self.contents
            .insert(inode, (version, Bytes::copy_from_slice(bytes)));
    }

    fn take(&mut self, inode: InodeId) -> Option<(u64, Bytes)> {
        let (version, bytes) = self.contents.remove(&inode)?;
        self.bytes -= bytes.len();
        Some((version, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(count: u64) -> Order {
        Order {
            files: (1..=count).map(InodeId).collect(),
            read: 0,
            fetched: 0,
            strays: 0,
        }
    }

    #[test]
    fn a_program_stays_behind_what_is_fetched_and_no_further_than_a_window() {
        // Goal: each file is fetched once, before it is read. Method: a program reads a hundred, passing over some.
        let mut order = order(100);
        let mut fetched = order.next();
        assert_eq!(fetched.len(), WINDOW);
        for file in (1..=100).filter(|file| file % 3 > 0) {
            assert!(fetched.contains(&InodeId(file)), "{file} was not fetched");
            assert!(order.note_read(InodeId(file)));
            fetched.extend(order.next());
            assert!(order.fetched <= order.read + WINDOW);
        }
        fetched.dedup();
        assert_eq!(fetched.len(), 100);
        assert!(!order.note_read(InodeId(1)), "it is behind");
    }

    #[test]
    fn what_nobody_reads_does_not_pile_up() {
        // Goal: memory is bounded whatever is fetched. Method: more than there is room for.
        let mut kept = Kept::default();
        for file in 0..3 * (KEPT_BYTES_MAX / INLINE_SIZE_MAX) as u64 {
            kept.add(InodeId(file), 1, &[1; INLINE_SIZE_MAX]);
            kept.add(InodeId(file), 2, &[2; INLINE_SIZE_MAX]);
            assert!(kept.bytes <= KEPT_BYTES_MAX);
            assert_eq!(kept.contents.len() * INLINE_SIZE_MAX, kept.bytes);
        }
    }
}
