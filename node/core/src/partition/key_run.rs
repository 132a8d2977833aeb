//! Format of a run: plain SETs of one turn that share one time, one row of the exactly-once table and one header.
//!
//! In an entry's data a run stands where an encoded `Proposal` may stand; bit 31 of its length word tells them apart.
//! A proposal costs some 60 bytes of framing, a dozen pointer checks to read and a row of its own among the recorded
//! replies; most changes of most clients are SETs without options, so those travel like this. SET number `i` of the
//! run is what a proposal named (client, first sequence + i) would be.
//!
//! | offset | size | field, little-endian |
//! | ---: | ---: | --- |
//! | 0 | 4 | size of what follows, bit 31 set |
//! | 4 | 8 | time, nanoseconds since the Unix epoch |
//! | 12 | 8 | client |
//! | 20 | 8 | sequence of the first SET |
//! | 28 | 8 | the client has the answers of all sequences below this one |
//! | 36 | 4 | number of SETs |
//! | 40 | … | for each: size of the key (4), size of the value (4), key, value |

use bark_schema::ids::ClientId;
use bark_schema::operation::{Command, Condition, Expiry, RequestId, UnixNanos};
use bytes::Bytes;

/// In a length word: a run, not a proposal.
pub const RUN_BIT: u32 = 1 << 31;
const HEADER_SIZE: usize = 36;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunHeader {
    pub time: UnixNanos,
    /// The name of the first SET.
    pub first: RequestId,
    pub count: u32,
}

/// A run at the end of a batch that may still grow.
#[derive(Clone, Copy, Debug)]
pub struct OpenRun {
    start: usize,
    header: RunHeader,
}

impl OpenRun {
    pub fn begin(data: &mut Vec<u8>, time: UnixNanos, first: RequestId) -> OpenRun {
        let start = data.len();
        data.extend_from_slice(&[0; 4 + HEADER_SIZE]);
        let header = RunHeader {
            time,
            first,
            count: 0,
        };
        OpenRun { start, header }
    }

    /// Sequence of the newest SET.
    pub fn last_sequence(&self) -> u64 {
        (self.header.first.sequence + u64::from(self.header.count)).saturating_sub(1)
    }

    pub fn push(&mut self, data: &mut Vec<u8>, key: &[u8], value: &[u8]) {
        data.extend_from_slice(&(key.len() as u32).to_le_bytes());
        data.extend_from_slice(&(value.len() as u32).to_le_bytes());
        data.extend_from_slice(key);
        data.extend_from_slice(value);
        self.header.count += 1;
    }

    /// Writes the header: nothing is added any more.
    pub fn seal(self, data: &mut [u8]) {
        let size = (data.len() - self.start - 4) as u32;
        let RunHeader { time, first, count } = self.header;
        let mut header = &mut data[self.start..self.start + 4 + HEADER_SIZE];
        let mut put = |bytes: &[u8]| {
            let (field, rest) = std::mem::take(&mut header).split_at_mut(bytes.len());
            field.copy_from_slice(bytes);
            header = rest;
        };
        put(&(size | RUN_BIT).to_le_bytes());
        put(&time.to_le_bytes());
        put(&first.client.0.to_le_bytes());
        put(&first.sequence.to_le_bytes());
        put(&first.acknowledged_below.to_le_bytes());
        put(&count.to_le_bytes());
    }
}

type KeyAndValue<'a> = (&'a [u8], &'a [u8]);

/// A run read back, SET by SET.
pub struct Run {
    pub header: RunHeader,
    bytes: Bytes,
    position: usize,
    left: u32,
}

impl Run {
    /// `bytes`: what follows the length word. Errors: it is no run.
    pub fn open(bytes: Bytes) -> Result<Run, String> {
        let mut position = 0;
        let mut word = || take(&bytes, &mut position, 8).and_then(|word| word.try_into().ok());
        let time = word().map(i64::from_le_bytes);
        let client = word().map(u64::from_le_bytes);
        let sequence = word().map(u64::from_le_bytes);
        let acknowledged_below = word().map(u64::from_le_bytes);
        let count = take_u32(&bytes, &mut position);
        let (Some(time), Some(client), Some(sequence), Some(acknowledged_below), Some(count)) =
            (time, client, sequence, acknowledged_below, count)
        else {
            return Err("cut in the header of a run".to_string());
        };
        if sequence.checked_add(u64::from(count)).is_none() {
            return Err("the sequences of a run overflow".to_string());
        }
        let first = RequestId {
            client: ClientId(client),
            sequence,
            acknowledged_below,
        };
        Ok(Run {
            header: RunHeader { time, first, count },
            bytes,
            position,
            left: count,
        })
    }

    /// The next key and value.
    pub fn next(&mut self) -> Result<Option<KeyAndValue<'_>>, String> {
        if self.left == 0 {
            return match self.position == self.bytes.len() {
                true => Ok(None),
                false => Err("a run is longer than its SETs".to_string()),
            };
        }
        self.left -= 1;
        let key_size = take_u32(&self.bytes, &mut self.position);
        let value_size = take_u32(&self.bytes, &mut self.position);
        let (Some(key_size), Some(value_size)) = (key_size, value_size) else {
            return Err("cut in a size of a run".to_string());
        };
        let key = take(&self.bytes, &mut self.position, key_size as usize);
        let value = take(&self.bytes, &mut self.position, value_size as usize);
        match (key, value) {
            (Some(key), Some(value)) => Ok(Some((key, value))),
            _ => Err("cut in a SET of a run".to_string()),
        }
    }

    /// The keys of the SETs to come, as far as they can be read.
    pub fn keys_ahead(&self) -> impl Iterator<Item = &[u8]> {
        let mut position = self.position;
        (0..self.left).map_while(move |_| {
            let key_size = take_u32(&self.bytes, &mut position)? as usize;
            let value_size = take_u32(&self.bytes, &mut position)? as usize;
            let key = take(&self.bytes, &mut position, key_size)?;
            take(&self.bytes, &mut position, value_size)?;
            Some(key)
        })
    }

    /// The name of SET number `index`.
    pub fn name(&self, index: u32) -> RequestId {
        RequestId {
            sequence: self.header.first.sequence + u64::from(index),
            ..self.header.first
        }
    }
}

/// What a SET of a run stands for.
pub fn plain_set(key: Bytes, value: Bytes) -> Command {
    Command::KeySet {
        key,
        value,
        expiry: Expiry::Never,
        condition: Condition::Always,
        return_previous: false,
    }
}

fn take<'a>(bytes: &'a [u8], position: &mut usize, size: usize) -> Option<&'a [u8]> {
    let end = position.checked_add(size)?;
    let taken = bytes.get(*position..end)?;
    *position = end;
    Some(taken)
}

fn take_u32(bytes: &[u8], position: &mut usize) -> Option<u32> {
    take(bytes, position, 4)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Vec<u8> {
        let mut data = b"before".to_vec();
        let first = RequestId {
            client: ClientId(7),
            sequence: 5,
            acknowledged_below: 3,
        };
        let mut open = OpenRun::begin(&mut data, 99, first);
        open.push(&mut data, b"k", b"value");
        open.push(&mut data, b"", b"");
        assert_eq!(open.last_sequence(), 6);
        open.seal(&mut data);
        data.split_off(6)
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        // Goal: every field comes back. Method: two SETs, one of them empty.
        let data = run();
        let word = u32::from_le_bytes([data[0], data[1], data[2], data[3]]);
        assert_eq!(word, RUN_BIT | (data.len() - 4) as u32);
        let mut run = Run::open(Bytes::from(data).slice(4..)).expect("a run");
        assert_eq!((run.header.time, run.header.count), (99, 2));
        assert_eq!(run.name(1).sequence, 6);
        assert_eq!(run.next(), Ok(Some((&b"k"[..], &b"value"[..]))));
        assert_eq!(run.next(), Ok(Some((&b""[..], &b""[..]))));
        assert_eq!(run.next(), Ok(None));
    }

    #[test]
    fn a_cut_run_is_an_error_wherever_it_is_cut() {
        // Goal: damaged bytes never panic and never pass. Method: every prefix, and one byte too many.
        let whole = Bytes::from(run()).slice(4..);
        let read = |bytes: Bytes| -> Result<(), String> {
            let mut run = Run::open(bytes)?;
            while run.next()?.is_some() {}
            Ok(())
        };
        for size in 0..whole.len() {
            assert!(read(whole.slice(..size)).is_err(), "{size}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(read(longer.into()).is_err());
    }
}
