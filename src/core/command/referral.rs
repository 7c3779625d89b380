//! From a REFER to the fate of the call it brings about.
//!
//! After a 2xx to the REFER only the referred INVITE decides (sip-outcomes F7). A failure counts
//! after a grace, an ok always wins (F6). With the reference script the referred INVITE proves
//! itself by our one-use token; on a stock script the stack's own transfer events name it, and the
//! new dialog's parties are checked before it is believed (F8).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Fact;
use super::closing::look_at;
use super::turn::Turn;
use crate::core::act::{
    Act, Dialog, DialogState, Facts, NotSent, ReferTo, Refuser, Reply, Sighting,
};
use crate::core::failure::SipStatus;
use crate::core::ids::{CallId, DialogId, OpId};
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
    /// Blind: whom the new call must be for.
    target: Option<SipAddress>,
    /// Who was asked, once known.
    transferee: Option<Arc<str>>,
    /// How long the target may ring.
    ring: Duration,
    stage: Stage,
    /// The new call, once seen.
    pub new: Option<NewCall>,
    /// The last progress told.
    told: Option<SipStatus>,
    /// What the transferee or the script says the failure really was.
    hint: Option<SipStatus>,
    /// The transferred call is over.
    pub call_over: bool,
}

/// The referred call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCall {
    /// Its Call-ID.
    pub call: CallId,
    /// Where it goes, after look-up.
    pub destination: Option<Arc<str>>,
    /// The newest live dialog of that Call-ID: a challenged INVITE leaves a dead one beside it.
    live: Option<DialogId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The REFER has no answer yet.
    Asking,
    /// The REFER was taken (or, `sure: false`, its answer was lost); no INVITE seen yet.
    Following { until: StoreTime, sure: bool },
    /// The time to follow is over; a look for the call decides.
    LookingForCall { sure: bool, until: StoreTime },
    /// The new INVITE is under way.
    Ringing { until: StoreTime },
    /// It was answered; on a stock script its parties are checked.
    Verifying { until: StoreTime },
    /// It rang too long and was ended.
    RungOut { until: StoreTime },
    /// It failed, unless something better comes.
    Failing { status: SipStatus, until: StoreTime, ring_until: StoreTime },
    /// Decided.
    Done,
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
    /// The new call rang out.
    NoAnswer,
    /// Nobody knows.
    Lost,
}

impl Referral {
    /// Sends the REFER.
    pub(crate) fn begin(
        call: &CallId,
        leg: Leg,
        to: ReferTo,
        ring: Duration,
        turn: &mut Turn<'_>,
    ) -> Self {
        let (target, consult) = match &to {
            ReferTo::Address(address) => (Some(address.clone()), None),
            ReferTo::Replacing { call, .. } => (None, Some(call.clone())),
        };
        let act = Act::Refer { call: call.clone(), leg, to };
        let times = turn.plan().times;
        let token = turn.open(act, times.reply + times.silence);
        Self {
            token,
            call: call.clone(),
            consult,
            target,
            transferee: None,
            ring,
            stage: Stage::Asking,
            new: None,
            told: None,
            hint: None,
            call_over: false,
        }
    }

    /// The longest that it may take from the REFER to the end.
    pub(crate) fn longest(turn: &Turn<'_>, ring: Duration) -> Duration {
        let t = turn.plan().times;
        let asking = t.send + t.reply + t.silence;
        let looks = t.look() * 3;
        asking + t.follow + ring + t.silence + t.grace * 2 + looks
    }

    /// Takes a fact; says what became visible, in order.
    pub(crate) fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) -> Vec<Progress> {
        if self.stage == Stage::Done {
            return Vec::new();
        }
        match fact {
            Fact::Reply(op, reply) if op.id == self.token => self.refer_answered(reply, turn),
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
            Fact::GiveUp => Vec::new(),
        }
    }

    fn refer_answered(&mut self, reply: &Reply, turn: &mut Turn<'_>) -> Vec<Progress> {
        let until = turn.later(turn.plan().times.follow);
        match reply {
            Reply::Done(facts) => {
                if let Facts::Referred { transferee, .. } = facts {
                    self.transferee = Some(Arc::clone(transferee));
                }
                if self.stage == Stage::Asking {
                    self.stage = Stage::Following { until, sure: true };
                    return vec![Progress::Accepted];
                }
                Vec::new()
            }
            Reply::Silent => {
                if self.stage == Stage::Asking {
                    self.stage = Stage::Following { until, sure: false };
                }
                Vec::new()
            }
            // A call that was placed all the same decides.
            _ if self.stage != Stage::Asking => Vec::new(),
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

    fn happened(&mut self, event: &StackEvent, turn: &mut Turn<'_>) -> Vec<Progress> {
        let tokens = turn.plan().capabilities.referral_tokens;
        match event {
            StackEvent::Transfer { call, new_call, destination, state } => {
                if !self.names_us(call) {
                    return Vec::new();
                }
                match new_call {
                    Some(new_call) => self.advanced(new_call, destination.as_ref(), state, turn),
                    None => self.reported(state, turn),
                }
            }
            StackEvent::Referral { token, new_call, destination, state } => {
                if *token == self.token {
                    self.advanced(new_call, destination.as_ref(), state, turn)
                } else {
                    Vec::new()
                }
            }
            StackEvent::Dialog { call, dialog, state } => {
                if *call == self.call {
                    self.call_over |= *state == DialogState::Deleted;
                    return Vec::new();
                }
                self.dialog_changed(call, dialog, *state, tokens, turn)
            }
            StackEvent::Hold { .. } | StackEvent::Restarted { .. } => Vec::new(),
        }
    }

    fn names_us(&self, call: &CallId) -> bool {
        *call == self.call || self.consult.as_ref() == Some(call)
    }

    /// A fact about a referred call.
    fn advanced(
        &mut self,
        new_call: &CallId,
        destination: Option<&Arc<str>>,
        state: &TransferState,
        turn: &mut Turn<'_>,
    ) -> Vec<Progress> {
        if self.names_us(new_call) {
            return Vec::new();
        }
        let mut told = Vec::new();
        match &mut self.new {
            Some(known) if known.call != *new_call => return Vec::new(),
            Some(known) => {
                if known.destination.is_none() {
                    known.destination = destination.cloned();
                }
            }
            None => {
                // A 603 to a stranger's INVITE is no call of ours.
                let destination = destination.cloned();
                self.new = Some(NewCall { call: new_call.clone(), destination, live: None });
                let until = turn.later(self.ring);
                if self.stage == Stage::Asking {
                    told.push(Progress::Accepted);
                }
                self.stage = Stage::Ringing { until };
                told.push(Progress::Placed);
            }
        }
        match state {
            TransferState::Start => self.alive_again(),
            TransferState::Progress(status) => told.extend(self.pending(status)),
            TransferState::Ok => told.extend(self.answered(turn)),
            TransferState::Fail(status) => self.failing(status, turn),
            TransferState::Notified(_) => told.extend(self.reported(state, turn)),
        }
        told
    }

    /// A second INVITE of the same call, after a challenge: the failure before it does not count.
    fn alive_again(&mut self) {
        if let Stage::Failing { ring_until, .. } = &self.stage {
            self.stage = Stage::Ringing { until: *ring_until };
        }
    }

    /// What the transferee says by NOTIFY, where no new call is named.
    fn reported(&mut self, state: &TransferState, turn: &mut Turn<'_>) -> Vec<Progress> {
        let (TransferState::Notified(status) | TransferState::Progress(status)) = state else {
            return Vec::new();
        };
        match (&self.stage, status.code) {
            (Stage::Ringing { .. }, 100..=199) => self.pending(status).into_iter().collect(),
            (Stage::RungOut { .. } | Stage::Verifying { .. } | Stage::Done, _) => Vec::new(),
            (_, 100..=199) => Vec::new(),
            // The only witness when the INVITE went elsewhere (F23).
            (_, 200..=299) => self.decide_answered(),
            (_, _) => {
                self.hint = Some(status.clone());
                self.failing(status, turn);
                Vec::new()
            }
        }
    }

    fn pending(&mut self, status: &SipStatus) -> Option<Progress> {
        let ringing = matches!(self.stage, Stage::Ringing { .. });
        if !ringing || status.code <= 100 || self.told.as_ref() == Some(status) {
            return None;
        }
        self.told = Some(status.clone());
        Some(Progress::Pending(status.clone()))
    }

    fn answered(&mut self, turn: &mut Turn<'_>) -> Vec<Progress> {
        if turn.plan().capabilities.referral_tokens || self.transferee.is_none() {
            return self.decide_answered();
        }
        let Some(new) = &self.new else { return Vec::new() };
        if !matches!(self.stage, Stage::Verifying { .. }) {
            let look = turn.plan().times.look();
            turn.open(look_at(new.call.clone()), look);
            self.stage = Stage::Verifying { until: turn.later(look) };
        }
        Vec::new()
    }

    fn decide_answered(&mut self) -> Vec<Progress> {
        self.stage = Stage::Done;
        vec![Progress::Answered]
    }

    fn failing(&mut self, status: &SipStatus, turn: &Turn<'_>) {
        let times = turn.plan().times;
        let (status, until, ring_until) = match &self.stage {
            // We ended it ourselves; its 487 is our doing.
            Stage::RungOut { .. } => {
                self.stage = Stage::RungOut { until: turn.at() };
                return;
            }
            Stage::Verifying { .. } | Stage::Done => return,
            // A stack's own 408 may hide the true code; any other later word refines it.
            Stage::Failing { status: known, until, ring_until } => {
                let better = if known.code == 408 { status.clone() } else { known.clone() };
                (better, *until, *ring_until)
            }
            Stage::Ringing { until } => (status.clone(), turn.later(times.grace), *until),
            Stage::Asking | Stage::Following { .. } | Stage::LookingForCall { .. } => {
                (status.clone(), turn.later(times.grace), turn.later(self.ring))
            }
        };
        self.stage = Stage::Failing { status, until, ring_until };
    }

    fn dialog_changed(
        &mut self,
        call: &CallId,
        dialog: &DialogId,
        state: DialogState,
        tokens: bool,
        turn: &mut Turn<'_>,
    ) -> Vec<Progress> {
        let Some(new) = self.new.as_mut().filter(|new| new.call == *call) else {
            return Vec::new();
        };
        match state {
            DialogState::Unconfirmed | DialogState::Answered => {
                new.live = Some(dialog.clone());
                Vec::new()
            }
            DialogState::Early => {
                new.live = Some(dialog.clone());
                self.alive_again();
                let ringing = SipStatus::new(180, "Ringing");
                // The stack's own transfer events tell the phone's words; say it once.
                if self.told.is_some() {
                    Vec::new()
                } else {
                    self.pending(&ringing).into_iter().collect()
                }
            }
            DialogState::Confirmed => {
                new.live = Some(dialog.clone());
                if tokens { self.decide_answered() } else { self.answered(turn) }
            }
            DialogState::Deleted => {
                if new.live.as_ref().is_none_or(|live| live == dialog) {
                    let status = self.hint.clone().unwrap_or_else(SipStatus::timeout);
                    self.failing(&status, turn);
                }
                Vec::new()
            }
        }
    }

    fn due_now(&mut self, turn: &mut Turn<'_>) -> Vec<Progress> {
        let at = turn.at();
        let times = turn.plan().times;
        match &self.stage {
            Stage::Following { until, sure } if *until <= at => {
                let sure = *sure;
                let look = Act::Look {
                    call: self.call.clone(),
                    referred_by: Some(self.token.clone()),
                    sent: None,
                };
                turn.open(look, times.look());
                self.stage = Stage::LookingForCall { sure, until: turn.later(times.look()) };
                Vec::new()
            }
            Stage::LookingForCall { sure, until } if *until <= at => {
                let why = if *sure { Why::Ignored } else { Why::Lost };
                self.fail(why)
            }
            Stage::Ringing { until } if *until <= at => {
                if let Some(new) = &self.new {
                    turn.open(Act::End { call: new.call.clone() }, times.reply);
                }
                self.stage = Stage::RungOut { until: turn.later(times.silence + times.grace) };
                Vec::new()
            }
            Stage::RungOut { until } if *until <= at => self.fail(Why::NoAnswer),
            // The look that should have checked the parties was lost: the stack's word stands.
            Stage::Verifying { until } if *until <= at => self.decide_answered(),
            Stage::Failing { status, until, .. } if *until <= at => {
                let Some(new) = &self.new else {
                    let status = status.clone();
                    return self.fail(Why::Target(status));
                };
                let asked = |act: &Act| matches!(act, Act::Look { call, .. } if *call == new.call);
                if turn.has_open(asked) {
                    let status = status.clone();
                    return self.fail(Why::Target(status));
                }
                // A live dialog of that Call-ID means that the failure was not the last word.
                turn.open(look_at(new.call.clone()), times.look());
                if let Stage::Failing { until, .. } = &mut self.stage {
                    *until = turn.later(times.look());
                }
                Vec::new()
            }
            Stage::Asking
            | Stage::Following { .. }
            | Stage::LookingForCall { .. }
            | Stage::Ringing { .. }
            | Stage::Verifying { .. }
            | Stage::RungOut { .. }
            | Stage::Failing { .. }
            | Stage::Done => Vec::new(),
        }
    }

    fn looked(&mut self, call: &CallId, reply: &Reply, turn: &mut Turn<'_>) -> Vec<Progress> {
        let seen = match reply {
            Reply::Done(Facts::Looked(sighting)) | Reply::Missing { sighting, .. } => {
                Some(sighting)
            }
            Reply::Done(_) | Reply::Refused { .. } | Reply::NotSent(_) | Reply::Silent => None,
        };
        match &self.stage {
            Stage::LookingForCall { sure, .. } if *call == self.call => {
                let sure = *sure;
                if let Some(dialog) = seen.and_then(|s| s.referred.as_ref()) {
                    let (call, state) = (dialog.call.clone(), dialog.state);
                    let mut told = self.advanced(&call, None, &TransferState::Start, turn);
                    if state == DialogState::Confirmed {
                        told.extend(self.answered(turn));
                    }
                    return told;
                }
                let call_there = seen.and_then(|s| s.call.as_ref());
                self.call_over |= seen.is_some_and(|s| s.full && s.call.is_none())
                    || call_there.is_some_and(|dialog| dialog.state == DialogState::Deleted);
                let tokens = turn.plan().capabilities.referral_tokens;
                match call_there {
                    // The proxy's own mark on the call tells that our REFER never got there.
                    Some(dialog)
                        if !sure && tokens && dialog.last_op.as_ref() != Some(&self.token) =>
                    {
                        self.fail(Why::NotSent(NotSent::TooLate))
                    }
                    _ if sure => self.fail(Why::Ignored),
                    _ => self.fail(Why::Lost),
                }
            }
            Stage::Verifying { .. } => {
                let parties_differ =
                    seen.and_then(|s| s.call.as_ref()).is_some_and(|dialog| !self.is_ours(dialog));
                if parties_differ {
                    // Somebody else's call, made to look like ours. Go on waiting for our own.
                    self.new = None;
                    let until = turn.later(turn.plan().times.follow);
                    self.stage = Stage::Following { until, sure: true };
                    return Vec::new();
                }
                self.decide_answered()
            }
            Stage::Failing { status, ring_until, .. } => {
                let live = seen
                    .and_then(|s| s.call.as_ref())
                    .filter(|dialog| dialog.state != DialogState::Deleted);
                match live {
                    Some(dialog) if dialog.state == DialogState::Confirmed => {
                        self.stage = Stage::Ringing { until: *ring_until };
                        self.answered(turn)
                    }
                    Some(_) => {
                        self.stage = Stage::Ringing { until: *ring_until };
                        Vec::new()
                    }
                    None => {
                        let status = status.clone();
                        self.fail(Why::Target(status))
                    }
                }
            }
            Stage::Asking
            | Stage::Following { .. }
            | Stage::LookingForCall { .. }
            | Stage::Ringing { .. }
            | Stage::RungOut { .. }
            | Stage::Done => Vec::new(),
        }
    }

    /// Whether a dialog is between the party that was asked and the one it was to call. Needed,
    /// never enough.
    fn is_ours(&self, dialog: &Dialog) -> bool {
        let party = |uri: &str| SipAddress::parse(uri).ok();
        let from_ok = match (&self.transferee, party(&dialog.from)) {
            (Some(transferee), Some(from)) => from.is_party(transferee),
            (None, _) | (_, None) => true,
        };
        let to_ok = self.target.as_ref().is_none_or(|target| target.is_party(&dialog.to));
        from_ok && to_ok
    }

    fn fail(&mut self, why: Why) -> Vec<Progress> {
        self.stage = Stage::Done;
        vec![Progress::Failed(why)]
    }

    /// When it must be looked at again; while the REFER is out, its operation's time counts.
    pub(crate) fn due(&self) -> Option<StoreTime> {
        match &self.stage {
            Stage::Asking | Stage::Done => None,
            Stage::Following { until, .. }
            | Stage::LookingForCall { until, .. }
            | Stage::Ringing { until }
            | Stage::Verifying { until }
            | Stage::RungOut { until }
            | Stage::Failing { until, .. } => Some(*until),
        }
    }

    /// The calls and the token that matter.
    pub(crate) fn watches(&self) -> Vec<Watch> {
        let calls = [Some(&self.call), self.consult.as_ref(), self.new.as_ref().map(|n| &n.call)];
        let calls = calls.into_iter().flatten().cloned().map(Watch::Call);
        calls.chain([Watch::Op(self.token.clone())]).collect()
    }

    /// Every call that a transfer event may name.
    pub(crate) fn transferred(&self) -> Vec<CallId> {
        [Some(&self.call), self.consult.as_ref()].into_iter().flatten().cloned().collect()
    }
}
