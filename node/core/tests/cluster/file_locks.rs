//! Advisory locks: waits that are answered when they end, wherever the leader is by then.

use super::*;
use bark_schema::file_lock::{
    FileLock, LockAnswer, LockCommand, LockKind, LockMode, LockOwner, LockQuery, LockRange,
};

const LEASE_MS: u32 = 2_000;

fn owner(client: u64) -> LockOwner {
    LockOwner {
        client: ClientId(client),
        kind: LockKind::Range,
        number: 1,
    }
}

fn change(inode: InodeId, client: u64, sequence: u64, command: LockCommand) -> Request {
    Request::Command {
        partition: inode.home(),
        id: RequestId {
            client: ClientId(client),
            sequence,
            acknowledged_below: 0,
        },
        command: Command::Lock(command),
    }
}

/// Takes all of a file, or waits under the number of its client.
fn take(inode: InodeId, client: u64, sequence: u64) -> Request {
    let lock = FileLock {
        inode,
        owner: owner(client),
        range: LockRange::ALL,
        mode: LockMode::Exclusive,
        process: 1,
    };
    let command = LockCommand::Take {
        lock,
        wait: client,
        lease_ms: LEASE_MS,
    };
    change(inode, client, sequence, command)
}

fn release(inode: InodeId, client: u64, sequence: u64) -> Request {
    let command = LockCommand::Release {
        inode,
        owner: owner(client),
        range: LockRange::ALL,
    };
    change(inode, client, sequence, command)
}

fn waited(inode: InodeId, client: u64) -> Request {
    Request::Query {
        partition: inode.home(),
        query: Query::Lock(LockQuery::Waited {
            inode,
            client: ClientId(client),
            wait: client,
        }),
    }
}

fn is_granted(result: &Result<Reply, Failure>) -> bool {
    matches!(result, Ok(Reply::Lock(LockAnswer::Granted(_))))
}

/// A file that client 1 has locked and client 2 waits for.
fn contended(cluster: &mut Cluster) -> InodeId {
    let inode = match cluster.create(InodeId::ROOT, "f", 3) {
        Ok(Reply::Created { attributes, .. }) => attributes.inode,
        other => panic!("not created: {other:?}"),
    };
    assert!(is_granted(&cluster.ask(1, take(inode, 1, 1))));
    let waiting = cluster.ask(2, take(inode, 2, 1));
    assert_eq!(waiting, Ok(Reply::Lock(LockAnswer::Waiting)));
    inode
}

#[test]
fn who_waits_is_told_with_the_entry_that_grants() {
    // Goal: no polling. Method: a question is open when the holder lets go; it is answered then, and not before.
    let mut cluster = Cluster::new(3);
    let inode = contended(&mut cluster);
    let asked = cluster.begin(3, waited(inode, 2));
    (0..5).for_each(|_| cluster.step());
    assert!(!asked.is_answered());
    assert_eq!(cluster.ask(1, release(inode, 1, 2)), Ok(Reply::Done));
    let before_us = cluster.now.monotonic_us;
    assert!(is_granted(&cluster.end(&asked)));
    assert!(cluster.now.monotonic_us - before_us < 500_000, "it was told late");
}

#[test]
fn a_question_is_not_held_back_for_ever() {
    // Goal: whoever asks knows that somebody listens. Method: nobody lets go.
    let mut cluster = Cluster::new(3);
    let inode = contended(&mut cluster);
    assert_eq!(
        cluster.ask(3, waited(inode, 2)),
        Ok(Reply::Lock(LockAnswer::Waiting))
    );
}

#[test]
fn a_place_in_the_queue_outlives_the_leader() {
    // Goal: the leader that took the wait is gone, and so is its memory of who asked.
    let mut cluster = Cluster::new(3);
    let inode = contended(&mut cluster);
    let leader = cluster.leader_of(inode.home());
    cluster.silent.insert(leader);
    let others: Vec<u16> = (1..=3).filter(|node| NodeNumber(*node) != leader).collect();
    assert_eq!(cluster.ask(others[0], release(inode, 1, 2)), Ok(Reply::Done));
    assert!(is_granted(&cluster.ask(others[1], waited(inode, 2))));
    let third = cluster.ask(others[0], take(inode, 3, 1));
    assert_eq!(third, Ok(Reply::Lock(LockAnswer::Waiting)));
}

#[test]
fn a_silent_holder_loses_its_lock_and_whoever_waits_gets_it() {
    // Goal: locks of the dead are free, and the dead are fenced. Method: only the one who waits renews.
    let mut cluster = Cluster::new(3);
    let inode = contended(&mut cluster);
    let mut sequence = 2;
    let started_us = cluster.now.monotonic_us;
    while !is_granted(&cluster.ask(3, waited(inode, 2))) {
        assert!(
            cluster.now.monotonic_us - started_us < 20_000_000,
            "it is not granted"
        );
        let command = LockCommand::Renew {
            client: ClientId(2),
            lease_ms: LEASE_MS,
        };
        assert_eq!(
            cluster.ask(2, change(inode, 2, sequence, command)),
            Ok(Reply::Done)
        );
        sequence += 1;
    }
    let late = cluster.ask(1, release(inode, 1, 2));
    assert!(
        matches!(late, Err(Failure::Refused(Refusal::Fenced, _))),
        "{late:?}"
    );
}
