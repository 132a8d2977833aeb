//! Listing a directory out of the table, as a node would: in the order of cookies.

use std::sync::Arc;

use bark_schema::ids::InodeId;
use bark_schema::listing::cookie;
use bark_schema::operation::{DirectoryEntry, ListPosition};
use bytes::Bytes;

use super::{Delegations, Name, Parent, Table};
use crate::cluster::Page;

/// Directories with more names are listed by the nodes, which have them in order; here they are put in order for each page.
pub(super) const NAMES_SORTED_MAX: usize = 8192;
/// More names that are not known here are not worth asking about one by one.
const UNKNOWN_MAX: usize = 32;

/// What the table knows of a directory's entries.
pub(crate) enum Listed {
    Page(Page),
    /// All but where these names lead.
    Unknown(Vec<Bytes>),
}

impl Delegations {
    /// About `limit` entries behind `after`, if the directory is known here.
    pub(crate) async fn list(
        self: &Arc<Self>,
        directory: InodeId,
        after: &ListPosition,
        limit: usize,
    ) -> Option<Listed> {
        let after = match after {
            ListPosition::Start => 0,
            ListPosition::AfterCookie(cookie) => *cookie,
            ListPosition::AfterName(_) => return None,
        };
        self.wait_until_ready(directory).await;
        self.lock().list(directory, after, limit)
    }

    /// How often directories may have been moved by now.
    pub(crate) fn moves(&self) -> u64 {
        self.lock().moves
    }

    /// What the cluster said of where a directory is, asked when so many moves had been made.
    pub(crate) fn learn_parent(&self, directory: InodeId, parent: InodeId, moves: u64) {
        let mut table = self.lock();
        if let Some(directory) = table.ready(directory) {
            let inode = parent;
            directory.parent = Some(Parent { inode, moves });
        }
    }
}

impl Table {
    fn list(&mut self, directory: InodeId, after: u64, limit: usize) -> Option<Listed> {
        let moves = self.moves;
        let found = self.ready(directory)?;
        let parent = found.parent.filter(|parent| parent.moves == moves)?.inode;
        if !found.is_complete || found.names.len() > NAMES_SORTED_MAX {
            return None;
        }
        let mut behind = Vec::with_capacity(found.names.len());
        let mut unknown = Vec::new();
        for (name, leads_to) in &found.names {
            match leads_to {
                Name::Unknown { .. } => unknown.push(name.clone()),
                Name::Nothing => {}
                Name::Member(_) | Name::Elsewhere(..) => {
                    let cookie = cookie(name);
                    if cookie > after {
                        behind.push((cookie, name.clone(), *leads_to));
                    }
                }
            }
        }
        if !unknown.is_empty() {
            return (unknown.len() <= UNKNOWN_MAX).then_some(Listed::Unknown(unknown));
        }
        let more = cut(&mut behind, limit);
        behind.sort_unstable_by(|left, right| (left.0, &left.1).cmp(&(right.0, &right.1)));
        let entries = behind.into_iter().map(|(cookie, name, leads_to)| {
            let (inode, kind, attributes) = match leads_to {
                Name::Member(inode) => {
                    let attributes = self.files.get(&inode)?.attributes.clone()?;
                    (inode, attributes.kind, Some(attributes))
                }
                Name::Elsewhere(inode, kind) => (inode, kind, None),
                Name::Nothing | Name::Unknown { .. } => return None,
            };
            Some(DirectoryEntry {
                name,
                inode,
                kind,
                attributes,
                cookie,
            })
        });
        Some(Listed::Page(Page {
            entries: entries.collect::<Option<Vec<_>>>()?,
            more,
            parent,
        }))
    }
}

/// Leaves the first `limit` by cookie, and whatever shares the last cookie: who goes on behind it would miss that. Says
/// whether anything is gone.
fn cut(entries: &mut Vec<(u64, Bytes, Name)>, limit: usize) -> bool {
    if entries.len() <= limit || limit == 0 {
        return false;
    }
    let (_, last, _) = entries.select_nth_unstable_by_key(limit - 1, |entry| entry.0);
    let last = last.0;
    let count = entries.len();
    entries.retain(|entry| entry.0 <= last);
    entries.len() < count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_part_no_names_with_the_same_cookie() {
        // Goal: who goes on behind a page misses nothing. Method: entries of which some share their cookie, in pages of every size.
        let cookies = [9, 3, 5, 5, 7, 5, 1];
        let all: Vec<(u64, Bytes, Name)> = cookies
            .iter()
            .map(|cookie| (*cookie, Bytes::new(), Name::Nothing))
            .collect();
        let expected = [(1, 6), (2, 5), (5, 2), (5, 2), (5, 2), (6, 1), (7, 0)];
        for (limit, (kept, gone)) in (1..).zip(expected) {
            let mut page = all.clone();
            assert_eq!((cut(&mut page, limit), page.len()), (gone > 0, kept), "{limit}");
        }
    }
}
