//! A directory a program is listing.
//!
//! The place after an entry is the cookie the cluster gave it, which stays the same as long as the entry has
//! its name; so a program may go on from any place it has seen, in another stream too. `.` and `..` come
//! first, at places cookies never have.

use bark_schema::ids::InodeId;
use bark_schema::operation::{Attributes, DirectoryEntry, Failure, FileKind, ListPosition, Refusal};
use bytes::Bytes;
use fuser::Errno;
use futures::StreamExt;

use crate::cluster::Cluster;
use crate::errno::errno;

/// Enough to make round trips rare, little enough to keep the first page fast.
const PAGE_ENTRIES: u32 = 1024;
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
    entries: Vec<DirectoryEntry>,
    parent: Option<InodeId>,
    /// There is nothing behind this page.
    last: bool,
}

/// Places after `.` and `..`.
const AFTER_SELF: u64 = 1;
const AFTER_PARENT: u64 = 2;

/// An entry and the place to go on after it.
pub(crate) struct Listed {
    pub(crate) next: u64,
    pub(crate) name: Bytes,
    pub(crate) inode: InodeId,
    pub(crate) kind: FileKind,
    pub(crate) attributes: Option<Attributes>,
}

impl DirectoryStream {
    pub(crate) fn new(inode: InodeId) -> DirectoryStream {
        DirectoryStream {
            inode,
            listing: tokio::sync::Mutex::new(Listing::default()),
        }
    }

    /// Entries from a place on, at least one unless there are no more.
    pub(crate) async fn entries(
        &self,
        cluster: &Cluster,
        from: u64,
        count: usize,
    ) -> Result<Vec<Listed>, Errno> {
        let mut listing = self.listing.lock().await;
        if from == 0 {
            *listing = Listing::default();
        }
        let place = if from <= AFTER_PARENT { 0 } else { from };
        let mut skip = listing.position(place);
        let exhausted = skip.is_some_and(|skip| skip == listing.entries.len() && !listing.last);
        if skip.is_none() || exhausted || listing.parent.is_none() {
            listing.read_page(cluster, self.inode, place).await?;
            skip = Some(0);
        }
        let parent = listing.parent.unwrap_or(self.inode);
        let mut listed = Vec::new();
        if from < AFTER_SELF {
            listed.push(dot(".", AFTER_SELF, self.inode));
        }
        if from < AFTER_PARENT {
            listed.push(dot("..", AFTER_PARENT, parent));
        }
        for entry in listing.entries.iter().skip(skip.unwrap_or(0)).take(count) {
            listed.push(Listed {
                next: entry.cookie,
                name: entry.name.clone(),
                inode: entry.inode,
                kind: entry.kind,
                attributes: entry.attributes.clone(),
            });
        }
        Ok(listed)
    }
}

impl Listed {
    /// `.` or `..`.
    pub(crate) fn is_dot(&self) -> bool {
        self.next <= AFTER_PARENT
    }
}

fn dot(name: &'static str, next: u64, inode: InodeId) -> Listed {
    Listed {
        next,
        name: Bytes::from_static(name.as_bytes()),
        inode,
        kind: FileKind::Directory,
        attributes: None,
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

    async fn read_page(&mut self, cluster: &Cluster, directory: InodeId, place: u64) -> Result<(), Errno> {
        let after = match place {
            0 => ListPosition::Start,
            cookie => ListPosition::AfterCookie(cookie),
        };
        let page = cluster.read_directory(directory, after, PAGE_ENTRIES).await;
        let page = page.map_err(errno)?;
        self.start = place;
        self.parent = Some(page.parent);
        self.last = !page.more || page.entries.is_empty();
        self.entries = page.entries;
        Ok(())
    }
}

/// With the attributes of every entry but `.` and `..`; those removed meanwhile are left out, and the last ones if too many have to
/// be asked about.
pub(crate) async fn complete(
    cluster: &Cluster,
    mut listed: Vec<Listed>,
) -> Result<Vec<(Listed, Option<Attributes>)>, Errno> {
    let unknown = |(_, entry): &(usize, &Listed)| entry.attributes.is_none() && !entry.is_dot();
    let too_many = listed.iter().enumerate().filter(unknown).nth(ATTRIBUTES_AT_ONCE);
    let count = too_many.map_or(listed.len(), |(index, _)| index);
    listed.truncate(count);
    let asked = listed.into_iter().map(|entry| async move {
        let attributes = match &entry.attributes {
            None if !entry.is_dot() => cluster.attributes(entry.inode).await.map(Some),
            known => Ok(known.clone()),
        };
        (entry, attributes)
    });
    let mut asked = futures::stream::iter(asked).buffered(ATTRIBUTES_AT_ONCE);
    let mut known = Vec::new();
    while let Some((entry, attributes)) = asked.next().await {
        match attributes {
            Ok(attributes) => known.push((entry, attributes)),
            Err(Failure::Refused(Refusal::NotFound, _)) => {}
            Err(failure) => return Err(errno(failure)),
        }
    }
    Ok(known)
}
