//! What this mount knows of where a file's published bytes are.
//!
//! Invariant: what is known belongs to one version of the content, the one the file's attributes tell.

use bark_schema::operation::{Content, Extent};
use bytes::Bytes;

use crate::extent_map::ExtentMap;
use crate::range_buffer::Piece;

#[derive(Debug, Default)]
pub(crate) enum Layout {
    #[default]
    Unknown,
    /// All bytes of a small file from there on; what they are short of is zeros.
    Inline { from: u64, data: Bytes },
    /// Extents of the range `from .. until`, and bytes that are in no block yet; the rest is zeros.
    Mapped {
        from: u64,
        until: u64,
        extents: ExtentMap,
        patches: Vec<Piece>,
    },
}

/// Where part of a file is.
#[derive(Debug)]
pub(crate) enum Place {
    Inline(Piece),
    Mapped {
        extents: Vec<Extent>,
        patches: Vec<Piece>,
    },
}

impl Layout {
    /// What an answer to a question about the bytes from `offset` on tells.
    pub(crate) fn from_answer(offset: u64, content: Content) -> Layout {
        match content {
            Content::Inline(data) => Layout::Inline { from: offset, data },
            Content::Mapped(map) => {
                let mut extents = ExtentMap::default();
                for extent in map.extents {
                    extents.insert(extent);
                }
                let patches = map.patches.into_iter().map(|patch| Piece {
                    offset: patch.offset,
                    data: patch.data,
                });
                Layout::Mapped {
                    from: offset,
                    until: map.known_until,
                    extents,
                    patches: patches.collect(),
                }
            }
        }
    }

    pub(crate) fn is_known(&self) -> bool {
        !matches!(self, Layout::Unknown)
    }

    pub(crate) fn forget(&mut self) {
        *self = Layout::Unknown;
    }

    /// How far it says where bytes from `offset` on are, if it does.
    pub(crate) fn known_end(&self, offset: u64) -> Option<u64> {
        match self {
            Layout::Unknown => None,
            Layout::Inline { from, .. } => (*from <= offset).then_some(u64::MAX),
            Layout::Mapped { from, until, .. } => (*from <= offset && offset < *until).then_some(*until),
        }
    }

    /// Where `from .. to` is, if that is known.
    pub(crate) fn place(&self, from: u64, to: u64) -> Option<Place> {
        match self {
            Layout::Unknown => None,
            Layout::Inline { from: low, data } => (*low <= from).then(|| {
                Place::Inline(Piece {
                    offset: *low,
                    data: data.clone(),
                })
            }),
            Layout::Mapped {
                from: low,
                until,
                extents,
                patches,
            } => {
                let overlaps = |piece: &&Piece| piece.offset < to && piece.end() > from;
                (*low <= from && to <= *until).then(|| Place::Mapped {
                    extents: extents.overlapping(from, to),
                    patches: patches.iter().filter(overlaps).cloned().collect(),
                })
            }
        }
    }

    /// Extents were published over what is known.
    pub(crate) fn lay_over(&mut self, published: &[Extent]) {
        match self {
            // What the blocks cover is no patch any more, and patches are cheap to ask for again.
            Layout::Mapped { extents, patches, .. } if patches.is_empty() => {
                for extent in published {
                    extents.insert(extent.clone());
                }
            }
            _ => self.forget(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bark_schema::data::FileMap;

    use super::*;

    #[test]
    fn an_answer_is_used_as_far_as_it_reaches() {
        // Goal: of a file in many pieces a read takes what one answer tells, and asks for the rest from there.
        let map = FileMap {
            extents: Vec::new(),
            patches: Vec::new(),
            known_until: 700,
        };
        let layout = Layout::from_answer(200, Content::Mapped(map));
        let ends = [199, 200, 699, 700].map(|offset| layout.known_end(offset));
        assert_eq!(ends, [None, Some(700), Some(700), None]);
        assert!(layout.place(300, 700).is_some());
        assert!(layout.place(300, 701).is_none());
    }
}
