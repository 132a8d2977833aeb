//! How rows become bytes: for the digest of the state and for snapshots.
//!
//! Fixed-width little-endian numbers, byte strings behind a u32 length, lists behind a u32 count, an
//! optional value behind a byte that is 0 or 1. The price of having no field tags is that any change of a
//! row is a new [`FORMAT_VERSION`].
//!
//! Invariants:
//! - Equal rows have equal bytes on every machine; the digest depends on nothing else.
//! - Decoding never panics and never reserves more memory than there are bytes left to read.

use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId, TransactionId};
use bark_schema::listing::digest;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};

use super::Error;

/// Of the rows and of the chunks they travel in.
pub(crate) const FORMAT_VERSION: u16 = 8;

/// Where encoded bytes go: into a buffer or straight into a checksum.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What can be a key or a value of a table.
pub(crate) trait Row: Sized {
    fn encode<S: Sink>(&self, sink: &mut S);
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error>;
}

/// Checksums what is put into it in one pass; large byte strings are never copied.
pub(crate) struct DigestSink {
    digest: Option<Digest>,
    buffer: [u8; DIGEST_BUFFER_SIZE],
    used: usize,
}

/// 256: a usual inode or dentry fits, so that most rows cost one call of the checksum.
const DIGEST_BUFFER_SIZE: usize = 256;

impl DigestSink {
    pub(crate) fn new() -> DigestSink {
        DigestSink {
            digest: None,
            buffer: [0; DIGEST_BUFFER_SIZE],
            used: 0,
        }
    }

    /// Of everything put.
    pub(crate) fn finish(mut self) -> u64 {
        let crc = match self.digest.take() {
            None => crc_fast::checksum(CrcAlgorithm::Crc64Nvme, &self.buffer[..self.used]),
            Some(mut digest) => {
                digest.update(&self.buffer[..self.used]);
                digest.finalize()
            }
        };
        digest(crc)
    }
}

impl Sink for DigestSink {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(free) = self.buffer.get_mut(self.used..self.used + bytes.len()) {
            free.copy_from_slice(bytes);
            self.used += bytes.len();
            return;
        }
        let digest = self
            .digest
            .get_or_insert_with(|| Digest::new(CrcAlgorithm::Crc64Nvme));
        digest.update(&self.buffer[..self.used]);
        digest.update(bytes);
        self.used = 0;
    }
}

/// Reads rows back out of bytes that may be anything.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(Error::Corrupt("a row is cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

macro_rules! row_number {
    ($($number:ty),*) => {$(
        impl Row for $number {
            fn encode<S: Sink>(&self, sink: &mut S) {
                sink.put(&self.to_le_bytes());
            }
            fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
                Ok(<$number>::from_le_bytes(reader.array()?))
            }
        }
    )*};
}
row_number!(u8, u16, u32, u64, i32, i64);

/// A row that is its fields in order.
macro_rules! row_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::state::codec::Row for $name {
            fn encode<S: $crate::state::codec::Sink>(&self, sink: &mut S) {
                $( $crate::state::codec::Row::encode(&self.$field, sink); )*
            }
            fn decode(
                reader: &mut $crate::state::codec::Reader<'_>,
            ) -> Result<Self, $crate::state::Error> {
                $( let $field = $crate::state::codec::Row::decode(reader)?; )*
                Ok($name { $($field),* })
            }
        }
    };
}
pub(crate) use row_struct;

macro_rules! row_newtype {
    ($($name:ident),*) => {$(
        impl Row for $name {
            fn encode<S: Sink>(&self, sink: &mut S) {
                self.0.encode(sink);
            }
            fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
                Ok($name(Row::decode(reader)?))
            }
        }
    )*};
}
row_newtype!(NodeNumber, PartitionId, InodeId, ClientId);
row_struct!(BlockId { client, counter });
row_struct!(TransactionId {
    client,
    sequence,
    attempt
});

impl Row for () {
    fn encode<S: Sink>(&self, _: &mut S) {}
    fn decode(_: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(())
    }
}

impl Row for bool {
    fn encode<S: Sink>(&self, sink: &mut S) {
        u8::from(*self).encode(sink);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Corrupt("a truth value is neither 0 nor 1")),
        }
    }
}

pub(super) fn encode_bytes<S: Sink>(bytes: &[u8], sink: &mut S) {
    let size = u32::try_from(bytes.len()).expect("limits keep every byte string below 4 GiB");
    size.encode(sink);
    sink.put(bytes);
}

pub(super) fn decode_bytes<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Error> {
    let size = u32::decode(reader)?;
    reader.take(size as usize)
}

impl Row for Bytes {
    fn encode<S: Sink>(&self, sink: &mut S) {
        encode_bytes(self, sink);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Bytes::copy_from_slice(decode_bytes(reader)?))
    }
}

impl Row for Box<[u8]> {
    fn encode<S: Sink>(&self, sink: &mut S) {
        encode_bytes(self, sink);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(decode_bytes(reader)?.into())
    }
}

impl Row for String {
    fn encode<S: Sink>(&self, sink: &mut S) {
        encode_bytes(self.as_bytes(), sink);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let text = std::str::from_utf8(decode_bytes(reader)?);
        Ok(text
            .map_err(|_| Error::Corrupt("a text is not UTF-8"))?
            .to_owned())
    }
}

impl<T: Row> Row for Option<T> {
    fn encode<S: Sink>(&self, sink: &mut S) {
        self.is_some().encode(sink);
        if let Some(value) = self {
            value.encode(sink);
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(if bool::decode(reader)? {
            Some(T::decode(reader)?)
        } else {
            None
        })
    }
}

impl<T: Row> Row for Vec<T> {
    fn encode<S: Sink>(&self, sink: &mut S) {
        let count = u32::try_from(self.len()).expect("limits keep every list below 2^32");
        count.encode(sink);
        for item in self {
            item.encode(sink);
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let count = u32::decode(reader)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(T::decode(reader)?);
        }
        Ok(items)
    }
}

impl<A: Row, B: Row> Row for (A, B) {
    fn encode<S: Sink>(&self, sink: &mut S) {
        self.0.encode(sink);
        self.1.encode(sink);
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok((A::decode(reader)?, B::decode(reader)?))
    }
}
