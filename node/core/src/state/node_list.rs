//! The nodes that have copies of a block, as they lie in its row.
//!
//! Up to six lie in the row itself, which is as many as replicas there usually are; more have memory of their own.
//! A file of a terabyte has a million of these.

use std::fmt;
use std::ops::Deref;

use bark_schema::ids::NodeNumber;

use super::Error;
use super::codec::{Reader, Row, Sink};

/// 6: what fits in 16 bytes beside the count and the kind.
const INLINE_MAX: usize = 6;

#[derive(Clone)]
pub(crate) struct NodeList(Place);

#[derive(Clone)]
enum Place {
    Row {
        count: u8,
        nodes: [NodeNumber; INLINE_MAX],
    },
    // Boxed twice, so that the usual list takes 16 bytes and not 24.
    Heap(Box<Box<[NodeNumber]>>),
}

const _: () = assert!(size_of::<NodeList>() == 16);

impl NodeList {
    pub(crate) fn new(nodes: &[NodeNumber]) -> NodeList {
        let mut inline = [NodeNumber(0); INLINE_MAX];
        NodeList(match inline.get_mut(..nodes.len()) {
            Some(room) => {
                room.copy_from_slice(nodes);
                Place::Row {
                    count: nodes.len() as u8,
                    nodes: inline,
                }
            }
            None => Place::Heap(Box::new(nodes.into())),
        })
    }

    pub(crate) fn push(&mut self, node: NodeNumber) {
        *self = NodeList::new(&[self, &[node][..]].concat());
    }

    pub(crate) fn remove(&mut self, node: NodeNumber) {
        let left: Vec<NodeNumber> = self.iter().copied().filter(|other| *other != node).collect();
        *self = NodeList::new(&left);
    }
}

impl Deref for NodeList {
    type Target = [NodeNumber];

    fn deref(&self) -> &[NodeNumber] {
        match &self.0 {
            Place::Row { count, nodes } => &nodes[..usize::from(*count)],
            Place::Heap(nodes) => nodes,
        }
    }
}

impl PartialEq for NodeList {
    fn eq(&self, other: &NodeList) -> bool {
        **self == **other
    }
}

impl fmt::Debug for NodeList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(formatter)
    }
}

/// As a list.
impl Row for NodeList {
    fn encode<S: Sink>(&self, sink: &mut S) {
        (self.len() as u32).encode(sink);
        self.iter().for_each(|node| node.encode(sink));
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(NodeList::new(&Vec::<NodeNumber>::decode(reader)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_any_length_is_kept_and_encoded_as_a_list() {
        // Goal: nothing but memory depends on where the nodes lie.
        let mut pushed = NodeList::new(&[]);
        for count in 0..10u16 {
            let nodes: Vec<NodeNumber> = (0..count).map(NodeNumber).collect();
            assert_eq!(*pushed, *nodes);
            let (mut one, mut other) = (Vec::new(), Vec::new());
            pushed.encode(&mut one);
            nodes.encode(&mut other);
            assert_eq!(one, other);
            let decoded = NodeList::decode(&mut Reader::new(&one)).expect("it was just encoded");
            assert_eq!(decoded, pushed);
            pushed.push(NodeNumber(count));
            let mut without = pushed.clone();
            without.remove(NodeNumber(count));
            assert_eq!(*without, *nodes);
        }
    }
}
