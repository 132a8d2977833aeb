//! Sentences for what leaders find wrong among their own rows.

use bark_schema::audit::{AuditCheck, AuditFault, AuditTransaction};
use bark_schema::ids::{ClientId, InodeId, PartitionId};

use super::finding::{Finding, FindingKind};
use super::{Examination, Source};

impl<S: Source> Examination<'_, S> {
    pub(super) async fn describe_fault(&self, partition: PartitionId, fault: &AuditFault) -> Finding {
        let (kind, sentence) = say(fault);
        let of_inode = matches!(
            kind,
            FindingKind::DirectoryCount | FindingKind::Inode | FindingKind::Extent
        );
        let place = match (kind, fault.block) {
            (FindingKind::Session | FindingKind::Open, _) if fault.inode.0 != 0 => partition.to_string(),
            (FindingKind::Block, Some(block)) => block.to_string(),
            _ if fault.inode.0 != 0 => self.place_of(fault.inode).await,
            _ => partition.to_string(),
        };
        Finding {
            partition: Some(partition),
            inode: of_inode.then_some(fault.inode),
            block: fault.block,
            fault: Some(*fault),
            ..Finding::new(kind, place, sentence)
        }
    }
}

pub(super) fn old_transaction(
    partition: PartitionId,
    transaction: &AuditTransaction,
    age_ms: u64,
) -> Finding {
    let id = transaction.transaction;
    let sentence = format!(
        "transaction {:016x}/{}/{} of {} has been prepared for {} s and holds its entries and keys",
        id.client.0,
        id.sequence,
        id.attempt,
        transaction.primary,
        age_ms / 1000
    );
    Finding {
        partition: Some(partition),
        ..Finding::new(FindingKind::Transaction, partition.to_string(), sentence)
    }
}

fn say(fault: &AuditFault) -> (FindingKind, String) {
    let AuditFault {
        kept, found, offset, ..
    } = *fault;
    let client = ClientId(fault.inode.0);
    let block = fault.block.map_or(String::new(), |block| block.to_string());
    match fault.check {
        AuditCheck::EntryCount => (
            FindingKind::DirectoryCount,
            format!("the directory counts {kept} entries and has {found}"),
        ),
        AuditCheck::DirectoryLinks => (
            FindingKind::DirectoryCount,
            format!("the directory's link count is {kept}, with the directories in it it should be {found}"),
        ),
        AuditCheck::EntriesOfNothing => (
            FindingKind::DirectoryCount,
            format!("{found} entries are kept for something that is no directory"),
        ),
        AuditCheck::EntriesOfGone => (
            FindingKind::DirectoryCount,
            format!("a directory that was removed has {found} entries"),
        ),
        AuditCheck::NameCount => (
            FindingKind::Inode,
            format!("the link count calls for {kept} recorded names, and there are {found}"),
        ),
        AuditCheck::CountedName => (
            FindingKind::Inode,
            format!("it counts in the directory {kept}, which has no name of it"),
        ),
        AuditCheck::OrphanStays => (
            FindingKind::Inode,
            "it has no name, nobody has it open, and it would never go".to_owned(),
        ),
        AuditCheck::InodeNumber => (
            FindingKind::Inode,
            format!("its number {found} was never given: the next one is {kept}"),
        ),
        AuditCheck::XattrCount => (
            FindingKind::Inode,
            format!("it counts {kept} extended attributes and has {found}"),
        ),
        AuditCheck::XattrsOfNothing => (
            FindingKind::Inode,
            format!("it does not exist and has {found} extended attributes"),
        ),
        AuditCheck::ContentLength => (
            FindingKind::Inode,
            format!("it has {found} bytes inside its inode and a size of {kept}"),
        ),
        AuditCheck::ExtentOverlap => (
            FindingKind::Extent,
            format!("the extent at {offset} is empty or begins before {kept}, where another ends"),
        ),
        AuditCheck::ExtentBeyondEnd => (
            FindingKind::Extent,
            format!("the extent at {offset} ends at {found}, the file at {kept}"),
        ),
        AuditCheck::ExtentOfNothing => (
            FindingKind::Extent,
            format!("it does not exist and has {found} extents"),
        ),
        AuditCheck::ExtentCount => (
            FindingKind::Extent,
            format!("it counts {kept} extents and has {found}"),
        ),
        AuditCheck::ExtentBytes => (
            FindingKind::Extent,
            format!("its extents are to be {kept} bytes and are {found}"),
        ),
        AuditCheck::ExtentBlock if kept == 0 => (
            FindingKind::Extent,
            format!("the extent at {offset} points into {block}, which is not recorded"),
        ),
        AuditCheck::ExtentBlock => (
            FindingKind::Extent,
            format!("the extent at {offset} points up to byte {found} of {block}, which has {kept}"),
        ),
        AuditCheck::BlockReferences => (
            FindingKind::Block,
            format!("{kept} extents are counted that point into it, there are {found}"),
        ),
        AuditCheck::BlockInLedger => (
            FindingKind::Block,
            "files point into it, and it is in the ledger of blocks to drop".to_owned(),
        ),
        AuditCheck::BlockSize => (
            FindingKind::Block,
            format!("it is recorded with {found} bytes, a block has at most {kept}"),
        ),
        AuditCheck::AllocatedBytes => counter("bytes stored in files", kept, found),
        AuditCheck::BlockBytes => counter("bytes of blocks in use", kept, found),
        AuditCheck::GarbageBytes => counter("bytes of blocks to drop", kept, found),
        AuditCheck::PatchBytes => counter("bytes not in blocks yet", kept, found),
        AuditCheck::FileBytes => counter("bytes of files", kept, found),
        AuditCheck::OrphanCount => counter("files without a name", kept, found),
        AuditCheck::UsageOwn => (
            FindingKind::Size,
            format!("what is in the directory itself is kept as {kept} and adds up to {found}"),
        ),
        AuditCheck::UsageBelow => (
            FindingKind::Size,
            format!("what is below the directory is kept as {kept} and adds up to {found}"),
        ),
        AuditCheck::QuotaUsed => (
            FindingKind::Size,
            format!("what is used here of its quota is kept as {kept} and adds up to {found}"),
        ),
        AuditCheck::OpenIndex => (
            FindingKind::Open,
            format!("open files are listed {kept} times by file and {found} times by client"),
        ),
        AuditCheck::OpenCount => (
            FindingKind::Open,
            format!("the lease of {client} counts {kept} open files, {found} are recorded"),
        ),
        AuditCheck::OrphanDue => (
            FindingKind::Open,
            format!("files without a name are due {kept} times by number and {found} times by time"),
        ),
        AuditCheck::SessionReplies => (
            FindingKind::Session,
            format!("the session of {client} counts {kept} answers, {found} are recorded"),
        ),
        AuditCheck::Delegation => (
            FindingKind::Lock,
            format!("its delegation to client {kept:016x} is not one that can be"),
        ),
        AuditCheck::FileLock => (
            FindingKind::Lock,
            format!("advisory locks are against each other, of nobody, or counted wrong ({kept}, {found})"),
        ),
        AuditCheck::LockHolder => (
            FindingKind::Lock,
            format!("{kept} locks are held or should be, {found} are right"),
        ),
    }
}

fn counter(what: &str, kept: u64, found: u64) -> (FindingKind, String) {
    let sentence = format!("{what}: {kept} are counted, {found} are there");
    (FindingKind::Counter, sentence)
}

/// How an inode without a known name is called.
pub(super) fn number(inode: InodeId) -> String {
    format!("inode {} of {}", inode.0 & InodeId::COUNTER_MAX, inode.home())
}
