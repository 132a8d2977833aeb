//! Directories that one client has for itself: how others get at them.

use super::*;
use bark_schema::delegation::DelegationCommand;

const HOLDER: ClientId = ClientId(5);
const LEASE_MS: u32 = 5_000;

fn take(directory: InodeId) -> Command {
    Command::Delegation(DelegationCommand::Take {
        client: HOLDER,
        directories: vec![directory],
        lease_ms: LEASE_MS,
    })
}

fn give_back(directory: InodeId) -> Command {
    Command::Delegation(DelegationCommand::GiveBack {
        client: HOLDER,
        directories: vec![directory],
    })
}

fn await_recall(directory: InodeId) -> Request {
    Request::Query {
        partition: directory.home(),
        query: Query::AwaitRecall { client: HOLDER },
    }
}

fn ordered(directory: InodeId, sequence: u64, command: Command) -> Request {
    let command = Command::Ordered {
        after: sequence - 1,
        time: 0,
        inode: None,
        awaited: false,
        command: Box::new(command),
    };
    Request::Command {
        partition: directory.home(),
        id: RequestId {
            client: HOLDER,
            sequence,
            acknowledged_below: 0,
        },
        command,
    }
}

fn unlink(directory: InodeId, name: &str) -> Command {
    let name = bytes(name);
    Command::Unlink { directory, name }
}

/// A directory with two files, delegated to the holder.
fn delegated(cluster: &mut Cluster) -> InodeId {
    let directory = cluster.make_directory(1, InodeId::ROOT, "d").expect("mkdir");
    for name in ["f", "g"] {
        cluster.create(directory, name, 3).expect("create");
    }
    let taken = cluster.command(1, directory.home().0, take(directory));
    let missing = vec![];
    let renewed = false;
    assert_eq!(taken, Ok(Reply::Opens { missing, renewed }));
    directory
}

#[test]
fn whoever_asks_waits_until_the_holder_was_told_and_gave_back() {
    // Goal: a query, a change and an operation across partitions go on when the delegation is back, after what the
    // holder did last.
    let mut cluster = Cluster::new(3);
    let directory = delegated(&mut cluster);
    let told = cluster.begin(2, await_recall(directory));
    let lookup = Query::Lookup {
        directory,
        name: bytes("f"),
    };
    let partition = directory.home();
    let query = cluster.begin(
        3,
        Request::Query {
            partition,
            query: lookup,
        },
    );
    let id = RequestId {
        client: ClientId(6),
        sequence: 1,
        acknowledged_below: 0,
    };
    let operation = Namespace::MakeDirectory {
        directory,
        name: bytes("sub"),
        attributes: new_inode(),
    };
    let made = cluster.begin(1, Request::Namespace { id, operation });
    assert_eq!(cluster.end(&told), Ok(Reply::Delegated(vec![directory])));
    let unlinked = cluster.ask(1, ordered(directory, 1, unlink(directory, "f")));
    assert_eq!(unlinked, Ok(Reply::Done));
    assert!(!query.is_answered() && !made.is_answered());
    let given = cluster.command(1, partition.0, give_back(directory));
    assert_eq!(given, Ok(Reply::Done));
    let found = cluster.end(&query);
    assert!(
        matches!(found, Err(Failure::Refused(Refusal::NotFound, _))),
        "{found:?}"
    );
    let made = cluster.end(&made);
    assert!(matches!(made, Ok(Reply::Created { .. })), "{made:?}");
    let again = cluster.command(1, partition.0, take(directory));
    let (missing, renewed) = (vec![], true);
    assert_eq!(
        again,
        Ok(Reply::Opens { missing, renewed }),
        "it was wanted back only once"
    );
}

#[test]
fn a_holder_that_is_silent_is_waited_for_until_its_lease_ends() {
    // Goal: nobody is kept out for longer, and the holder's name for the directory is worth nothing afterwards.
    let mut cluster = Cluster::new(3);
    let directory = delegated(&mut cluster);
    let lookup = Query::Lookup {
        directory,
        name: bytes("f"),
    };
    let partition = directory.home();
    let before_us = cluster.now.monotonic_us;
    cluster
        .ask(
            2,
            Request::Query {
                partition,
                query: lookup,
            },
        )
        .expect("lookup");
    assert!(cluster.now.monotonic_us - before_us > 3_000_000, "the lease ran");
    let late = cluster.ask(1, ordered(directory, 1, unlink(directory, "f")));
    assert!(
        matches!(late, Err(Failure::Refused(Refusal::Conflict, _))),
        "{late:?}"
    );
}

#[test]
fn a_new_leader_knows_who_holds_what() {
    // Goal: the leader that granted a delegation is gone; its successor has the directory given back all the same.
    let mut cluster = Cluster::new(3);
    let directory = delegated(&mut cluster);
    let partition = directory.home();
    let leader = cluster.leader_of(partition);
    cluster.silent.insert(leader);
    let others: Vec<u16> = (1..=3).filter(|node| NodeNumber(*node) != leader).collect();
    let told = cluster.begin(others[0], await_recall(directory));
    let query = Query::Attributes { inode: directory };
    let asked = cluster.begin(others[1], Request::Query { partition, query });
    assert_eq!(cluster.end(&told), Ok(Reply::Delegated(vec![directory])));
    assert!(!asked.is_answered());
    let given = cluster.command(others[0], partition.0, give_back(directory));
    assert_eq!(given, Ok(Reply::Done));
    cluster.end(&asked).expect("attributes");
}

#[test]
fn ordered_changes_share_an_entry_and_a_question_ends_their_wait() {
    // Goal: changes nobody waits for are gathered; one that is asked about is there at once.
    let mut cluster = Cluster::new(3);
    let directory = delegated(&mut cluster);
    let partition = directory.home();
    let leader = cluster.leader_of(partition).0;
    let applied = |cluster: &Cluster| {
        let worker = &cluster.members[&NodeNumber(leader)].worker;
        let local = worker.partitions().find(|local| local.id() == partition);
        local.map(|local| local.status().applied).expect("a replica")
    };
    let before = applied(&cluster);
    let first = cluster.begin(leader, ordered(directory, 1, unlink(directory, "f")));
    let second = cluster.begin(leader, ordered(directory, 2, unlink(directory, "g")));
    let query = Query::By {
        client: HOLDER,
        query: Box::new(Query::Attributes { inode: directory }),
    };
    let asked = cluster.begin(leader, Request::Query { partition, query });
    cluster.end(&asked).expect("attributes");
    assert!(first.is_answered() && second.is_answered());
    assert_eq!(applied(&cluster), before + 1);
}

#[test]
fn an_ordered_change_at_a_follower_is_told_the_leader_at_once() {
    // Goal: a client whose leader changed goes on with the next one. It once waited here for as long as it would.
    let mut cluster = Cluster::new(3);
    let directory = delegated(&mut cluster);
    let leader = cluster.leader_of(directory.home());
    let follower = (1..=3).find(|node| NodeNumber(*node) != leader).expect("another");
    let before_us = cluster.now.monotonic_us;
    let request = ordered(directory, 1, unlink(directory, "f"));
    let asked = cluster.begin_within(follower, request, Reach::Here);
    let told = cluster.end(&asked);
    assert_eq!(told, Err(Failure::NotLeader { leader: Some(leader) }));
    assert!(cluster.now.monotonic_us - before_us < 100_000, "it waited");
}
