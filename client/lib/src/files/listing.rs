//! A directory, page by page.

use std::collections::VecDeque;

use bark_schema::ids::InodeId;
use bark_schema::operation::{Attributes, DirectoryEntry, ListPosition, Query, Reply};
use bytes::Bytes;
use futures::StreamExt;

use crate::{Client, ClusterPath, Error};

/// Enough to make round trips rare, little enough to keep the first page fast.
const PAGE_ENTRIES: u32 = 1024;
/// Attributes of entries whose home is elsewhere are asked for this many at a time.
const ATTRIBUTES_AT_ONCE: usize = 32;

/// The entries of a directory in an order of its own. Entries made or removed meanwhile may or may not be seen.
#[derive(Debug)]
pub struct Listing {
    client: Client,
    path: ClusterPath,
    directory: InodeId,
    after: ListPosition,
    page: VecDeque<DirectoryEntry>,
    more: bool,
}

impl Listing {
    pub(crate) fn new(client: Client, path: ClusterPath, directory: InodeId) -> Listing {
        Listing {
            client,
            path,
            directory,
            after: ListPosition::Start,
            page: VecDeque::new(),
            more: true,
        }
    }

    /// The directory's inode.
    pub fn directory(&self) -> InodeId {
        self.directory
    }

    /// Goes on after this name, as if everything up to it had been read.
    pub fn after(mut self, name: Bytes) -> Listing {
        self.after = match name.is_empty() {
            true => ListPosition::Start,
            false => ListPosition::AfterName(name),
        };
        self
    }

    /// The next entry; its attributes are there if the directory's partition has them.
    pub async fn next_entry(&mut self) -> Result<Option<DirectoryEntry>, Error> {
        if self.page.is_empty() {
            self.page = self.next_page().await?.into();
        }
        Ok(self.page.pop_front())
    }

    /// The next page, empty at the end.
    pub async fn next_page(&mut self) -> Result<Vec<DirectoryEntry>, Error> {
        if !self.page.is_empty() {
            return Ok(self.page.drain(..).collect());
        }
        if !self.more {
            return Ok(Vec::new());
        }
        let query = Query::ReadDirectory {
            directory: self.directory,
            after: self.after.clone(),
            limit: PAGE_ENTRIES,
        };
        match self.client.query(self.directory.home(), query).await {
            Ok(Reply::Directory { entries, more, .. }) => {
                if let Some(last) = entries.last() {
                    self.after = ListPosition::AfterName(last.name.clone());
                }
                self.more = more && !entries.is_empty();
                Ok(entries)
            }
            Ok(other) => Err(Error::protocol(self.path.to_string(), &other)),
            Err(failure) => Err(Error::new(self.path.to_string(), failure)),
        }
    }

    /// The next page with the attributes of every entry; those removed meanwhile are left out.
    pub async fn next_page_with_attributes(&mut self) -> Result<Vec<(DirectoryEntry, Attributes)>, Error> {
        loop {
            let page = self.next_page().await?;
            if page.is_empty() {
                return Ok(Vec::new());
            }
            let files = self.client.files();
            let asked = futures::stream::iter(page).map(|entry| {
                let files = &files;
                async move {
                    let attributes = match &entry.attributes {
                        Some(attributes) => Ok(attributes.clone()),
                        None => files.attributes(entry.inode).await,
                    };
                    (entry, attributes)
                }
            });
            let mut asked = asked.buffered(ATTRIBUTES_AT_ONCE);
            let mut known = Vec::new();
            while let Some((entry, attributes)) = asked.next().await {
                match attributes {
                    Ok(attributes) => known.push((entry, attributes)),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            if !known.is_empty() {
                return Ok(known);
            }
        }
    }
}
