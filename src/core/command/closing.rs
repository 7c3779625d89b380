//! Ending legs of our own making, and telling only when they are gone.
//!
//! A failed or cancelled start leaves no leg up, a successful transfer leaves only the new call.
//! Each leg: end it, wait for state 5; not within F: once more; then look; then it is said that a
//! leg was left up. Ending a leg that rings is a CANCEL; if its 200 crossed, it is ended again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::absence::{Finding, Search};
use super::life::Life;
use super::look::{look_at, seen};
use super::referral::{Abandoned, Parties, never_answered};
use super::turn::Turn;
use super::{Ending, Fact};
use crate::core::act::{Act, DialogState, Facts, Op, Refuser, Reply};
use crate::core::failure::{Outcome, Up};
use crate::core::ids::{CallId, DialogId, OpId};
use crate::core::notice::Remarks;
use crate::core::stack_event::{StackEvent, TransferState, Watch};
use crate::core::time::StoreTime;

/// Legs that are being ended, and what is told afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    legs: Vec<ClosingLeg>,
    /// A REFER whose call may still come up.
    stray: Option<Stray>,
    /// What is told when all is done.
    ending: Ending,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ClosingLeg {
    call: CallId,
    /// Its dialogs.
    life: Life,
    /// The one that was last seen answered since it was asked to end.
    came_up: Option<DialogId>,
    tries: u8,
    /// How often it came up after it was asked to end.
    crossings: u8,
    state: LegState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum LegState {
    /// It was asked to end; state 5 is awaited.
    Ending { until: StoreTime },
    /// It was asked twice; looks decide.
    Looking(Search),
    /// It is gone.
    Gone,
    /// It is up, or nobody knows.
    LeftUp,
}

/// A 200 that crosses our CANCEL brings a leg up once; more than this is no crossing.
const MOST_CROSSINGS: u8 = 3;

/// Events of one change of a dialog arrive within this. A leg that is told to be up after it was
/// asked to end may have been up before: then its end is on its way, and a second BYE would be one
/// too many.
pub(crate) const EVENTS_APART: Duration = Duration::from_millis(300);

/// A referred call that was given up before it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stray {
    token: OpId,
    transferred: Vec<CallId>,
    parties: Parties,
    watch: Watching,
    /// When the token is to be voided once more, because the stack did not answer; without tokens,
    /// when the suspects are looked at once more.
    again: Option<StoreTime>,
    /// Calls that may be it (stock): one that is between the right parties is ended.
    suspects: Vec<CallId>,
    /// The request to void the token that counts: one that was sent after the REFER's answer.
    revoking: Option<OpId>,
    /// Whether the proxy refuses it by now.
    revoked: bool,
    caught: bool,
}

/// How long a stray is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Watching {
    /// The REFER has no answer yet. Sending it arms its token, so to void that before means
    /// nothing.
    ForTheRefer,
    /// The phone may call until then.
    Until(StoreTime),
    /// Nothing more comes, or nobody waits for it any more.
    Over,
}

/// How many calls are suspected at a time. A forger gets no more of our memory than this.
const MOST_SUSPECTS: usize = 8;

impl Closing {
    /// Starts ending these legs, of which that was seen; `ending` is told when all are gone.
    pub(crate) fn begin(legs: Vec<(CallId, Life)>, ending: Ending, turn: &mut Turn<'_>) -> Self {
        let mut closing = Self { legs: Vec::new(), stray: None, ending };
        for (call, life) in legs {
            closing.add(call, life, turn);
        }
        closing
    }

    /// Also voids the token of a REFER and ends the call that may still come of it.
    pub(crate) fn and_stray(mut self, referral: Abandoned, turn: &mut Turn<'_>) -> Self {
        let Abandoned { token, transferred, parties, suspects, unanswered } = referral;
        let until = turn.later(turn.plan().times.follow);
        let watch = if unanswered { Watching::ForTheRefer } else { Watching::Until(until) };
        let (again, revoking, revoked, caught) = (None, None, false, false);
        let mut stray = Stray {
            token,
            transferred,
            parties,
            watch,
            again,
            suspects,
            revoking,
            revoked,
            caught,
        };
        if turn.plan().capabilities.referral_tokens {
            stray.revoke(turn);
        }
        for suspect in &stray.suspects {
            turn.open(look_at(suspect.clone()), turn.plan().times.look());
        }
        self.stray = Some(stray);
        self
    }

    fn add(&mut self, call: CallId, life: Life, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        turn.open(Act::End { call: call.clone() }, times.reply);
        let state = LegState::Ending { until: turn.later(times.silence) };
        self.legs.push(ClosingLeg { call, life, came_up: None, tries: 1, crossings: 0, state });
    }

    /// Takes a fact; ends the command when everything is gone.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        match fact {
            Fact::Reply(op, reply) => self.replied(op, reply, turn),
            Fact::Event(event) => self.happened(event, turn),
            Fact::Due => self.due_now(turn),
            // It is being ended already.
            Fact::GiveUp { .. } => {}
        }
        self.finish_if_done(turn);
    }

    fn replied(&mut self, op: &Op, reply: &Reply, turn: &mut Turn<'_>) {
        match &op.act {
            Act::Invite { call, .. } => self.invite_answered(call, reply, turn),
            Act::Look { call, .. } => self.looked(call, reply, turn),
            Act::Revoke { .. } => {
                if let Some(stray) = &mut self.stray {
                    stray.revoke_answered(&op.id, reply, turn);
                }
            }
            Act::Refer { call, .. } => self.refer_answered(call, reply, turn),
            // OK and 404 are both fine; state 5 or the timer decides.
            Act::End { .. } | Act::CancelInvite { .. } => {}
            Act::ReInvite { .. } | Act::StackHold { .. } | Act::Mark { .. } => {}
        }
    }

    fn refer_answered(&mut self, call: &CallId, reply: &Reply, turn: &mut Turn<'_>) {
        let Some(stray) = self.stray.as_mut().filter(|s| s.transferred.contains(call)) else {
            return;
        };
        match reply {
            Reply::Refused { by: Refuser::Phone, code, .. } if never_answered(*code) => {
                stray.refer_is_out(reply, turn);
            }
            // A refused REFER brings nothing about any more.
            Reply::Refused { .. } | Reply::Missing { .. } | Reply::NotSent(_) => {
                self.stray = None;
            }
            Reply::Done(_) | Reply::Silent => stray.refer_is_out(reply, turn),
        }
    }

    fn invite_answered(&mut self, call: &CallId, reply: &Reply, turn: &mut Turn<'_>) {
        let silence = turn.plan().times.silence;
        let Some(leg) = self.legs.iter_mut().find(|leg| leg.call == *call) else { return };
        if matches!(leg.state, LegState::Gone | LegState::LeftUp) {
            return;
        }
        match reply {
            Reply::Refused { by: Refuser::Phone, .. } if !leg.life.is_answered() => {
                leg.state = LegState::Gone;
            }
            // It may have been sent before, and a leg that was seen answered is not gone because
            // somebody refused: what it is asked for goes on.
            Reply::Refused { by: Refuser::Phone | Refuser::Stack, .. }
            | Reply::Missing { .. }
            | Reply::NotSent(_) => {}
            // The 200 crossed our CANCEL, or nobody knows: ending is safe either way.
            Reply::Done(_) | Reply::Silent => {
                turn.open(Act::End { call: call.clone() }, turn.plan().times.reply);
                leg.state = LegState::Ending { until: turn.later(silence) };
            }
        }
    }

    fn looked(&mut self, call: &CallId, reply: &Reply, turn: &mut Turn<'_>) {
        let Some(leg) = self.legs.iter_mut().find(|leg| leg.call == *call) else {
            return self.looked_at_suspect(call, reply, turn);
        };
        let dialog = seen(reply).and_then(|sighting| sighting.call.as_ref());
        if dialog.is_some_and(|dialog| leg.life.see(&dialog.id, dialog.state)) {
            leg.state = LegState::Gone;
            return;
        }
        let LegState::Looking(search) = &mut leg.state else { return };
        let finding = match seen(reply) {
            Some(sighting) => search.weigh(sighting, true, &leg.life, turn),
            None => Some(Finding::Unknowable),
        };
        match finding {
            Some(Finding::Absent) => leg.state = LegState::Gone,
            Some(Finding::Present(_) | Finding::Lost | Finding::Unknowable) => {
                leg.state = LegState::LeftUp;
            }
            None => {}
        }
    }

    /// On a stock script an event names a call; only its parties tell whether it can be the one.
    fn looked_at_suspect(&mut self, call: &CallId, reply: &Reply, turn: &mut Turn<'_>) {
        let Some(stray) = &mut self.stray else { return };
        let Some(at) = stray.suspects.iter().position(|suspect| suspect == call) else { return };
        match seen(reply).and_then(|sighting| sighting.call.as_ref()) {
            Some(dialog) if dialog.state == DialogState::Deleted || !stray.parties.fit(dialog) => {
                stray.suspects.remove(at);
            }
            // Who was asked is known with the REFER's answer; it may be of another transfer.
            Some(_) if stray.watch == Watching::ForTheRefer => {
                stray.again = Some(turn.later(turn.plan().times.reply));
            }
            Some(dialog) => {
                stray.suspects.remove(at);
                stray.caught = true;
                let mut life = Life::default();
                life.see(&dialog.id, dialog.state);
                self.add(call.clone(), life, turn);
            }
            // Not to be seen proves nothing (F4).
            None => stray.again = Some(turn.later(turn.plan().times.reply)),
        }
    }

    fn happened(&mut self, event: &StackEvent, turn: &mut Turn<'_>) {
        match event {
            StackEvent::Dialog { call, dialog, state } => {
                self.dialog_changed(call, dialog, *state, turn);
            }
            StackEvent::Transfer { call, new_call: Some(new_call), state, .. } => {
                // Where calls carry tokens, an event without one may be of another transfer.
                let tokens = turn.plan().capabilities.referral_tokens;
                let ours = |stray: &Stray| !tokens && stray.transferred.contains(call);
                if self.stray.as_ref().is_some_and(ours) {
                    self.stray_seen(new_call, state, turn);
                }
            }
            StackEvent::Referral { token, new_call, state, .. } => {
                if self.stray.as_ref().is_some_and(|stray| stray.token == *token) {
                    self.stray_seen(new_call, state, turn);
                }
            }
            StackEvent::Transfer { new_call: None, .. } | StackEvent::Hold { .. } => {}
            StackEvent::Restarted(_) => {
                // Its dialogs are forgotten; the phones may talk on.
                if !turn.plan().capabilities.persists_dialogs {
                    for leg in &mut self.legs {
                        if !matches!(leg.state, LegState::Gone) {
                            leg.state = LegState::LeftUp;
                        }
                    }
                    if let Some(stray) = &mut self.stray {
                        stray.give_up();
                    }
                }
            }
        }
    }

    fn dialog_changed(
        &mut self,
        call: &CallId,
        dialog: &DialogId,
        state: DialogState,
        turn: &Turn<'_>,
    ) {
        let Some(leg) = self.legs.iter_mut().find(|leg| leg.call == *call) else { return };
        if leg.life.see(dialog, state) {
            leg.state = LegState::Gone;
            return;
        }
        match state {
            DialogState::Answered | DialogState::Confirmed if leg.life.is(dialog) => {
                let first_sight = leg.came_up.as_ref() != Some(dialog);
                leg.came_up = Some(dialog.clone());
                // A 200 crossed our CANCEL or an early end: end what came up, if it is not over
                // soon. Once per dialog.
                if first_sight && leg.crossings < MOST_CROSSINGS {
                    leg.crossings += 1;
                    leg.tries = 1;
                    leg.state = LegState::Ending { until: turn.later(EVENTS_APART) };
                }
            }
            // Not its end, not its answer, or only late.
            DialogState::Deleted
            | DialogState::Answered
            | DialogState::Confirmed
            | DialogState::Unconfirmed
            | DialogState::Early => {}
        }
    }

    /// The referred call appeared after it was given up.
    fn stray_seen(&mut self, new_call: &CallId, state: &TransferState, turn: &mut Turn<'_>) {
        let Some(stray) = &mut self.stray else { return };
        let comes = match state {
            TransferState::Start | TransferState::Ok | TransferState::Progress(_) => true,
            TransferState::Fail(_) if turn.plan().capabilities.referral_tokens => {
                // The phone dialled and the proxy refused it: nothing rings, nothing more comes.
                stray.caught = true;
                stray.give_up();
                false
            }
            // On a stock script an ok may follow a failure.
            TransferState::Fail(_) | TransferState::Notified(_) => false,
        };
        let transferred = stray.transferred.contains(new_call);
        if !comes || transferred || self.legs.iter().any(|leg| leg.call == *new_call) {
            return;
        }
        if turn.plan().capabilities.referral_tokens {
            stray.caught = true;
            self.add(new_call.clone(), Life::default(), turn);
        } else if stray.watch != Watching::Over
            && stray.suspects.len() < MOST_SUSPECTS
            && !stray.suspects.contains(new_call)
        {
            // Anybody can raise such an event with somebody else's call (fact F8).
            stray.suspects.push(new_call.clone());
            turn.open(look_at(new_call.clone()), turn.plan().times.look());
        }
    }

    fn due_now(&mut self, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        let at = turn.at();
        if let Some(stray) = &mut self.stray {
            if matches!(stray.watch, Watching::Until(until) if until <= at) {
                stray.give_up();
            }
            if stray.again.is_some_and(|again| again <= at) {
                stray.again = None;
                stray.try_again(turn);
            }
        }
        for leg in &mut self.legs {
            let call = leg.call.clone();
            match &mut leg.state {
                LegState::Ending { until } if *until <= at => {
                    if leg.tries < 2 {
                        leg.tries += 1;
                        leg.state = LegState::Ending { until: turn.later(times.silence) };
                        turn.open(Act::End { call }, times.reply);
                    } else {
                        let mut search = Search::begin(&call);
                        search.look(turn);
                        leg.state = LegState::Looking(search);
                    }
                }
                LegState::Looking(search) => search.look_if_due(turn),
                LegState::Ending { .. } | LegState::Gone | LegState::LeftUp => {}
            }
        }
    }

    /// When the next leg runs out of time.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        let legs = self.legs.iter().filter_map(|leg| match &leg.state {
            LegState::Ending { until } => Some(*until),
            LegState::Looking(search) => search.due(),
            LegState::Gone | LegState::LeftUp => None,
        });
        let stray = self.stray.as_ref();
        legs.chain(stray.and_then(|stray| stray.watch.until()))
            .chain(stray.and_then(|stray| stray.again))
            .min()
    }

    /// The calls and the token that still matter.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        let legs = self.legs.iter().map(|leg| Watch::Call(leg.call.clone()));
        let stray = self.stray.iter().flat_map(|stray| {
            let calls = stray.transferred.iter().chain(&stray.suspects).cloned().map(Watch::Call);
            calls.chain([Watch::Op(stray.token.clone())])
        });
        legs.chain(stray).collect()
    }

    /// What is seen of the call that was to stay. Of a new call that nobody knows of, that says
    /// nothing.
    pub(crate) fn note_kept_call(&mut self, life: &Life) {
        if matches!(self.ending.outcome, Outcome::Unknown { .. }) {
            return;
        }
        let says_over = self.ending.error.as_ref().is_some_and(|error| error.up == Up::No);
        let up = match (life.is_over(), says_over) {
            (true, _) => Up::No,
            // Another dialog of it came up.
            (false, true) => Up::Unknown,
            (false, false) => return,
        };
        self.ending = self.ending.clone().with_up(up);
    }

    /// Whether this is a leg that was not seen to be gone.
    pub(crate) fn leaves_up(&self, call: &CallId) -> bool {
        self.legs.iter().any(|leg| leg.call == *call && leg.state != LegState::Gone)
    }

    /// Tells the end once nothing is left to wait for.
    pub(crate) fn finish_if_done(&mut self, turn: &mut Turn<'_>) {
        let settled = |leg: &ClosingLeg| matches!(leg.state, LegState::Gone | LegState::LeftUp);
        let watching = self.stray.as_ref().is_some_and(|stray| stray.watch != Watching::Over);
        if !self.legs.iter().all(settled) || watching {
            return;
        }
        let mut ending = self.ending.clone();
        if self.legs.iter().any(|leg| leg.state == LegState::LeftUp) {
            ending.remarks = Remarks { leg_left_up: true, ..ending.remarks };
            let told = ending.error.as_mut().map(|error| &mut error.up);
            let outcome = match &mut ending.outcome {
                Outcome::Unknown { up } => Some(up),
                Outcome::Success | Outcome::Failed | Outcome::Cancelled | Outcome::NotStarted => {
                    None
                }
            };
            for up in told.into_iter().chain(outcome) {
                if *up == Up::No {
                    *up = Up::Unknown;
                }
            }
        }
        if let Some(stray) = &self.stray {
            // Without a token nobody can tell whether the phone will still dial.
            ending.remarks.may_still_ring |= !stray.caught && !stray.revoked;
        }
        turn.end(ending);
    }
}

impl Watching {
    fn until(self) -> Option<StoreTime> {
        match self {
            Self::Until(until) => Some(until),
            Self::ForTheRefer | Self::Over => None,
        }
    }
}

impl Stray {
    fn revoke(&mut self, turn: &mut Turn<'_>) {
        let act = Act::Revoke { token: self.token.clone() };
        let op = turn.open(act, turn.plan().times.reply);
        self.revoking = (self.watch != Watching::ForTheRefer).then_some(op);
    }

    fn give_up(&mut self) {
        (self.watch, self.again) = (Watching::Over, None);
        self.suspects.clear();
    }

    /// From now on the phone may call, and the token can be voided for good.
    fn refer_is_out(&mut self, reply: &Reply, turn: &mut Turn<'_>) {
        if let Reply::Done(Facts::Referred { transferee, .. }) = reply {
            self.parties.asked(transferee);
        }
        if self.watch != Watching::ForTheRefer {
            return;
        }
        self.watch = Watching::Until(turn.later(turn.plan().times.follow));
        if turn.plan().capabilities.referral_tokens {
            self.revoke(turn);
        }
    }

    fn try_again(&mut self, turn: &mut Turn<'_>) {
        if turn.plan().capabilities.referral_tokens {
            self.revoke(turn);
        }
        for suspect in &self.suspects {
            turn.open(look_at(suspect.clone()), turn.plan().times.look());
        }
    }

    fn revoke_answered(&mut self, op: &OpId, reply: &Reply, turn: &Turn<'_>) {
        let Watching::Until(until) = self.watch else { return };
        if self.revoking.as_ref() != Some(op) {
            return;
        }
        match reply {
            Reply::Done(_) => {
                // An INVITE that passed the check just before has told of itself by then.
                self.revoked = true;
                let soon = turn.later(turn.plan().times.grace);
                self.watch = Watching::Until(until.min(soon));
            }
            // Safe: asked again, but not in a hurry.
            Reply::Refused { .. } | Reply::Missing { .. } | Reply::NotSent(_) | Reply::Silent => {
                self.again = Some(turn.later(turn.plan().times.reply));
            }
        }
    }
}
