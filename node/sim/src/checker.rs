//! Whether a history of one key could have happened one operation at a time.
//!
//! The search of Wing and Gong with Lowe's memory: walk the history in time order, take any operation that
//! may come first, undo when its return is reached before it was taken; a pair of (operations taken, state)
//! that failed once is not tried again.
//!
//! Operations whose outcome is not known stay open to the end: they may have happened at any time after
//! their call, or never. Operations that certainly did not happen are left out by the caller.
//!
//! Source: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for
//! linearizability" (2017); the shape of the list is porcupine's.

use std::collections::{BTreeMap, HashSet};

/// The value of a key: the number of the write that made it, or the counter's number.
pub type Value = Option<i64>;

#[derive(Clone, Debug)]
pub enum Condition {
    Always,
    IfAbsent,
    IfPresent,
    IfVersion(u64),
}

#[derive(Clone, Debug)]
pub struct SetOutcome {
    pub applied: bool,
    pub version: u64,
    /// What was there before, if it was asked for.
    pub previous: Option<Value>,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// Sets the key to `write`, which no other operation writes.
    Set {
        write: i64,
        condition: Condition,
        outcome: Option<SetOutcome>,
    },
    /// Several keys at once: no version in the answer.
    SetPlain {
        write: i64,
    },
    Delete {
        outcome: Option<bool>,
    },
    /// Value and version.
    Get {
        found: Option<(i64, u64)>,
    },
    Increment {
        by: i64,
        outcome: Option<i64>,
    },
    /// A name comes to lead to `write`, which no other operation makes it: if it was free (`needs` false), taken
    /// (true), or either way.
    Enter {
        write: i64,
        needs: Option<bool>,
        outcome: Option<bool>,
    },
    /// The time of what `write` set is over. Open if nobody can say when that is.
    Expire {
        write: i64,
        is_open: bool,
    },
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub key: String,
    pub client: usize,
    pub called_us: u64,
    /// None: the outcome is not known.
    pub returned_us: Option<u64>,
    pub action: Action,
}

/// Every key's history must be linearizable. Errors: the story of the first one that is not.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, operations) in keys {
        let versions = versions(&operations).map_err(|reason| format!("key {key}: {reason}"))?;
        if !is_linearizable(&operations, &versions) {
            return Err(format!("key {key} is not linearizable:\n{}", story(&operations)));
        }
    }
    Ok(())
}

/// The versions writes were seen under. Only for keys whose writes are unique.
fn versions(operations: &[&Operation]) -> Result<BTreeMap<i64, u64>, String> {
    let mut versions = BTreeMap::new();
    if operations
        .iter()
        .any(|operation| matches!(operation.action, Action::Increment { .. }))
    {
        return Ok(versions);
    }
    for operation in operations {
        let seen = match &operation.action {
            Action::Set {
                write,
                outcome: Some(outcome),
                ..
            } if outcome.applied => Some((*write, outcome.version)),
            Action::Set {
                outcome:
                    Some(SetOutcome {
                        version,
                        previous: Some(Some(write)),
                        ..
                    }),
                ..
            } => Some((*write, *version)),
            Action::Get { found } => *found,
            _ => None,
        };
        if let Some((write, version)) = seen
            && let Some(other) = versions.insert(write, version)
            && other != version
        {
            return Err(format!(
                "write {write} was seen with versions {other} and {version}"
            ));
        }
    }
    Ok(versions)
}

/// The state after `action` on `value`, or none if its answer contradicts `value`.
fn step(action: &Action, value: Value, versions: &BTreeMap<i64, u64>) -> Option<Value> {
    let version = value.and_then(|write| versions.get(&write)).copied();
    match action {
        Action::Set {
            write,
            condition,
            outcome,
        } => {
            let holds = match condition {
                Condition::Always => true,
                Condition::IfAbsent => value.is_none(),
                Condition::IfPresent => value.is_some(),
                Condition::IfVersion(wanted) => match version {
                    Some(version) => version == *wanted,
                    // Nobody saw this write's version together with its value. If `wanted` is no other's, it
                    // may be this one's; an open operation that does not hold is one that never happened.
                    None => {
                        value.is_some()
                            && versions.values().all(|other| other != wanted)
                            && outcome.as_ref().is_none_or(|outcome| outcome.applied)
                    }
                },
            };
            let after = if holds { Some(*write) } else { value };
            let Some(outcome) = outcome else {
                return Some(after);
            };
            let agrees = outcome.applied == holds
                && outcome.previous.is_none_or(|previous| previous == value)
                && (holds || value.is_none() == (outcome.version == 0))
                && (holds || version.is_none_or(|version| version == outcome.version));
            agrees.then_some(after)
        }
        Action::SetPlain { write } => Some(Some(*write)),
        Action::Enter {
            write,
            needs,
            outcome,
        } => {
            let holds = needs.is_none_or(|needs| needs == value.is_some());
            let after = if holds { Some(*write) } else { value };
            outcome.is_none_or(|entered| entered == holds).then_some(after)
        }
        Action::Delete { outcome } => outcome
            .is_none_or(|deleted| deleted == value.is_some())
            .then_some(None),
        Action::Get { found } => (found.map(|(write, _)| write) == value).then_some(value),
        // An open one that changes nothing need not be tried: it may as well happen later.
        Action::Expire { write, is_open } => match value {
            Some(present) if present == *write => Some(None),
            _ if *is_open => None,
            _ => Some(value),
        },
        Action::Increment { by, outcome } => {
            let sum = value.unwrap_or(0) + by;
            outcome.is_none_or(|seen| seen == sum).then_some(Some(sum))
        }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    operation: usize,
    is_return: bool,
    previous: usize,
    next: usize,
}

fn is_linearizable(operations: &[&Operation], versions: &BTreeMap<i64, u64>) -> bool {
    let mut list = List::new(operations);
    let mut taken = vec![0u64; operations.len().div_ceil(64)];
    let mut tried: HashSet<(Vec<u64>, Value)> = HashSet::new();
    let mut undo: Vec<(usize, Value)> = Vec::new();
    let mut value: Value = None;
    let mut at = list.first();
    loop {
        if !list.has_returns() {
            return true;
        }
        let entry = list.entries[at];
        if at == List::END || entry.is_return {
            // A return whose call was not taken, or only open operations are left in front of one.
            let Some((call, before)) = undo.pop() else {
                return false;
            };
            let operation = list.entries[call].operation;
            taken[operation / 64] &= !(1 << (operation % 64));
            value = before;
            list.put_back(call);
            at = list.entries[call].next;
            continue;
        }
        let operation = entry.operation;
        if let Some(after) = step(&operations[operation].action, value, versions) {
            taken[operation / 64] |= 1 << (operation % 64);
            if tried.insert((taken.clone(), after)) {
                undo.push((at, value));
                value = after;
                list.take_out(at);
                at = list.first();
                continue;
            }
            taken[operation / 64] &= !(1 << (operation % 64));
        }
        at = entry.next;
    }
}

/// Calls and returns in time order, as a list from which pairs are taken out and put back.
struct List {
    entries: Vec<Entry>,
    /// The return entry of each call entry.
    returns: Vec<Option<usize>>,
    left: usize,
}

impl List {
    const HEAD: usize = 0;
    const END: usize = 1;

    fn new(operations: &[&Operation]) -> List {
        let mut times: Vec<(u64, bool, usize)> = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            times.push((operation.called_us, false, index));
            if let Some(returned_us) = operation.returned_us {
                times.push((returned_us, true, index));
            }
        }
        // A call at the time of a return counts as earlier: they overlap.
        times.sort_unstable();
        let sentinel = Entry {
            operation: 0,
            is_return: true,
            previous: Self::HEAD,
            next: Self::END,
        };
        let mut entries = vec![sentinel; 2];
        let mut calls = vec![0; operations.len()];
        let mut returns = vec![None; times.len() + 2];
        let mut left = 0;
        let mut previous = Self::HEAD;
        for (_, is_return, operation) in times {
            let index = entries.len();
            entries.push(Entry {
                operation,
                is_return,
                previous,
                next: Self::END,
            });
            entries[previous].next = index;
            if is_return {
                returns[calls[operation]] = Some(index);
                left += 1;
            } else {
                calls[operation] = index;
            }
            previous = index;
        }
        entries[Self::END].previous = previous;
        List {
            entries,
            returns,
            left,
        }
    }

    fn first(&self) -> usize {
        self.entries[Self::HEAD].next
    }

    fn has_returns(&self) -> bool {
        self.left > 0
    }

    fn take_out(&mut self, call: usize) {
        self.unlink(call);
        if let Some(index) = self.returns[call] {
            self.unlink(index);
            self.left -= 1;
        }
    }

    fn put_back(&mut self, call: usize) {
        if let Some(index) = self.returns[call] {
            self.link(index);
            self.left += 1;
        }
        self.link(call);
    }

    fn unlink(&mut self, index: usize) {
        let Entry { previous, next, .. } = self.entries[index];
        self.entries[previous].next = next;
        self.entries[next].previous = previous;
    }

    fn link(&mut self, index: usize) {
        let Entry { previous, next, .. } = self.entries[index];
        self.entries[previous].next = index;
        self.entries[next].previous = index;
    }
}

fn story(operations: &[&Operation]) -> String {
    let mut sorted = operations.to_vec();
    sorted.sort_by_key(|operation| operation.called_us);
    let line = |operation: &&Operation| {
        let returned = operation
            .returned_us
            .map_or("open".to_string(), |at| format!("{:.6}", at as f64 / 1e6));
        let called = operation.called_us as f64 / 1e6;
        format!(
            "  {called:.6} .. {returned} client {}: {:?}\n",
            operation.client, operation.action
        )
    };
    sorted.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(called_us: u64, returned_us: Option<u64>, action: Action) -> Operation {
        Operation {
            key: "k".to_string(),
            client: 0,
            called_us,
            returned_us,
            action,
        }
    }

    fn set(called_us: u64, returned_us: Option<u64>, write: i64) -> Operation {
        operation(called_us, returned_us, Action::SetPlain { write })
    }

    fn get(called_us: u64, returned_us: u64, found: Option<i64>) -> Operation {
        let found = found.map(|write| (write, write as u64));
        operation(called_us, Some(returned_us), Action::Get { found })
    }

    #[test]
    fn overlapping_operations_may_take_either_order() {
        // Goal: a read during a write may see either value, and the next read must not go back.
        assert!(check(&[set(0, Some(10), 1), get(5, 6, None), get(7, 8, Some(1))]).is_ok());
        assert!(check(&[set(0, Some(10), 1), get(5, 6, Some(1)), get(7, 8, None)]).is_err());
    }

    #[test]
    fn a_stale_read_is_found() {
        // Goal: a read that starts after a write returned must see it.
        assert!(check(&[set(0, Some(1), 1), set(2, Some(3), 2), get(4, 5, Some(1))]).is_err());
    }

    #[test]
    fn an_open_write_may_happen_late_or_never() {
        // Goal: unknown outcomes excuse exactly what they may cause.
        assert!(check(&[set(0, None, 1), get(4, 5, None), get(6, 7, Some(1))]).is_ok());
        assert!(check(&[set(0, None, 1), get(4, 5, None), get(6, 7, None)]).is_ok());
        assert!(check(&[set(0, None, 1), get(4, 5, Some(1)), get(6, 7, None)]).is_err());
    }

    #[test]
    fn a_name_that_was_free_is_entered_by_one() {
        // Goal: two creations of one name cannot both succeed, unless it was left in between.
        let enter = |called_us, write, needs, entered| {
            let action = Action::Enter {
                write,
                needs,
                outcome: Some(entered),
            };
            operation(called_us, Some(called_us + 10), action)
        };
        let leave = operation(6, Some(8), Action::Delete { outcome: Some(true) });
        let (one, two) = (enter(0, 1, Some(false), true), enter(5, 2, Some(false), true));
        assert!(check(&[one.clone(), two.clone()]).is_err());
        assert!(check(&[one.clone(), two, leave]).is_ok());
        assert!(check(&[one.clone(), enter(5, 2, Some(false), false)]).is_ok());
        assert!(check(&[one.clone(), enter(20, 2, Some(true), false)]).is_err());
        assert!(check(&[one, enter(20, 2, None, true), get(40, 41, Some(1))]).is_err());
    }

    #[test]
    fn an_increment_applied_twice_is_found() {
        // Goal: exactly once; the answer 2 and the sum 4 cannot come from two increments by one.
        let increment = |called_us, outcome| {
            operation(
                called_us,
                Some(called_us + 1),
                Action::Increment {
                    by: 1,
                    outcome: Some(outcome),
                },
            )
        };
        assert!(check(&[increment(0, 1), increment(5, 2), increment(10, 3)]).is_ok());
        assert!(check(&[increment(0, 1), increment(5, 2), increment(10, 4)]).is_err());
    }

    #[test]
    fn a_key_ends_once_and_within_its_time() {
        // Goal: an open end may come at any time but never be taken back; a closed one must come in its interval.
        let end = |called_us, returned_us: Option<u64>| {
            let is_open = returned_us.is_none();
            operation(called_us, returned_us, Action::Expire { write: 1, is_open })
        };
        let history = |end, reads: &[Operation]| [&[set(0, Some(1), 1), end], reads].concat();
        assert!(check(&history(end(0, None), &[get(2, 3, Some(1)), get(4, 5, None)])).is_ok());
        assert!(check(&history(end(0, None), &[get(2, 3, None), get(4, 5, Some(1))])).is_err());
        assert!(check(&history(end(10, Some(12)), &[get(2, 3, None)])).is_err());
        assert!(check(&history(end(10, Some(12)), &[get(13, 14, Some(1))])).is_err());
        assert!(check(&history(end(10, Some(12)), &[get(13, 14, None)])).is_ok());
    }
}
