//! Plain reads and SETs of one key: submitted, applied, answered to their sinks, or returned to become calls.
//!
//! Previous in the flow: `worker/keys`. Next: `state/key_run`, and the sinks.
//!
//! The sinks are called in the middle of applying, with the value where it lies: an answer is made without a copy of
//! the value that only serves to carry it. A sink must therefore do no more than note the answer, or submit.
//!
//! Invariants:
//! - Every operation is answered, or returned with the failure it met, exactly once.
//! - A SET that is returned still has its name, the one the log may hold.

use bark_schema::operation::{Failure, Proposal, Query, Request, RequestId, UnixMillis};
use bytes::Bytes;

use super::apply::{Next, Place, next_command};
use super::event::{Asker, Completion, KeyAsker, Returned};
use super::key_run::{OpenRun, Run, plain_set};
use super::pending::{Read, ReadKey, WaitingEntry, WaitingRead};
use super::{BATCH_COMMANDS_MAX, BATCH_SIZE_BYTES_MAX, Partition};
use crate::state::{KeyFound, TOUCHED_KEYS_MAX};
use crate::time::Now;

impl Partition {
    /// Takes a read of one key; this node leads.
    pub fn submit_key_read(&mut self, key: &[u8], asker: KeyAsker, deadline_us: u64) {
        let key = ReadKey::new(key);
        self.push_read(Read::Key {
            asker,
            key,
            deadline_us,
        });
    }

    /// Reads that wait for their place or for a quorum.
    pub fn waiting_reads(&self) -> usize {
        self.pending.reads.len()
    }

    /// Proposes what there is if a SET of `size_bytes` would make the entry too large.
    pub fn make_room_for_set(&mut self, size_bytes: usize) {
        let batch = &self.pending.batch;
        if batch.data.len() + size_bytes > BATCH_SIZE_BYTES_MAX || batch.calls.len() >= BATCH_COMMANDS_MAX {
            self.propose_batch();
        }
    }

    /// Sequence of the newest SET of the run that another one may join.
    pub fn open_run(&self) -> Option<u64> {
        self.pending.batch.run.as_ref().map(OpenRun::last_sequence)
    }

    /// The next SETs are a run under this name.
    pub fn begin_run(&mut self, now: Now, first: RequestId, deadline_us: u64) {
        self.time = self.time.max(now.unix_ns);
        let batch = &mut self.pending.batch;
        batch.seal_run();
        batch.deadline_us = deadline_us;
        batch.run = Some(OpenRun::begin(&mut batch.data, self.time, first));
    }

    /// Adds a SET to the open run. Panics: if there is none (a bug).
    pub fn push_key_set(&mut self, key: &[u8], value: &[u8], asker: KeyAsker) {
        let batch = &mut self.pending.batch;
        let run = batch.run.as_mut().expect("a run was begun");
        run.push(&mut batch.data, key, value);
        batch.patient_until_us = None;
        batch.calls.push(Asker::Key(asker));
    }

    pub(super) fn serve_key_read(&mut self, now_ms: UnixMillis, read: Read, again: &mut Vec<Read>) {
        let Read::Key {
            asker,
            key,
            deadline_us,
        } = read
        else {
            return;
        };
        match self.state.read_key(now_ms, key.bytes()) {
            KeyFound::Value(value) => asker.sink.found(asker.token, value),
            // It must not be seen any more, and its end must be in the log before anyone is told.
            KeyFound::Expired => again.push(Read::Key {
                asker,
                key,
                deadline_us,
            }),
            KeyFound::Locked(failure) => self.return_read(asker, &key, deadline_us, failure),
        }
    }

    fn return_read(&mut self, asker: KeyAsker, key: &ReadKey, deadline_us: u64, failure: Failure) {
        let key = Bytes::copy_from_slice(key.bytes());
        let request = Request::Query {
            partition: self.id,
            query: Query::KeyGet { key },
        };
        self.returned.push(Returned {
            asker,
            deadline_us,
            request,
            failure,
        });
    }

    /// Applies a run and answers its SETs. Errors: it cannot be read.
    pub(super) fn apply_run(
        &mut self,
        at: &mut Place,
        mut run: Run,
        calls: &[Asker],
        again: &mut Vec<Read>,
    ) -> Result<(), String> {
        let header = run.header;
        self.time = self.time.max(header.time);
        if !self.state.begin_key_run(header.time, header.first, header.count) {
            return self.apply_run_singly(at, run, calls, again);
        }
        let mut untouched = 0;
        loop {
            if untouched == 0 {
                self.state.touch_keys(run.keys_ahead());
                untouched = TOUCHED_KEYS_MAX;
            }
            untouched -= 1;
            let Some((key, value)) = run.next()? else { break };
            self.serve_reads_before(at, again);
            let index = self.state.applied() + 1;
            if !self.state.apply_key_set(index, key, value) {
                return Err("a SET beyond the limits".to_string());
            }
            if let Some(Asker::Key(asker)) = calls.get(at.command) {
                asker.sink.stored(asker.token);
            }
            at.command += 1;
        }
        self.state.end_key_run(header.first, header.count);
        if !calls.is_empty() {
            self.ended_runs.push(header.first);
        }
        Ok(())
    }

    /// Each SET as the proposal it stands for: something about the run is not plain.
    fn apply_run_singly(
        &mut self,
        at: &mut Place,
        mut run: Run,
        calls: &[Asker],
        again: &mut Vec<Read>,
    ) -> Result<(), String> {
        let header = run.header;
        let mut index = 0;
        while let Some((key, value)) = run.next()? {
            let command = plain_set(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            let id = run.name(index);
            self.serve_reads_before(at, again);
            let proposal = Proposal {
                time: header.time,
                id: Some(id),
                command,
            };
            let result = self.state.apply(self.state.applied() + 1, &proposal);
            if let Some(Asker::Key(asker)) = calls.get(at.command) {
                match result {
                    Ok(_) => asker.sink.stored(asker.token),
                    Err(failure) => {
                        let deadline_us = at.now.monotonic_us + crate::worker::gateway::DEADLINE_DEFAULT_US;
                        let request = Request::Command {
                            partition: self.id,
                            id,
                            command: proposal.command,
                        };
                        self.returned.push(Returned {
                            asker: asker.clone(),
                            deadline_us,
                            request,
                            failure,
                        });
                    }
                }
            }
            at.command += 1;
            index += 1;
        }
        if !calls.is_empty() {
            self.ended_runs.push(header.first);
        }
        Ok(())
    }

    /// Nobody will be answered by this entry: calls end with `failure`, SETs are returned with it.
    pub(super) fn give_up(&mut self, entry: WaitingEntry, failure: &Failure) {
        for call in &entry.calls {
            if let Asker::Call(call) = call {
                self.completions.push(Completion {
                    call: *call,
                    result: Err(failure.clone()),
                });
            }
        }
        self.return_sets(&entry, failure);
    }

    fn return_sets(&mut self, entry: &WaitingEntry, failure: &Failure) {
        if !entry.calls.iter().any(|asker| matches!(asker, Asker::Key(_))) {
            return;
        }
        let mut data = entry.data.clone();
        let mut askers = entry.calls.iter();
        while !data.is_empty() {
            // We made these bytes; what cannot be read here could not be applied either.
            let mut run = match next_command(&mut data) {
                Ok(Next::Proposal(_)) => {
                    askers.next();
                    continue;
                }
                Ok(Next::Run(run)) => run,
                Err(reason) => unreachable!("an entry of our own cannot be read: {reason}"),
            };
            self.ended_runs.push(run.header.first);
            for index in 0..run.header.count {
                let id = run.name(index);
                let Ok(Some((key, value))) = run.next() else { break };
                let Some(Asker::Key(asker)) = askers.next() else {
                    continue;
                };
                let command = plain_set(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                self.returned.push(Returned {
                    asker: asker.clone(),
                    deadline_us: entry.deadline_us,
                    request: Request::Command {
                        partition: self.id,
                        id,
                        command,
                    },
                    failure: failure.clone(),
                });
            }
        }
    }

    /// Everything that waits ends: `changes` for what may be in the log, `reads` for what is not.
    pub(super) fn give_up_all(&mut self, changes: &Failure, reads: &Failure) {
        self.give_up_lock_waits(reads);
        let (entries, mut batch, waiting_reads) = self.pending.take_all();
        batch.seal_run();
        let unproposed = WaitingEntry {
            index: 0,
            term: 0,
            calls: batch.calls,
            data: batch.data.into(),
            deadline_us: batch.deadline_us,
        };
        for entry in entries.into_iter().chain([unproposed]) {
            self.give_up(entry, changes);
        }
        for waiting in waiting_reads {
            match waiting.read {
                Read::Query { call, .. } => self.completions.push(Completion {
                    call,
                    result: Err(reads.clone()),
                }),
                Read::Key {
                    asker,
                    key,
                    deadline_us,
                } => self.return_read(asker, &key, deadline_us, reads.clone()),
            }
        }
    }

    /// What waited until its deadline is returned, and ends there.
    pub(super) fn return_expired(&mut self, now: Now) {
        let is_over = |deadline_us: u64| deadline_us <= now.monotonic_us;
        let is_read_over = |waiting: &WaitingRead| match waiting.read {
            Read::Key { deadline_us, .. } => is_over(deadline_us),
            Read::Query { .. } => false,
        };
        if self.pending.reads.iter().any(is_read_over) {
            for waiting in std::mem::take(&mut self.pending.reads) {
                match waiting.read {
                    Read::Key {
                        asker,
                        key,
                        deadline_us,
                    } if is_over(deadline_us) => {
                        let sentence = "the deadline passed: the partition has no quorum";
                        self.return_read(asker, &key, deadline_us, Failure::Busy(sentence.to_string()));
                    }
                    _ => self.pending.reads.push_back(waiting),
                }
            }
        }
        let mut waiting = std::mem::take(&mut self.pending.waiting);
        for entry in &mut waiting {
            if is_over(entry.deadline_us) {
                self.return_sets(entry, &Failure::Unknown("the deadline passed".to_string()));
                for asker in &mut entry.calls {
                    if matches!(asker, Asker::Key(_)) {
                        *asker = Asker::Nobody;
                    }
                }
            }
        }
        self.pending.waiting = waiting;
    }
}
