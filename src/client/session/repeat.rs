//! Repeated requests: the command's entries from its first on, if this connection did not have
//! them.

use std::sync::Arc;

use super::{Ask, PAGE, Session, Ticket, Turn, Waiter, Want};
use crate::client::close::Close;
use crate::client::commands::{Page, Summary, Unreadable, Wanted};
use crate::core::ids::Epoch;
use crate::core::notice::Notice;
use crate::core::record::{Entry, Position};
use crate::rpc::frame::Id;
use crate::rpc::wire::{self, Repeated, Standing, Started};

/// Most commands of before that one connection is told again. Each has to be remembered, so that it
/// is not told a third time.
pub const MOST_REPLAYED: usize = 1024;

impl Session {
    /// Asks for what waited for this begin: the next one of the same id.
    pub(super) fn undefer(&mut self, ticket: Ticket, turn: &mut Turn<'_>) {
        if self.deferred.is_empty() {
            return;
        }
        // The next of an id waits for the one before it, whichever is in the table first.
        let free = self.deferred.iter().position(|(own, begin)| {
            !self.waiting.iter().any(|(other, waiter)| {
                other != own
                    && *other != ticket
                    && other < own
                    && matches!(&waiter.want, Want::Started { command, .. } if *command == begin.key.id)
            })
        });
        if let Some(place) = free {
            let (ticket, begin) = self.deferred.remove(place);
            turn.asks.push(Ask::Begin(ticket, begin));
        }
    }

    pub(super) fn repeated(&mut self, ticket: Ticket, summary: Summary, turn: &mut Turn<'_>) {
        if self.has_told(&summary) {
            if summary.first.epoch != self.epoch || summary.first.seq > self.taken {
                self.begun_before.insert(summary.id.clone());
            }
            self.tell_repeated(ticket, &summary, None, turn);
            return;
        }
        if self.replayed.len() >= MOST_REPLAYED {
            self.tell_repeated(ticket, &summary, Some(Vec::new()), turn);
            return;
        }
        let wanted = self.replay_wanted(&summary, summary.first.seq.saturating_sub(1));
        if let Some(waiter) = self.waiting.get_mut(&ticket) {
            waiter.want = Want::Replay { summary: Box::new(summary), entries: Vec::new() };
            turn.asks.push(Ask::Replay(ticket, wanted));
        }
    }

    fn replay_wanted(&self, summary: &Summary, after: u64) -> Wanted {
        Wanted {
            tenant: self.tenant.clone(),
            session: summary.session.clone(),
            after: Position { epoch: summary.first.epoch.clone(), seq: after },
            max: PAGE,
        }
    }

    /// Whether this connection has written the command's entries, or will without being asked.
    fn has_told(&self, summary: &Summary) -> bool {
        if self.replayed.contains_key(&summary.id) {
            return true;
        }
        summary.session == self.id
            && if summary.first.epoch == self.epoch {
                summary.first.seq > self.from
            } else {
                self.older_told
            }
    }

    /// Whether an entry that comes by the inbox was told by a replay already: the inbox may be
    /// behind.
    pub(super) fn was_replayed(&self, epoch: &Epoch, entry: &Entry) -> bool {
        let until = self.replayed.get(&entry.key.id);
        until.is_some_and(|until| until.epoch == *epoch && entry.seq <= until.seq)
    }

    pub(super) fn replay(
        &mut self,
        ticket: Ticket,
        page: Result<Page, Unreadable>,
        turn: &mut Turn<'_>,
    ) -> Option<Close> {
        let Some(Waiter { want: Want::Replay { summary, entries }, .. }) =
            self.waiting.get_mut(&ticket)
        else {
            return None;
        };
        if self.replayed.contains_key(&summary.id) {
            // Asked twice at once: the other one's answer was first, and told it.
            let summary = summary.clone();
            self.tell_repeated(ticket, &summary, None, turn);
            return None;
        }
        let Ok(page) = page else {
            let summary = summary.clone();
            self.tell_repeated(ticket, &summary, Some(Vec::new()), turn);
            return None;
        };
        if summary.first.epoch != self.epoch {
            // The stream goes on in an epoch that the inbox has not brought yet. A client that
            // was told an entry of it would stand there, past what it never got.
            return Some(Close::StreamLost);
        }
        // What stands behind `from` was told as it came.
        let until = self.from;
        entries.extend(
            page.entries
                .into_iter()
                .filter(|entry| entry.key.id == summary.id && entry.seq <= until),
        );
        let ended = entries.last().is_some_and(|e| matches!(e.notice, Notice::Ended { .. }));
        let (summary, entries) = (summary.clone(), std::mem::take(entries));
        if page.more && !ended && page.through < until {
            let wanted = self.replay_wanted(&summary, page.through);
            if let Some(Waiter { want: Want::Replay { entries: kept, .. }, .. }) =
                self.waiting.get_mut(&ticket)
            {
                *kept = entries;
            }
            turn.asks.push(Ask::Replay(ticket, wanted));
            return None;
        }
        self.tell_repeated(ticket, &summary, Some(entries), turn);
        None
    }

    /// Answers a repeated request; `entries` are those of a replay, from `Started` on.
    fn tell_repeated(
        &mut self,
        ticket: Ticket,
        summary: &Summary,
        entries: Option<Vec<Arc<Entry>>>,
        turn: &mut Turn<'_>,
    ) {
        let Some(Waiter { id, place, .. }) = self.waiting.remove(&ticket) else {
            return;
        };
        self.introduced = true;
        let mut replayed = entries.iter().flatten();
        let is_over = summary.ended.is_some()
            || replayed.any(|entry| matches!(entry.notice, Notice::Ended { .. }));
        if !is_over && summary.session == self.id {
            self.runs(&summary.id, summary.method, summary.deadline_ms, turn.now);
        }
        let whole = entries
            .as_ref()
            .map(|entries| entries.first().is_some_and(|first| first.seq == summary.first.seq));
        let seq = if summary.first.epoch == self.epoch {
            summary.first.seq.min(self.told)
        } else {
            self.told
        };
        let (session, epoch) = (self.id.clone(), self.epoch.clone());
        let started = Started {
            cmd_id: &summary.id,
            deadline_ms: Some(summary.deadline_ms),
            external_id: summary.external_id.as_deref(),
            standing: Some(Standing { session: &session, epoch: &epoch, seq }),
            repeated: Some(Repeated { replayed: whole, ended: summary.ended.as_ref() }),
        };
        let id = id.as_deref().and_then(Id::of);
        self.reply(id, place, turn, |out| wire::started(out, &started));
        if whole == Some(true) {
            if let Some(last) = entries.iter().flatten().last() {
                let until = Position { epoch: summary.first.epoch.clone(), seq: last.seq };
                self.replayed.insert(summary.id.clone(), until);
            }
            // The first entry is what the response says.
            for entry in entries.iter().flatten().skip(usize::from(id.is_some())) {
                self.message(place, turn, |out| {
                    wire::notification(out, &summary.first.epoch, entry);
                });
            }
        }
        self.complete_batches(turn);
    }
}
