//! Several clients append to one file: records whole, each once, where the answer said, in each client's order.
//!
//! A record says whose it is and which, and its bytes follow from that, so whoever reads the file can tell every
//! record from every other. Every read must find whole records only, and all that were acknowledged before it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::data::DataCommand;
use bark_schema::ids::InodeId;
use bark_schema::operation::{Command, NewContent, Reply};
use bytes::Bytes;

use super::reader::{self, Found};
use super::{ATTRIBUTES, VERIFY_DEADLINE_MS, WORK_DEADLINE_MS, name};
use crate::client::{Fate, Phase, Port};
use crate::counts::Counts;

const RECORDS_PER_CLIENT_MAX: u32 = 60;
const RECORD_SIZE_MAX: u64 = 1_500;
const HEADER_SIZE: usize = 8;

/// Whose record, and which of them.
type RecordId = (u16, u32);

/// The file, and what all clients know of it.
#[derive(Default)]
pub struct SharedFile {
    inode: Cell<Option<InodeId>>,
    /// Offset if it was acknowledged, none if nobody can tell whether it is there.
    records: RefCell<BTreeMap<RecordId, Option<u64>>>,
}

pub async fn append(port: Port, mut random: Random, number: usize, file: Rc<SharedFile>) {
    let Some(inode) = open(&port, &file).await else {
        return;
    };
    let client = number as u16;
    let mut count = 0;
    while port.works() {
        if random.chance(4) || count >= RECORDS_PER_CLIENT_MAX {
            look(&port, inode, &file, WORK_DEADLINE_MS).await;
        } else {
            count += 1;
            append_one(
                &port,
                inode,
                &file,
                record((client, count), random.below(RECORD_SIZE_MAX)),
            )
            .await;
        }
        port.sleep(random.below(250_000)).await;
    }
    port.phase(Phase::Verify).await;
    if !look(&port, inode, &file, VERIFY_DEADLINE_MS).await {
        port.stage()
            .fail(format!("after the repair, client {number} cannot read {inode}"));
    }
}

/// Whoever comes first makes the file, the others open it.
async fn open(port: &Port, file: &SharedFile) -> Option<InodeId> {
    while port.works() {
        let command = Command::Create {
            directory: InodeId::ROOT,
            name: name("appended"),
            attributes: ATTRIBUTES,
            content: NewContent::Inline(Bytes::new()),
            exclusive: false,
        };
        let partition = InodeId::ROOT.home();
        match port
            .change(Call::Command { partition, command }, WORK_DEADLINE_MS)
            .await
        {
            Fate::Done(Reply::Created { attributes, .. }) => {
                let inode = attributes.inode;
                if file
                    .inode
                    .replace(Some(inode))
                    .is_some_and(|other| other != inode)
                {
                    port.stage()
                        .fail(format!("one name opened two files, {inode} is one"));
                }
                return Some(inode);
            }
            Fate::Done(other) => port.stage().fail(format!("an open was answered {other:?}")),
            Fate::Refused(refusal, sentence) => {
                port.stage()
                    .fail(format!("an open was refused: {refusal:?}, {sentence}"));
            }
            Fate::Nothing | Fate::Unsure => {}
        }
    }
    None
}

async fn append_one(port: &Port, inode: InodeId, file: &SharedFile, data: Vec<u8>) {
    let Some((id, _)) = parse(&data) else { return };
    // From now on it may be met, by whoever reads.
    file.records.borrow_mut().insert(id, None);
    let size = data.len() as u64;
    let command = Command::Data(DataCommand::Write {
        inode,
        offset: None,
        data: Bytes::from(data),
    });
    let partition = inode.home();
    match port
        .change(Call::Command { partition, command }, WORK_DEADLINE_MS)
        .await
    {
        Fate::Done(Reply::Attributes(seen)) => {
            // Nobody truncates: the size is where this record ends.
            let offset = seen.size.checked_sub(size);
            if offset.is_none() {
                port.stage()
                    .fail(format!("an append of {size} bytes left {} in all", seen.size));
            }
            file.records.borrow_mut().insert(id, offset);
        }
        Fate::Done(other) => port.stage().fail(format!("an append was answered {other:?}")),
        Fate::Refused(refusal, sentence) => {
            port.stage()
                .fail(format!("an append was refused: {refusal:?}, {sentence}"));
        }
        Fate::Nothing => drop(file.records.borrow_mut().remove(&id)),
        Fate::Unsure => {}
    }
}

/// Reads the file and judges it; true if it could be read.
async fn look(port: &Port, inode: InodeId, file: &SharedFile, deadline_ms: u64) -> bool {
    let acknowledged: Vec<(RecordId, u64)> = {
        let records = file.records.borrow();
        let known = records.iter().filter_map(|(id, offset)| Some((*id, (*offset)?)));
        known.collect()
    };
    let content = match reader::read(port, inode, deadline_ms).await {
        Found::Content(_, content) => content,
        Found::Refused(refusal, sentence) => {
            port.stage()
                .fail(format!("{inode} cannot be read: {refusal:?}, {sentence}"));
            return false;
        }
        Found::Lost | Found::Unread => return false,
    };
    if let Err(reason) = judge(&content, &acknowledged, &file.records.borrow()) {
        port.stage()
            .fail(format!("the file that all append to: {reason}"));
    }
    port.stage().count(Counts {
        append_reads: 1,
        ..Counts::default()
    });
    true
}

fn judge(
    content: &[u8],
    acknowledged: &[(RecordId, u64)],
    attempted: &BTreeMap<RecordId, Option<u64>>,
) -> Result<(), String> {
    let mut found = BTreeMap::new();
    let mut offset = 0;
    while offset < content.len() {
        let (id, size) = parse(&content[offset..]).ok_or_else(|| format!("no record begins at {offset}"))?;
        if let Some(other) = found.insert(id, offset as u64) {
            return Err(format!("record {id:?} is at {other} and at {offset}"));
        }
        match attempted.get(&id) {
            None => return Err(format!("record {id:?} at {offset} was certainly not written")),
            Some(Some(told)) if *told != offset as u64 => {
                return Err(format!("record {id:?} is at {offset}, its answer said {told}"));
            }
            Some(_) => {}
        }
        offset += size;
    }
    for (id, told) in acknowledged {
        if found.get(id) != Some(told) {
            return Err(format!("record {id:?}, acknowledged at {told}, is not there"));
        }
    }
    // A client appends one after the other: what was acknowledged lies in its order.
    for pair in acknowledged.windows(2) {
        let [(one, first), (other, second)] = pair else {
            continue;
        };
        if one.0 == other.0 && first > second {
            return Err(format!("record {one:?} lies behind {other:?}"));
        }
    }
    Ok(())
}

fn record(id: RecordId, more: u64) -> Vec<u8> {
    let size = HEADER_SIZE + more as usize;
    let mut data = Vec::with_capacity(size);
    data.extend_from_slice(&id.0.to_le_bytes());
    data.extend_from_slice(&id.1.to_le_bytes());
    data.extend_from_slice(&(size as u16).to_le_bytes());
    data.resize(size, fill(id));
    data
}

fn fill(id: RecordId) -> u8 {
    (u32::from(id.0) * 31 + id.1) as u8 | 1
}

/// The record that begins here, and its size.
fn parse(data: &[u8]) -> Option<(RecordId, usize)> {
    let (client, rest) = data.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let (size, _) = rest.split_first_chunk()?;
    let id = (u16::from_le_bytes(*client), u32::from_le_bytes(*count));
    let size = usize::from(u16::from_le_bytes(*size));
    let rest = data.get(HEADER_SIZE..size)?;
    rest.iter().all(|byte| *byte == fill(id)).then_some((id, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_doubled_and_missing_records_are_found() {
        // Goal: the judge fails for each way an append can go wrong, and for nothing else.
        let (one, two) = (record((1, 1), 20), record((2, 1), 30));
        let attempted = BTreeMap::from([((1, 1), Some(0)), ((2, 1), None)]);
        let acknowledged = [((1, 1), 0)];
        let check = |content: &[&[u8]]| judge(&content.concat(), &acknowledged, &attempted);
        assert_eq!(check(&[&one]), Ok(()));
        assert_eq!(check(&[&one, &two]), Ok(()));
        assert!(check(&[&two]).is_err(), "an acknowledged record is missing");
        assert!(check(&[&two, &one]).is_err(), "it is elsewhere");
        assert!(check(&[&one, &two, &two]).is_err(), "one is there twice");
        assert!(check(&[&one[..10], &two, &one[10..]]).is_err(), "one is torn");
        assert!(check(&[&one, &record((3, 1), 5)]).is_err(), "one nobody wrote");
    }
}
