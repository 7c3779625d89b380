//! Resuming: the entries of the session that an earlier connection did not get.

use bytes::BufMut as _;

use super::{Ask, Loss, PAGE, Place, Session, Turn};
use crate::client::close::Close;
use crate::client::commands::{Page, Unreadable, Wanted};
use crate::core::ids::SessionId;
use crate::core::record::Position;
use crate::rpc::error::{Kind, Refusal};
use crate::rpc::frame::Id;
use crate::rpc::method::{Method, Resume};
use crate::rpc::wire::{self, Standing};

#[derive(Debug)]
pub(super) struct Resuming {
    /// The raw id, until the answer is written.
    answer_to: Option<Box<str>>,
    /// The session that it was before.
    before: SessionId,
    answered: bool,
    after: Position,
    head: Option<Position>,
    reading: bool,
}

impl Session {
    pub(super) fn resume(
        &mut self,
        id: Option<Id<'_>>,
        place: Place,
        resume: Resume,
        turn: &mut Turn<'_>,
    ) {
        let why = if self.commanded {
            "another request came first"
        } else if place != Place::Alone {
            "it stands in a batch"
        } else {
            let Resume { session, epoch, seq } = resume;
            self.commanded = true;
            self.resumed = true;
            self.introduced = true;
            let before = std::mem::replace(&mut self.id, session.clone());
            self.resuming = Some(Box::new(Resuming {
                before,
                answer_to: id.map(|id| id.as_json().into()),
                answered: false,
                after: Position { epoch, seq },
                head: None,
                reading: false,
            }));
            turn.asks.push(Ask::Attach(session));
            return;
        };
        let refusal = Refusal::new(Kind::ResumeRefused).because(why);
        self.refuse(Method::Resume.as_str(), id, place, &refusal, turn);
    }

    /// The entries of the session come in from now on; everything up to `head` came before.
    pub fn attached(&mut self, head: Position) {
        if let Some(resuming) = &mut self.resuming {
            resuming.head = Some(head);
        }
    }

    /// The next page that a resuming session needs. Ask for it when there is room for its text,
    /// and answer with [`super::Answer::Page`].
    #[must_use]
    pub fn next_page(&mut self) -> Option<Wanted> {
        let resuming = self.resuming.as_mut()?;
        if resuming.reading || resuming.head.is_none() {
            return None;
        }
        resuming.reading = true;
        let after = resuming.after.clone();
        Some(Wanted { tenant: self.tenant.clone(), session: self.id.clone(), after, max: PAGE })
    }

    pub(super) fn page(
        &mut self,
        page: Result<Page, Unreadable>,
        turn: &mut Turn<'_>,
    ) -> Option<Close> {
        let mut resuming = self.resuming.take()?;
        resuming.reading = false;
        match page {
            Ok(page) => {
                if !resuming.answered {
                    resuming.answered = true;
                    self.stand_at(resuming.after.clone());
                    self.from = 0;
                    self.older_told = true;
                    self.tell_recovered(resuming.answer_to.take(), None, turn);
                }
                for entry in &page.entries {
                    let epoch = resuming.after.epoch.clone();
                    self.entry(&epoch, entry, turn);
                }
                resuming.after.seq = resuming.after.seq.max(page.through);
                if page.more {
                    self.resuming = Some(resuming);
                    return None;
                }
                if self.epoch == resuming.after.epoch {
                    self.taken = self.taken.max(resuming.after.seq);
                }
                self.fresh = true;
                None
            }
            Err(_) if resuming.answered => Some(Close::StreamLost),
            Err(Unreadable::Away) => {
                // Nothing was answered yet, so the client may simply ask once more. Until then it
                // gets nothing: what came after a gap would hide that gap from its next try.
                self.stand_at_head(resuming.head);
                self.id = resuming.before.clone();
                turn.asks.push(Ask::Attach(resuming.before));
                (self.commanded, self.resumed, self.introduced) = (false, false, false);
                let refusal = Refusal::new(Kind::StoreUnavailable);
                let id = resuming.answer_to.as_deref().and_then(Id::of);
                self.refuse(Method::Resume.as_str(), id, Place::Alone, &refusal, turn);
                None
            }
            Err(why @ (Unreadable::Restarted | Unreadable::Trimmed | Unreadable::Ahead)) => {
                self.stand_at_head(resuming.head);
                self.tell_recovered(resuming.answer_to, Some(&why), turn);
                None
            }
        }
    }

    /// The stream goes on behind this position. Who waits for something that may have stood before
    /// it is told by a close; to resume says whether anything is missing.
    pub fn skipped(&mut self, to: Position) -> Option<Close> {
        if self.epoch == to.epoch && self.taken >= to.seq {
            // It stands there already, and knows why.
            return None;
        }
        // Of a session that was taken up it is not known what runs, nor of one whose command was
        // refused for want of the store. A repeated command's entries may be still to come, though
        // it is over.
        if self.resumed || self.doubtful || !self.is_idle() || !self.begun_before.is_empty() {
            return Some(Close::StreamLost);
        }
        if self.epoch != to.epoch {
            self.older_told &= self.from == 0;
            self.from = 0;
        }
        self.stand_at(to);
        None
    }

    fn stand_at(&mut self, position: Position) {
        self.epoch = position.epoch;
        self.taken = position.seq;
        self.told = position.seq;
    }

    /// Goes on from where the session was attached; what came before was not told.
    fn stand_at_head(&mut self, head: Option<Position>) {
        if let Some(head) = head {
            self.stand_at(head);
        }
        self.from = self.told;
        self.older_told = false;
    }

    fn tell_recovered(
        &mut self,
        id: Option<Box<str>>,
        why_not: Option<&Unreadable>,
        turn: &mut Turn<'_>,
    ) {
        let (session, epoch) = (self.id.clone(), self.epoch.clone());
        let standing = Standing { session: &session, epoch: &epoch, seq: self.told };
        let id = id.as_deref().and_then(Id::of);
        self.reply(id, Place::Alone, turn, |out| {
            out.put_slice(b"{\"recovered\":");
            wire::switch(out, why_not.is_none());
            if let Some(why) = why_not {
                wire::member(out, "reason");
                wire::string(out, why.as_str());
            }
            wire::place(out, standing);
            out.put_u8(b'}');
        });
    }

    /// Entries were lost on the way to this socket.
    pub fn overflowed(&mut self) -> Loss {
        if !self.fresh {
            return Loss::Close;
        }
        // They came while a replay was written: the stream still has them.
        self.resuming = Some(Box::new(Resuming {
            answer_to: None,
            before: self.id.clone(),
            answered: true,
            after: Position { epoch: self.epoch.clone(), seq: self.taken },
            head: Some(Position { epoch: self.epoch.clone(), seq: self.taken }),
            reading: false,
        }));
        Loss::CatchUp
    }
}
