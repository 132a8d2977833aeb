//! Directory operations and multi-key changes, coordinated by the leader of their first partition.
//!
//! The common case is tried first as one entry of one partition; when the state says that the operation
//! touches others, it is planned from what the directories hold now and carried through a transaction,
//! whose steps check that nothing changed meanwhile. A step may be refused because a name led to something else
//! by then (the file to be replaced is gone, the directory to be removed was moved and filled), and its own
//! partition cannot know: so a refusal is the answer only if the names still lead to what they did.
//!
//! Moving a directory to another parent also takes the cluster-wide rename lease and walks the target's
//! ancestors under it, so that no two renames can tie a loop (`mv a b/d` beside `mv b a/c`).

use bark_schema::ids::{InodeId, TransactionId};
use bark_schema::operation::{
    Attributes, Command, Entry, Failure, FileKind, Namespace, NewInode, Query, Refusal, RenameMode, Reply,
    RequestId, Step, UnixNanos,
};
use bark_schema::placement;
use bark_schema::policy::Policy;
use bytes::Bytes;
use futures::future::{try_join, try_join3};

use super::quota::quota_of;
use super::transaction::{self, Plan, Reparent};
use super::unexpected;
use crate::state::other_quota;
use crate::state::refusal::refuse;
use crate::worker::gateway::Gateway;

/// Attempts before the asker is told that the objects are busy.
const ATTEMPTS_MAX: u64 = 64;
const PAUSE_US_MIN: u64 = 2_000;
const PAUSE_US_MAX: u64 = 100_000;

/// Carries out `operation` under `id`; `term` is the coordinator's Raft term.
pub async fn carry_out(
    gateway: &Gateway,
    id: RequestId,
    operation: Namespace,
    term: u64,
) -> Result<Reply, Failure> {
    let gateway = &gateway.on_behalf_of(id.client);
    let primary = operation.primary();
    if let Some(command) = single_entry_form(&operation) {
        match gateway.command_as(id, primary, command).await {
            Err(Failure::CrossPartition) => {}
            answered => return answered,
        }
    }
    for attempt in 0..ATTEMPTS_MAX {
        let transaction = TransactionId {
            client: id.client,
            sequence: id.sequence,
            attempt: (term << 32) | (gateway.random() & 0xffff_0000) | attempt,
        };
        let result = match plan(gateway, &operation).await {
            Ok((mut plan, reply)) => {
                let seen = std::mem::take(&mut plan.seen);
                match transaction::attempt(gateway, id, transaction, primary, plan, reply).await {
                    Err(Failure::Refused(..)) if !is_still_so(gateway, &seen).await => Err(entry_changed()),
                    result => result,
                }
            }
            Err(failure) => Err(failure),
        };
        match result {
            Err(
                Failure::Locked { .. }
                | Failure::Delegated { .. }
                | Failure::Busy(_)
                | Failure::Refused(Refusal::Conflict, _),
            ) => {}
            // Found while planning or by another partition: it must be the answer to every repetition.
            // If one of those was answered before, perhaps with success, that is the answer to this one.
            Err(Failure::Refused(refusal, sentence)) if refusal != Refusal::Internal => {
                return gateway.command(primary, refuse(id, refusal, sentence)).await;
            }
            answered => return answered,
        }
        let pause = (PAUSE_US_MIN << attempt.min(6)).min(PAUSE_US_MAX);
        gateway.sleep(pause + gateway.random() % pause).await;
    }
    Err(Failure::Busy(
        "other operations kept changing the same directories".to_string(),
    ))
}

/// Whether the names lead to what they led to when they were `seen`.
async fn is_still_so(gateway: &Gateway, seen: &[(Entry, Option<InodeId>)]) -> bool {
    for (entry, inode) in seen {
        match lookup(gateway, entry.directory, &entry.name).await {
            Ok(found) if found.map(|(inode, _)| inode) == *inode => {}
            _ => return false,
        }
    }
    true
}

fn entry_changed() -> Failure {
    Failure::refused(Refusal::Conflict, "the entry changed meanwhile")
}

/// The form that is one entry when everything is at home in the first partition.
fn single_entry_form(operation: &Namespace) -> Option<Command> {
    match operation.clone() {
        Namespace::Unlink { directory, name } => Some(Command::Unlink { directory, name }),
        Namespace::Link { inode, to } if inode.home() == to.directory.home() => {
            Some(Command::Link { inode, to })
        }
        Namespace::Rename { from, to, mode } if from.directory.home() == to.directory.home() => {
            Some(Command::Rename { from, to, mode })
        }
        _ => None,
    }
}

async fn plan(gateway: &Gateway, operation: &Namespace) -> Result<(Plan, Reply), Failure> {
    match operation.clone() {
        Namespace::MakeDirectory {
            directory,
            name,
            attributes,
        } => plan_make_directory(gateway, directory, name, attributes).await,
        Namespace::RemoveDirectory { directory, name } => {
            plan_remove_directory(gateway, directory, name).await
        }
        Namespace::Unlink { directory, name } => plan_unlink(gateway, directory, name).await,
        Namespace::Link { inode, to } => plan_link(gateway, inode, to).await,
        Namespace::Rename { from, to, mode } => plan_rename(gateway, from, to, mode).await,
        Namespace::KeySetMany { pairs, .. } => {
            let mut plan = Plan::default();
            for (partition, key, value) in pairs {
                plan.add(partition, Step::KeySet { key, value });
            }
            Ok((plan, Reply::Done))
        }
        Namespace::KeyDeleteMany { keys, .. } => {
            let mut plan = Plan::default();
            let mut deleted = 0;
            for (partition, key) in keys {
                if let Reply::Count(1) = gateway
                    .query(
                        partition,
                        Query::KeyExists {
                            keys: vec![key.clone()],
                        },
                    )
                    .await?
                {
                    deleted += 1;
                }
                plan.add(partition, Step::KeyDelete { key });
            }
            Ok((plan, Reply::Count(deleted)))
        }
    }
}

async fn plan_make_directory(
    gateway: &Gateway,
    directory: InodeId,
    name: Bytes,
    mut attributes: NewInode,
) -> Result<(Plan, Reply), Failure> {
    let (found, quota, parent) = try_join3(
        lookup(gateway, directory, &name),
        quota_of(gateway, directory),
        self::attributes(gateway, directory),
    )
    .await?;
    if found.is_some() {
        return Err(Failure::refused(Refusal::Exists, "File exists"));
    }
    let policy = parent.policy.changed(&attributes.policy);
    attributes.policy = policy.in_full();
    let home = placement::partition_of_new_directory(directory, &name, gateway.config().partition_count);
    let inode = gateway.next_directory_inode(home).await?;
    let mut plan = Plan::default();
    let expected = None;
    let entry = Entry { directory, name };
    plan.add(
        directory.home(),
        Step::InsertEntry {
            entry,
            inode,
            kind: FileKind::Directory,
            expected,
            quota,
            policy: Some(parent.policy),
        },
    );
    let born = gateway.now().unix_ns;
    let attributes_of_reply = new_directory_attributes(inode, &attributes, policy, born);
    plan.add(
        home,
        Step::CreateDirectory {
            inode,
            parent: directory,
            attributes,
            quota,
            born,
        },
    );
    Ok((
        plan,
        Reply::Created {
            attributes: attributes_of_reply,
            created: true,
        },
    ))
}

/// What a directory is born with.
fn new_directory_attributes(inode: InodeId, new: &NewInode, policy: Policy, born: UnixNanos) -> Attributes {
    Attributes {
        inode,
        kind: FileKind::Directory,
        mode: new.mode & 0o7777,
        owner: new.owner,
        group: new.group,
        size: 0,
        link_count: 2,
        accessed: born,
        modified: born,
        changed: born,
        version: 1,
        device: 0,
        blocks: 0,
        policy,
        xattr_count: new.xattrs.len() as u32,
    }
}

async fn plan_remove_directory(
    gateway: &Gateway,
    directory: InodeId,
    name: Bytes,
) -> Result<(Plan, Reply), Failure> {
    let (inode, kind) = found(lookup(gateway, directory, &name).await?)?;
    if kind != FileKind::Directory {
        return Err(Failure::refused(Refusal::NotDirectory, "Not a directory"));
    }
    let mut plan = Plan::default();
    let entry = Entry { directory, name };
    plan.seen.push((entry.clone(), Some(inode)));
    plan.add(directory.home(), Step::RemoveEntry { entry, inode });
    plan.add(inode.home(), Step::RemoveDirectory { inode });
    Ok((plan, Reply::Done))
}

async fn plan_unlink(gateway: &Gateway, directory: InodeId, name: Bytes) -> Result<(Plan, Reply), Failure> {
    let (inode, kind) = found(lookup(gateway, directory, &name).await?)?;
    if kind == FileKind::Directory {
        return Err(Failure::refused(Refusal::IsDirectory, "Is a directory"));
    }
    let mut plan = Plan::default();
    let entry = Entry { directory, name };
    plan.seen.push((entry.clone(), Some(inode)));
    plan.add(directory.home(), Step::RemoveEntry { entry, inode });
    plan.add(inode.home(), lose_name(inode, directory));
    Ok((plan, Reply::Done))
}

async fn plan_link(gateway: &Gateway, inode: InodeId, to: Entry) -> Result<(Plan, Reply), Failure> {
    let attributes = attributes(gateway, inode).await?;
    if attributes.kind == FileKind::Directory {
        return Err(Failure::refused(
            Refusal::NotPermitted,
            "directories have one name",
        ));
    }
    if lookup(gateway, to.directory, &to.name).await?.is_some() {
        return Err(Failure::refused(Refusal::Exists, "File exists"));
    }
    let directory = to.directory;
    let (quota, counted_in) = try_join(quota_of(gateway, directory), quota_of(gateway, inode)).await?;
    if quota != counted_in {
        return Err(other_quota());
    }
    let mut plan = Plan::default();
    plan.add(
        directory.home(),
        Step::InsertEntry {
            entry: to,
            inode,
            kind: attributes.kind,
            expected: None,
            quota,
            policy: None,
        },
    );
    let step = Step::AddLinks {
        inode,
        count: 1,
        added: Some(directory),
        removed: None,
        quota,
    };
    plan.add(inode.home(), step);
    Ok((plan, Reply::Done))
}

async fn plan_rename(
    gateway: &Gateway,
    from: Entry,
    to: Entry,
    mode: RenameMode,
) -> Result<(Plan, Reply), Failure> {
    let source = found(lookup(gateway, from.directory, &from.name).await?)?;
    let target = lookup(gateway, to.directory, &to.name).await?;
    match (mode, target) {
        (RenameMode::NoReplace, Some(_)) => Err(Failure::refused(Refusal::Exists, "File exists")),
        (RenameMode::Exchange, None) => Err(no_such_entry()),
        _ if target.is_some_and(|(inode, _)| inode == source.0) => Ok((Plan::default(), Reply::Done)),
        (_, target) => {
            let quotas = (quota_of(gateway, from.directory), quota_of(gateway, to.directory));
            let (left, quota) = try_join(quotas.0, quotas.1).await?;
            let seen = vec![
                (from.clone(), Some(source.0)),
                (to.clone(), target.map(|(inode, _)| inode)),
            ];
            let (mut plan, reply) = match (mode, target) {
                _ if left != quota => return Err(other_quota()),
                (RenameMode::Exchange, Some(target)) => plan_exchange((from, source), (to, target), quota),
                _ => plan_move((from, source), to, target, quota)?,
            };
            plan.seen = seen;
            Ok((plan, reply))
        }
    }
}

/// What a name leads to.
type Found = (InodeId, FileKind);

fn plan_move(
    (from, (inode, kind)): (Entry, Found),
    to: Entry,
    target: Option<Found>,
    quota: Option<InodeId>,
) -> Result<(Plan, Reply), Failure> {
    let mut plan = Plan::default();
    match target {
        None => {}
        Some((replaced, FileKind::Directory)) if kind == FileKind::Directory => {
            plan.add(replaced.home(), Step::RemoveDirectory { inode: replaced });
        }
        Some(_) if kind == FileKind::Directory => {
            return Err(Failure::refused(Refusal::NotDirectory, "Not a directory"));
        }
        Some((_, FileKind::Directory)) => {
            return Err(Failure::refused(Refusal::IsDirectory, "Is a directory"));
        }
        Some((inode, _)) => plan.add(inode.home(), lose_name(inode, to.directory)),
    }
    plan_new_place(&mut plan, (inode, kind), (from.directory, to.directory), quota);
    plan.add(from.directory.home(), Step::RemoveEntry { entry: from, inode });
    plan.add(
        to.directory.home(),
        Step::InsertEntry {
            entry: to,
            inode,
            kind,
            expected: target.map(|(replaced, _)| replaced),
            quota,
            policy: None,
        },
    );
    Ok((plan, Reply::Done))
}

fn plan_exchange(
    (from, source): (Entry, Found),
    (to, target): (Entry, Found),
    quota: Option<InodeId>,
) -> (Plan, Reply) {
    let mut plan = Plan::default();
    plan_new_place(&mut plan, source, (from.directory, to.directory), quota);
    plan_new_place(&mut plan, target, (to.directory, from.directory), quota);
    for (entry, (inode, kind), (expected, _)) in [(from, target, source), (to, source, target)] {
        plan.add(
            entry.directory.home(),
            Step::ExchangeEntry {
                entry,
                inode,
                kind,
                expected,
                quota,
            },
        );
    }
    (plan, Reply::Done)
}

fn lose_name(inode: InodeId, directory: InodeId) -> Step {
    Step::AddLinks {
        inode,
        count: -1,
        added: None,
        removed: Some(directory),
        quota: None,
    }
}

/// The moved inode's own part: its time of change, where it is counted, and a directory's parent.
fn plan_new_place(
    plan: &mut Plan,
    (inode, kind): Found,
    (from, to): (InodeId, InodeId),
    quota: Option<InodeId>,
) {
    if kind != FileKind::Directory {
        let step = Step::AddLinks {
            inode,
            count: 0,
            added: Some(to),
            removed: Some(from),
            quota,
        };
        plan.add(inode.home(), step);
        return;
    }
    let parent = to;
    plan.add(inode.home(), Step::SetParent { inode, parent, quota });
    if from != to {
        plan.reparents.push(Reparent {
            moved: inode,
            parent: to,
        });
    }
}

async fn lookup(
    gateway: &Gateway,
    directory: InodeId,
    name: &Bytes,
) -> Result<Option<(InodeId, FileKind)>, Failure> {
    let query = Query::Lookup {
        directory,
        name: name.clone(),
    };
    match gateway.query(directory.home(), query).await {
        Ok(Reply::Entry { inode, kind, .. }) => Ok(Some((inode, kind))),
        // The directory itself may be missing: the step that needs it says so.
        Err(Failure::Refused(Refusal::NotFound, _)) => Ok(None),
        Ok(other) => Err(unexpected(&other)),
        Err(failure) => Err(failure),
    }
}

async fn attributes(gateway: &Gateway, inode: InodeId) -> Result<Attributes, Failure> {
    match gateway.query(inode.home(), Query::Attributes { inode }).await? {
        Reply::Attributes(attributes) => Ok(attributes),
        other => Err(unexpected(&other)),
    }
}

fn found(entry: Option<(InodeId, FileKind)>) -> Result<(InodeId, FileKind), Failure> {
    entry.ok_or_else(no_such_entry)
}

fn no_such_entry() -> Failure {
    Failure::refused(Refusal::NotFound, "No such file or directory")
}
