//! The short way of plain reads and SETs: from the gateway straight to the partition, when it is led here.
//!
//! A call costs a place in the table of calls, a request and a reply of some hundred bytes each, and a name of its
//! own. For one key that is several times the work itself. So the partition keeps who asked, and answers the sink
//! directly; SETs share the name of their run. Whatever cannot end there becomes a call like any other and is
//! forwarded, held and retried as calls are.
//!
//! Invariants:
//! - An operation that becomes a call keeps the name it was proposed under, so it is applied at most once.

use bark_schema::operation::{Query, Request};
use bytes::Bytes;

use super::Worker;
use super::calls::{Call, Place};
use super::gateway::{DEADLINE_DEFAULT_US, KeyOperation, Reach, Waiter};
use crate::partition::event::Returned;
use crate::partition::plain_set;

impl Worker {
    pub(super) fn route_key(&mut self, operation: KeyOperation, bytes: &[u8]) {
        let KeyOperation {
            partition,
            asker,
            start,
            key_size,
            value_size,
        } = operation;
        let key_end = start + key_size as usize;
        let key = &bytes[start..key_end];
        let value = value_size.map(|size| &bytes[key_end..key_end + size as usize]);
        let now = self.gateway.now();
        let deadline_us = now.monotonic_us + DEADLINE_DEFAULT_US;
        if !self.calls.is_held(partition)
            && (value.is_none() || !self.lacks_space())
            && let Some(local) = self.partitions.get_mut(&partition)
            && local.is_leader()
            && !local.is_handing_over()
            && local.waiting_reads() < super::CALLS_MAX
        {
            let Some(value) = value else {
                local.submit_key_read(key, asker, deadline_us);
                return;
            };
            local.make_room_for_set(key.len() + value.len());
            if let Some(first) = self.gateway.name_in_run(partition, local.open_run()) {
                local.begin_run(now, first, deadline_us);
            }
            local.push_key_set(key, value, asker);
            return;
        }
        let key = Bytes::copy_from_slice(key);
        let (request, waiter) = match value {
            None => (
                Request::Query {
                    partition,
                    query: Query::KeyGet { key },
                },
                Waiter::Sink {
                    sink: asker.sink,
                    token: asker.token,
                },
            ),
            Some(value) => {
                let id = self.gateway.begin_request(partition);
                let request = Request::Command {
                    partition,
                    id,
                    command: plain_set(key, Bytes::copy_from_slice(value)),
                };
                (request, Waiter::KeySet { asker, partition, id })
            }
        };
        self.begin_call(request, Reach::Cluster, deadline_us, waiter);
    }

    /// Makes a call of what a partition could not answer, as if it had been one and just met `failure`.
    pub(super) fn take_back(&mut self, returned: Returned) {
        let Returned {
            asker,
            deadline_us,
            request,
            failure,
        } = returned;
        let is_change = matches!(request, Request::Command { .. });
        let waiter = match &request {
            Request::Command { partition, id, .. } => {
                let (partition, id) = (*partition, *id);
                self.gateway.resume_request(partition, id);
                Waiter::KeySet { asker, partition, id }
            }
            _ => Waiter::Sink {
                sink: asker.sink,
                token: asker.token,
            },
        };
        let id = self.calls.insert(Call {
            request,
            reach: Reach::Cluster,
            deadline_us,
            waiter,
            place: Place::Here,
            attempts: 0,
            maybe_applied: is_change,
        });
        self.complete(id, Err(failure));
    }
}
