//! Putting right what an examination found, and taking that back.
//!
//! One step is one log entry of one partition. The partition plans it: it looks whether what was found is still so, and
//! names the rows that would change. They are kept before they are sent, and change only if they are still what they
//! were; so a step that comes late, or twice, or beside somebody who puts the same right, does nothing.
//!
//! After a round everything is looked at again: one thing wrong is often told in several ways, and what was behind it
//! shows only then. It ends when nothing is found, or when nothing more can be done.
//!
//! Nothing is deleted. What has no name gets one in the quarantine; a row that belongs to nothing is in the journal.
//!
//! Previous in the flow: `bark doctor --repair`, or the simulator. Next: [`Surgeon::keep`], which writes the journal.
//!
//! Invariants:
//! - No row changes before the step that changes it was kept.
//! - What is named [`Left`] is as it was found.

mod faults;
mod names;

use bark_schema::audit::{AuditName, AuditPage, AuditQuery};
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Command, Failure, Query, Refusal, Reply};
use bark_schema::repair::{RepairCommand, RepairStep};

use super::finding::{Finding, FindingKind, Report};
use super::{Examination, Members, Source, audit_page, examine};

/// Who changes things, and keeps what was changed.
#[allow(async_fn_in_trait)] // Nobody sends these futures to another thread.
pub trait Surgeon: Source {
    async fn command(&self, partition: PartitionId, command: Command) -> Result<Reply, Failure>;
    /// The directory where what lost its name gets one.
    async fn quarantine(&self) -> Result<InodeId, Failure>;
    /// Comes back when the step would outlive a loss of power.
    async fn keep(&self, step: &Kept) -> Result<(), Failure>;
    /// How a step that was kept ended; not known if this never comes.
    async fn ended(&self, step: &Kept, end: End) -> Result<(), Failure>;
}

/// A step as a journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Counted from 1.
    pub number: u64,
    pub partition: PartitionId,
    /// A sentence for people.
    pub what: String,
    pub command: RepairCommand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    /// Something moved: it changed nothing.
    Refused,
    /// It was taken back.
    Undone,
}

/// A finding that is as it was, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    pub finding: Finding,
    pub why: String,
}

/// What a repair came to.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// What was done, in order.
    pub steps: Vec<String>,
    pub left: Vec<Left>,
    /// Of everything, afterwards.
    pub report: Report,
}

/// How a step was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    Done,
    /// Sums were made anew, or nothing was changed.
    Nothing,
    Left(String),
}

/// Rounds of looking and putting right. Three come to the end of all that has been seen: names, what they are counted
/// in, and sizes.
const ROUNDS_MAX: u32 = 5;
/// How often a step is planned anew when something moved under it.
const PLANS_MAX: u32 = 20;

/// Puts right what can be.
pub async fn repair(surgeon: &impl Surgeon, members: &Members) -> Repaired {
    let mut repaired = Repaired::default();
    let mut number = 0;
    for _ in 0..ROUNDS_MAX {
        repaired.report = examine(surgeon, members).await;
        repaired.left.clear();
        if repaired.report.is_clean() {
            break;
        }
        let done_before = repaired.steps.len();
        let mut operation = Operation {
            examination: Examination {
                source: surgeon,
                members,
                report: Report::default(),
            },
            number: &mut number,
            steps: &mut repaired.steps,
        };
        // What has a name is found by it; so names come before what seems to have none.
        let mut findings = repaired.report.findings.clone();
        findings.sort_by_key(|finding| !is_of_names(finding.kind));
        for finding in findings {
            if let Err(why) = operation.put_right(&finding).await {
                repaired.left.push(Left { finding, why });
            }
        }
        if repaired.steps.len() == done_before {
            break;
        }
        surgeon.pause().await;
    }
    if repaired.steps.is_empty() || repaired.report.is_clean() {
        return repaired;
    }
    repaired.report = examine(surgeon, members).await;
    let report = &repaired.report;
    let is_found = |left: &Left| report.findings.contains(&left.finding);
    repaired.left.retain(is_found);
    repaired
}

/// Takes a step back.
pub async fn undo(surgeon: &impl Surgeon, step: &Kept) -> Undone {
    let command = step.command.clone().reversed();
    if command.edits.iter().all(|edit| edit.before == edit.after) {
        return Undone::Nothing;
    }
    match surgeon.command(step.partition, Command::Repair(command)).await {
        Ok(_) => match surgeon.ended(step, End::Undone).await {
            Ok(()) => Undone::Done,
            Err(failure) => Undone::Left(format!(
                "it was undone, but the journal does not say so: {failure}"
            )),
        },
        Err(Failure::Refused(Refusal::Conflict, _)) => {
            Undone::Left("what it changed was changed again since, or it never happened".to_owned())
        }
        Err(failure) => Undone::Left(failure.to_string()),
    }
}

fn is_of_names(kind: FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::EntryWithoutInode
            | FindingKind::EntryNotCounted
            | FindingKind::EntryKind
            | FindingKind::NameMissing
            | FindingKind::DirectoryLoop
    )
}

/// Why something is left.
type Reason = String;

struct Operation<'a, S> {
    examination: Examination<'a, S>,
    number: &'a mut u64,
    steps: &'a mut Vec<String>,
}

impl<S: Surgeon> Operation<'_, S> {
    async fn put_right(&mut self, finding: &Finding) -> Result<(), Reason> {
        let what = format!("{}: {}", finding.place, finding.sentence);
        match (finding.kind, finding.inode, finding.directory) {
            (FindingKind::DirectoryLoop, Some(inode), _) => self.open_loop(inode, &what).await,
            (kind, Some(inode), Some(directory)) if is_of_names(kind) => {
                self.put_name_right(inode, directory, &what).await
            }
            (FindingKind::Size, Some(directory), _) if finding.contributor.is_some() => {
                let contributor = finding.contributor.unwrap_or(directory);
                self.tell_again(directory, contributor, &what).await
            }
            _ => match (finding.partition, finding.fault) {
                (Some(partition), Some(fault)) => self.put_fault_right(partition, fault, &what).await,
                _ => Err(format!(
                    "not something that can be repaired: {}",
                    finding.kind.advice()
                )),
            },
        }
    }

    async fn quarantine(&self) -> Result<InodeId, Reason> {
        let made = self.examination.source.quarantine().await;
        made.map_err(|failure| format!("there is no quarantine: {failure}"))
    }

    /// Plans a step and does it; none if there was nothing to do any more.
    async fn step(
        &mut self,
        partition: PartitionId,
        step: RepairStep,
        what: &str,
    ) -> Result<Option<(Kept, Vec<AuditName>)>, Reason> {
        for _ in 0..PLANS_MAX {
            let Some(page) = self.plan(partition, step).await? else {
                return Ok(None);
            };
            if page.repair.edits.is_empty() && !page.repair.recount {
                return Err("nobody can tell which of the two is right".to_owned());
            }
            if let Some(kept) = self.act(partition, page.repair, what).await? {
                return Ok(Some((kept, page.names)));
            }
        }
        Err("it did not stand still long enough to be repaired".to_owned())
    }

    async fn plan(&self, partition: PartitionId, step: RepairStep) -> Result<Option<AuditPage>, Reason> {
        let query = Query::Audit(AuditQuery::Plan(step));
        match self.examination.source.query(partition, query).await {
            Ok(reply) => audit_page(reply).map(Some).map_err(|failure| failure.to_string()),
            Err(Failure::Refused(Refusal::Conflict, _)) => Ok(None),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Keeps what is to be done, then does it; none if something moved meanwhile.
    async fn act(
        &mut self,
        partition: PartitionId,
        command: RepairCommand,
        what: &str,
    ) -> Result<Option<Kept>, Reason> {
        *self.number += 1;
        let kept = Kept {
            number: *self.number,
            partition,
            what: what.to_owned(),
            command,
        };
        let surgeon = self.examination.source;
        let unwritten = |failure| format!("the journal could not be written: {failure}");
        surgeon.keep(&kept).await.map_err(unwritten)?;
        let repair = Command::Repair(kept.command.clone());
        match surgeon.command(partition, repair).await {
            Ok(_) => {
                surgeon.ended(&kept, End::Done).await.map_err(unwritten)?;
                self.steps.push(what.to_owned());
                Ok(Some(kept))
            }
            Err(Failure::Refused(Refusal::Conflict, _)) => {
                surgeon.ended(&kept, End::Refused).await.map_err(unwritten)?;
                Ok(None)
            }
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Does a step, and makes the entries it counts on; without them it is taken back.
    async fn step_with_names(
        &mut self,
        partition: PartitionId,
        step: RepairStep,
        what: &str,
    ) -> Result<(), Reason> {
        let Some((kept, names)) = self.step(partition, step, what).await? else {
            return Ok(());
        };
        for name in names {
            let entry = RepairStep::NumberEntry {
                directory: name.directory,
                inode: name.inode,
                kind: name.kind,
            };
            if let Err(why) = self.step(name.directory.home(), entry, what).await {
                return match undo(self.examination.source, &kept).await {
                    Undone::Left(other) => Err(format!("{why}; and {other}")),
                    Undone::Done | Undone::Nothing => Err(why),
                };
            }
        }
        Ok(())
    }
}
