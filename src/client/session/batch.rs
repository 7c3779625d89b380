//! Batches: one array, in the order of its requests, and what follows it.
//!
//! Whatever comes of a batch's requests is kept until the array is complete, and so is all that
//! follows a collected `Started` in the stream.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{Session, Taken, Ticket, Turn, Waiter};
use crate::core::notice::Notice;
use crate::rpc::frame::{Id, Item};
use crate::rpc::wire::{self, Standing, Started};

/// Where the answer to a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Alone,
    Within { batch: u64, slot: usize },
}

#[derive(Debug)]
pub(super) struct Batch {
    number: u64,
    slots: Vec<Slot>,
    /// Messages of the batch's own requests that wait for its array.
    after: Vec<Bytes>,
}

#[derive(Debug)]
enum Slot {
    Waiting,
    Ready(Bytes),
    Started { id: Box<str>, taken: Taken },
}

impl Session {
    pub(super) fn batch(&mut self, items: Vec<Item<'_>>, turn: &mut Turn<'_>) {
        let number = self.next_ticket().0;
        let slots = items.iter().filter(|item| answered(item)).map(|_| Slot::Waiting).collect();
        self.batches.push(Batch { number, slots, after: Vec::new() });
        let mut slot = 0;
        for item in items {
            let counts = answered(&item);
            self.item(item, Place::Within { batch: number, slot }, turn);
            slot += usize::from(counts);
        }
        self.complete_batches(turn);
    }

    /// Puts a `Started` into its place in a batch's array.
    pub(super) fn collect(&mut self, ticket: Ticket, taken: Taken, turn: &mut Turn<'_>) {
        let Some(Waiter { id: Some(id), place: Place::Within { batch, slot }, .. }) =
            self.waiting.remove(&ticket)
        else {
            return;
        };
        self.put(batch, slot, Slot::Started { id, taken });
        self.undefer(ticket, turn);
        self.complete_batches(turn);
    }

    /// The oldest `Started` that was collected by a batch other than `but` and is not written.
    pub(super) fn barrier(&self, but: Option<u64>) -> Option<&Taken> {
        self.batches
            .iter()
            .filter(|batch| Some(batch.number) != but)
            .flat_map(|batch| &batch.slots)
            .filter_map(|slot| match slot {
                Slot::Started { taken, .. } => Some(taken),
                Slot::Waiting | Slot::Ready(_) => None,
            })
            .min_by_key(|taken| taken.arrival)
    }

    /// Writes the arrays that are complete and what waited for them.
    pub(super) fn complete_batches(&mut self, turn: &mut Turn<'_>) {
        while let Some(place) = self
            .batches
            .iter()
            .position(|batch| !batch.slots.iter().any(|slot| matches!(slot, Slot::Waiting)))
        {
            let batch = self.batches.remove(place);
            self.write_array(&batch, turn);
            for message in batch.after {
                turn.out.push(message);
            }
        }
        while let Some(first) = self.held.front() {
            if self.barrier(None).is_some_and(|barrier| barrier.arrival < first.arrival) {
                return;
            }
            if let Some(taken) = self.held.pop_front() {
                self.tell(&taken, turn);
            }
        }
    }

    fn write_array(&mut self, batch: &Batch, turn: &mut Turn<'_>) {
        if batch.slots.is_empty() {
            return;
        }
        // The second rule: stay below everything that is not written yet.
        let unwritten = [self.held.front(), self.barrier(Some(batch.number))];
        let session = &self.id;
        let mut told = self.told;
        turn.out.write(|out| {
            let mut separator = b'[';
            for slot in &batch.slots {
                out.put_u8(separator);
                separator = b',';
                match slot {
                    Slot::Waiting => {}
                    Slot::Ready(text) => out.put_slice(text),
                    Slot::Started { id, taken } => {
                        let Taken { epoch, entry, .. } = taken;
                        let seq = unwritten
                            .iter()
                            .flatten()
                            .filter(|other| other.epoch == *epoch)
                            .map(|other| other.entry.seq.saturating_sub(1))
                            .fold(entry.seq, u64::min);
                        told = told.max(seq);
                        let started = Started {
                            cmd_id: &entry.key.id,
                            deadline_ms: match entry.notice {
                                Notice::Started { deadline_ms } => Some(deadline_ms),
                                Notice::Progress { .. }
                                | Notice::Error(_)
                                | Notice::Ended { .. } => None,
                            },
                            external_id: entry.external_id.as_deref(),
                            standing: Some(Standing { session, epoch, seq }),
                            repeated: None,
                        };
                        if let Some(id) = Id::of(id) {
                            wire::result(out, id, |out| wire::started(out, &started));
                        }
                    }
                }
            }
            out.put_u8(b']');
        });
        self.told = told;
        self.introduced = true;
    }

    pub(super) fn respond(
        &mut self,
        place: Place,
        turn: &mut Turn<'_>,
        write: impl FnOnce(&mut BytesMut),
    ) {
        match place {
            Place::Alone => turn.out.write(write),
            Place::Within { batch, slot } => {
                let text = turn.out.render(write);
                self.put(batch, slot, Slot::Ready(text));
            }
        }
    }

    /// Writes a message that belongs to a request: at once, or behind its batch's array.
    pub(super) fn message(
        &mut self,
        place: Place,
        turn: &mut Turn<'_>,
        write: impl FnOnce(&mut BytesMut),
    ) {
        let batch = match place {
            Place::Alone => None,
            Place::Within { batch: number, .. } => {
                self.batches.iter_mut().find(|batch| batch.number == number)
            }
        };
        match batch {
            None => turn.out.write(write),
            Some(batch) => batch.after.push(turn.out.render(write)),
        }
    }

    fn put(&mut self, number: u64, slot: usize, filled: Slot) {
        let batch = self.batches.iter_mut().find(|batch| batch.number == number);
        if let Some(place) = batch.and_then(|batch| batch.slots.get_mut(slot)) {
            *place = filled;
        }
    }
}

/// Whether an item of a batch has a place in its array.
fn answered(item: &Item<'_>) -> bool {
    match item {
        Ok(request) => request.id.is_some(),
        Err(_) => true,
    }
}
