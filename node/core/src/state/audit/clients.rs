//! What clients have: sessions with their replies, leases with what is open; what transactions hold; and when
//! inodes without a name go.

use std::collections::BTreeMap;

use bark_schema::audit::{AuditCheck, AuditPage, AuditTransaction};
use bark_schema::ids::{ClientId, InodeId};
use bark_schema::operation::FileKind;

use super::super::State;
use super::super::extent::ExtentRow;
use super::super::lock::LockKey;
use super::{agree, fault_of};

impl State {
    pub(super) fn client_rows(&self) -> u64 {
        self.sessions.len()
            + self.replies.len()
            + self.leases.len()
            + self.opens.len()
            + self.opens_by_client.len()
            + self.delegations.len()
            + self.file_locks.len()
            + self.lock_waits.len()
            + self.orphans.len()
            + self.due_orphans.len()
    }

    pub(super) fn transaction_rows(&self) -> u64 {
        self.locks.len() + self.prepared.len()
    }

    pub(super) fn audit_clients(&self, page: &mut AuditPage) {
        for (inode, due) in self.orphans.iter() {
            if !self.due_orphans.contains(&(*due, *inode)) {
                page.faults.push(fault_of(AuditCheck::OrphanDue, *inode, 1, 0));
            }
        }
        let nobody = InodeId(0);
        agree(
            page,
            AuditCheck::OrphanDue,
            nobody,
            self.orphans.len(),
            self.due_orphans.len(),
        );
        self.audit_opens(page);
        self.audit_delegations(page);
        self.audit_file_locks(page);
        self.audit_sessions(page);
    }

    fn audit_delegations(&self, page: &mut AuditPage) {
        for (directory, client) in self.delegations.iter() {
            let is_directory = self
                .inodes
                .get(directory)
                .is_some_and(|row| row.kind() == FileKind::Directory && row.link_count > 0);
            let is_listed = self.delegations_by_client.contains(&(*client, *directory));
            if !is_directory || !is_listed || !self.leases.contains(client) {
                page.faults
                    .push(fault_of(AuditCheck::Delegation, *directory, client.0, 0));
            }
        }
        let (kept, found) = (self.delegations.len(), self.delegations_by_client.len());
        agree(page, AuditCheck::Delegation, InodeId(0), kept, found);
    }

    fn audit_opens(&self, page: &mut AuditPage) {
        let mut opens: BTreeMap<ClientId, u64> = BTreeMap::new();
        for ((inode, client), ()) in self.opens.iter() {
            if !self.opens_by_client.contains(&(*client, *inode)) {
                page.faults.push(fault_of(AuditCheck::OpenIndex, *inode, 1, 0));
            }
            *opens.entry(*client).or_default() += 1;
        }
        let (kept, found) = (self.opens.len(), self.opens_by_client.len());
        agree(page, AuditCheck::OpenIndex, InodeId(0), kept, found);
        for (client, lease) in self.leases.iter() {
            let found = opens.remove(client).unwrap_or(0);
            let client = InodeId(client.0);
            agree(page, AuditCheck::OpenCount, client, lease.opens.into(), found);
        }
        for (client, found) in opens {
            agree(page, AuditCheck::OpenCount, InodeId(client.0), 0, found);
        }
    }

    fn audit_sessions(&self, page: &mut AuditPage) {
        let mut replies: BTreeMap<ClientId, u64> = BTreeMap::new();
        for ((client, _), _) in self.replies.iter() {
            *replies.entry(*client).or_default() += 1;
        }
        for (client, session) in self.sessions.iter() {
            let found = replies.remove(client).unwrap_or(0);
            let client = InodeId(client.0);
            agree(
                page,
                AuditCheck::SessionReplies,
                client,
                session.replies.into(),
                found,
            );
        }
        for (client, found) in replies {
            agree(page, AuditCheck::SessionReplies, InodeId(client.0), 0, found);
        }
    }

    pub(super) fn audit_locks(&self, page: &mut AuditPage) {
        let mut expected = BTreeMap::new();
        for (transaction, prepared) in self.prepared.iter() {
            page.transactions.push(AuditTransaction {
                transaction: *transaction,
                primary: prepared.primary,
                since: prepared.since,
            });
            for step in &prepared.steps {
                expected.insert(LockKey::of_step(step), *transaction);
            }
        }
        let right = self
            .locks
            .iter()
            .filter(|(key, holder)| expected.get(key) == Some(holder))
            .count() as u64;
        let nobody = InodeId(0);
        agree(page, AuditCheck::LockHolder, nobody, self.locks.len(), right);
        agree(page, AuditCheck::LockHolder, nobody, expected.len() as u64, right);
    }

    /// What is kept beside the tables to find rows of theirs: not part of the state replicas compare.
    pub(super) fn audit_indexes(&self) -> Result<(), String> {
        if let Some(block) = self.unnoticed_shortage() {
            return Err(format!("{block} has too few copies and is not among those"));
        }
        let is_patch = |row: &ExtentRow| matches!(row, ExtentRow::Patch { .. });
        let patches = self.extents.iter().filter(|(_, row)| is_patch(row));
        match patches.map(|(key, _)| key).eq(self.patches.iter()) {
            true => Ok(()),
            false => Err("the list of patches does not name the rows that are patches".to_owned()),
        }
    }
}
