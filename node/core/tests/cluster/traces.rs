//! Where the time of a request goes, for who asks.

use bark_schema::ids::BlockId;
use bark_schema::trace::{Span, TracePhase};

use super::*;

/// Asks for a request with its times, which must lie within each other.
fn traced(cluster: &mut Cluster, node: u16, request: Request) -> (Reply, Vec<Span>) {
    let request = Request::Node(NodeRequest::Traced {
        request: Box::new(request),
    });
    let begun_us = cluster.now.monotonic_us;
    let traced = match cluster.ask(node, request) {
        Ok(Reply::Traced(traced)) => *traced,
        other => panic!("unexpected {other:?}"),
    };
    let whole_us = cluster.now.monotonic_us - begun_us;
    let first = traced.spans.first().expect("all of it comes first");
    assert_eq!((first.depth, first.from_us), (0, 0));
    assert!(first.until_us <= whole_us, "{first:?} is longer than {whole_us}");
    let mut open: Vec<&Span> = Vec::new();
    for span in &traced.spans {
        open.retain(|above| above.depth < span.depth);
        assert!(span.from_us <= span.until_us, "{span:?}");
        if let Some(above) = open.last() {
            assert!(
                above.from_us <= span.from_us && span.until_us <= above.until_us,
                "{span:?} is not within {above:?}"
            );
        }
        open.push(span);
    }
    (traced.reply, traced.spans)
}

fn count(spans: &[Span], phase: TracePhase) -> usize {
    spans.iter().filter(|span| span.phase == phase).count()
}

#[test]
fn a_change_tells_its_log_its_followers_and_its_quorum() {
    // Goal: the parts of a commit are told, asked of any node. Method: the same change at each of three nodes.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    for node in 1..=3 {
        let id = cluster.id();
        let request = Request::Command {
            partition: PartitionId(0),
            id,
            command: set("key", "value"),
        };
        let (reply, spans) = traced(&mut cluster, node, request);
        assert!(matches!(reply, Reply::Set { applied: true, .. }), "{reply:?}");
        assert!(spans.iter().all(|span| span.partition == Some(PartitionId(0))));
        assert_eq!(spans[0].node, NodeNumber(1));
        for phase in [
            TracePhase::Worker,
            TracePhase::Batch,
            TracePhase::Sync,
            TracePhase::Commit,
        ] {
            assert_eq!(count(&spans, phase), 1, "{phase:?} in {spans:?}");
        }
        // A quorum of three is the leader and one more.
        assert!(count(&spans, TracePhase::Follower) >= 1, "{spans:?}");
        let sync = spans.iter().find(|span| span.phase == TracePhase::Sync);
        assert!(sync.is_some_and(|span| span.until_us > span.from_us), "{spans:?}");
    }
}

#[test]
fn a_read_tells_its_quorum_and_a_plain_one_tells_nothing() {
    // Goal: reads are explained, and nothing is told unasked. Method: one of each.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let request = Request::Query {
        partition: PartitionId(0),
        query: Query::KeyGet { key: bytes("key") },
    };
    let (reply, spans) = traced(&mut cluster, 1, request.clone());
    assert_eq!(reply, Reply::Value(None));
    assert_eq!(count(&spans, TracePhase::Confirm), 1, "{spans:?}");
    assert_eq!(cluster.ask(1, request), Ok(Reply::Value(None)));
}

#[test]
fn an_operation_of_several_partitions_tells_what_it_asked_of_whom() {
    // Goal: transactions and walks show their parts. Method: directories until one is in another partition; its walk.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let mut spans = Vec::new();
    for number in 0..8 {
        let id = cluster.id();
        let operation = Namespace::MakeDirectory {
            directory: InodeId::ROOT,
            name: bytes(&format!("directory-{number}")),
            attributes: new_inode(),
        };
        let reply;
        (reply, spans) = traced(&mut cluster, 2, Request::Namespace { id, operation });
        assert!(matches!(reply, Reply::Created { created: true, .. }), "{reply:?}");
        if spans.iter().any(|span| span.partition != Some(PartitionId(0))) {
            break;
        }
    }
    assert!(
        spans.iter().any(|span| span.what == "decide a transaction"),
        "{spans:?}"
    );
    assert!(
        spans.iter().any(|span| span.what == "prepare a transaction"),
        "{spans:?}"
    );
    let walk = NodeRequest::Walk {
        start: InodeId::ROOT,
        path: bytes("directory-0"),
        follow_last: true,
        first_bytes: 0,
    };
    let (reply, spans) = traced(&mut cluster, 3, Request::Node(walk));
    assert!(matches!(reply, Reply::Walked { .. }), "{reply:?}");
    assert!(
        spans
            .iter()
            .any(|span| span.what == "look up a name" && span.depth == 1)
    );
    assert!(count(&spans, TracePhase::Confirm) >= 1, "{spans:?}");
}

#[test]
fn blocks_tell_the_block_stores_of_their_nodes() {
    // Goal: where copies are written and read is told. Method: a block of three copies through one node.
    let mut cluster = Cluster::new(3);
    let block = BlockId::new(ClientId(7), PartitionId(0), 1);
    let data = bytes("content of a block");
    let put = NodeRequest::BlockPut {
        block,
        checksum: bark_core::checksum::crc32c(&[&data]),
        data: data.clone(),
        replicas: vec![NodeNumber(1), NodeNumber(2), NodeNumber(3)],
        local_only: false,
    };
    let (_, spans) = traced(&mut cluster, 1, Request::Node(put));
    let stores: BTreeSet<NodeNumber> = spans
        .iter()
        .filter(|span| span.phase == TracePhase::BlockStore)
        .map(|span| span.node)
        .collect();
    assert!(stores.len() >= 2, "a quorum of block stores in {spans:?}");
    let get = NodeRequest::BlockGet {
        block,
        offset: 0,
        length: data.len() as u32,
    };
    let (reply, spans) = traced(&mut cluster, 1, Request::Node(get));
    assert_eq!(reply, Reply::Block(data));
    assert_eq!(count(&spans, TracePhase::BlockStore), 1, "{spans:?}");
}

#[test]
fn what_fails_fails_as_it_would_and_nothing_is_traced_twice() {
    // Goal: tracing changes no outcome. Method: a refused lookup, a trace within a trace.
    let mut cluster = Cluster::new(3);
    let lookup = Request::Query {
        partition: PartitionId(0),
        query: Query::Lookup {
            directory: InodeId::ROOT,
            name: bytes("missing"),
        },
    };
    let wrap = |request| {
        Request::Node(NodeRequest::Traced {
            request: Box::new(request),
        })
    };
    let refusal = |result: Result<Reply, Failure>| match result {
        Err(Failure::Refused(refusal, _)) => refusal,
        other => panic!("unexpected {other:?}"),
    };
    assert_eq!(refusal(cluster.ask(2, wrap(lookup.clone()))), Refusal::NotFound);
    assert_eq!(
        refusal(cluster.ask(2, wrap(wrap(lookup)))),
        Refusal::InvalidArgument
    );
}
