//! Cuts a stream of bytes into frames.
//!
//! A frame is one Cap'n Proto message in the standard stream framing. The decoder looks only at the
//! segment table in front; what a frame holds is for `codec` or the RPC layer.
//!
//! A peer can claim any size in sixteen bytes. Therefore the decoder checks every claim against its
//! limit first, and has memory in proportion to what arrived, never to what was announced.
//!
//! Invariants:
//! - What is buffered never exceeds what was pushed and not taken; a frame above the limit is refused
//!   from its table alone.
//! - How the input was cut into chunks has no influence on the frames.
//! - After an error the decoder stays in error: the boundary of the next frame is lost.
//!
//! Format, all numbers little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | number of segments less one |
//! | 4 × segments | size of each segment in words of 8 bytes |
//! | 0 or 4 | padding to a multiple of 8 |
//! | … | the segments |

use bytes::{Bytes, BytesMut};

use crate::limits::FRAME_SEGMENTS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("frame of {segments} segments, at most {FRAME_SEGMENTS_MAX} are accepted")]
    Segments { segments: u64 },
    #[error("frame of {size_bytes} bytes, at most {size_max_bytes} are accepted")]
    Size { size_bytes: u64, size_max_bytes: u64 },
}

/// Room that is made for each byte that is there: memory stays in proportion to what arrived.
const ROOM_PER_HELD_MAX: usize = 4;

/// Holds the bytes of one connection until they make whole frames.
#[derive(Debug)]
pub struct FrameDecoder {
    buffered: BytesMut,
    size_max_bytes: usize,
    failed: Option<Error>,
}

impl FrameDecoder {
    pub fn new(size_max_bytes: usize) -> FrameDecoder {
        FrameDecoder {
            buffered: BytesMut::new(),
            size_max_bytes,
            failed: None,
        }
    }

    /// Accepts frames up to this size from now on: a login raises the limit of a greeting.
    pub fn set_limit(&mut self, size_max_bytes: usize) {
        self.size_max_bytes = size_max_bytes;
    }

    /// Adds a chunk as it came from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            self.make_room(bytes.len());
            self.buffered.extend_from_slice(bytes);
        }
    }

    /// Grows in few steps, and in the last one to the size of the frame, as far as what arrived warrants it.
    fn make_room(&mut self, count: usize) {
        let held = self.buffered.len();
        if self.buffered.capacity() - held >= count {
            return;
        }
        if let Some(size) = self.awaited_size() {
            let whole = size - held;
            self.buffered
                .reserve(whole.min(ROOM_PER_HELD_MAX * held).max(count));
        }
    }

    /// The next whole frame with its segment table, or none until more bytes come.
    /// Frames that arrived together share one allocation.
    #[allow(clippy::should_implement_trait)] // it fails, and none means "not yet"
    pub fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match frame_size(&self.buffered, self.size_max_bytes) {
            Ok(Some(size)) if size <= self.buffered.len() => Ok(Some(self.buffered.split_to(size).freeze())),
            Ok(_) => Ok(None),
            Err(error) => {
                self.buffered = BytesMut::new();
                self.failed = Some(error);
                Err(error)
            }
        }
    }

    /// The size of the frame that bytes are missing of, once its table says so.
    pub fn awaited_size(&self) -> Option<usize> {
        match (self.failed, frame_size(&self.buffered, self.size_max_bytes)) {
            (None, Ok(Some(size))) if size > self.buffered.len() => Some(size),
            _ => None,
        }
    }

    /// Bytes held and not yet taken as frames.
    pub fn buffered_bytes(&self) -> usize {
        self.buffered.len()
    }
}

/// The size of the frame that `bytes` begin with, table included; none if the table is not complete.
pub fn frame_size(bytes: &[u8], size_max_bytes: usize) -> Result<Option<usize>, Error> {
    let Some(first) = number_at(bytes, 0) else {
        return Ok(None);
    };
    // The count is stored less one; u32::MAX is what "no segments" would be and is refused with the rest.
    let segments = u64::from(first) + 1;
    if segments > u64::from(FRAME_SEGMENTS_MAX) {
        return Err(Error::Segments { segments });
    }
    let mut size_bytes = (4 + 4 * segments).next_multiple_of(8);
    for segment in 0..segments as usize {
        let Some(words) = number_at(bytes, 4 + 4 * segment) else {
            break;
        };
        size_bytes += u64::from(words) * 8;
    }
    // A sum that is already too large is refused before the rest of the table is there.
    if size_bytes > size_max_bytes as u64 {
        return Err(Error::Size {
            size_bytes,
            size_max_bytes: size_max_bytes as u64,
        });
    }
    let table_bytes = 4 + 4 * segments as usize;
    Ok((bytes.len() >= table_bytes).then_some(size_bytes as usize))
}

fn number_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let four = bytes.get(offset..)?.first_chunk::<4>()?;
    Some(u32::from_le_bytes(*four))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 4096;

    fn frame(segments: &[Vec<u64>]) -> Vec<u8> {
        let mut bytes = (segments.len() as u32 - 1).to_le_bytes().to_vec();
        for segment in segments {
            bytes.extend((segment.len() as u32).to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(segments.iter().flatten().flat_map(|word| word.to_le_bytes()));
        bytes
    }

    fn drain(decoder: &mut FrameDecoder) -> Vec<Bytes> {
        std::iter::from_fn(|| decoder.next().expect("well-formed")).collect()
    }

    #[test]
    fn claims_are_refused_before_the_bytes_come() {
        // Goal: eight bytes cannot reserve memory. Method: tables without their segments.
        let check = |table: &[u32], expected: Error| {
            let mut decoder = FrameDecoder::new(LIMIT);
            for number in table {
                decoder.push(&number.to_le_bytes());
            }
            assert_eq!(decoder.next(), Err(expected));
            assert_eq!(decoder.next(), Err(expected), "an error is final");
            decoder.push(&[0; 64]);
            assert_eq!(decoder.buffered_bytes(), 0);
        };
        let size = |size_bytes| Error::Size {
            size_bytes,
            size_max_bytes: LIMIT as u64,
        };
        check(&[u32::MAX], Error::Segments { segments: 1 << 32 });
        check(&[64], Error::Segments { segments: 65 });
        check(&[0, 512], size(4104));
        check(&[0, u32::MAX], size(8 + 8 * u64::from(u32::MAX)));
        check(&[7, 600], size(40 + 4800));
    }

    #[test]
    fn the_size_of_a_frame_is_known_before_its_bytes() {
        // Goal: room can be made for what is coming. Method: a frame cut after its table and before its end.
        let bytes = frame(&[vec![7; 100]]);
        let mut decoder = FrameDecoder::new(LIMIT);
        decoder.push(&bytes[..4]);
        assert_eq!(decoder.awaited_size(), None);
        decoder.push(&bytes[4..8]);
        assert_eq!(decoder.awaited_size(), Some(bytes.len()));
        decoder.push(&bytes[8..]);
        assert_eq!(decoder.awaited_size(), None, "nothing is missing");
    }

    #[test]
    fn raising_the_limit_admits_larger_frames() {
        // Goal: a login raises what is accepted. Method: one frame of exactly the higher limit.
        let bytes = frame(&[vec![7; 1023]]);
        let mut decoder = FrameDecoder::new(LIMIT);
        decoder.set_limit(bytes.len());
        decoder.push(&bytes);
        assert_eq!(drain(&mut decoder), vec![Bytes::from(bytes)]);
    }

    proptest! {
        #[test]
        fn any_split_of_the_input_gives_the_same_frames(
            frames in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(any::<u64>(), 0..6), 1..5), 0..8),
            cuts in prop::collection::vec(1usize..40, 1..50),
        ) {
            // Goal: chunks mean nothing. Method: arbitrary frames in arbitrary chunks.
            let frames: Vec<Bytes> = frames.iter().map(|segments| frame(segments).into()).collect();
            let stream = frames.concat();
            let mut decoder = FrameDecoder::new(LIMIT);
            let mut found = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                decoder.push(chunk);
                found.extend(drain(&mut decoder));
                rest = after;
            }
            prop_assert_eq!(found, frames);
            prop_assert_eq!(decoder.buffered_bytes(), 0);
        }

        #[test]
        fn garbage_never_panics(chunks in prop::collection::vec(
            prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..64), 0..16)) {
            // Goal: any bytes give frames, nothing or an error. Method: random bytes, many of them zero.
            let mut decoder = FrameDecoder::new(LIMIT);
            for chunk in chunks {
                decoder.push(&chunk);
                while let Ok(Some(frame)) = decoder.next() {
                    prop_assert!(frame.len() >= 8 && frame.len() <= LIMIT);
                }
            }
        }
    }
}
