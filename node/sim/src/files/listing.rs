//! A directory that one script changes while others list it, a few entries a page.
//!
//! What was there throughout a listing must be in it once, what was not there at all must not be, and nothing is
//! in it twice. An entry's cookie is the same whenever it is met, and the next page begins behind the last one's.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::ids::InodeId;
use bark_schema::operation::{
    Command, DirectoryEntry, Entry, Failure, ListPosition, Namespace, NewContent, Query, RenameMode, Reply,
};
use bytes::Bytes;

use super::owner::make_root;
use super::{ATTRIBUTES, VERIFY_DEADLINE_MS, WORK_DEADLINE_MS, name};
use crate::client::{Fate, Phase, Port};
use crate::counts::Counts;

const NAMES: u64 = 40;
const PAGE_ENTRIES_MAX: u64 = 7;

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    There,
    Absent,
    /// A change is under way, or its outcome is not known.
    Open,
}

/// The directory, and when what was known of its names last changed.
#[derive(Default)]
pub struct SharedListing {
    directory: Option<InodeId>,
    /// By name: what is known, and the number of the change that made it so.
    names: BTreeMap<Bytes, (Place, u64)>,
    changes: u64,
    cookies: BTreeMap<Bytes, u64>,
}

impl SharedListing {
    fn note(&mut self, name: &Bytes, place: Place) {
        self.changes += 1;
        self.names.insert(name.clone(), (place, self.changes));
    }

    fn place(&self, name: &Bytes) -> Place {
        self.names.get(name).map_or(Place::Absent, |(place, _)| *place)
    }
}

/// Makes the directory and changes it until the work is over.
pub async fn change(port: Port, mut random: Random, number: usize, shared: Rc<RefCell<SharedListing>>) {
    let Some(directory) = make_root(&port, &format!("listed-{number}")).await else {
        return;
    };
    shared.borrow_mut().directory = Some(directory);
    let mut made = 0;
    while port.works() {
        let some_name = |random: &mut Random| name(&format!("entry-{}", random.below(NAMES)));
        let (one, other) = match made < NAMES {
            // First most of them, at once.
            true => (name(&format!("entry-{made}")), some_name(&mut random)),
            false => (some_name(&mut random), some_name(&mut random)),
        };
        made += 1;
        let places = (shared.borrow().place(&one), shared.borrow().place(&other));
        match places {
            (Place::Absent, _) => create(&port, directory, &one, &shared).await,
            (Place::There, Place::Absent) if random.chance(2) && one != other => {
                rename(&port, directory, (&one, &other), &shared).await;
            }
            (Place::There, _) => unlink(&port, directory, &one, &shared).await,
            (Place::Open, _) => {}
        }
        let pause = if made < NAMES { 1_000 } else { 120_000 };
        port.sleep(random.below(pause)).await;
    }
}

async fn create(port: &Port, directory: InodeId, one: &Bytes, shared: &RefCell<SharedListing>) {
    let command = Command::Create {
        directory,
        name: one.clone(),
        attributes: ATTRIBUTES,
        content: NewContent::Inline(Bytes::new()),
        exclusive: true,
    };
    let partition = directory.home();
    let call = Call::Command { partition, command };
    carry_out(port, call, &[(one, Place::Absent, Place::There)], shared).await;
}

async fn unlink(port: &Port, directory: InodeId, one: &Bytes, shared: &RefCell<SharedListing>) {
    let call = Call::Namespace(Namespace::Unlink {
        directory,
        name: one.clone(),
    });
    carry_out(port, call, &[(one, Place::There, Place::Absent)], shared).await;
}

async fn rename(
    port: &Port,
    directory: InodeId,
    (one, other): (&Bytes, &Bytes),
    shared: &RefCell<SharedListing>,
) {
    let entry = |name: &Bytes| Entry {
        directory,
        name: name.clone(),
    };
    let call = Call::Namespace(Namespace::Rename {
        from: entry(one),
        to: entry(other),
        mode: RenameMode::Replace,
    });
    let moves = [
        (one, Place::There, Place::Absent),
        (other, Place::Absent, Place::There),
    ];
    carry_out(port, call, &moves, shared).await;
}

/// Makes a change of names from what they are to what they become.
async fn carry_out(
    port: &Port,
    call: Call,
    moves: &[(&Bytes, Place, Place)],
    shared: &RefCell<SharedListing>,
) {
    for (name, ..) in moves {
        shared.borrow_mut().note(name, Place::Open);
    }
    let fate = port.change(call.clone(), WORK_DEADLINE_MS).await;
    if let Fate::Refused(refusal, sentence) = &fate {
        port.stage()
            .fail(format!("{call:?} was refused: {refusal:?}, {sentence}"));
    }
    for (name, before, after) in moves {
        match fate {
            Fate::Done(_) => shared.borrow_mut().note(name, *after),
            Fate::Nothing | Fate::Refused(..) => shared.borrow_mut().note(name, *before),
            Fate::Unsure => {}
        }
    }
}

/// Lists the directory again and again until the work is over, and once more after the repair.
pub async fn list(port: Port, mut random: Random, shared: Rc<RefCell<SharedListing>>) {
    while port.works() {
        let directory = shared.borrow().directory;
        if let Some(directory) = directory {
            list_once(&port, &mut random, directory, &shared, WORK_DEADLINE_MS).await;
        }
        port.sleep(50_000 + random.below(200_000)).await;
    }
    port.phase(Phase::Verify).await;
    let directory = shared.borrow().directory;
    if let Some(directory) = directory
        && !list_once(&port, &mut random, directory, &shared, VERIFY_DEADLINE_MS).await
    {
        port.stage()
            .fail(format!("after the repair, {directory} cannot be listed in pages"));
    }
}

/// True if all pages came.
async fn list_once(
    port: &Port,
    random: &mut Random,
    directory: InodeId,
    shared: &RefCell<SharedListing>,
    deadline_ms: u64,
) -> bool {
    let before = shared.borrow().names.clone();
    let mut found: Vec<DirectoryEntry> = Vec::new();
    loop {
        let after = match found.last() {
            None => ListPosition::Start,
            Some(last) if random.chance(4) => ListPosition::AfterName(last.name.clone()),
            Some(last) => ListPosition::AfterCookie(last.cookie),
        };
        let query = Query::ReadDirectory {
            directory,
            after,
            limit: 1 + random.below(PAGE_ENTRIES_MAX) as u32,
        };
        let partition = directory.home();
        match port.call(Call::Query { partition, query }, deadline_ms).await {
            Ok(Reply::Directory { entries, more, .. }) => {
                let is_stuck = entries.is_empty() && more;
                found.extend(entries);
                if is_stuck {
                    port.stage()
                        .fail(format!("an empty page of {directory} says that more follows"));
                }
                if !more || is_stuck {
                    break;
                }
            }
            Ok(other) => {
                port.stage()
                    .fail(format!("a page of {directory} was answered {other:?}"));
                return false;
            }
            Err(Failure::Refused(refusal, sentence)) => {
                port.stage()
                    .fail(format!("{directory} cannot be listed: {refusal:?}, {sentence}"));
                return false;
            }
            Err(_) => return false,
        }
        port.sleep(random.below(30_000)).await;
    }
    if let Err(reason) = judge(&found, &before, &mut shared.borrow_mut()) {
        port.stage().fail(format!("{directory} in pages: {reason}"));
    }
    port.stage().count(Counts {
        listings: 1,
        ..Counts::default()
    });
    true
}

/// `before`: what was known when the listing began. What is still known by the same change held throughout.
fn judge(
    found: &[DirectoryEntry],
    before: &BTreeMap<Bytes, (Place, u64)>,
    shared: &mut SharedListing,
) -> Result<(), String> {
    let mut listed = BTreeSet::new();
    let mut last_cookie = 0;
    for entry in found {
        let name = String::from_utf8_lossy(&entry.name);
        if !listed.insert(&entry.name) {
            return Err(format!("{name} is there twice"));
        }
        if entry.cookie <= last_cookie {
            return Err(format!(
                "{name} has cookie {}, behind {last_cookie}",
                entry.cookie
            ));
        }
        last_cookie = entry.cookie;
        let known = *shared.cookies.entry(entry.name.clone()).or_insert(entry.cookie);
        if known != entry.cookie {
            return Err(format!("{name} has cookie {}, and had {known}", entry.cookie));
        }
        if !shared.names.contains_key(&entry.name) {
            return Err(format!("{name} was never made"));
        }
    }
    for (name, known) in &shared.names {
        if before.get(name) != Some(known) {
            continue;
        }
        let is_wrong = match known.0 {
            Place::There => !listed.contains(name),
            Place::Absent => listed.contains(name),
            Place::Open => false,
        };
        if is_wrong {
            let name = String::from_utf8_lossy(name);
            return Err(format!(
                "{name} was {:?} all the time, and the pages say otherwise",
                known.0
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bark_schema::operation::FileKind;

    fn entry(text: &str, cookie: u64) -> DirectoryEntry {
        DirectoryEntry {
            name: name(text),
            inode: InodeId(9),
            kind: FileKind::Regular,
            attributes: None,
            cookie,
        }
    }

    #[test]
    fn a_page_that_misses_or_repeats_an_entry_is_found() {
        // Goal: the judge fails for each way a listing can go wrong, and excuses what changed meanwhile.
        let mut shared = SharedListing::default();
        shared.note(&name("stays"), Place::There);
        shared.note(&name("gone"), Place::Absent);
        shared.note(&name("comes"), Place::Absent);
        let before = shared.names.clone();
        shared.note(&name("comes"), Place::There);
        let mut check = |found: &[DirectoryEntry]| judge(found, &before, &mut shared);
        assert_eq!(check(&[entry("stays", 5)]), Ok(()));
        assert_eq!(check(&[entry("comes", 3), entry("stays", 5)]), Ok(()));
        assert!(check(&[entry("comes", 3)]).is_err(), "one is missing");
        assert!(
            check(&[entry("stays", 5), entry("stays", 5)]).is_err(),
            "one twice"
        );
        assert!(check(&[entry("stays", 6)]).is_err(), "its cookie changed");
        assert!(
            check(&[entry("gone", 4), entry("stays", 5)]).is_err(),
            "one is gone"
        );
        assert!(
            check(&[entry("stays", 5), entry("comes", 3)]).is_err(),
            "not in order"
        );
    }
}
