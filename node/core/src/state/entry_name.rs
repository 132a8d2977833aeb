//! The name of a directory entry, as it lies in the table.
//!
//! A name of usual length lies in its row; only a longer one has memory of its own, which costs 32 bytes and a
//! cache miss. The price: 8 bytes more in the rows of long names.
//!
//! Invariant: names compare as their bytes do, wherever they lie.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;

use super::Error;
use super::codec::{Reader, Row, Sink, decode_bytes, encode_bytes};

/// 22: what fits in 24 bytes beside the length and the kind.
const INLINE_SIZE_MAX: usize = 22;

#[derive(Clone)]
pub(crate) struct EntryName(Place);

#[derive(Clone)]
enum Place {
    Row { size: u8, bytes: [u8; INLINE_SIZE_MAX] },
    Heap(Box<[u8]>),
}

const _: () = assert!(size_of::<EntryName>() == 24);

impl EntryName {
    pub(crate) fn new(name: &[u8]) -> EntryName {
        let mut bytes = [0; INLINE_SIZE_MAX];
        EntryName(match bytes.get_mut(..name.len()) {
            Some(room) => {
                room.copy_from_slice(name);
                Place::Row {
                    size: name.len() as u8,
                    bytes,
                }
            }
            None => Place::Heap(name.into()),
        })
    }
}

impl Deref for EntryName {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Place::Row { size, bytes } => &bytes[..usize::from(*size)],
            Place::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for EntryName {
    fn eq(&self, other: &EntryName) -> bool {
        **self == **other
    }
}

impl Eq for EntryName {}

impl PartialOrd for EntryName {
    fn partial_cmp(&self, other: &EntryName) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for EntryName {
    fn cmp(&self, other: &EntryName) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.escape_ascii().to_string(), formatter)
    }
}

impl Row for EntryName {
    fn encode<S: Sink>(&self, sink: &mut S) {
        encode_bytes(self, sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(EntryName::new(decode_bytes(reader)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_compare_as_their_bytes_wherever_they_lie() {
        // Goal: order, equality and encoding do not depend on the length at which a name leaves its row.
        let names: Vec<Vec<u8>> = (0..=25)
            .flat_map(|size| [vec![b'a'; size], [vec![b'a'; size], vec![0xff]].concat()])
            .collect();
        for one in &names {
            for other in &names {
                let (left, right) = (EntryName::new(one), EntryName::new(other));
                assert_eq!(left.cmp(&right), one.cmp(other));
                assert_eq!(left == right, one == other);
            }
            let mut encoded = Vec::new();
            EntryName::new(one).encode(&mut encoded);
            let mut as_bytes = Vec::new();
            Box::<[u8]>::from(&one[..]).encode(&mut as_bytes);
            assert_eq!(encoded, as_bytes, "the format of rows is what it was");
            let decoded = EntryName::decode(&mut Reader::new(&encoded)).expect("it was just encoded");
            assert_eq!(*decoded, **one);
        }
    }
}
