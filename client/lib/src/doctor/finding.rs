//! What is reported: one plain sentence for each thing that is wrong, where it is, and what to do.

use bark_schema::audit::AuditFault;
use bark_schema::ids::{BlockId, InodeId, NodeNumber, PartitionId};
use bark_schema::operation::Failure;

/// What is wrong. The names are what programs read; they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingKind {
    /// A node or a partition did not answer: not everything was looked at.
    Unanswered,
    ReplicaDiffers,
    Version,
    EntryWithoutInode,
    EntryNotCounted,
    EntryKind,
    NameMissing,
    DirectoryLoop,
    DirectoryCount,
    Inode,
    Extent,
    Block,
    CopyMissing,
    CopyDiffers,
    Counter,
    Size,
    Open,
    Session,
    Lock,
    Transaction,
}

impl FindingKind {
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Unanswered => "unanswered",
            FindingKind::ReplicaDiffers => "replica-differs",
            FindingKind::Version => "version",
            FindingKind::EntryWithoutInode => "entry-without-inode",
            FindingKind::EntryNotCounted => "entry-not-counted",
            FindingKind::EntryKind => "entry-kind",
            FindingKind::NameMissing => "name-missing",
            FindingKind::DirectoryLoop => "directory-loop",
            FindingKind::DirectoryCount => "directory-count",
            FindingKind::Inode => "inode",
            FindingKind::Extent => "extent",
            FindingKind::Block => "block",
            FindingKind::CopyMissing => "copy-missing",
            FindingKind::CopyDiffers => "copy-differs",
            FindingKind::Counter => "counter",
            FindingKind::Size => "size",
            FindingKind::Open => "open",
            FindingKind::Session => "session",
            FindingKind::Lock => "lock",
            FindingKind::Transaction => "transaction",
        }
    }

    /// What whoever reads it should do.
    pub fn advice(self) -> &'static str {
        match self {
            FindingKind::Unanswered => "see `bark status`, bring it back and look again",
            FindingKind::ReplicaDiffers => {
                "stop the node whose state differs, keep its data for a report, and have it replaced"
            }
            FindingKind::Version => "bring all nodes to the same version",
            FindingKind::CopyMissing | FindingKind::CopyDiffers => {
                "the nodes make it anew from a good copy, if there is one: look again; if not, put back the files it was of"
            }
            FindingKind::Transaction => {
                "see the log of the partition's leader; restarting that node decides it"
            }
            FindingKind::EntryWithoutInode
            | FindingKind::EntryNotCounted
            | FindingKind::EntryKind
            | FindingKind::NameMissing
            | FindingKind::DirectoryLoop
            | FindingKind::DirectoryCount
            | FindingKind::Inode
            | FindingKind::Extent
            | FindingKind::Block
            | FindingKind::Counter
            | FindingKind::Size
            | FindingKind::Open
            | FindingKind::Session
            | FindingKind::Lock => {
                "a defect of the program: please report it; `bark doctor --repair` puts right what can be, and can be undone"
            }
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub kind: FindingKind,
    /// A path where there is one, else the partition, node or block.
    pub place: String,
    pub sentence: String,
    pub partition: Option<PartitionId>,
    pub node: Option<NodeNumber>,
    pub inode: Option<InodeId>,
    pub directory: Option<InodeId>,
    pub block: Option<BlockId>,
    /// Of rows of one partition.
    pub fault: Option<AuditFault>,
    /// Whose size was told wrong.
    pub contributor: Option<InodeId>,
}

impl Finding {
    pub(super) fn new(kind: FindingKind, place: impl Into<String>, sentence: impl Into<String>) -> Finding {
        Finding {
            kind,
            place: place.into(),
            sentence: sentence.into(),
            partition: None,
            node: None,
            inode: None,
            directory: None,
            block: None,
            fault: None,
            contributor: None,
        }
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    pub rows: u64,
    /// Names, as inodes count them.
    pub names: u64,
    pub entries: u64,
    pub blocks: u64,
    pub copies: u64,
}

/// What an examination found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub findings: Vec<Finding>,
    /// Further findings that are only counted.
    pub more: u64,
    /// What could not be looked at, though nothing is wrong with it.
    pub notes: Vec<String>,
    pub looked: Looked,
}

/// Findings that are kept; more are counted.
const FINDINGS_MAX: usize = 10_000;

impl Report {
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    pub(super) fn add(&mut self, finding: Finding) {
        match self.findings.len() < FINDINGS_MAX {
            true => self.findings.push(finding),
            false => self.more += 1,
        }
    }

    pub(super) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    pub(super) fn unanswered(&mut self, place: String, failure: &Failure) {
        let is_known = |known: &Finding| known.kind == FindingKind::Unanswered && known.place == place;
        if !self.findings.iter().any(is_known) {
            let sentence = format!("does not answer, so that not everything was looked at: {failure}");
            self.add(Finding::new(FindingKind::Unanswered, place, sentence));
        }
    }

    /// In the order people read them in.
    pub(super) fn sort(&mut self) {
        self.findings
            .sort_by(|a, b| (a.kind, &a.place, &a.sentence).cmp(&(b.kind, &b.place, &b.sentence)));
    }
}
