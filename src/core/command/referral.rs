//! From a REFER to the fate of the call it brings about.
//!
//! After a 2xx to the REFER only the referred INVITE decides (fact F7). A failure counts
//! after a grace, an ok always wins (F6). With the reference script the referred INVITE proves
//! itself by our one-use token, and nothing else proves it; on a stock script the stack's own
//! transfer events name it, and the new dialog's parties are looked at before it is believed (F8):
//! anybody can raise such an event on somebody else's call.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Fact;
use super::candidate::{Candidate, Looked};
use super::life::Life;
use super::look::{look_at, seen};
use super::turn::Turn;
use crate::core::act::{
    Act, Dialog, DialogState, Facts, NotSent, ReferMark, ReferTo, Refuser, Reply, Sighting,
};
use crate::core::failure::SipStatus;
use crate::core::ids::{CallId, DialogId, OpId};
use crate::core::plan::ReferBy;
use crate::core::request::Leg;
use crate::core::sip_address::SipAddress;
use crate::core::stack_event::{StackEvent, TransferState, Watch};
use crate::core::time::StoreTime;
use std::time::Duration;

/// One REFER and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Referral {
    /// The operation that sent it; also its token.
    pub token: OpId,
    /// The call whose party was asked.
    pub call: CallId,
    /// Attended: the call that is to be replaced. Events may name either.
    pub consult: Option<CallId>,
    /// Between whom the new call must be.
    parties: Parties,
    /// How long the target may ring.
    ring: Duration,
    stage: Stage,
    /// The new call, once seen.
    pub new: Option<NewCall>,
    /// Calls that events name, whose parties are being looked at (stock).
    candidates: Vec<Candidate>,
    /// Calls that events named and that are somebody else's.
    strangers: Vec<CallId>,
    /// What was told: that the party took the REFER, that it calls.
    told: Told,
    /// The transferee reported progress before its answer to the REFER was seen.
    reports: bool,
    /// What the transferee or the script says the failure really was.
    hint: Option<SipStatus>,
    /// Nobody said that it failed: only the end of a dialog tells.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsaid: bool,
    /// The transferee said by NOTIFY that it was answered.
    notified: bool,
    /// The transferred call's dialogs.
    life: Life,
    /// The stack restarted since the REFER was opened: its marks on the call may be gone.
    marks_void: bool,
    /// A list did not show the transferred call. That proves little, but it finds the word.
    pub call_missing: bool,
}

/// The referred call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCall {
    /// Its Call-ID.
    pub call: CallId,
    /// Where it goes, after look-up.
    pub destination: Option<Arc<str>>,
    /// Its parties are known to be the right ones, or it carried our token.
    proven: bool,
    /// Its dialogs: a challenged INVITE leaves a dead one beside the live one.
    life: Life,
}

/// Between whom a referred call must be, as far as that is known. A call between others is not
/// ours; one between these need not be (facts F7, F8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parties {
    /// Who was asked, once known.
    transferee: Option<Arc<str>>,
    /// Which party of the call that is, until a look at the call tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sought: Option<Leg>,
    /// Whom to call; attended: whoever answers the consultation.
    target: Option<SipAddress>,
}

impl Parties {
    /// This party was asked.
    pub(crate) fn asked(&mut self, transferee: &Arc<str>) {
        self.transferee = Some(Arc::clone(transferee));
    }

    /// Whether this dialog can be the referred call.
    pub(crate) fn fit(&self, dialog: &Dialog) -> bool {
        self.are(&dialog.from, &dialog.to)
    }

    /// Whether a call between these can be the referred one.
    fn are(&self, from: &str, to: &str) -> bool {
        let from_ok = match (&self.transferee, SipAddress::parse(from).ok()) {
            (Some(transferee), Some(from)) => from.is_party(transferee),
            (None, _) | (_, None) => true,
        };
        let to_ok = self.target.as_ref().is_none_or(|target| target.is_party(to));
        from_ok && to_ok
    }
}

/// A REFER that is given up, for whoever watches what still comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Abandoned {
    pub token: OpId,
    /// Every call that a transfer event may name.
    pub transferred: Vec<CallId>,
    pub parties: Parties,
    /// Calls that may be the referred one.
    pub suspects: Vec<CallId>,
    /// The REFER has no answer yet: its party may still be asked.
    pub unanswered: bool,
}

/// How many calls may claim to be the referred one at a time, and how many strangers are
/// remembered. A forger gets no more of our memory than this.
const MOST: usize = 8;

/// What was told already; equal progress is told once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    accepted: bool,
    placed: bool,
    pending: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The REFER has no answer yet.
    Asking,
    /// The REFER is out or taken; no INVITE seen yet. `since`: from when on it could be followed.
    Following { since: StoreTime, until: StoreTime, taken: Taken },
    /// The time to follow is over; a look for the call decides.
    LookingForCall { since: StoreTime, taken: Taken },
    /// The new INVITE is under way.
    Ringing { until: StoreTime },
    /// It was answered; on a stock script its parties are looked at. `at`: the next look; none
    /// while one is under way.
    Verifying { at: Option<StoreTime>, until: StoreTime },
    /// It rang too long; whether it is ours to end, and rings still, is being looked at.
    RingingOut,
    /// It rang too long and was asked to end. `again`: its answer crossed that.
    RungOut { until: StoreTime, again: bool },
    /// It failed, unless something better comes.
    Failing { status: SipStatus, until: StoreTime, ring_until: StoreTime },
    /// The grace is over; a look tells whether it is not alive after all.
    CheckingFailure { status: SipStatus, ring_until: StoreTime },
    /// Decided.
    Done,
}

/// What is known of the REFER's own answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Taken {
    /// The party said 2xx.
    Yes,
    /// The stack only says that it was sent; its mark on the call tells a refusal.
    Sent { looked: bool },
    /// The reply was lost.
    Lost,
    /// The party reports progress by NOTIFY, so it does call, though not through this stack.
    Elsewhere,
}

/// What became visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The party took the REFER.
    Accepted,
    /// The new call was placed.
    Placed,
    /// It rings, or the like.
    Pending(SipStatus),
    /// It was answered.
    Answered,
    /// It will not come to pass.
    Failed(Why),
}

/// Why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// The REFER was refused by the phone.
    Refused(SipStatus),
    /// The REFER was refused; the stack does not say with what.
    RefusedUnsaid,
    /// The stack refused to send it.
    StackRefused { code: u16, reason: Arc<str> },
    /// A call it needs is not there, as far as one look tells.
    Missing { call: CallId, sighting: Box<Sighting> },
    /// It never left us.
    NotSent(NotSent),
    /// The phone took the REFER and placed no call.
    Ignored,
    /// The new call failed.
    Target(SipStatus),
    /// The new call rang out. `ended`: it is known to be over.
    NoAnswer { ended: bool },
    /// Nobody knows.
    Lost,
}

impl Why {
    /// Whether the party may call all the same, later.
    pub(crate) fn may_come(&self) -> bool {
        match self {
            Self::Refused(status) => never_answered(status.code),
            Self::Ignored | Self::Lost => true,
            Self::RefusedUnsaid
            | Self::StackRefused { .. }
            | Self::Missing { .. }
            | Self::NotSent(_)
            | Self::Target(_)
            | Self::NoAnswer { .. } => false,
        }
    }
}

impl Referral {
    /// Sends the REFER. `life`: what was seen of the call's dialogs so far.
    pub(crate) fn begin(
        call: &CallId,
        leg: Leg,
        to: ReferTo,
        ring: Duration,
        life: Life,
        turn: &mut Turn<'_>,
    ) -> Self {
        let (target, consult) = match &to {
            ReferTo::Address(address) => (Some(address.clone()), None),
            ReferTo::Replacing { call, .. } => (None, Some(call.clone())),
        };
        let act = Act::Refer { call: call.clone(), leg, to };
        let token = turn.open(act, Self::answer(turn));
        Self {
            token,
            call: call.clone(),
            consult,
            parties: Parties { transferee: None, sought: None, target },
            ring,
            stage: Stage::Asking,
            new: None,
            candidates: Vec::new(),
            strangers: Vec::new(),
            told: Told::default(),
            reports: false,
            hint: None,
            unsaid: false,
            notified: false,
            life,
            marks_void: false,
            call_missing: false,
        }
    }

    /// How long the stack may take for a REFER: to find the call, and for the phone's answer.
    fn answer(turn: &Turn<'_>) -> Duration {
        turn.plan().times.reply + turn.plan().times.silence
    }

    /// The longest that the REFER itself may take.
    pub(crate) fn asking(turn: &Turn<'_>) -> Duration {
        turn.plan().times.within(Self::answer(turn))
    }

    /// The longest that it may take from the REFER to the end.
    pub(crate) fn longest(turn: &Turn<'_>, ring: Duration) -> Duration {
        let t = turn.plan().times;
        let look = t.within(t.look());
        // Asked, followed (once more for a forged call that was believed), rung, verified, ended
        // twice.
        let followed = (t.follow.max(t.silence) + look) * 2 + look;
        let rung = ring * 2 + t.grace + look * 2;
        let verified = t.follow + look;
        let ended = (t.silence + t.grace) * 2;
        Self::asking(turn) + followed + rung + verified + ended + look
    }

    /// Takes a fact; says what became visible, in order.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) -> Vec<Progress> {
        if self.stage == Stage::Done {
            return Vec::new();
        }
        if let Some((dialog, state)) = fact.shows(&self.call) {
            self.life.see(dialog, state);
        }
        let seen = match fact {
            Fact::Reply(op, reply) if op.id == self.token => {
                self.refer_answered(&op.act, reply, turn)
            }
            Fact::Reply(op, reply) => match &op.act {
                Act::Look { call, .. } => self.looked(call, reply, turn),
                Act::Invite { .. }
                | Act::CancelInvite { .. }
                | Act::Refer { .. }
                | Act::ReInvite { .. }
                | Act::StackHold { .. }
                | Act::Mark { .. }
                | Act::End { .. }
                | Act::Revoke { .. } => Vec::new(),
            },
            Fact::Event(event) => self.happened(event, turn),
            Fact::Due => self.due_now(turn),
            Fact::GiveUp { .. } => Vec::new(),
        };
        self.once(seen)
    }

    /// Says each thing once, and the first thing first: events may come before the REFER's reply.
    fn once(&mut self, seen: Vec<Progress>) -> Vec<Progress> {
        let mut said = Vec::with_capacity(seen.len());
        for progress in seen {
            let calls = match &progress {
                Progress::Accepted | Progress::Failed(_) => false,
                Progress::Placed | Progress::Pending(_) | Progress::Answered => true,
            };
            if (calls || progress == Progress::Accepted) && !self.told.accepted {
                self.told.accepted = true;
                said.push(Progress::Accepted);
            }
            match progress {
                Progress::Accepted => {}
                Progress::Placed if self.told.placed => {}
                Progress::Placed => {
                    self.told.placed = true;
                    said.push(Progress::Placed);
                }
                Progress::Pending(_) | Progress::Answered | Progress::Failed(_) => {
                    said.push(progress);
                }
            }
        }
        said
    }

    fn refer_answered(&mut self, act: &Act, reply: &Reply, turn: &mut Turn<'_>) -> Vec<Progress> {
        let times = turn.plan().times;
        let asking = self.stage == Stage::Asking;
        match reply {
            Reply::Done(facts) => {
                let mut taken = Taken::Yes;
                if let Facts::Referred { transferee, code } = facts {
                    self.parties.asked(transferee);
                    if *code == 0 {
                        taken = Taken::Sent { looked: false };
                    }
                }
                if taken == Taken::Yes && self.reports {
                    taken = Taken::Elsewhere;
                }
                if asking {
                    let wait = match taken {
                        Taken::Sent { .. } => times.silence,
                        Taken::Yes | Taken::Lost => times.follow,
                        Taken::Elsewhere => self.ring,
                    };
                    self.follow(turn.at(), turn.later(wait), taken);
                }
                let mut told = vec![Progress::Accepted];
                told.extend(self.held_back(turn));
                told
            }
            Reply::Silent => {
                if asking {
                    self.follow(turn.at(), turn.later(times.follow), Taken::Lost);
                    if turn.plan().capabilities.referral_tokens {
                        // Its performer may have died before it was sent: the mark tells.
                        turn.open(self.look_for_call(), times.look());
                    }
                }
                self.may_be_taken(act, turn)
            }
            // A call that was placed all the same decides.
            Reply::Refused { .. } | Reply::Missing { .. } | Reply::NotSent(_) if !asking => {
                Vec::new()
            }
            // Somebody calls, and may do so for a REFER whose answer was lost.
            Reply::Refused { by: Refuser::Phone, code, .. }
                if never_answered(*code) && !self.candidates.is_empty() =>
            {
                self.follow(turn.at(), turn.later(times.follow), Taken::Lost);
                self.may_be_taken(act, turn)
            }
            Reply::Refused { by: Refuser::Phone, code, reason } => {
                self.fail(Why::Refused(SipStatus { code: *code, reason: Arc::clone(reason) }))
            }
            Reply::Refused { by: Refuser::Stack, code, reason } => {
                self.fail(Why::StackRefused { code: *code, reason: Arc::clone(reason) })
            }
            Reply::Missing { call, sighting } => {
                self.fail(Why::Missing { call: call.clone(), sighting: sighting.clone() })
            }
            Reply::NotSent(why) => self.fail(Why::NotSent(*why)),
        }
    }

    fn follow(&mut self, since: StoreTime, until: StoreTime, taken: Taken) {
        self.stage = Stage::Following { since, until, taken };
    }

    fn happened(&mut self, event: &StackEvent, turn: &mut Turn<'_>) -> Vec<Progress> {
        match event {
            StackEvent::Transfer { call, new_call, destination, state } => {
                if !self.names_us(call) {
                    return Vec::new();
                }
                match new_call {
                    Some(new_call) => self.named(new_call, destination.as_ref(), state, turn),
                    None => self.reported(state, turn),
                }
            }
            StackEvent::Referral { token, new_call, destination, state } => {
                if *token == self.token && !self.names_us(new_call) {
                    self.adopt(new_call, destination.as_ref(), true, turn);
                    self.advanced(new_call, destination.as_ref(), state, turn)
                } else {
                    Vec::new()
                }
            }
            StackEvent::Dialog { call, dialog, state } => {
                if *call == self.call {
                    return Vec::new();
                }
                self.dialog_changed(call, dialog, *state, turn)
            }
            StackEvent::Restarted(_) => {
                self.marks_void = true;
                // Events may be lost: see what is there now.
                self.look_around(turn);
                Vec::new()
            }
            StackEvent::Hold { .. } => Vec::new(),
        }
    }

    fn look_around(&self, turn: &mut Turn<'_>) {
        let look = turn.plan().times.look();
        match (&self.new, &self.stage) {
            (Some(new), Stage::Ringing { .. } | Stage::Failing { .. }) => {
                turn.open(look_at(new.call.clone()), look);
            }
            (None, Stage::Following { .. }) => {
                turn.open(self.look_for_call(), look);
            }
            (
                _,
                Stage::Asking
                | Stage::Following { .. }
                | Stage::LookingForCall { .. }
                | Stage::Ringing { .. }
                | Stage::Verifying { .. }
                | Stage::RingingOut
                | Stage::RungOut { .. }
                | Stage::Failing { .. }
                | Stage::CheckingFailure { .. }
                | Stage::Done,
            ) => {}
        }
    }

    fn look_for_call(&self) -> Act {
        let referred_by = Some(self.token.clone());
        Act::Look { call: self.call.clone(), referred_by, sent: None }
    }

    fn names_us(&self, call: &CallId) -> bool {
        *call == self.call || self.consult.as_ref() == Some(call)
    }

    /// A transfer event names a call. With tokens it counts for the call that carries ours, and for
    /// no other: one call can be transferred twice, and the event does not say by whom. On a stock
    /// script the call's parties are looked at first, once, and what is reported meanwhile is kept.
    fn named(
        &mut self,
        call: &CallId,
        destination: Option<&Arc<str>>,
        state: &TransferState,
        turn: &mut Turn<'_>,
    ) -> Vec<Progress> {
        if self.names_us(call) || self.strangers.contains(call) {
            return Vec::new();
        }
        // One that was not seen yet may be forged, and must not hide the right one.
        if self.new.as_ref().is_some_and(|new| new.proven || new.call == *call) {
            return self.advanced(call, destination, state, turn);
        }
        if turn.plan().capabilities.referral_tokens {
            return Vec::new();
        }
        if let Some(known) = self.candidates.iter_mut().find(|known| known.call == *call) {
            known.report(state);
        } else if self.candidates.len() < MOST {
            let (call, destination) = (call.clone(), destination.cloned());
            turn.open(look_at(call.clone()), turn.plan().times.look());
            self.candidates.push(Candidate::named(call, destination, state.clone()));
        }
        Vec::new()
    }

    /// Takes a call as the referred one, unless there is one.
    fn adopt(
        &mut self,
        call: &CallId,
        destination: Option<&Arc<str>>,
        proven: bool,
        turn: &Turn<'_>,
    ) {
        if self.new.is_some() {
            return;
        }
        let (call, destination) = (call.clone(), destination.cloned());
        self.new = Some(NewCall { call, destination, proven, life: Life::default() });
        // It may be failing by its phone's own word.
        if !matches!(self.stage, Stage::Failing { .. }) {
            self.stage = Stage::Ringing { until: turn.later(self.ring) };
        }
    }

    /// A fact about the referred call.
    fn advanced(
        &mut self,
        call: &CallId,
        destination: Option<&Arc<str>>,
        state: &TransferState,
        turn: &mut Turn<'_>,
    ) -> Vec<Progress> {
        let Some(new) = self.new.as_mut().filter(|new| new.call == *call) else {
            return Vec::new();
        };
        if new.destination.is_none() {
            new.destination = destination.cloned();
        }
        let mut told = vec![Progress::Placed];
        match state {
            TransferState::Start => self.alive_again(),
            TransferState::Progress(status) => told.extend(self.pending(status)),
            TransferState::Ok => told.extend(self.answered(turn)),
            TransferState::Fail(status) => {
                self.unsaid = false;
                told.extend(self.failing(status, turn));
            }
            TransferState::Notified(_) => told.extend(self.reported(state, turn)),
        }
        told
    }

    /// A second INVITE of the same call, after a challenge: the failure before it does not count.
    fn alive_again(&mut self) {
        if let Stage::Failing { ring_until, .. } | Stage::CheckingFailure { ring_until, .. } =
            &self.stage
        {
            self.stage = Stage::Ringing { until: *ring_until };
        }
    }

    /// What the transferee says by NOTIFY; with or without a new call in sight.
    fn reported(&mut self, state: &TransferState, turn: &mut Turn<'_>) -> Vec<Progress> {
        let (TransferState::Notified(status) | TransferState::Progress(status)) = state else {
            return Vec::new();
        };
        match status.code {
            100..=199 => self.reported_progress(status, turn),
            200..=299 => self.reported_answer(turn),
            _ => {
                self.hint = Some(status.clone());
                self.unsaid = false;
                self.failing(status, turn)
            }
        }
    }

    /// Whose REFER a NOTIFY is of it does not say, and the call may have been asked before. A call that
    /// is known to have come of ours tells by itself.
    fn reported_answer(&mut self, turn: &mut Turn<'_>) -> Vec<Progress> {
        let known = std::mem::replace(&mut self.notified, true);
        let Some(new) = self.new.as_ref().filter(|new| new.proven) else {
            return self.answered(turn);
        };
        match &self.stage {
            Stage::Ringing { .. } | Stage::Failing { .. } => {
                if !known {
                    turn.open(look_at(new.call.clone()), turn.plan().times.look());
                }
                Vec::new()
            }
            Stage::RingingOut | Stage::CheckingFailure { .. } => Vec::new(),
            Stage::Asking
            | Stage::Following { .. }
            | Stage::LookingForCall { .. }
            | Stage::Verifying { .. }
            | Stage::RungOut { .. }
            | Stage::Done => self.answered(turn),
        }
    }

    fn reported_progress(&mut self, status: &SipStatus, turn: &Turn<'_>) -> Vec<Progress> {
        match &self.stage {
            Stage::Ringing { .. } => self.pending(status).into_iter().collect(),
            // A 100 comes with every REFER; more than that, and it does call (F23).
            Stage::Following { since, taken: Taken::Yes | Taken::Lost, .. }
                if status.code > 100 =>
            {
                let (since, until) = (*since, turn.later(self.ring));
                self.follow(since, until, Taken::Elsewhere);
                Vec::new()
            }
            Stage::Asking if status.code > 100 => {
                self.reports = true;
                Vec::new()
            }
            Stage::Asking
            | Stage::Following { .. }
            | Stage::LookingForCall { .. }
            | Stage::Verifying { .. }
            | Stage::RingingOut
            | Stage::RungOut { .. }
            | Stage::Failing { .. }
            | Stage::CheckingFailure { .. }
            | Stage::Done => Vec::new(),
        }
    }

    fn pending(&mut self, status: &SipStatus) -> Option<Progress> {
        let ringing = matches!(self.stage, Stage::Ringing { .. });
        if !ringing || status.code <= 100 || self.told.pending.contains(&status.code) {
            return None;
        }
        self.told.pending.push(status.code);
        Some(Progress::Pending(status.clone()))
    }

    fn answered(&mut self, turn: &mut Turn<'_>) -> Vec<Progress> {
        let unproven = self.new.as_ref().filter(|new| !new.proven).map(|new| new.call.clone());
        match (&self.stage, unproven) {
            (Stage::Verifying { .. } | Stage::Done, _) => Vec::new(),
            // The answer crossed our giving up: what came up is ended, once.
            (Stage::RungOut { again: true, .. }, _) => Vec::new(),
            (Stage::RungOut { again: false, .. }, _) => {
                self.end_new(turn);
                let until = turn.later(turn.plan().times.silence);
                self.stage = Stage::RungOut { until, again: true };
                Vec::new()
            }
            (_, Some(call)) => {
                turn.open(look_at(call), turn.plan().times.look());
                let until = turn.later(turn.plan().times.follow);
                self.stage = Stage::Verifying { at: None, until };
                Vec::new()
            }
            (_, None) => self.decide_answered(),
        }
    }

    fn end_new(&self, turn: &mut Turn<'_>) {
        if let Some(new) = &self.new {
            turn.open(Act::End { call: new.call.clone() }, turn.plan().times.reply);
        }
    }

    fn decide_answered(&mut self) -> Vec<Progress> {
        self.stage = Stage::Done;
        vec![Progress::Answered]
    }

    fn failing(&mut self, status: &SipStatus, turn: &Turn<'_>) -> Vec<Progress> {
        let times = turn.plan().times;
        let (status, until, ring_until) = match &self.stage {
            // We ended it ourselves; its 487 is our doing.
            Stage::RungOut { .. } => return self.fail(Why::NoAnswer { ended: true }),
            Stage::Verifying { .. } | Stage::Done => return Vec::new(),
            // A stack's own 408 may hide the true code; any other later word refines it.
            Stage::Failing { status: known, until, ring_until } => {
                (finer(known, status), *until, *ring_until)
            }
            Stage::CheckingFailure { status: known, ring_until } => {
                let (status, ring_until) = (finer(known, status), *ring_until);
                self.stage = Stage::CheckingFailure { status, ring_until };
                return Vec::new();
            }
            Stage::Ringing { until } => (status.clone(), turn.later(times.grace), *until),
            Stage::RingingOut => (status.clone(), turn.later(times.grace), turn.at()),
            Stage::Asking | Stage::Following { .. } | Stage::LookingForCall { .. } => {
                (status.clone(), turn.later(times.grace), turn.later(self.ring))
            }
        };
        self.stage = Stage::Failing { status, until, ring_until };
        Vec::new()
    }

    fn dialog_changed(
        &mut self,
        call: &CallId,
        dialog: &DialogId,
        state: DialogState,
        turn: &mut Turn<'_>,
    ) -> Vec<Progress> {
        if let Some(known) = self.candidates.iter_mut().find(|known| known.call == *call) {
            known.see(dialog, state);
        }
        let Some(new) = self.new.as_mut().filter(|new| new.call == *call) else {
            return Vec::new();
        };
        let ends = new.life.see(dialog, state);
        if matches!(state, DialogState::Early | DialogState::Answered) && new.life.is(dialog) {
            self.alive_again();
        }
        match state {
            DialogState::Unconfirmed | DialogState::Answered => Vec::new(),
            DialogState::Early => {
                // The stack's own transfer events tell the phone's words; say it once.
                if self.told.pending.is_empty() {
                    self.pending(&SipStatus::new(180, "Ringing")).into_iter().collect()
                } else {
                    Vec::new()
                }
            }
            DialogState::Confirmed => self.answered(turn),
            DialogState::Deleted if !ends => Vec::new(),
            DialogState::Deleted => self.failing_unsaid(turn),
        }
    }

    /// Its dialog is over, and nobody said why, or whether another one of it lives.
    fn failing_unsaid(&mut self, turn: &Turn<'_>) -> Vec<Progress> {
        let is_new = !matches!(self.stage, Stage::Failing { .. } | Stage::CheckingFailure { .. });
        self.unsaid = self.hint.is_none() && (is_new || self.unsaid);
        let status = self.hint.clone().unwrap_or_else(SipStatus::timeout);
        self.failing(&status, turn)
    }

    fn due_now(&mut self, turn: &mut Turn<'_>) -> Vec<Progress> {
        let at = turn.at();
        let times = turn.plan().times;
        match &self.stage {
            Stage::Following { since, until, taken } if *until <= at => {
                let (since, taken) = (*since, *taken);
                if self.candidates.iter().any(|candidate| candidate.looked.is_not_yet()) {
                    // Somebody calls; whether it is ours is being looked at.
                    self.follow(since, turn.later(times.within(times.look())), taken);
                } else {
                    turn.open(self.look_for_call(), times.look());
                    self.stage = Stage::LookingForCall { since, taken };
                }
                Vec::new()
            }
            Stage::Ringing { until } if *until <= at => {
                // It may be somebody else's, or its answer may not have reached us: while the store
                // was away nothing did, and a call that talks is not ended for that.
                match self.new.as_ref().map(|new| new.call.clone()) {
                    Some(call) => {
                        turn.open(look_at(call), times.look());
                        self.stage = Stage::RingingOut;
                    }
                    None => self.ring_out(turn),
                }
                Vec::new()
            }
            Stage::Verifying { at: Some(then), until } if *then <= at => {
                let until = *until;
                if until <= at {
                    return self.fail(Why::Lost);
                }
                if let Some(new) = &self.new {
                    turn.open(look_at(new.call.clone()), times.look());
                }
                self.stage = Stage::Verifying { at: None, until };
                Vec::new()
            }
            Stage::RungOut { until, .. } if *until <= at => {
                self.fail(Why::NoAnswer { ended: false })
            }
            Stage::Failing { status, until, ring_until } if *until <= at => {
                let (status, ring_until) = (status.clone(), *ring_until);
                let Some(new) = &self.new else { return self.fail(Why::Target(status)) };
                // A live dialog of that Call-ID means that the failure was not the last word.
                turn.open(look_at(new.call.clone()), times.look());
                self.stage = Stage::CheckingFailure { status, ring_until };
                Vec::new()
            }
            Stage::Asking
            | Stage::Following { .. }
            | Stage::LookingForCall { .. }
            | Stage::Ringing { .. }
            | Stage::Verifying { .. }
            | Stage::RingingOut
            | Stage::RungOut { .. }
            | Stage::Failing { .. }
            | Stage::CheckingFailure { .. }
            | Stage::Done => Vec::new(),
        }
    }

    fn ring_out(&mut self, turn: &mut Turn<'_>) {
        let times = turn.plan().times;
        self.end_new(turn);
        let until = turn.later(times.silence + times.grace);
        self.stage = Stage::RungOut { until, again: false };
    }

    fn looked(&mut self, call: &CallId, reply: &Reply, turn: &mut Turn<'_>) -> Vec<Progress> {
        let seen = seen(reply);
        if *call == self.call {
            let mut told = self.looked_for_transferee(seen, turn);
            told.extend(self.looked_for_call(seen, turn));
            return told;
        }
        if let Some(at) = self.candidates.iter().position(|known| known.call == *call) {
            let candidate = self.candidates.remove(at);
            return self.looked_at_candidate(candidate, seen, turn);
        }
        if self.new.as_ref().is_some_and(|new| new.call == *call) {
            self.looked_at_new(seen, turn)
        } else {
            Vec::new()
        }
    }

    /// The answer to our REFER is lost, and with it the name of the party that was asked. Without
    /// tokens a call is believed by its parties, so the call is asked for it first.
    fn may_be_taken(&mut self, act: &Act, turn: &mut Turn<'_>) -> Vec<Progress> {
        match (act, &self.parties.transferee) {
            (Act::Refer { leg, .. }, None) if !turn.plan().capabilities.referral_tokens => {
                self.parties.sought = Some(*leg);
                turn.open(look_at(self.call.clone()), turn.plan().times.look());
                Vec::new()
            }
            _ => self.held_back(turn),
        }
    }

    fn looked_for_transferee(
        &mut self,
        seen: Option<&Sighting>,
        turn: &mut Turn<'_>,
    ) -> Vec<Progress> {
        let Some(leg) = self.parties.sought else { return Vec::new() };
        // Where it is never known, a call may be of another transfer, and none is taken for ours.
        let Some(dialog) = seen.and_then(|sighting| sighting.call.as_ref()) else {
            return Vec::new();
        };
        self.parties.sought = None;
        self.parties.asked(match leg {
            Leg::Caller => &dialog.from,
            Leg::Callee => &dialog.to,
        });
        self.held_back(turn)
    }

    fn looked_for_call(&mut self, seen: Option<&Sighting>, turn: &mut Turn<'_>) -> Vec<Progress> {
        let there = seen.and_then(|sighting| sighting.call.as_ref());
        let mark = there.and_then(|dialog| dialog.refer.clone());
        let referred = seen.and_then(|sighting| sighting.referred.as_ref());
        let tokens = turn.plan().capabilities.referral_tokens;
        // Where a call can be referred again, what callops noted on it may be of an earlier REFER.
        let is_marked_once = turn.plan().capabilities.refer == ReferBy::Stack;
        let placed = match (referred, &mark) {
            (Some(dialog), _) if tokens || self.parties.fit(dialog) => {
                Some((dialog.call.clone(), dialog.state, true))
            }
            (Some(_), _) => None,
            (None, Some(ReferMark::Placed(call))) if is_marked_once => {
                Some((call.clone(), DialogState::Unconfirmed, false))
            }
            (None, Some(ReferMark::Out | ReferMark::Refused | ReferMark::Placed(_)) | None) => None,
        };
        if let Some((call, state, proven)) = placed
            && !self.names_us(&call)
            && !self.strangers.contains(&call)
        {
            return self.seen_placed(&call, state, proven, turn);
        }
        let never_sent = tokens
            && !self.marks_void
            && there.is_some_and(|dialog| dialog.last_op.as_ref() != Some(&self.token));
        if matches!(self.stage, Stage::Following { taken: Taken::Lost, .. }) && never_sent {
            return self.fail(Why::NotSent(NotSent::Unreachable));
        }
        let Stage::LookingForCall { since, taken } = &self.stage else { return Vec::new() };
        let (since, taken) = (*since, *taken);
        self.call_missing |= seen.is_some_and(|s| s.full.is_some() && s.call.is_none());
        // A token shows the call in a complete list; without one only events could tell of it.
        let nothing_came = seen.is_some_and(|sighting| sighting.full.is_some() || !tokens);
        // A call that was placed and is gone: it came of this REFER, or of one before.
        let some_call = match &mark {
            Some(ReferMark::Placed(call)) => !self.strangers.contains(call),
            Some(ReferMark::Out | ReferMark::Refused) | None => false,
        };
        if some_call && referred.is_none() && !tokens {
            return self.fail(Why::Lost);
        }
        match taken {
            Taken::Sent { .. } if mark == Some(ReferMark::Refused) => self.fail(Why::RefusedUnsaid),
            Taken::Sent { looked: false } => {
                let times = turn.plan().times;
                let until = since.after(times.follow).max(turn.at());
                self.follow(since, until, Taken::Sent { looked: true });
                Vec::new()
            }
            // It was taken, or sent, and no call came of it.
            Taken::Yes | Taken::Sent { looked: true } if nothing_came => self.fail(Why::Ignored),
            // The proxy's own mark on the call tells that our REFER never got there.
            Taken::Lost if never_sent => self.fail(Why::NotSent(NotSent::Unreachable)),
            Taken::Yes | Taken::Sent { .. } | Taken::Lost | Taken::Elsewhere => {
                self.fail(Why::Lost)
            }
        }
    }

    /// A look shows the referred call in this state.
    fn seen_placed(
        &mut self,
        call: &CallId,
        state: DialogState,
        proven: bool,
        turn: &mut Turn<'_>,
    ) -> Vec<Progress> {
        let mut told = Vec::new();
        if self.new.is_none() {
            self.adopt(call, None, proven, turn);
            told.push(Progress::Placed);
        }
        // That it was placed is no news of a call that events told of: it may be failing.
        if self.new.as_ref().is_some_and(|new| new.call == *call) {
            match state {
                DialogState::Confirmed => told.extend(self.answered(turn)),
                DialogState::Deleted => {
                    told.extend(self.failing_unsaid(turn));
                }
                DialogState::Unconfirmed | DialogState::Early | DialogState::Answered => {}
            }
        }
        told
    }

    fn looked_at_candidate(
        &mut self,
        mut candidate: Candidate,
        seen: Option<&Sighting>,
        turn: &mut Turn<'_>,
    ) -> Vec<Progress> {
        let dialog = seen.and_then(|sighting| sighting.call.as_ref());
        if dialog.is_some_and(|dialog| !self.parties.fit(dialog)) {
            self.disown(candidate.call);
            return Vec::new();
        }
        candidate.looked = Looked::Unseen;
        if let Some(dialog) = dialog {
            let (from, to) = (Arc::clone(&dialog.from), Arc::clone(&dialog.to));
            candidate.looked = Looked::Seen { from, to };
            candidate.see(&dialog.id, dialog.state);
        }
        if self.stage == Stage::Asking || self.parties.sought.is_some() {
            // It may be of another transfer of this call: ours may be refused yet.
            self.candidates.push(candidate);
            return Vec::new();
        }
        self.believed(&candidate, turn)
    }

    /// The REFER was answered, or may have been, and it is known who was asked: what waited for that.
    fn held_back(&mut self, turn: &mut Turn<'_>) -> Vec<Progress> {
        let is_looked_at = |candidate: &mut Candidate| !candidate.looked.is_not_yet();
        let held: Vec<Candidate> = self.candidates.extract_if(.., is_looked_at).collect();
        held.iter().flat_map(|candidate| self.believed(candidate, turn)).collect()
    }

    /// Takes a candidate for the referred call, and all that was reported of it.
    fn believed(&mut self, candidate: &Candidate, turn: &mut Turn<'_>) -> Vec<Progress> {
        let fits = match &candidate.looked {
            Looked::Seen { from, to } if !self.parties.are(from, to) => {
                self.disown(candidate.call.clone());
                return Vec::new();
            }
            Looked::Seen { .. } => true,
            Looked::Unseen | Looked::NotYet => false,
        };
        if fits && let Some(other) = self.new.take_if(|new| !new.proven) {
            // What was believed unseen was not it.
            self.disown(other.call);
        }
        let (call, destination) = (&candidate.call, candidate.destination.as_ref());
        // One that was not to be seen is looked at again when it answers.
        self.adopt(call, destination, fits, turn);
        let mut told = Vec::new();
        for state in &candidate.reported {
            told.extend(self.advanced(call, destination, state, turn));
        }
        // Its own events may have come before it was known whose it is.
        for (id, state) in candidate.dialogs() {
            told.extend(self.dialog_changed(call, id, *state, turn));
        }
        told
    }

    fn disown(&mut self, call: CallId) {
        if self.strangers.len() < MOST {
            self.strangers.push(call);
        }
    }

    /// `None`: the look got no answer.
    fn looked_at_new(&mut self, seen: Option<&Sighting>, turn: &mut Turn<'_>) -> Vec<Progress> {
        let dialog = seen.and_then(|sighting| sighting.call.as_deref());
        let hides_it = |id| self.new.as_ref().is_some_and(|new| new.life.is_beside(id));
        let alive = dialog.filter(|d| d.state != DialogState::Deleted || hides_it(&d.id));
        let confirmed = alive.is_some_and(|dialog| dialog.state == DialogState::Confirmed);
        let stranger = dialog.is_some_and(|dialog| !self.parties.fit(dialog));
        let was_answered = alive.is_none()
            && self.new.as_ref().is_some_and(|new| new.proven && new.life.is_answered());
        if let Some(new) = self.new.as_mut().filter(|_| dialog.is_some() && !stranger) {
            new.proven = true;
        }
        match &self.stage {
            Stage::Verifying { .. } | Stage::RingingOut if stranger => {
                // Somebody else's call, made to look like ours. Go on waiting for our own.
                if let Some(new) = self.new.take() {
                    self.disown(new.call);
                }
                let until = turn.later(turn.plan().times.follow);
                self.follow(turn.at(), until, Taken::Yes);
                Vec::new()
            }
            Stage::Verifying { .. } if dialog.is_some() => self.decide_answered(),
            // Its phone says so itself, and is the only witness.
            Stage::Verifying { .. } if self.notified => {
                self.new = None;
                self.decide_answered()
            }
            // Not to be seen proves nothing, and nobody else's call is to be taken for it.
            Stage::Verifying { until, .. } => {
                let until = *until;
                let at = Some(turn.later(turn.plan().times.reply).min(until));
                self.stage = Stage::Verifying { at, until };
                Vec::new()
            }
            // State 3 was seen: it talks, though the look shows nothing of it.
            Stage::RingingOut if confirmed || was_answered => self.decide_answered(),
            // A challenged INVITE's dialog may have been all that ended: no list shows more (F4).
            Stage::CheckingFailure { .. }
                if self.unsaid && alive.is_none() && seen.is_some_and(|s| s.full.is_none()) =>
            {
                self.fail(Why::Lost)
            }
            // Nobody could say whether the party talks.
            Stage::RingingOut | Stage::CheckingFailure { .. } if seen.is_none() => {
                self.fail(Why::Lost)
            }
            // Not to be seen proves nothing of a call that was seen.
            Stage::RingingOut if self.new.as_ref().is_some_and(|new| new.proven) => {
                self.ring_out(turn);
                Vec::new()
            }
            Stage::RingingOut => self.fail(Why::Lost),
            Stage::CheckingFailure { status, ring_until } => match alive {
                Some(_) => {
                    self.stage = Stage::Ringing { until: *ring_until };
                    if confirmed { self.answered(turn) } else { Vec::new() }
                }
                None => {
                    let status = status.clone();
                    self.fail(Why::Target(status))
                }
            },
            Stage::Ringing { .. } | Stage::Failing { .. } if confirmed => self.answered(turn),
            Stage::Asking
            | Stage::Following { .. }
            | Stage::LookingForCall { .. }
            | Stage::Ringing { .. }
            | Stage::RungOut { .. }
            | Stage::Failing { .. }
            | Stage::Done => Vec::new(),
        }
    }

    fn fail(&mut self, why: Why) -> Vec<Progress> {
        self.stage = Stage::Done;
        vec![Progress::Failed(why)]
    }

    /// Whether the call is over, as far as words go.
    pub(crate) fn call_gone(&self) -> bool {
        self.life.is_over() || self.call_missing
    }

    /// Whether the party that was asked is known to have taken the REFER, or to call.
    pub(crate) fn accepted(&self) -> bool {
        self.told.accepted
    }

    /// When it must be looked at again; while the REFER or a look is out, its operation's time
    /// counts.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        match &self.stage {
            Stage::Asking
            | Stage::LookingForCall { .. }
            | Stage::RingingOut
            | Stage::CheckingFailure { .. }
            | Stage::Done => None,
            Stage::Verifying { at, .. } => *at,
            Stage::Following { until, .. }
            | Stage::Ringing { until }
            | Stage::RungOut { until, .. }
            | Stage::Failing { until, .. } => Some(*until),
        }
    }

    /// The calls and the token that matter.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        let calls = [Some(&self.call), self.consult.as_ref(), self.new.as_ref().map(|n| &n.call)];
        let candidates = self.candidates.iter().map(|candidate| &candidate.call);
        let calls = calls.into_iter().flatten().chain(candidates).cloned().map(Watch::Call);
        calls.chain([Watch::Op(self.token.clone())]).collect()
    }

    /// The referred call, if it is known to be ours to end.
    pub(crate) fn ours(&self) -> Option<(CallId, Life)> {
        let new = self.new.as_ref().filter(|new| new.proven);
        new.map(|new| (new.call.clone(), new.life.clone()))
    }

    /// Gives it up: what is needed to watch what still comes of it.
    pub(crate) fn abandon(&self) -> Abandoned {
        let transferred = [Some(&self.call), self.consult.as_ref()];
        let unproven = self.new.iter().filter(|new| !new.proven).map(|new| &new.call);
        let suspects = unproven.chain(self.candidates.iter().map(|candidate| &candidate.call));
        Abandoned {
            token: self.token.clone(),
            transferred: transferred.into_iter().flatten().cloned().collect(),
            parties: self.parties.clone(),
            suspects: suspects.cloned().collect(),
            unanswered: self.stage == Stage::Asking,
        }
    }
}

/// Whether a phone's refusal of a REFER is no answer of its own: it was silent, or its answer was
/// lost, and it may call all the same.
pub(crate) fn never_answered(code: u16) -> bool {
    code == 408
}

/// Of two words for one failure the one that says more.
fn finer(known: &SipStatus, newer: &SipStatus) -> SipStatus {
    if known.code == 408 { newer.clone() } else { known.clone() }
}
