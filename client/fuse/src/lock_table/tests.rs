//! What the table says while requests are under way, and after a lease ran out.

use std::time::Instant;

use bark_schema::file_lock::LockMode;

use super::lease::BELIEVED;
use super::*;

const FILE: InodeId = InodeId(7);
const HOLDER: Holder = (LockKind::Range, 1);
const OTHER: Holder = (LockKind::Range, 2);
const WHOLE: LockedRange = LockedRange {
    range: LockRange::ALL,
    mode: LockMode::Exclusive,
    process: 1,
};

#[test]
fn what_is_lost_is_told_until_it_is_let_go() {
    // Goal: nobody goes on under a lock that is gone, and who lets go may take it anew.
    let table = LockTable::default();
    assert_eq!(table.standing(FILE), Standing::Fine);
    assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
    assert!(!table.answered(FILE, HOLDER, Some(WHOLE)));
    table.confirm(FILE.home(), Instant::now());
    assert_eq!(table.standing(FILE), Standing::Fine);
    assert_eq!(table.lose(FILE.home()), [FILE]);
    assert_eq!(table.standing(FILE), Standing::Lost);
    assert_eq!(table.ask(FILE, HOLDER, 3), Err(Errno::ESTALE));
    table.recovered(FILE.home());
    assert_eq!(table.standing(FILE), Standing::Lost);
    assert!(table.let_go(FILE, HOLDER));
    assert_eq!(table.standing(FILE), Standing::Fine);
    assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
}

#[test]
fn half_a_lease_without_an_answer_makes_doubtful() {
    // Goal: the mount stops before the cluster gives the lock away. Method: a confirmation of long ago.
    let table = LockTable::default();
    assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
    assert!(table.take_due().is_empty(), "nothing is granted yet");
    let Some(long_ago) = Instant::now().checked_sub(BELIEVED + Duration::from_secs(1)) else {
        return;
    };
    table.confirm(FILE.home(), long_ago);
    assert_eq!(table.standing(FILE), Standing::Doubtful);
    assert_eq!(table.take_due(), [FILE.home()]);
    assert!(table.take_due().is_empty(), "once at a time");
    table.renewed(FILE.home(), Some(Instant::now()));
    assert_eq!(table.standing(FILE), Standing::Fine);
}

#[test]
fn a_lease_nobody_needs_is_not_renewed() {
    // Goal: no traffic for locks that were released.
    let table = LockTable::default();
    assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
    table.answered(FILE, HOLDER, Some(WHOLE));
    table.confirm(FILE.home(), Instant::now());
    table.let_go(FILE, HOLDER);
    assert!(table.take_due().is_empty());
    assert!(table.lock().leases.is_empty());
}

#[test]
fn a_handle_that_closes_takes_those_with_it_who_used_no_other() {
    // Goal: locks of open files are released, whoever has them.
    let table = LockTable::default();
    let other = (LockKind::Flock, 2);
    assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
    table.answered(FILE, HOLDER, Some(WHOLE));
    assert_eq!(table.ask(FILE, HOLDER, 4), Ok(true));
    assert_eq!(table.ask(FILE, other, 3), Ok(false));
    assert_eq!(table.closed(FILE, 3), [other]);
    assert_eq!(table.closed(FILE, 4), [HOLDER]);
}

#[test]
fn who_is_refused_keeps_what_another_thread_got() {
    // Goal: two requests of one holder at once, of which one fails, leave the lock of the other alive.
    let table = LockTable::default();
    assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
    assert_eq!(table.ask(FILE, HOLDER, 3), Ok(false));
    assert!(!table.answered(FILE, HOLDER, Some(WHOLE)));
    assert!(!table.answered(FILE, HOLDER, None));
    assert!(table.holds(FILE, HOLDER));
    table.let_go(FILE, HOLDER);
    assert!(!table.holds(FILE, HOLDER));
}

#[test]
fn a_lock_is_given_here_only_while_all_is_known() {
    // Goal: nobody is told that he has a lock which the cluster gave to another. Method: requests that are not answered, and
    // one whose answer is lost.
    let table = LockTable::default();
    assert_eq!(table.take_here(FILE, HOLDER, 3, WHOLE), Here::Granted);
    assert_eq!(table.take_here(FILE, OTHER, 4, WHOLE), Here::Held(WHOLE));
    assert_eq!(table.conflict_here(FILE, OTHER, WHOLE), Here::Held(WHOLE));
    assert_eq!(table.conflict_here(FILE, HOLDER, WHOLE), Here::Granted);
    assert_eq!(table.ask(FILE, OTHER, 4), Ok(false));
    assert_eq!(table.take_here(FILE, HOLDER, 3, WHOLE), Here::Unknown);
    assert!(!table.release_here(FILE, HOLDER, LockRange::ALL));
    assert!(!table.answered(FILE, OTHER, None));
    assert!(table.release_here(FILE, HOLDER, LockRange::ALL));
    assert_eq!(table.take_here(FILE, OTHER, 4, WHOLE), Here::Granted);
    table.take_back(FILE);
    assert_eq!(table.conflict_here(FILE, HOLDER, WHOLE), Here::Unknown);
    table.took_back(FILE);
    assert_eq!(table.conflict_here(FILE, HOLDER, WHOLE), Here::Unknown);
    table.let_go(FILE, OTHER);
    assert_eq!(table.take_here(FILE, HOLDER, 3, WHOLE), Here::Granted);
}

#[test]
fn who_was_given_a_lock_that_the_cluster_refused_has_lost_it() {
    // Goal: what is given here is worth no more than what the cluster knows. Method: a lock is not confirmed, then refused.
    let table = LockTable::default();
    assert_eq!(table.take_here(FILE, HOLDER, 3, WHOLE), Here::Granted);
    assert_eq!(table.standing(FILE), Standing::Fine);
    if let Some(long_ago) = Instant::now().checked_sub(BELIEVED + Duration::from_secs(1)) {
        table.lock().leases.get_mut(&FILE.home()).unwrap().confirmed = Some(long_ago);
        assert_eq!(table.standing(FILE), Standing::Doubtful);
        assert!(table.take_due().is_empty(), "the cluster knows of no lease yet");
    }
    table.fail(FILE.home());
    assert_eq!(table.standing(FILE), Standing::Doubtful);
    assert_eq!(table.take_due(), [FILE.home()]);
    assert!(table.is_over(FILE.home()));
    assert_eq!(table.lose(FILE.home()), [FILE]);
    table.recovered(FILE.home());
    assert_eq!(table.standing(FILE), Standing::Lost);
    assert!(table.let_go(FILE, HOLDER));
    assert_eq!(table.take_here(FILE, HOLDER, 3, WHOLE), Here::Granted);
}
