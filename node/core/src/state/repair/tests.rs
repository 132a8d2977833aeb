//! What a repair does to a state, and what it refuses.

use bark_schema::audit::{AuditCheck, AuditFault, AuditPosition, AuditQuery};
use bark_schema::ids::{ClientId, InodeId, PartitionId};
use bark_schema::operation::{
    Command, Failure, FileKind, NewContent, NewInode, Proposal, Query, Refusal, Reply, RequestId,
};
use bark_schema::repair::{RepairCommand, RepairStep, RepairTable, RowEdit};

use super::super::State;
use super::super::audit::PARTS;
use super::super::dentry::DentryKey;
use super::super::inode::Inode;
use super::{edit_of, skeleton};

const QUARANTINE: InodeId = InodeId(2 << 48 | 7);

fn faults(state: &State) -> Vec<AuditFault> {
    let page = |part| state.audit_page(part, AuditPosition::default(), u64::MAX, u64::MAX);
    PARTS.into_iter().flat_map(|part| page(part).faults).collect()
}

fn apply(state: &mut State, command: Command) -> Result<Reply, Failure> {
    propose(state, None, command)
}

fn propose(state: &mut State, id: Option<RequestId>, command: Command) -> Result<Reply, Failure> {
    let (index, time) = (state.applied() + 1, state.time() + 1);
    state.apply(index, &Proposal { time, id, command })
}

fn plan(state: &State, step: RepairStep) -> Result<RepairCommand, Failure> {
    match state.query(0, &Query::Audit(AuditQuery::Plan(step)))? {
        Reply::Audit(page) => Ok(page.repair),
        other => panic!("not a plan: {other:?}"),
    }
}

fn is_conflict<T>(result: &Result<T, Failure>) -> bool {
    matches!(result, Err(Failure::Refused(Refusal::Conflict, _)))
}

/// Nobody knows which of the two is right, or when a session nobody knows of was used last.
fn is_left(fault: &AuditFault) -> bool {
    match fault.check {
        AuditCheck::ExtentOverlap | AuditCheck::ExtentBlock | AuditCheck::BlockSize => true,
        AuditCheck::SessionReplies => fault.kept == 0,
        _ => false,
    }
}

/// Repairs every fault of a kind and takes it back.
pub(in super::super) fn check_repair(state: &mut State, check: AuditCheck) {
    let before = faults(state);
    for fault in before.iter().filter(|fault| fault.check == check).copied() {
        let step = RepairStep::Fault {
            fault,
            quarantine: QUARANTINE,
        };
        // One repair may have mended several that say the same.
        let Ok(command) = plan(state, step) else {
            continue;
        };
        if command.edits.is_empty() && !command.recount {
            assert!(is_left(&fault) || fault.inode == InodeId(0), "{fault:?} is left");
            continue;
        }
        assert_eq!(
            apply(state, Command::Repair(command.clone())),
            Ok(Reply::Done),
            "{fault:?}"
        );
        let after = faults(state);
        assert!(
            !after.contains(&fault),
            "{fault:?} is repaired, and yet: {after:?}"
        );
        assert!(
            is_conflict(&plan(state, step)),
            "nothing is left to plan of {fault:?}"
        );
        if command.edits.is_empty() || check == AuditCheck::InodeNumber {
            continue;
        }
        let digest = state.tables_digest();
        let again = apply(state, Command::Repair(command.clone()));
        // What is only told again is the same before and after.
        if command.edits.iter().any(|edit| edit.before != edit.after) {
            assert!(is_conflict(&again), "a stale repair of {fault:?}: {again:?}");
            assert_eq!(state.tables_digest(), digest, "a stale repair changes nothing");
        }
        assert_eq!(
            apply(state, Command::Repair(command.clone().reversed())),
            Ok(Reply::Done),
            "{fault:?} is put back"
        );
        assert!(faults(state).contains(&fault), "{fault:?} is back");
        assert!(is_conflict(&apply(
            state,
            Command::Repair(command.clone().reversed())
        )));
        assert_eq!(
            apply(state, Command::Repair(command)),
            Ok(Reply::Done),
            "{fault:?} once more"
        );
    }
}

fn sound() -> (State, InodeId) {
    let mut state = State::new(PartitionId(0), 4);
    let create = Command::Create {
        directory: InodeId::ROOT,
        name: "file".into(),
        attributes: NewInode::default(),
        content: NewContent::Inline("content".into()),
        exclusive: true,
    };
    match apply(&mut state, create) {
        Ok(Reply::Created { attributes, .. }) => (state, attributes.inode),
        other => panic!("not created: {other:?}"),
    }
}

fn inode_edit(state: &State, inode: InodeId, change: impl FnOnce(&mut Inode)) -> RowEdit {
    let before = skeleton(&state.inodes.get(&inode).unwrap().clone());
    let mut after = before.clone();
    change(&mut after);
    edit_of(RepairTable::Inodes, &inode, Some(&before), Some(&after))
}

fn repair(edits: Vec<RowEdit>) -> RepairCommand {
    RepairCommand {
        format: super::FORMAT_VERSION,
        edits,
        recount: false,
    }
}

fn drop_entry(state: &State, name: &str) -> RowEdit {
    let key = DentryKey::new(InodeId::ROOT, name.as_bytes());
    edit_of(RepairTable::Entries, &key, state.dentries.get(&key), None)
}

#[test]
fn a_file_that_lost_its_name_gets_one_and_loses_it_again() {
    // Goal: the life of an orphan nobody would drop. Method: take the entry and the link count, plan, apply, take back.
    let (mut state, file) = sound();
    let damage = repair(vec![
        drop_entry(&state, "file"),
        inode_edit(&state, file, |row| row.link_count = 0),
    ]);
    assert_eq!(
        apply(&mut state, Command::Repair(damage.clone())),
        Ok(Reply::Done)
    );
    let found = faults(&state);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].check, found[0].inode), (AuditCheck::OrphanStays, file));

    let (fault, quarantine) = (found[0], InodeId::ROOT);
    let command = plan(&state, RepairStep::Fault { fault, quarantine }).unwrap();
    assert_eq!(
        apply(&mut state, Command::Repair(command.clone())),
        Ok(Reply::Done)
    );
    let entry = RepairStep::NumberEntry {
        directory: quarantine,
        inode: file,
        kind: FileKind::Regular,
    };
    let entry = plan(&state, entry).unwrap();
    assert_eq!(apply(&mut state, Command::Repair(entry.clone())), Ok(Reply::Done));
    assert_eq!(state.audit(), Ok(()));
    let name = format!("inode-0-{}", file.0 & InodeId::COUNTER_MAX);
    assert_eq!(state.dentry(quarantine, name.as_bytes()).unwrap().inode, file);

    assert_eq!(
        apply(&mut state, Command::Repair(entry.reversed())),
        Ok(Reply::Done)
    );
    assert_eq!(
        apply(&mut state, Command::Repair(command.reversed())),
        Ok(Reply::Done)
    );
    assert_eq!(faults(&state), found);
    assert_eq!(
        apply(&mut state, Command::Repair(damage.reversed())),
        Ok(Reply::Done)
    );
    assert_eq!(state.audit(), Ok(()));
}

#[test]
fn a_repair_changes_nothing_when_one_row_moved() {
    // Goal: all or none. Method: two rows, of which the second is no longer what it was.
    let (mut state, file) = sound();
    let edits = vec![
        drop_entry(&state, "file"),
        inode_edit(&state, file, |row| row.link_count = 0),
    ];
    let link = Command::Link {
        inode: file,
        to: bark_schema::operation::Entry {
            directory: InodeId::ROOT,
            name: "second".into(),
        },
    };
    apply(&mut state, link).unwrap();
    let digest = state.tables_digest();
    assert!(is_conflict(&apply(&mut state, Command::Repair(repair(edits)))));
    assert_eq!(state.tables_digest(), digest);
    assert_eq!(state.audit(), Ok(()));
}

#[test]
fn times_and_content_of_an_inode_do_not_matter_to_a_repair() {
    // Goal: what is in use can be repaired. Method: write between plan and command; the bytes stay.
    let (mut state, file) = sound();
    let edit = inode_edit(&state, file, |row| row.link_count = 3);
    let write = Command::WriteInline {
        inode: file,
        offset: 0,
        data: "CONTENT".into(),
        truncate: false,
    };
    apply(&mut state, write).unwrap();
    assert_eq!(
        apply(&mut state, Command::Repair(repair(vec![edit]))),
        Ok(Reply::Done)
    );
    let row = state.inodes.get(&file).unwrap();
    assert_eq!(row.link_count, 3);
    assert_eq!(row.body, super::Body::Inline(Box::from(*b"CONTENT")));
}

#[test]
fn names_are_counted_as_they_are_found() {
    // Goal: link counts follow entries. Method: every count of names in two directories, from every other.
    let (mut state, file) = sound();
    let elsewhere = InodeId(1 << 48 | 5);
    for here in [1, 3, 0, 2, 1, 0, 4] {
        for (directory, count) in [
            (elsewhere, 2),
            (InodeId::ROOT, here),
            (elsewhere, 0),
            (InodeId::ROOT, 1),
        ] {
            let step = RepairStep::Names {
                inode: file,
                directory,
                count,
            };
            match plan(&state, step) {
                Ok(command) => assert_eq!(apply(&mut state, Command::Repair(command)), Ok(Reply::Done)),
                Err(failure) => assert!(is_conflict::<()>(&Err(failure))),
            }
            let row = state.inodes.get(&file).unwrap();
            let said = state.names_counted(file, row);
            assert_eq!(
                said.get(&directory).copied().unwrap_or(0),
                count,
                "after {step:?}"
            );
            assert_eq!(said.values().sum::<u32>(), row.link_count);
            let wrong = faults(&state)
                .into_iter()
                .find(|fault| fault.check != AuditCheck::OrphanStays);
            assert_eq!(wrong, None, "after {step:?}");
        }
    }
    assert_eq!(state.audit(), Ok(()));
}

#[test]
fn bytes_that_are_no_rows_are_refused() {
    // Goal: nothing from outside is believed. Method: every table with bytes of all kinds, and rows elsewhere.
    let (mut state, file) = sound();
    let digest = state.tables_digest();
    for table in RepairTable::ALL {
        for size in 0..96 {
            for byte in [0u8, 1, 7, 255] {
                let bytes = bytes::Bytes::from(vec![byte; size]);
                let edit = RowEdit {
                    table,
                    key: bytes.clone(),
                    before: Some(bytes.clone()),
                    after: Some(bytes),
                };
                assert!(apply(&mut state, Command::Repair(repair(vec![edit]))).is_err());
            }
        }
    }
    let sound = inode_edit(&state, file, |row| row.link_count = 2);
    let mut elsewhere = sound.clone();
    elsewhere.key = super::encoded(&InodeId(3 << 48 | 1));
    elsewhere.before = None;
    let twice = repair(vec![sound.clone(), sound.clone()]);
    let mut other_format = repair(vec![sound]);
    other_format.format += 1;
    for command in [repair(vec![elsewhere]), twice, other_format] {
        let result = apply(&mut state, Command::Repair(command));
        assert!(
            matches!(result, Err(Failure::Refused(Refusal::InvalidArgument, _))),
            "{result:?}"
        );
    }
    assert_eq!(state.tables_digest(), digest);
}

#[test]
fn what_a_client_has_for_itself_is_given_back_first() {
    // Goal: a holder's changes are not pulled from under it. Method: repair a file of a delegated directory.
    let (mut state, file) = sound();
    let take = bark_schema::delegation::DelegationCommand::Take {
        client: ClientId(9),
        directories: vec![InodeId::ROOT],
        lease_ms: 10_000,
    };
    apply(&mut state, Command::Delegation(take)).unwrap();
    let id = RequestId {
        client: ClientId(1),
        sequence: 1,
        acknowledged_below: 1,
    };
    let command = repair(vec![inode_edit(&state, file, |row| row.link_count = 2)]);
    let result = propose(&mut state, Some(id), Command::Repair(command));
    assert!(
        matches!(
            result,
            Err(Failure::Delegated {
                client: ClientId(9),
                ..
            })
        ),
        "{result:?}"
    );
}
