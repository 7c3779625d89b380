//! The commands as machines: a state, an input, and the next state with what is to be told.
//!
//! * What is to be *done* is in the state: [`Command::open`]. It is committed before it is sent.
//! * When to look again is in the state: [`Command::due`].
//! * What a command keeps others away from is in the state: [`Command::claims`].
//! * How it ended is in the state: [`Command::outcome`].
//!
//! The files: one per command ([`call_start`], [`transfer`], [`call_hold`], [`call_end`]), and the
//! parts they share: [`referral`] (from REFER to the referred call's fate), [`closing`] (end legs,
//! then tell), [`look`] and [`absence`] (look at a call, prove that it is not there), [`life`] (which
//! dialog is the call's), [`words`] (failures in words), [`turn`] (what a step collects).

pub mod absence;
pub mod call_end;
pub mod call_hold;
pub mod call_start;
mod candidate;
pub mod closing;
pub mod life;
pub mod look;
pub mod referral;
pub mod transfer;
pub mod turn;
pub mod words;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::call_end::End;
use self::call_hold::Hold;
use self::call_start::Start;
use self::look::seen;
use self::transfer::Transfer;
use self::turn::Turn;
use super::act::{Act, DialogState, Facts, NotSent, Op, Repeat, Reply};
use super::failure::{Code, Failure, Outcome, Up};
use super::ids::{CallId, CommandId, DialogId, OpId, PodId};
use super::notice::{Notice, Remarks};
use super::plan::Plan;
use super::request::{Method, Request};
use super::sip_address::SipAddress;
use super::stack_event::{StackEvent, Uptime, Watch};
use super::time::{Now, StoreTime};

/// One command, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// How it is to be run.
    pub plan: Arc<Plan>,
    /// What was asked.
    pub method: Method,
    /// When it began.
    pub begun: StoreTime,
    /// `Ended` by then, come what may.
    pub deadline: StoreTime,
    /// Operations that were committed and have no reply yet.
    pub ops: Vec<Op>,
    /// Since when the stack runs that it is at, as was known when it began, or learned since.
    pub uptime: Option<Uptime>,
    /// How far it is.
    pub progress: Progress,
}

/// How far a command is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    /// `CallStart`
    Start(Box<Start>),
    /// `CallBlindTransfer` and `CallAttendedTransfer`
    Transfer(Box<Transfer>),
    /// `CallHold` and `CallUnhold`
    Hold(Hold),
    /// `CallEnd`
    End(End),
    /// Told. Nothing moves it any more.
    Over(Box<Ending>),
}

/// What can happen to a running command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// An operation was answered.
    Replied {
        /// Which.
        op: OpId,
        /// With what.
        reply: Reply,
    },
    /// The stack reported something.
    Happened(StackEvent),
    /// The time in [`Command::due`] has come. Operations whose reply is overdue count as lost.
    Due,
    /// The client gives it up.
    Cancel,
    /// A `CallEnd` overtook it.
    Ending {
        /// The `CallEnd`.
        by: CommandId,
    },
    /// The operation's performer is gone. Before the operation's `send_before` it says nothing.
    Doubt {
        /// Which.
        op: OpId,
    },
}

impl Input {
    /// What it tells of since when the stack runs.
    fn uptime(&self) -> Option<&Uptime> {
        match self {
            Self::Replied { reply, .. } => seen(reply)?.full.as_ref(),
            Self::Happened(StackEvent::Restarted(uptime)) => Some(uptime),
            Self::Happened(_)
            | Self::Due
            | Self::Cancel
            | Self::Ending { .. }
            | Self::Doubt { .. } => None,
        }
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The next state.
    pub state: Command,
    /// What the client is told, in order.
    pub notices: Vec<Notice>,
}

impl Step {
    /// The same, where the store may have lost what the command did before: that its call failed, or
    /// that nothing was sent, is then not known.
    #[must_use]
    pub fn in_doubt(mut self) -> Self {
        let places_calls = self.state.method.places_calls();
        let Progress::Over(ending) = &mut self.state.progress else { return self };
        match ending.outcome {
            Outcome::Failed | Outcome::NotStarted if places_calls => {}
            Outcome::Failed
            | Outcome::NotStarted
            | Outcome::Success
            | Outcome::Cancelled
            | Outcome::Unknown { .. } => return self,
        }
        ending.outcome = Outcome::Unknown { up: Up::Unknown };
        if let Some(error) = &mut ending.error {
            error.up = Up::Unknown;
        }
        for notice in &mut self.notices {
            match notice {
                Notice::Error(error) => error.up = Up::Unknown,
                Notice::Ended { outcome, .. } => *outcome = ending.outcome,
                Notice::Started { .. } | Notice::Progress { .. } => {}
            }
        }
        self
    }
}

/// Something that only one running command may have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Claim {
    /// The right to change this call.
    Call(CallId),
    /// The caller of a start, in its one spelling: double clicks place one call.
    Caller(SipAddress),
}

/// How a claim is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// Refused when somebody has it.
    Ask,
    /// Taken away from whoever has it; that command is told.
    Overtake,
}

impl Command {
    /// Begins a command: its first state with its first operation, and `Started`. `uptime`: that of
    /// its stack, as far as it is known.
    #[must_use]
    pub fn begin(request: &Request, plan: Arc<Plan>, uptime: Option<Uptime>, now: &Now) -> Step {
        let mut ops = Vec::new();
        let mut turn = Turn::new(now, &plan, &mut ops);
        let (progress, within) = match request {
            Request::Start(start) => {
                let (state, within) = Start::begin(start, &mut turn);
                (Progress::Start(Box::new(state)), within)
            }
            Request::BlindTransfer { call, leg, destination } => {
                let (state, within) = Transfer::blind(call, *leg, destination, &mut turn);
                (Progress::Transfer(Box::new(state)), within)
            }
            Request::AttendedTransfer { call, leg, consult, consult_leg } => {
                let (state, within) =
                    Transfer::attended(call, *leg, consult, *consult_leg, &mut turn);
                (Progress::Transfer(Box::new(state)), within)
            }
            Request::Hold { call } => {
                let (state, within) = Hold::begin(call, true, &mut turn);
                (Progress::Hold(state), within)
            }
            Request::Unhold { call } => {
                let (state, within) = Hold::begin(call, false, &mut turn);
                (Progress::Hold(state), within)
            }
            Request::End { call } => {
                let (state, within) = End::begin(call, &mut turn);
                (Progress::End(state), within)
            }
        };
        let told = turn.finish();
        let deadline_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let mut notices = vec![Notice::Started { deadline_ms }];
        notices.extend(told.notices);
        let deadline = now.at.after(within);
        let method = request.method();
        let state = Self { plan, method, begun: now.at, deadline, ops, uptime, progress };
        Step { state, notices }
    }

    /// Takes one input. `None`: it changes nothing.
    #[must_use]
    pub fn step(&self, input: &Input, now: &Now) -> Option<Step> {
        if self.outcome().is_some() {
            return None;
        }
        let plan = Arc::clone(&self.plan);
        let mut state = self.clone();
        let restarted = input.uptime().filter(|seen| state.note(seen));
        let mut turn = Turn::new(now, &plan, &mut state.ops);
        let progress = &mut state.progress;
        match input {
            Input::Replied { op, reply } => {
                let op = turn.take(op)?;
                if let Some(uptime) = restarted {
                    // A look shows another life than the one that it was to tell of.
                    progress.restarted(uptime, &mut turn);
                }
                if is_look(&op) && *reply == Reply::NotSent(NotSent::TooLate) {
                    // Its commit took too long. That tells nothing of the call.
                    look_again(op, &mut turn);
                } else {
                    progress.apply(&Fact::Reply(&op, reply), &mut turn);
                }
            }
            Input::Doubt { op } => {
                let op = turn.take(op)?;
                if now.at <= op.send_before {
                    // It may yet be sent in time, so its fate is still to come.
                    return None;
                }
                progress.lose(vec![op], &mut turn);
            }
            Input::Happened(StackEvent::Restarted(_)) => {
                if let Some(uptime) = restarted {
                    progress.restarted(uptime, &mut turn);
                }
            }
            Input::Happened(event) => progress.apply(&Fact::Event(event), &mut turn),
            Input::Due if now.at >= self.deadline => turn.end(deadline_passed()),
            Input::Due => {
                let overdue = turn.take_all(|op| op.overdue_at() <= now.at);
                progress.lose(overdue, &mut turn);
                progress.apply(&Fact::Due, &mut turn);
            }
            Input::Cancel if !self.can_cancel() => return None,
            Input::Cancel => progress.apply(&Fact::GiveUp { overtaken: false }, &mut turn),
            Input::Ending { .. } => progress.apply(&Fact::GiveUp { overtaken: true }, &mut turn),
        }
        let told = turn.finish();
        if let Some(mut ending) = told.ending {
            ending.orphan = state.progress.orphan(&ending);
            state.progress = Progress::Over(Box::new(ending));
            // What may still reach a phone keeps its claim; the rest is of no more use.
            state.ops.retain(|op| op.act.repeat(&plan.capabilities) == Repeat::Once);
        }
        (state != *self || !told.notices.is_empty())
            .then_some(Step { state, notices: told.notices })
    }

    /// Takes in since when the stack runs. Says whether it has restarted under the command.
    fn note(&mut self, seen: &Uptime) -> bool {
        let known = self.uptime.as_ref();
        if known.is_some_and(|known| known.boot == seen.boot) {
            return false;
        }
        // A restart is noticed late: what began in the new life did not live through it.
        let restarted = seen.since > self.begun;
        if restarted || known.is_none_or(|known| known.since < seen.since) {
            self.uptime = Some(seen.clone());
        }
        restarted
    }

    /// Operations that were committed and have no reply yet. Each is performed by its
    /// [`Op::by`], once.
    #[must_use]
    pub fn open(&self) -> &[Op] {
        if self.outcome().is_some() { &[] } else { &self.ops }
    }

    /// Open operations whose reply is overdue: with [`Input::Due`] they count as lost.
    pub fn overdue(&self, now: StoreTime) -> impl Iterator<Item = &Op> {
        self.open().iter().filter(move |op| op.overdue_at() <= now)
    }

    /// Who performs its open operations.
    #[must_use]
    pub fn performers(&self) -> Vec<PodId> {
        let mut performers: Vec<PodId> = self.open().iter().map(|op| op.by.clone()).collect();
        performers.sort_unstable();
        performers.dedup();
        performers
    }

    /// When to come back with [`Input::Due`] at the latest. Every running command has one, and
    /// `Due` at that time moves it to a later one, or to the end.
    #[must_use]
    pub fn due(&self) -> Option<StoreTime> {
        let wake = match &self.progress {
            Progress::Start(start) => start.due(),
            Progress::Transfer(transfer) => transfer.due(),
            Progress::Hold(hold) => hold.due(),
            Progress::End(end) => end.due(),
            Progress::Over(_) => return None,
        };
        let overdue = self.ops.iter().map(Op::overdue_at).min();
        let earliest = wake.into_iter().chain(overdue).chain([self.deadline]).min();
        Some(earliest.unwrap_or(self.deadline))
    }

    /// What only this command may have now, and how it takes it.
    #[must_use]
    pub fn claims(&self) -> Vec<(Claim, Taking)> {
        match &self.progress {
            Progress::Start(start) => start.claims(&self.plan),
            Progress::Transfer(transfer) => transfer.claims(),
            Progress::Hold(hold) => vec![(Claim::Call(hold.call.clone()), Taking::Ask)],
            Progress::End(end) => vec![(Claim::Call(end.call.clone()), Taking::Overtake)],
            Progress::Over(_) => Vec::new(),
        }
    }

    /// Until when the claims of an ended command on calls still hold: its last once-only
    /// operation may be on its way to a phone. A claim on a caller ends with the command.
    #[must_use]
    pub fn claims_linger(&self) -> Option<StoreTime> {
        match &self.progress {
            Progress::Over(_) => self.ops.iter().map(|op| op.reply_by).max(),
            Progress::Start(_) | Progress::Transfer(_) | Progress::Hold(_) | Progress::End(_) => {
                None
            }
        }
    }

    /// Which events concern it.
    #[must_use]
    pub fn watches(&self) -> Vec<Watch> {
        match &self.progress {
            Progress::Start(start) => start.watches(),
            Progress::Transfer(transfer) => transfer.watches(),
            Progress::Hold(hold) => vec![Watch::Call(hold.call.clone())],
            Progress::End(end) => vec![Watch::Call(end.call.clone())],
            Progress::Over(_) => Vec::new(),
        }
    }

    /// How it ended, once it has.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        self.ending().map(|ending| &ending.outcome)
    }

    /// What was told at its end, once it has ended.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        match &self.progress {
            Progress::Over(ending) => Some(ending),
            Progress::Start(_) | Progress::Transfer(_) | Progress::Hold(_) | Progress::End(_) => {
                None
            }
        }
    }

    /// The setup leg of a start that ended without seeing it end: nobody else watches it now.
    #[must_use]
    pub fn orphan(&self) -> Option<&CallId> {
        self.ending().and_then(|ending| ending.orphan.as_ref())
    }

    /// Whether [`Input::Cancel`] means anything to it.
    #[must_use]
    pub fn can_cancel(&self) -> bool {
        match &self.progress {
            Progress::Start(_) | Progress::Transfer(_) => true,
            Progress::Hold(_) | Progress::End(_) | Progress::Over(_) => false,
        }
    }
}

impl Progress {
    /// Takes a fact, unless the command has ended in this very step.
    fn apply(&mut self, fact: &Fact<'_>, turn: &mut Turn<'_>) {
        if turn.ended() {
            return;
        }
        match self {
            Self::Start(start) => start.apply(fact, turn),
            Self::Transfer(transfer) => transfer.apply(fact, turn),
            Self::Hold(hold) => hold.apply(fact, turn),
            Self::End(end) => end.apply(fact, turn),
            Self::Over(_) => {}
        }
    }

    /// The leg of our own that this ending leaves, or may leave, up.
    fn orphan(&self, ending: &Ending) -> Option<CallId> {
        match self {
            Self::Start(start) if start.leaves_setup_up(ending) => Some(start.setup().clone()),
            Self::Start(_) | Self::Transfer(_) | Self::Hold(_) | Self::End(_) | Self::Over(_) => {
                None
            }
        }
    }

    /// The stack restarted.
    fn restarted(&mut self, uptime: &Uptime, turn: &mut Turn<'_>) {
        if turn.plan().capabilities.persists_dialogs {
            // The dialogs are there still; what was under way gets no reply any more.
            let before = uptime.since.after(turn.plan().times.send);
            let lost = turn.take_all(|op| op.send_before < before);
            self.silence(lost, turn);
        }
        self.apply(&Fact::Event(&StackEvent::Restarted(uptime.clone())), turn);
    }

    /// Whoever performed these is gone. A look of another process is made again here, under its old
    /// name, so that a late answer counts too; of the rest nobody will say more.
    fn lose(&mut self, ops: Vec<Op>, turn: &mut Turn<'_>) {
        let here = turn.now().pod.clone();
        let again = |op: &Op| is_look(op) && op.by != here;
        let (looks, others): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(again);
        looks.into_iter().for_each(|look| look_again(look, turn));
        self.silence(others, turn);
    }

    /// These operations will get no reply.
    fn silence(&mut self, ops: Vec<Op>, turn: &mut Turn<'_>) {
        for op in ops {
            self.apply(&Fact::Reply(&op, &Reply::Silent), turn);
        }
    }
}

fn is_look(op: &Op) -> bool {
    matches!(op.act, Act::Look { .. })
}

/// Looks as before, under the same name, with as much time for the answer.
fn look_again(look: Op, turn: &mut Turn<'_>) {
    let answer = look.send_before.until(look.reply_by);
    let reply_by = turn.later(turn.plan().times.send).after(answer);
    turn.reopen(look.id, look.act, reply_by);
}

/// An input as the machines see it: replies come with their operation.
#[derive(Debug)]
pub(crate) enum Fact<'a> {
    Reply(&'a Op, &'a Reply),
    Event(&'a StackEvent),
    Due,
    /// By the client, or because a `CallEnd` overtook it: then a call of it is about to be over.
    GiveUp {
        overtaken: bool,
    },
}

impl Fact<'_> {
    /// The dialog of this call that an event or a look shows, and its state.
    pub(crate) fn shows(&self, call: &CallId) -> Option<(&DialogId, DialogState)> {
        let (about, dialog, state) = match self {
            Fact::Event(StackEvent::Dialog { call, dialog, state }) => (call, dialog, *state),
            Fact::Reply(
                _,
                Reply::Done(Facts::Looked(sighting)) | Reply::Missing { sighting, .. },
            ) => {
                let dialog = sighting.call.as_ref()?;
                (&dialog.call, &dialog.id, dialog.state)
            }
            Fact::Event(_) | Fact::Reply(..) | Fact::Due | Fact::GiveUp { .. } => return None,
        };
        (about == call).then_some((dialog, state))
    }
}

/// How a command ends: what is told, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why it did not succeed.
    pub error: Option<Failure>,
    /// How it ended.
    pub outcome: Outcome,
    /// What else is to be said.
    pub remarks: Remarks,
    /// A setup leg of ours that may be up (not told). See [`Command::orphan`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphan: Option<CallId>,
}

impl Ending {
    fn new(error: Option<Failure>, outcome: Outcome) -> Self {
        Self { error, outcome, remarks: Remarks::default(), orphan: None }
    }

    /// It is so.
    #[must_use]
    pub fn success() -> Self {
        Self::new(None, Outcome::Success)
    }

    /// It is not so, for this reason.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self::new(Some(failure), Outcome::Failed)
    }

    /// Nobody knows, for this reason.
    #[must_use]
    pub fn unknown(failure: Failure) -> Self {
        let outcome = Outcome::Unknown { up: failure.up };
        Self::new(Some(failure), outcome)
    }

    /// Nothing was sent, for this reason.
    #[must_use]
    pub fn not_started(failure: Failure) -> Self {
        Self::new(Some(failure), Outcome::NotStarted)
    }

    /// The same, with what is known now of whether a call is up.
    #[must_use]
    pub fn with_up(mut self, now: Up) -> Self {
        if let Some(error) = &mut self.error {
            error.up = now;
        }
        match &mut self.outcome {
            Outcome::Unknown { up } => *up = now,
            Outcome::Success | Outcome::Failed | Outcome::Cancelled | Outcome::NotStarted => {}
        }
        self
    }

    /// It was given up.
    #[must_use]
    pub fn cancelled(up: Up) -> Self {
        let sip = Some(super::failure::SipStatus::new(487, "Request Terminated"));
        let failure = Failure { code: Code::Cancelled, text: Arc::from("cancelled"), sip, up };
        Self::new(Some(failure), Outcome::Cancelled)
    }
}

/// The end that P1 promises when everything else has failed. The machines' own timers all end
/// before the stated deadline, so this tells of a defect or of a very long pause.
fn deadline_passed() -> Ending {
    Ending::unknown(Failure {
        code: Code::DeadlinePassed,
        text: Arc::from("deadline passed"),
        sip: None,
        up: Up::Unknown,
    })
}
