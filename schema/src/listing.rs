//! Places of entries in listings of a directory.
//!
//! Entries are listed by the digest of their names, so an entry's place stays what it is while others come and go. The
//! state keeps entries in that order, and a mount that knows all names of a directory lists them as a node would: both
//! must compute the same, for ever.

use crc_fast::CrcAlgorithm;

use crate::mix::{GOLDEN, mix};

/// Lower cookies are for those who list: the start, `.` and `..`.
const COOKIE_MIN: u64 = 16;

/// An entry's place: below 2^63, because programs keep it in a signed number.
pub fn cookie(name: &[u8]) -> u64 {
    (digest(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, name)) >> 1).max(COOKIE_MIN)
}

/// A CRC-64/NVME, mixed, because sums of plain CRCs cancel too easily.
pub fn digest(crc: u64) -> u64 {
    mix(crc.wrapping_add(GOLDEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_stay_what_they_are() {
        // Goal: what a program remembers of a listing, and what is on disk, stays right. Method: cookies as they were first computed.
        let cookies = [&b"a"[..], b"file-00000001.txt", &[b'x'; 255]].map(cookie);
        assert_eq!(
            cookies,
            [8598216300712321403, 5171327728727968866, 1505901826167624631]
        );
    }
}
