//! Entries and inodes that do not agree. An entry is what people see, so inodes follow entries; an inode without an entry
//! gets one in the quarantine; an entry without an inode is put aside.
//!
//! A directory has one entry. If it has several, the one its parent pointer leads to stays.

use bark_schema::audit::{AuditName, AuditQuery};
use bark_schema::ids::InodeId;
use bark_schema::operation::{Failure, FileKind, Query};
use bark_schema::repair::RepairStep;

use super::super::audit_page;
use super::{Operation, Reason, Surgeon};

impl<S: Surgeon> Operation<'_, S> {
    /// Both sides of the names of an inode in a directory, looked at anew.
    pub(super) async fn put_name_right(
        &mut self,
        inode: InodeId,
        directory: InodeId,
        what: &str,
    ) -> Result<(), Reason> {
        let said = self.examination.said(inode).await.map_err(reason)?;
        let entries = self.entries(directory, inode).await.map_err(reason)?;
        if !said.exists {
            return self.drop_entries(&entries, what).await;
        }
        let counted = said.names.iter().find(|name| name.directory == directory);
        if entries.is_empty() && counted.is_none() {
            // Another step has put it right.
            return Ok(());
        }
        let kind = said.names.first().map(|name| name.kind);
        if let Some(kind) = kind {
            for entry in entries.iter().filter(|entry| entry.kind != kind) {
                let step = RepairStep::EntryKind {
                    directory,
                    cookie: entry.cookie,
                    inode,
                    kind,
                };
                self.step(directory.home(), step, what).await?;
            }
        }
        let kind = kind.or(entries.first().map(|entry| entry.kind));
        if kind == Some(FileKind::Directory) {
            let parent = said.names.first().map(|name| name.directory);
            return self
                .put_directory_right(inode, directory, parent, &entries, what)
                .await;
        }
        let links: u32 = said.names.iter().map(|name| name.count).sum();
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        if count == 0 && counted.is_some_and(|name| name.count == links) {
            let kind = kind.unwrap_or(FileKind::Regular);
            return self.move_to_quarantine(inode, Some(directory), kind, what).await;
        }
        let step = RepairStep::Names {
            inode,
            directory,
            count,
        };
        self.step(inode.home(), step, what).await?;
        Ok(())
    }

    async fn put_directory_right(
        &mut self,
        inode: InodeId,
        directory: InodeId,
        parent: Option<InodeId>,
        entries: &[AuditName],
        what: &str,
    ) -> Result<(), Reason> {
        let Some((_, others)) = entries.split_first() else {
            return self
                .move_to_quarantine(inode, None, FileKind::Directory, what)
                .await;
        };
        let is_elsewhere = match parent {
            Some(parent) if parent != directory => {
                !self.entries(parent, inode).await.map_err(reason)?.is_empty()
            }
            _ => false,
        };
        if is_elsewhere {
            return self.drop_entries(entries, what).await;
        }
        if parent != Some(directory) {
            let step = RepairStep::Names {
                inode,
                directory,
                count: 1,
            };
            self.step(inode.home(), step, what).await?;
        }
        self.drop_entries(others, what).await
    }

    /// An inode whose last name is not there has one in the quarantine from now on.
    async fn move_to_quarantine(
        &mut self,
        inode: InodeId,
        from: Option<InodeId>,
        kind: FileKind,
        what: &str,
    ) -> Result<(), Reason> {
        let quarantine = self.quarantine().await?;
        // The new name is counted before the old one is not, so that it is never without.
        let counts = [
            (Some(quarantine), 1),
            (from.filter(|from| *from != quarantine), 0),
        ];
        for (directory, count) in counts {
            if let Some(directory) = directory {
                let step = RepairStep::Names {
                    inode,
                    directory,
                    count,
                };
                self.step(inode.home(), step, what).await?;
            }
        }
        let entry = RepairStep::NumberEntry {
            directory: quarantine,
            inode,
            kind,
        };
        self.step(quarantine.home(), entry, what).await?;
        Ok(())
    }

    /// Directories that are inside each other: one of them goes to the quarantine, with the others in it.
    pub(super) async fn open_loop(&mut self, inode: InodeId, what: &str) -> Result<(), Reason> {
        let mut walked = std::collections::BTreeSet::new();
        let mut at = inode;
        while walked.insert(at) {
            match self.examination.parent(at).await.map_err(reason)? {
                Some(parent) if parent != InodeId::ROOT => at = parent,
                // Another step has opened it.
                _ => return Ok(()),
            }
        }
        let Some(parent) = self.examination.parent(at).await.map_err(reason)? else {
            return Ok(());
        };
        let entries = self.entries(parent, at).await.map_err(reason)?;
        self.move_to_quarantine(at, None, FileKind::Directory, what)
            .await?;
        self.drop_entries(&entries, what).await
    }

    async fn drop_entries(&mut self, entries: &[AuditName], what: &str) -> Result<(), Reason> {
        for entry in entries {
            let step = RepairStep::DropEntry {
                directory: entry.directory,
                cookie: entry.cookie,
                inode: entry.inode,
            };
            self.step(entry.directory.home(), step, what).await?;
        }
        Ok(())
    }

    async fn entries(&self, directory: InodeId, inode: InodeId) -> Result<Vec<AuditName>, Failure> {
        let query = Query::Audit(AuditQuery::Entries { directory, inode });
        let reply = self.examination.source.query(directory.home(), query).await?;
        Ok(audit_page(reply)?.entries)
    }
}

fn reason(failure: Failure) -> Reason {
    failure.to_string()
}
