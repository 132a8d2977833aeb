//! A directory a program is listing.
//!
//! The place after an entry is the cookie the cluster gave it, which stays the same as long as the entry has
//! its name; so a program may go on from any place it has seen, in another stream too. `.` and `..` come
//! first, at places cookies never have.

use std::collections::HashMap;
use std::sync::Arc;

use bark_schema::ids::InodeId;
use bark_schema::operation::{Attributes, DirectoryEntry, Failure, FileKind, ListPosition, Refusal};
use bytes::Bytes;
use fuser::Errno;

use crate::cluster::Cluster;
use crate::errno::errno;

/// Enough to make round trips rare, little enough to keep the first page fast.
const PAGE_ENTRIES: u32 = 1024;
/// As many as a kernel's buffer holds with their attributes.
const ENTRIES_WITH_ATTRIBUTES: u32 = 256;
/// Attributes of entries whose home is elsewhere are asked for all at once, for so many in one answer.
const ATTRIBUTES_AT_ONCE: usize = 32;

#[derive(Debug)]
pub(crate) struct DirectoryStream {
    pub(crate) inode: InodeId,
    listing: tokio::sync::Mutex<Listing>,
}

/// The page the listing is in.
#[derive(Debug, Default)]
struct Listing {
    /// The place before the first entry.
    start: u64,
    entries: Arc<Vec<DirectoryEntry>>,
    parent: Option<InodeId>,
    /// There is nothing behind this page.
    last: bool,
}

/// Places after `.` and `..`.
const AFTER_SELF: u64 = 1;
const AFTER_PARENT: u64 = 2;

/// Entries of a directory from a place on; the place to go on after one is its cookie.
pub(crate) struct Part {
    dots: Vec<DirectoryEntry>,
    page: Arc<Vec<DirectoryEntry>>,
    skip: usize,
}

impl DirectoryStream {
    pub(crate) fn new(inode: InodeId) -> DirectoryStream {
        DirectoryStream {
            inode,
            listing: tokio::sync::Mutex::new(Listing::default()),
        }
    }

    /// Names from a place on, at least one unless there are no more; those of a page may be some time old.
    pub(crate) async fn names(&self, cluster: &Cluster, from: u64) -> Result<Part, Errno> {
        let mut listing = self.listing.lock().await;
        if from == 0 {
            *listing = Listing::default();
        }
        let place = place_in_pages(from);
        let known = listing.position(place);
        let known = known.filter(|skip| *skip < listing.entries.len() || listing.ends_at(*skip));
        let skip = match known {
            Some(skip) => skip,
            None => {
                listing
                    .read_page(cluster, self.inode, place, PAGE_ENTRIES)
                    .await?
            }
        };
        Ok(listing.part(self.inode, from, skip))
    }

    /// The same as they are now: what the kernel is told with attributes it believes as if it had looked for it just now, and
    /// since its last question names may have come and gone by other calls of its own.
    pub(crate) async fn entries(&self, cluster: &Cluster, from: u64) -> Result<Part, Errno> {
        let mut listing = self.listing.lock().await;
        // Most listings end with the first page, or go on without attributes.
        let limit = match from {
            0 => PAGE_ENTRIES,
            _ => ENTRIES_WITH_ATTRIBUTES,
        };
        let place = place_in_pages(from);
        let skip = match listing.position(place) {
            // Nothing is told where it is known to end.
            Some(skip) if from > 0 && listing.ends_at(skip) => skip,
            _ => listing.read_page(cluster, self.inode, place, limit).await?,
        };
        Ok(listing.part(self.inode, from, skip))
    }
}

/// Pages are without `.` and `..`.
fn place_in_pages(from: u64) -> u64 {
    if from <= AFTER_PARENT { 0 } else { from }
}

impl Part {
    pub(crate) fn entries(&self) -> impl Iterator<Item = &DirectoryEntry> {
        self.dots.iter().chain(self.page.iter().skip(self.skip))
    }
}

/// Whether it is `.` or `..`.
pub(crate) fn is_dot(entry: &DirectoryEntry) -> bool {
    entry.cookie <= AFTER_PARENT
}

fn dot(name: &'static str, cookie: u64, inode: InodeId) -> DirectoryEntry {
    DirectoryEntry {
        name: Bytes::from_static(name.as_bytes()),
        inode,
        kind: FileKind::Directory,
        attributes: None,
        cookie,
    }
}

impl Listing {
    /// How many entries of the page are before a place; none if the place is not in the page.
    fn position(&self, place: u64) -> Option<usize> {
        if place == self.start {
            return Some(0);
        }
        let index = self.entries.iter().rposition(|entry| entry.cookie == place)?;
        Some(index + 1)
    }

    /// Whether the directory is known to end behind the first so many entries.
    fn ends_at(&self, skip: usize) -> bool {
        self.last && skip == self.entries.len()
    }

    fn part(&self, directory: InodeId, from: u64, skip: usize) -> Part {
        let mut dots = Vec::new();
        if from < AFTER_SELF {
            dots.push(dot(".", AFTER_SELF, directory));
        }
        if from < AFTER_PARENT {
            dots.push(dot("..", AFTER_PARENT, self.parent.unwrap_or(directory)));
        }
        Part {
            dots,
            page: self.entries.clone(),
            skip,
        }
    }

    /// Says where in the page the place is: at its start.
    async fn read_page(
        &mut self,
        cluster: &Cluster,
        directory: InodeId,
        place: u64,
        limit: u32,
    ) -> Result<usize, Errno> {
        let after = match place {
            0 => ListPosition::Start,
            cookie => ListPosition::AfterCookie(cookie),
        };
        let page = cluster.read_directory(directory, after, limit).await;
        let page = page.map_err(errno)?;
        self.start = place;
        self.parent = Some(page.parent);
        self.last = !page.more || page.entries.is_empty();
        self.entries = Arc::new(page.entries);
        Ok(0)
    }
}

/// What is asked about entries that came without attributes.
#[derive(Default)]
pub(crate) struct Asked {
    /// How many entries there is an answer for, from the first on.
    pub(crate) count: usize,
    /// None for what was removed meanwhile.
    attributes: HashMap<InodeId, Option<Attributes>>,
}

impl Asked {
    /// What is known of an entry now.
    pub(crate) fn attributes<'a>(&'a self, entry: &'a DirectoryEntry) -> Option<&'a Attributes> {
        match &entry.attributes {
            Some(attributes) => Some(attributes),
            None => self.attributes.get(&entry.inode)?.as_ref(),
        }
    }
}

/// Asks for the attributes of the first entries, but `.` and `..`, that came without; not of so many that it takes long.
pub(crate) async fn ask_missing(cluster: &Cluster, part: &Part) -> Result<Asked, Errno> {
    let mut asked = Asked::default();
    let mut missing = Vec::new();
    for entry in part.entries().take(ENTRIES_WITH_ATTRIBUTES as usize) {
        if entry.attributes.is_none() && !is_dot(entry) {
            if missing.len() == ATTRIBUTES_AT_ONCE {
                break;
            }
            missing.push(entry.inode);
        }
        asked.count += 1;
    }
    let answers = missing
        .into_iter()
        .map(|inode| async move { (inode, cluster.attributes(inode).await) });
    for (inode, answer) in futures::future::join_all(answers).await {
        let attributes = match answer {
            Ok(attributes) => Some(attributes),
            Err(Failure::Refused(Refusal::NotFound, _)) => None,
            Err(failure) => return Err(errno(failure)),
        };
        asked.attributes.insert(inode, attributes);
    }
    Ok(asked)
}
