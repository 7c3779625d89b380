//! Requests of the client, one by one: what each asks for, and what is answered at once.

use bytes::BufMut as _;

use super::{Ask, NO_METHOD, Place, Session, Ticket, Turn, Waiter, Want};
use crate::client::close::Close;
use crate::client::commands::{Begun, Summary};
use crate::core::ids::CommandId;
use crate::core::notice::Notice;
use crate::core::record::Begin;
use crate::core::request::Method as Commanded;
use crate::rpc::error::{Kind, Refusal};
use crate::rpc::frame::{self, Frame, Id, Invalid, Item};
use crate::rpc::method::{self, Asked, Call, Method};
use crate::rpc::wire::{self, Ending, Standing, Started};

impl Session {
    /// Takes one frame of the client.
    pub fn frame(&mut self, text: &str, turn: &mut Turn<'_>) {
        match frame::parse(text, self.limits.batch) {
            Frame::One(item) => self.item(item, Place::Alone, turn),
            Frame::Refused(refusal) => {
                (turn.refused)(NO_METHOD, refusal.kind);
                turn.out.write(|out| wire::error(out, Id::NULL, &refusal));
            }
            Frame::Batch(items) => self.batch(items, turn),
        }
    }

    pub(super) fn item(&mut self, item: Item<'_>, place: Place, turn: &mut Turn<'_>) {
        let request = match item {
            Ok(request) => request,
            Err(Invalid { id, refusal }) => {
                return self.refuse(NO_METHOD, Some(id), place, &refusal, turn);
            }
        };
        let id = request.id;
        match method::parse(&request) {
            Err(refusal) => {
                let method = Method::of(&request.method).map_or(NO_METHOD, Method::as_str);
                self.refuse(method, id, place, &refusal, turn);
            }
            Ok(Call::Command(asked)) => {
                self.commanded = true;
                self.command(id, place, *asked, turn);
            }
            Ok(Call::Echo { cmd_id, data }) => {
                self.commanded = true;
                self.echo(id, place, cmd_id, data, turn);
            }
            Ok(Call::CommandGet(command)) => {
                self.commanded = true;
                let key = self.key(command.clone());
                let ticket = self.wait(id, place, Want::Known { command });
                turn.asks.push(Ask::Get(ticket, key));
            }
            Ok(Call::CommandCancel(command)) => {
                self.commanded = true;
                let key = self.key(command.clone());
                let ticket = self.wait(id, place, Want::Cancelled { command });
                turn.asks.push(Ask::Cancel(ticket, key));
            }
            Ok(Call::Resume(resume)) => self.resume(id, place, resume, turn),
            Ok(Call::Discover) => self.reply(id, place, turn, |out| {
                out.put_slice(crate::rpc::openrpc::DOCUMENT.trim_ascii().as_bytes());
            }),
        }
    }

    fn command(&mut self, id: Option<Id<'_>>, place: Place, asked: Asked, turn: &mut Turn<'_>) {
        let method = asked.request.method();
        if !self.intake.takes(method) {
            let refusal = Refusal::new(Kind::Draining);
            return self.refuse(method.as_str(), id, place, &refusal, turn);
        }
        if let Some(refusal) = self.too_many(method) {
            return self.refuse(method.as_str(), id, place, &refusal, turn);
        }
        let digest = asked.digest();
        let Asked { cmd_id, request, external_id, stack, trace } = asked;
        let command = cmd_id.unwrap_or_else(|| CommandId::derive((turn.nonce)()));
        let begin = Box::new(Begin {
            key: self.key(command.clone()),
            session: self.id.clone(),
            request,
            digest,
            external_id,
            stack,
            trace,
            asked_by: id.map(|id| id.as_json().into()),
        });
        let begun_already = self.waits_for(&command).is_some();
        let ticket =
            self.wait(id, place, Want::Started { command, method, asked: digest.beginning() });
        if begun_already {
            self.deferred.push((ticket, begin));
        } else {
            turn.asks.push(Ask::Begin(ticket, begin));
        }
    }

    /// Whether one more command would be too many. Calls can be ended whatever runs, so only those
    /// `CallEnd`s count against each other that have not been answered yet.
    fn too_many(&self, method: Commanded) -> Option<Refusal> {
        let ends = |other: Commanded| other == Commanded::CallEnd;
        let asked = self.waiting.values().filter_map(|waiter| match &waiter.want {
            Want::Started { method, .. } => Some(*method),
            Want::Replay { summary, .. } => Some(summary.method),
            Want::Known { .. } | Want::Cancelled { .. } | Want::Overdue { .. } => None,
        });
        let most = self.limits.commands;
        let (count, why) = if ends(method) {
            let unanswered = asked.filter(|other| ends(*other)).count();
            (unanswered, format!("at most {most} CallEnds wait for their answer at once"))
        } else {
            let running = self.running.values().filter(|(other, _)| !ends(*other)).count();
            let begun = asked.filter(|other| !ends(*other)).count();
            (running + begun, format!("at most {most} commands run at once"))
        };
        (count >= most).then(|| Refusal::new(Kind::TooManyCommands).because(why))
    }

    fn echo(
        &mut self,
        id: Option<Id<'_>>,
        place: Place,
        cmd_id: Option<CommandId>,
        data: Option<&str>,
        turn: &mut Turn<'_>,
    ) {
        let command = cmd_id.unwrap_or_else(|| CommandId::derive((turn.nonce)()));
        if id.is_some() {
            let introduced = std::mem::replace(&mut self.introduced, true);
            let (session, epoch) = (self.id.clone(), self.epoch.clone());
            let standing = Standing { session: &session, epoch: &epoch, seq: self.told };
            let started = Started {
                cmd_id: &command,
                deadline_ms: None,
                external_id: None,
                standing: (!introduced).then_some(standing),
                repeated: None,
            };
            self.reply(id, place, turn, |out| wire::started(out, &started));
        } else {
            self.message(place, turn, |out| wire::echo(out, &command, "Started", None));
        }
        self.message(place, turn, |out| wire::echo(out, &command, "Reply", data));
        self.message(place, turn, |out| wire::echo(out, &command, "Ended", None));
    }

    pub(super) fn begun(
        &mut self,
        ticket: Ticket,
        begun: Result<Begun, Refusal>,
        turn: &mut Turn<'_>,
    ) {
        match begun {
            // The response is written when the entry comes, or has been.
            Ok(Begun::New) => {}
            Ok(Begun::Repeated(summary)) => {
                self.undefer(ticket, turn);
                self.repeated(ticket, summary, turn);
            }
            Ok(Begun::Straight(ending)) => {
                self.undefer(ticket, turn);
                self.straight(ticket, &ending, turn);
            }
            Err(refusal) => {
                self.doubtful |= refusal.kind == Kind::StoreUnavailable;
                self.undefer(ticket, turn);
                self.refuse_waiter(ticket, &refusal, turn);
            }
        }
    }

    /// A call was ended without a record: the end follows at once, and stands in no stream.
    fn straight(&mut self, ticket: Ticket, ending: &Ending, turn: &mut Turn<'_>) {
        let Some(Waiter { id, place, want }) = self.waiting.remove(&ticket) else { return };
        let Want::Started { command, method, .. } = want else { return };
        let id = id.as_deref().and_then(Id::of);
        self.reply(id, place, turn, |out| wire::straight(out, &command, "Started", ending));
        let ended = Notice::Ended { outcome: ending.outcome, remarks: ending.remarks.clone() };
        let notices = ending.failure.clone().map(Notice::Error).into_iter().chain([ended]);
        for notice in notices {
            self.message(place, turn, |out| wire::unplaced(out, method, &command, &notice));
        }
        // Should it have been recorded after all, its end has been told.
        self.straight.insert(command);
        self.complete_batches(turn);
    }

    pub(super) fn known(
        &mut self,
        ticket: Ticket,
        known: Result<Option<Summary>, Refusal>,
        turn: &mut Turn<'_>,
    ) -> Option<Close> {
        let Waiter { id, place, want } = self.waiting.remove(&ticket)?;
        let id = id.as_deref().and_then(Id::of);
        let method = want.method();
        match (want, known) {
            (Want::Overdue { command }, known) => return self.overdue_known(command, known, turn),
            (_, Err(refusal)) => self.refuse(method, id, place, &refusal, turn),
            (Want::Known { command } | Want::Cancelled { command }, Ok(None)) => {
                let refusal = Refusal::new(Kind::UnknownCommand).of(command);
                self.refuse(method, id, place, &refusal, turn);
            }
            (Want::Known { .. }, Ok(Some(summary))) => {
                self.reply(id, place, turn, |out| wire::known(out, &summary.known()));
            }
            (Want::Cancelled { .. }, Ok(Some(summary))) => {
                self.reply(id, place, turn, |out| {
                    let Summary { id, ended, degraded, .. } = &summary;
                    wire::cancelling(out, id, ended.as_ref(), *degraded);
                });
            }
            (Want::Started { .. } | Want::Replay { .. }, Ok(_)) => {}
        }
        self.complete_batches(turn);
        None
    }
}
