//! Blocks and large files.

use bark_core::checksum::crc32c;
use bark_schema::ids::BlockId;

use super::*;

#[test]
fn blocks_are_stored_on_their_replicas() {
    let mut cluster = Cluster::new(3);
    let data = Bytes::from(vec![7; 100_000]);
    let block = BlockId {
        client: ClientId(5),
        counter: 1,
    };
    let put = NodeRequest::BlockPut {
        block,
        data: data.clone(),
        checksum: crc32c(&[&data]),
        replicas: (1..=3).map(NodeNumber).collect(),
        local_only: false,
    };
    let stored = cluster.ask(1, Request::Node(put)).expect("stored");
    assert_eq!(
        stored,
        Reply::Stored {
            nodes: (1..=3).map(NodeNumber).collect()
        }
    );
    for node in 1..=3 {
        let get = NodeRequest::BlockGet {
            block,
            offset: 10,
            length: 1000,
        };
        assert_eq!(
            cluster.ask(node, Request::Node(get)),
            Ok(Reply::Block(data.slice(10..1010)))
        );
    }
}
