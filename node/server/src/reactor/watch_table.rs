//! Which callback belongs to which descriptor and interest, kept in step with the kernel's own table.
//!
//! Invariants
//! - A descriptor is registered with the kernel exactly while one of its slots is not empty.
//! - A token names a descriptor and a generation; the generation changes when the last watch of a descriptor ends, so
//!   an event collected before that finds nobody.
//! - Only the loop's thread makes a slot `Running`, and one slot at a time.

use std::mem;
use std::os::fd::RawFd;

use mio::unix::SourceFd;
use mio::{Registry, Token};

use super::Error;

pub(super) type Callback<State> = Box<dyn FnMut(&mut State, Readiness) + Send>;

/// What a watch waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Read,
    Write,
}

/// What a callback is told.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    pub descriptor: RawFd,
    /// The peer hung up or the descriptor failed; what it sent before may still be there to read.
    pub is_closed: bool,
}

enum Slot<State> {
    Empty,
    Idle(Callback<State>),
    Running,
}

struct Entry<State> {
    generation: u32,
    slots: [Slot<State>; 2],
}

/// Indexed by descriptor: the kernel hands out the lowest free number, so the table stays dense.
pub(super) struct WatchTable<State> {
    registry: Registry,
    entries: Vec<Entry<State>>,
    watched_count: usize,
}

const _: () = assert!(usize::BITS == 64, "a token holds a descriptor and a generation");

fn token_of(descriptor: RawFd, generation: u32) -> Token {
    Token(((generation as usize) << 32) | descriptor as usize)
}

impl<State> Slot<State> {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn take(&mut self) -> Option<Callback<State>> {
        match mem::replace(self, Self::Empty) {
            Self::Idle(callback) => Some(callback),
            Self::Empty | Self::Running => None,
        }
    }
}

impl<State> Entry<State> {
    fn new() -> Self {
        Self {
            generation: 0,
            slots: [Slot::Empty, Slot::Empty],
        }
    }

    fn interests(&self) -> Option<mio::Interest> {
        let [read, write] = &self.slots;
        match (!read.is_empty(), !write.is_empty()) {
            (true, true) => Some(mio::Interest::READABLE | mio::Interest::WRITABLE),
            (true, false) => Some(mio::Interest::READABLE),
            (false, true) => Some(mio::Interest::WRITABLE),
            (false, false) => None,
        }
    }
}

impl<State> WatchTable<State> {
    pub(super) fn new(registry: Registry) -> Self {
        Self {
            registry,
            entries: Vec::new(),
            watched_count: 0,
        }
    }

    pub(super) fn watched_count(&self) -> usize {
        self.watched_count
    }

    /// A refused callback is handed back, to be dropped outside the lock.
    pub(super) fn watch(
        &mut self,
        descriptor: RawFd,
        interest: Interest,
        callback: Callback<State>,
    ) -> Result<(), (Error, Callback<State>)> {
        let Ok(index) = usize::try_from(descriptor) else {
            let source = std::io::ErrorKind::InvalidInput.into();
            return Err((Error::Register { descriptor, source }, callback));
        };
        while self.entries.len() <= index {
            self.entries.push(Entry::new());
        }
        let entry = &mut self.entries[index];
        let was_registered = entry.interests().is_some();
        let slot = &mut entry.slots[interest as usize];
        if !slot.is_empty() {
            return Err((Error::AlreadyWatched { descriptor, interest }, callback));
        }
        *slot = Slot::Idle(callback);
        let token = token_of(descriptor, entry.generation);
        let result = match (entry.interests(), was_registered) {
            (Some(interests), true) => self
                .registry
                .reregister(&mut SourceFd(&descriptor), token, interests),
            (Some(interests), false) => self
                .registry
                .register(&mut SourceFd(&descriptor), token, interests),
            (None, _) => Ok(()),
        };
        match result {
            Ok(()) => {
                self.watched_count += usize::from(!was_registered);
                Ok(())
            }
            Err(source) => match entry.slots[interest as usize].take() {
                Some(callback) => Err((Error::Register { descriptor, source }, callback)),
                None => Ok(()),
            },
        }
    }

    /// Hands back the callback, to be dropped outside the lock; None if it is running at this moment.
    pub(super) fn unwatch(
        &mut self,
        descriptor: RawFd,
        interest: Interest,
    ) -> Result<Option<Callback<State>>, Error> {
        let entry = usize::try_from(descriptor)
            .ok()
            .and_then(|index| self.entries.get_mut(index));
        let slot = entry
            .map(|entry| &mut entry.slots[interest as usize])
            .filter(|slot| !slot.is_empty());
        let Some(slot) = slot else {
            return Err(Error::NotWatched { descriptor, interest });
        };
        let removed = slot.take();
        self.after_removal(descriptor);
        Ok(removed)
    }

    pub(super) fn unwatch_all(&mut self, descriptor: RawFd) -> [Option<Callback<State>>; 2] {
        let entry = usize::try_from(descriptor)
            .ok()
            .and_then(|index| self.entries.get_mut(index));
        let Some(entry) = entry.filter(|entry| entry.interests().is_some()) else {
            return [None, None];
        };
        let [read, write] = &mut entry.slots;
        let removed = [read.take(), write.take()];
        self.after_removal(descriptor);
        removed
    }

    /// Takes the callback out for a call, if the event's watch still exists.
    pub(super) fn begin(&mut self, token: Token, interest: Interest) -> Option<(RawFd, Callback<State>)> {
        let (descriptor, entry) = self.entry_of(token)?;
        let slot = &mut entry.slots[interest as usize];
        let callback = slot.take()?;
        *slot = Slot::Running;
        Some((descriptor, callback))
    }

    /// Puts the callback back after its call; hands it out again if its watch ended meanwhile.
    pub(super) fn put_back(
        &mut self,
        token: Token,
        interest: Interest,
        callback: Callback<State>,
    ) -> Option<Callback<State>> {
        match self.entry_of(token) {
            Some((_, entry)) if matches!(entry.slots[interest as usize], Slot::Running) => {
                entry.slots[interest as usize] = Slot::Idle(callback);
                None
            }
            _ => Some(callback),
        }
    }

    pub(super) fn end_after_panic(&mut self, token: Token, interest: Interest) {
        if let Some((descriptor, entry)) = self.entry_of(token)
            && matches!(entry.slots[interest as usize], Slot::Running)
        {
            entry.slots[interest as usize] = Slot::Empty;
            self.after_removal(descriptor);
        }
    }

    fn entry_of(&mut self, token: Token) -> Option<(RawFd, &mut Entry<State>)> {
        let index = token.0 & u32::MAX as usize;
        let entry = self.entries.get_mut(index)?;
        let descriptor = RawFd::try_from(index).ok()?;
        (token_of(descriptor, entry.generation) == token).then_some((descriptor, entry))
    }

    fn after_removal(&mut self, descriptor: RawFd) {
        let entry = &mut self.entries[descriptor as usize];
        let result = match entry.interests() {
            Some(interests) => {
                let token = token_of(descriptor, entry.generation);
                self.registry
                    .reregister(&mut SourceFd(&descriptor), token, interests)
            }
            None => {
                entry.generation = entry.generation.wrapping_add(1);
                self.watched_count -= 1;
                self.registry.deregister(&mut SourceFd(&descriptor))
            }
        };
        // The kernel forgets a closed descriptor by itself: then there is nothing left to undo.
        if let Err(error) = result {
            tracing::debug!(descriptor, %error, "the descriptor was closed before it was unwatched");
        }
    }
}
