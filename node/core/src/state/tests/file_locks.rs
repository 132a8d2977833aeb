//! Advisory locks: who gets them, who waits, and who loses them; against a model that knows bytes and nothing else.

use bark_schema::delegation::DelegationCommand;
use bark_schema::file_lock::{
    FileLock, LockAnswer, LockCommand, LockKind, LockMode, LockOwner, LockQuery, LockRange,
};
use bark_schema::limits::{LOCK_FENCE_MS, LOCKS_PER_FILE_MAX};

use super::*;
use crate::random::Random;

const ROOT: InodeId = InodeId::ROOT;
const LEASE_MS: u32 = 10_000;
const SHARED: LockMode = LockMode::Shared;
const EXCLUSIVE: LockMode = LockMode::Exclusive;
use LockKind::{Flock, Range};

fn owner(client: u64, kind: LockKind, number: u64) -> LockOwner {
    LockOwner {
        client: ClientId(client),
        kind,
        number,
    }
}

fn lock(inode: InodeId, owner: LockOwner, mode: LockMode, first: u64, last: u64) -> FileLock {
    FileLock {
        inode,
        owner,
        range: LockRange { first, last },
        mode,
        process: 7,
    }
}

fn whole(inode: InodeId, owner: LockOwner, mode: LockMode) -> FileLock {
    lock(inode, owner, mode, 0, u64::MAX)
}

fn take(lock: FileLock, wait: u64) -> Command {
    Command::Lock(LockCommand::Take {
        lock,
        wait,
        lease_ms: LEASE_MS,
    })
}

fn release(inode: InodeId, owner: LockOwner) -> Command {
    Command::Lock(LockCommand::Release {
        inode,
        owner,
        range: LockRange::ALL,
    })
}

fn renew(client: u64) -> Command {
    Command::Lock(LockCommand::Renew {
        client: ClientId(client),
        lease_ms: LEASE_MS,
    })
}

fn end_leases() -> Command {
    Command::Lock(LockCommand::EndLeases { limit: 9 })
}

fn waited(machine: &Machine, inode: InodeId, client: u64, wait: u64) -> &'static str {
    let client = ClientId(client);
    say(&machine.query(Query::Lock(LockQuery::Waited { inode, client, wait })))
}

fn say(result: &Result<Reply, Failure>) -> &'static str {
    match result {
        Ok(Reply::Lock(LockAnswer::Granted(_))) => "granted",
        Ok(Reply::Lock(LockAnswer::Waiting)) => "waiting",
        Ok(Reply::Lock(LockAnswer::Held(_))) => "held",
        Ok(Reply::Lock(LockAnswer::Free)) => "free",
        Ok(Reply::Done) => "done",
        Err(Failure::Refused(refusal, _)) => refusal.errno_name(),
        other => panic!("{other:?}"),
    }
}

/// Applies and audits.
fn ask(machine: &mut Machine, command: Command) -> &'static str {
    let answer = say(&machine.apply(command));
    machine.state.audit().unwrap();
    answer
}

fn request_of(client: u64, sequence: u64) -> Option<RequestId> {
    Some(RequestId {
        client: ClientId(client),
        sequence,
        acknowledged_below: 0,
    })
}

fn ask_as(machine: &mut Machine, client: u64, sequence: u64, command: Command) -> &'static str {
    let answer = machine.propose(request_of(client, sequence), command);
    machine.state.audit().unwrap();
    match answer {
        Ok(Reply::Attributes(_)) => "done",
        answer => say(&answer),
    }
}

#[test]
fn shared_locks_go_together_and_exclusive_ones_do_not() {
    // Goal: the rule of all locks, for both kinds, which do not see each other.
    for kind in [Flock, Range] {
        let mut machine = Machine::new();
        let file = machine.create(ROOT, "f", b"");
        let (one, two) = (owner(1, kind, 5), owner(2, kind, 5));
        assert_eq!(ask(&mut machine, take(whole(file, one, SHARED), 0)), "granted");
        assert_eq!(ask(&mut machine, take(whole(file, two, SHARED), 0)), "granted");
        assert_eq!(ask(&mut machine, release(file, one)), "done");
        assert_eq!(ask(&mut machine, take(whole(file, one, EXCLUSIVE), 0)), "held");
        assert_eq!(ask(&mut machine, take(whole(file, two, EXCLUSIVE), 0)), "granted");
        assert_eq!(ask(&mut machine, take(whole(file, one, SHARED), 0)), "held");
        let other = match kind {
            Flock => Range,
            Range => Flock,
        };
        let elsewhere = whole(file, owner(3, other, 5), EXCLUSIVE);
        assert_eq!(ask(&mut machine, take(elsewhere, 0)), "granted");
    }
}

#[test]
fn who_asks_who_is_in_the_way_is_told() {
    // Goal: F_GETLK. Method: a lock in the middle of a file, and questions about bytes in it and beside it.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let held = lock(file, owner(1, Range, 5), EXCLUSIVE, 10, 19);
    ask(&mut machine, take(held, 0));
    let ask_about = |machine: &Machine, first, last| {
        let lock = lock(file, owner(2, Range, 5), SHARED, first, last);
        machine.query(Query::Lock(LockQuery::Conflict { lock }))
    };
    assert_eq!(
        ask_about(&machine, 19, 30),
        Ok(Reply::Lock(LockAnswer::Held(held)))
    );
    assert_eq!(ask_about(&machine, 0, 9), Ok(Reply::Lock(LockAnswer::Free)));
    assert_eq!(ask_about(&machine, 20, 30), Ok(Reply::Lock(LockAnswer::Free)));
}

#[test]
fn waits_are_granted_in_the_order_they_came() {
    // Goal: a queue. Method: three wait for a whole file, one of them gives up, the holder lets go.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let by = |client| owner(client, Range, 1);
    ask(&mut machine, take(whole(file, by(1), EXCLUSIVE), 0));
    for client in 2..=4 {
        let wish = take(whole(file, by(client), EXCLUSIVE), 77);
        assert_eq!(ask(&mut machine, wish), "waiting");
    }
    let cancel = |client| {
        Command::Lock(LockCommand::Cancel {
            inode: file,
            client: ClientId(client),
            wait: 77,
        })
    };
    assert_eq!(ask(&mut machine, cancel(3)), "done");
    assert_eq!(waited(&machine, file, 2, 77), "waiting");
    ask(&mut machine, release(file, by(1)));
    assert_eq!(waited(&machine, file, 2, 77), "granted");
    assert_eq!(waited(&machine, file, 4, 77), "waiting");
    assert_eq!(ask(&mut machine, cancel(2)), "granted", "it is too late");
    ask(&mut machine, release(file, by(2)));
    assert_eq!(waited(&machine, file, 4, 77), "granted");
}

#[test]
fn flocks_convert_by_letting_go_first() {
    // Goal: two who share and both want more do not wait for each other, as with the kernel's own flock.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let (one, two) = (owner(1, Flock, 1), owner(2, Flock, 1));
    ask(&mut machine, take(whole(file, one, SHARED), 0));
    ask(&mut machine, take(whole(file, two, SHARED), 0));
    assert_eq!(ask(&mut machine, take(whole(file, one, EXCLUSIVE), 5)), "waiting");
    assert_eq!(ask(&mut machine, take(whole(file, two, EXCLUSIVE), 0)), "granted");
    assert_eq!(ask(&mut machine, take(whole(file, two, SHARED), 0)), "granted");
    assert_eq!(waited(&machine, file, 1, 5), "waiting");
    ask(&mut machine, release(file, two));
    assert_eq!(waited(&machine, file, 1, 5), "granted");
    // Without waiting it is let go all the same.
    ask(&mut machine, take(whole(file, one, SHARED), 0));
    ask(&mut machine, take(whole(file, two, SHARED), 0));
    assert_eq!(ask(&mut machine, take(whole(file, one, EXCLUSIVE), 0)), "held");
    assert_eq!(ask(&mut machine, take(whole(file, two, EXCLUSIVE), 0)), "granted");
}

#[test]
fn a_wait_that_would_never_end_is_refused() {
    // Goal: EDEADLK over two files and three owners.
    let mut machine = Machine::new();
    let files = ["a", "b", "c"].map(|name| machine.create(ROOT, name, b""));
    let by = |client| owner(client, Range, 1);
    for (client, file) in (1..).zip(files) {
        ask(&mut machine, take(whole(file, by(client), EXCLUSIVE), 0));
    }
    assert_eq!(
        ask(&mut machine, take(whole(files[1], by(1), EXCLUSIVE), 1)),
        "waiting"
    );
    assert_eq!(
        ask(&mut machine, take(whole(files[2], by(2), EXCLUSIVE), 1)),
        "waiting"
    );
    assert_eq!(
        ask(&mut machine, take(whole(files[0], by(3), SHARED), 1)),
        "EDEADLK"
    );
    ask(&mut machine, release(files[2], by(3)));
    assert_eq!(waited(&machine, files[2], 2, 1), "granted");
}

#[test]
fn locks_of_a_silent_client_go_and_it_is_fenced_until_it_knows() {
    // Goal: what rests on a lost lock is never done. Method: a client is silent past its lease, another gets the
    // lock; then the first one's writes come, from before and after it says that it knows.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"old");
    let write = || Command::WriteInline {
        inode: file,
        offset: 0,
        data: bytes("new"),
        truncate: false,
    };
    let (one, two) = (owner(1, Flock, 1), owner(2, Flock, 1));
    assert_eq!(
        ask_as(&mut machine, 1, 1, take(whole(file, one, EXCLUSIVE), 0)),
        "granted"
    );
    assert_eq!(ask_as(&mut machine, 1, 2, write()), "done");
    assert_eq!(
        ask_as(&mut machine, 2, 1, take(whole(file, two, EXCLUSIVE), 3)),
        "waiting"
    );
    machine.time += 9 * SECOND;
    assert_eq!(ask(&mut machine, renew(2)), "done");
    machine.time += SECOND;
    assert!(machine.state.has_due_lock_leases(machine.time));
    machine.apply(end_leases()).unwrap();
    assert!(machine.state.is_fenced(ClientId(1)));
    assert_eq!(waited(&machine, file, 2, 3), "granted");
    assert_eq!(ask_as(&mut machine, 1, 5, write()), "ESTALE");
    assert_eq!(ask_as(&mut machine, 1, 6, renew(1)), "ESTALE");
    // Repeated: what was done before is done, but the lock is not held any more.
    assert_eq!(ask_as(&mut machine, 1, 2, write()), "done");
    assert_eq!(
        ask_as(&mut machine, 1, 1, take(whole(file, one, EXCLUSIVE), 0)),
        "ESTALE"
    );
    let rejoin = Command::Lock(LockCommand::Rejoin { client: ClientId(1) });
    assert_eq!(ask_as(&mut machine, 1, 9, rejoin), "done");
    assert_eq!(
        ask_as(&mut machine, 1, 8, write()),
        "ESTALE",
        "made before it knew"
    );
    assert_eq!(ask_as(&mut machine, 1, 10, write()), "done");
    assert_eq!(
        ask_as(&mut machine, 1, 11, take(whole(file, one, SHARED), 0)),
        "held"
    );
    assert_eq!(ask_as(&mut machine, 2, 2, write()), "done");
    ask(&mut machine, release(file, two));
    // Fences are forgotten in the end.
    machine.time += LOCK_FENCE_MS as i64 * 1_000_000;
    machine.apply(end_leases()).unwrap();
    assert_eq!(machine.state.lock_fences.len(), 0);
}

#[test]
fn a_fenced_client_takes_part_in_no_transaction() {
    // Goal: renames and removals are changes too. Method: prepare and decide, of a client that lost a lock.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    ask(&mut machine, take(whole(file, owner(1, Flock, 1), EXCLUSIVE), 0));
    machine.time += 11 * SECOND;
    machine.apply(end_leases()).unwrap();
    let transaction = bark_schema::ids::TransactionId {
        client: ClientId(1),
        sequence: 3,
        attempt: 1,
    };
    let prepare = Command::Prepare {
        transaction,
        primary: PartitionId(1),
        steps: Vec::new(),
    };
    assert_eq!(say(&machine.apply(prepare)), "ESTALE");
    let decide = Command::Decide {
        transaction,
        commit: true,
        steps: Vec::new(),
        participants: Vec::new(),
        reply: Box::new(Reply::Done),
        acknowledged_below: 0,
    };
    assert_eq!(say(&machine.apply(decide)), "ESTALE");
}

#[test]
fn a_client_takes_locks_for_itself_only() {
    // Goal: nobody lets go of what is another's.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let one = owner(1, Flock, 1);
    ask(&mut machine, take(whole(file, one, EXCLUSIVE), 0));
    assert_eq!(ask_as(&mut machine, 2, 1, release(file, one)), "EINVAL");
    assert_eq!(ask_as(&mut machine, 2, 2, renew(1)), "EINVAL");
}

#[test]
fn a_silent_client_is_not_granted_what_it_waited_for() {
    // Goal: no lock for the dead; but who comes back in time has not lost its place.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let by = |client| owner(client, Range, 1);
    ask(&mut machine, take(whole(file, by(1), EXCLUSIVE), 0));
    ask(&mut machine, take(whole(file, by(2), EXCLUSIVE), 8));
    machine.time += 9 * SECOND;
    ask(&mut machine, renew(1));
    machine.time += 2 * SECOND;
    ask(&mut machine, release(file, by(1)));
    assert_eq!(waited(&machine, file, 2, 8), "waiting");
    ask(&mut machine, renew(2));
    assert_eq!(waited(&machine, file, 2, 8), "granted");
}

#[test]
fn the_locks_of_a_file_have_a_limit() {
    // Goal: ENOLCK instead of growth. Method: every second byte.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let one = owner(1, Range, 1);
    let mut byte = 0;
    while say(&machine.apply(take(lock(file, one, SHARED, byte, byte), 0))) == "granted" {
        byte += 2;
    }
    assert_eq!(byte as usize / 2, LOCKS_PER_FILE_MAX - 1);
    assert_eq!(ask(&mut machine, release(file, one)), "done");
    assert_eq!(machine.state.file_locks.len(), 0);
}

#[test]
fn locks_go_with_their_file() {
    // Goal: no rows of inodes that are gone. Method: unlink, and let the grace time pass.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    ask(&mut machine, take(whole(file, owner(1, Range, 1), EXCLUSIVE), 0));
    ask(&mut machine, take(whole(file, owner(2, Range, 1), EXCLUSIVE), 9));
    let name = bytes("f");
    let unlink = Command::Unlink {
        directory: ROOT,
        name,
    };
    machine.apply(unlink).unwrap();
    machine.reap();
    machine.state.audit().unwrap();
    assert_eq!(
        (machine.state.file_locks.len(), machine.state.lock_waits.len()),
        (0, 0)
    );
}

/// What a file of BYTES bytes is to its owners: for each of them the mode in which he holds each byte, and the waits
/// in the order they came.
#[derive(Default)]
struct Model {
    held: Vec<[Option<LockMode>; BYTES as usize]>,
    waits: Vec<(u64, usize, FileLock)>,
}

const BYTES: u64 = 12;
const OWNERS: usize = 4;

impl Model {
    fn conflicts(&self, owner: usize, lock: &FileLock) -> bool {
        let others = self.held.iter().enumerate().filter(|(other, _)| *other != owner);
        others
            .flat_map(|(_, bytes)| bytes[lock.range.first as usize..=lock.range.last as usize].iter())
            .flatten()
            .any(|held| *held == EXCLUSIVE || lock.mode == EXCLUSIVE)
    }

    fn set(&mut self, owner: usize, range: LockRange, mode: Option<LockMode>) {
        self.held[owner][range.first as usize..=range.last as usize].fill(mode);
    }

    fn grant(&mut self) {
        for (number, owner, lock) in std::mem::take(&mut self.waits) {
            match self.conflicts(owner, &lock) {
                true => self.waits.push((number, owner, lock)),
                false => self.set(owner, lock.range, Some(lock.mode)),
            }
        }
    }
}

#[test]
fn byte_ranges_are_what_the_bytes_say() {
    // Goal: splitting, merging, conflicts and grants of ranges. Method: random commands to the state and to a model
    // that knows each byte; after each the state has for each owner what the model has, in as few locks as possible.
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut machine = Machine::new();
        let file = machine.create(ROOT, "f", b"");
        let owners: Vec<LockOwner> = (0..OWNERS as u64).map(|o| owner(1 + o / 2, Range, o)).collect();
        let mut model = Model::default();
        model.held.resize(OWNERS, [None; BYTES as usize]);
        for step in 1..120 {
            let who = random.below(OWNERS as u64) as usize;
            let (one, two) = (random.below(BYTES), random.below(BYTES));
            let range = LockRange {
                first: one.min(two),
                last: one.max(two),
            };
            let mode = if random.below(2) == 0 { SHARED } else { EXCLUSIVE };
            let wish = lock(file, owners[who], mode, range.first, range.last);
            match random.below(6) {
                0..=2 => {
                    let wait = if random.below(3) == 0 { step } else { 0 };
                    let answer = ask(&mut machine, take(wish, wait));
                    match (model.conflicts(who, &wish), answer) {
                        (false, answer) => {
                            assert_eq!(answer, "granted", "seed {seed} step {step}");
                            model.set(who, range, Some(mode));
                        }
                        (true, "waiting") if wait != 0 => model.waits.push((wait, who, wish)),
                        (true, "EDEADLK") if wait != 0 => continue,
                        (true, answer) => assert_eq!((answer, wait), ("held", 0), "seed {seed} step {step}"),
                    }
                }
                3..=4 => {
                    let release = LockCommand::Release {
                        inode: file,
                        owner: owners[who],
                        range,
                    };
                    assert_eq!(ask(&mut machine, Command::Lock(release)), "done");
                    model.set(who, range, None);
                }
                _ => {
                    let Some((number, owner, _)) = model.waits.first().copied() else {
                        continue;
                    };
                    let cancel = LockCommand::Cancel {
                        inode: file,
                        client: owners[owner].client,
                        wait: number,
                    };
                    assert_eq!(ask(&mut machine, Command::Lock(cancel)), "done");
                    model.waits.remove(0);
                }
            }
            model.grant();
            compare(&machine, file, &owners, &model, seed);
        }
    }
}

fn compare(machine: &Machine, file: InodeId, owners: &[LockOwner], model: &Model, seed: u64) {
    for (who, owner) in owners.iter().enumerate() {
        let mut bytes = [None; BYTES as usize];
        let held = machine.state.held_on(file).filter(|held| held.owner == *owner);
        let held: Vec<FileLock> = held.collect();
        for lock in &held {
            bytes[lock.range.first as usize..=lock.range.last as usize].fill(Some(lock.mode));
        }
        assert_eq!(bytes, model.held[who], "seed {seed}");
        for pair in held.windows(2) {
            let touch = pair[0].range.last + 1 == pair[1].range.first && pair[0].mode == pair[1].mode;
            assert!(!touch, "seed {seed}: {pair:?}");
        }
    }
    for (number, owner, _) in &model.waits {
        let client = owners[*owner].client.0;
        assert_eq!(waited(machine, file, client, *number), "waiting", "seed {seed}");
    }
    assert_eq!(machine.state.lock_waits.len(), model.waits.len() as u64);
}

fn delegate(client: u64) -> Command {
    Command::Delegation(DelegationCommand::Take {
        client: ClientId(client),
        directories: vec![ROOT],
        lease_ms: LEASE_MS,
    })
}

fn told(command: Command) -> Command {
    Command::Ordered {
        after: 0,
        time: 0,
        inode: None,
        awaited: false,
        command: Box::new(command),
    }
}

fn missing(answer: Result<Reply, Failure>) -> usize {
    match answer {
        Ok(Reply::Opens { missing, .. }) => missing.len(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_directory_with_locks_of_others_is_given_to_nobody() {
    // Goal: whoever has a directory for himself may give locks in it without asking.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let mine = owner(1, Range, 1);
    assert_eq!(
        ask_as(&mut machine, 1, 1, take(whole(file, mine, SHARED), 0)),
        "granted"
    );
    assert_eq!(missing(machine.apply(delegate(2))), 1);
    assert_eq!(missing(machine.apply(delegate(1))), 0);
    machine.state.audit().unwrap();
}

#[test]
fn locks_are_told_under_a_delegation_and_by_its_holder_only() {
    // Goal: locks given before they were sent are there when others look, and are refused once they may be somebody else's.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let (mine, theirs) = (owner(1, Range, 1), owner(2, Range, 1));
    let lock = take(whole(file, mine, EXCLUSIVE), 0);
    assert_eq!(ask_as(&mut machine, 1, 1, told(lock.clone())), "ESTALE");
    assert_eq!(missing(machine.apply(delegate(1))), 0);
    let foreign = take(whole(file, theirs, SHARED), 0);
    assert_eq!(ask_as(&mut machine, 1, 2, told(foreign)), "EINVAL");
    let waiting = take(whole(file, mine, SHARED), 9);
    assert_eq!(ask_as(&mut machine, 1, 3, told(waiting)), "EINVAL");
    assert_eq!(ask_as(&mut machine, 1, 4, told(end_leases())), "EINVAL");
    assert_eq!(ask_as(&mut machine, 1, 5, told(lock.clone())), "granted");
    let asked = LockQuery::Conflict {
        lock: whole(file, theirs, SHARED),
    };
    assert_eq!(say(&machine.query(Query::Lock(asked))), "held");
    assert_eq!(ask_as(&mut machine, 1, 6, told(release(file, mine))), "done");
    assert_eq!(ask_as(&mut machine, 1, 7, told(lock.clone())), "granted");
    // The lease of locks is over, that of the delegation is renewed.
    machine.time += i64::from(LEASE_MS) * 1_000_000;
    assert_eq!(missing(machine.apply(delegate(1))), 0);
    machine.apply(end_leases()).unwrap();
    assert_eq!(ask_as(&mut machine, 1, 8, told(lock)), "ESTALE");
}
