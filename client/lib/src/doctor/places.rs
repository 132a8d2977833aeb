//! Where things are, for people: the path of an inode, found upwards from its directory.

use bark_schema::audit::AuditQuery;
use bark_schema::ids::InodeId;
use bark_schema::operation::{Failure, ListPosition, Query, Reply};

use super::{Examination, Source, audit_page, faults};

/// Deeper trees are named by number.
const DEPTH_MAX: usize = 64;

impl<S: Source> Examination<'_, S> {
    /// A path if the inode has one that can be found, else its number.
    pub(super) async fn place_of(&self, inode: InodeId) -> String {
        match self.path_of(inode).await {
            Ok(Some(path)) => path,
            _ => faults::number(inode),
        }
    }

    /// Where an entry of a directory is, by its cookie.
    pub(super) async fn place_of_entry(&self, directory: InodeId, cookie: u64) -> String {
        let above = match directory {
            InodeId::ROOT => String::new(),
            _ => self.place_of(directory).await,
        };
        match self.entry_name(directory, cookie).await {
            Ok(Some(name)) => format!("{above}/{name}"),
            _ => format!("{above}/?"),
        }
    }

    async fn path_of(&self, inode: InodeId) -> Result<Option<String>, Failure> {
        let mut names: Vec<String> = Vec::new();
        let mut at = inode;
        while at != InodeId::ROOT {
            let Some(directory) = self.parent(at).await? else {
                return Ok(None);
            };
            let query = Query::Audit(AuditQuery::Entries { directory, inode: at });
            let page = audit_page(self.source.query(directory.home(), query).await?)?;
            let Some(entry) = page.entries.first() else {
                return Ok(None);
            };
            let Some(name) = self.entry_name(directory, entry.cookie).await? else {
                return Ok(None);
            };
            names.push(name);
            at = directory;
            if names.len() > DEPTH_MAX {
                return Ok(None);
            }
        }
        names.reverse();
        Ok(Some(format!("/{}", names.join("/"))))
    }

    async fn entry_name(&self, directory: InodeId, cookie: u64) -> Result<Option<String>, Failure> {
        let query = Query::ReadDirectory {
            directory,
            after: ListPosition::AfterCookie(cookie.saturating_sub(1)),
            limit: 1,
        };
        match self.source.query(directory.home(), query).await? {
            Reply::Directory { entries, .. } => {
                let found = entries.iter().find(|entry| entry.cookie == cookie);
                Ok(found.map(|entry| String::from_utf8_lossy(&entry.name).into_owned()))
            }
            other => Err(super::unexpected(&other)),
        }
    }
}
