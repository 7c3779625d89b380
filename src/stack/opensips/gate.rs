//! The one door to a stack's Management Interface: deadlines, the breaker, and the limit of
//! requests under way.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::meter::{BreakerState, Meter, MiResult};
use super::settings::StackSettings;
use crate::clock::{Clock, Timer};
use crate::core::act::{Act, NotSent, Op};
use crate::core::time::StoreTime;
use crate::stack::mi::{Mi, MiAnswer, MiFailure, MiRequest};

/// A request that waits for a phone gives its place back after this: OpenSIPS has taken it from its
/// socket by then, and a phone may take a minute.
const TAKEN: Duration = Duration::from_millis(50);

/// A stack that answered within this is there. Another one is asked first: the silence of an INVITE
/// to a stack that hangs would be a phone's, and it would take the whole ringing time to tell.
const HEARD_LATELY: Duration = Duration::from_secs(1);

/// So many requests may wait in line for each place, then no more are taken.
const QUEUE_PER_PLACE: usize = 16;

/// The same for those that take load away: an end to what a flood of them keeps in memory.
const ENDS_PER_PLACE: usize = 64;

/// When a request must be on its way, and when its answer must be there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub send_before: StoreTime,
    pub reply_by: StoreTime,
    pub turn: Turn,
}

/// What becomes of a request while all places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It waits in a line that has an end.
    InLine,
    /// It waits in a line of its own, a longer one: it takes load away.
    Ends,
    /// It does not wait. There is one of its kind at a time, and a stack that is busy must not look
    /// like one that is gone: joining again is more load.
    Own,
}

impl Limits {
    pub fn of(op: &Op) -> Self {
        let turn = match op.act {
            Act::End { .. } | Act::CancelInvite { .. } => Turn::Ends,
            Act::Invite { .. }
            | Act::Refer { .. }
            | Act::ReInvite { .. }
            | Act::StackHold { .. }
            | Act::Mark { .. }
            | Act::Revoke { .. }
            | Act::Look { .. } => Turn::InLine,
        };
        Self { send_before: op.send_before, reply_by: op.reply_by, turn }
    }

    /// For a request that only prepares or looks: its answer is what counts.
    pub fn any_time(self) -> Self {
        Self { send_before: self.reply_by, ..self }
    }

    /// For a request without whose answer the act can't be sent: later, it is of no use.
    pub fn preparing(self) -> Self {
        Self { reply_by: self.send_before.min(self.reply_by), ..self }
    }
}

/// How long an answer may take once the request was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// As long as the stack itself takes.
    Stack,
    /// The same; and as asking twice does no more than asking once, it is asked once more when the
    /// answer is long in coming: a datagram may be lost.
    StackAgain,
    /// As long as a phone takes: until the operation's own limit.
    Phone,
}

/// Why a request brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// It provably never left us.
    NotSent(NotSent),
    /// The stack took it and could not read it: nothing was done.
    NotParsed,
    /// It was done, and the answer does not fit a datagram.
    TooLarge,
    /// Nobody knows.
    Silent,
}

/// The breaker.
#[derive(Debug)]
struct Breaker {
    state: Breaking,
    /// Unanswered requests in a row.
    failures: u32,
    /// When the stack answered last.
    heard: StoreTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Breaking {
    Closed,
    /// One request is being tried; everybody else is refused.
    Trying,
    /// Nothing passes before then.
    Open {
        until: StoreTime,
    },
}

pub(super) struct Gate<M> {
    mi: M,
    pub clock: Arc<dyn Clock>,
    pub timer: Arc<dyn Timer>,
    pub meter: Arc<dyn Meter>,
    places: Semaphore,
    in_line: Queue,
    ends: Queue,
    breaker: Mutex<Breaker>,
    most_failures: u32,
    open: Duration,
    reply: Duration,
}

impl<M: Mi> Gate<M> {
    /// A closed door: the first request tries whether the stack is there.
    pub fn new(
        mi: M,
        settings: &StackSettings,
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
        meter: Arc<dyn Meter>,
    ) -> Self {
        meter.breaker(BreakerState::Open);
        Self {
            mi,
            clock,
            timer,
            meter,
            places: Semaphore::new(settings.in_flight),
            in_line: Queue::new(settings.in_flight.saturating_mul(QUEUE_PER_PLACE)),
            ends: Queue::new(settings.in_flight.saturating_mul(ENDS_PER_PLACE)),
            breaker: Mutex::new(Breaker {
                state: Breaking::Open { until: StoreTime(0) },
                failures: 0,
                heard: StoreTime(0),
            }),
            most_failures: settings.breaker_failures.max(1),
            open: settings.breaker_open,
            reply: settings.reply,
        }
    }

    pub fn mi(&self) -> &M {
        &self.mi
    }

    pub fn now(&self) -> StoreTime {
        self.clock.now()
    }

    /// Limits for what the connector itself asks, outside any operation.
    pub fn own_limits(&self) -> Limits {
        let reply_by = self.now().after(self.reply);
        Limits { send_before: reply_by, reply_by, turn: Turn::Own }
    }

    /// Whether nothing is even tried now.
    pub fn is_shut(&self) -> bool {
        match self.breaker().state {
            Breaking::Closed => false,
            Breaking::Trying => true,
            Breaking::Open { until } => self.now() < until,
        }
    }

    /// Whether requests pass.
    pub fn is_open(&self) -> bool {
        self.breaker().state == Breaking::Closed
    }

    /// Asks, if the stack is there and while there is time.
    pub async fn ask(
        &self,
        request: MiRequest,
        answer: Answer,
        limits: Limits,
    ) -> Result<MiAnswer, Failed> {
        self.admit(limits).await?;
        match answer {
            Answer::Stack | Answer::StackAgain => {}
            Answer::Phone => self.hear(limits).await?,
        }
        let place = self.place(limits).await?;
        let now = self.now();
        if now >= limits.send_before || now >= limits.reply_by {
            return Err(Failed::NotSent(NotSent::TooLate));
        }
        let left = now.until(limits.reply_by);
        match answer {
            Answer::Stack => {
                let asked = self.call(request, left.min(self.reply)).await;
                self.note(&asked);
                drop(place);
                asked.map_err(failed)
            }
            Answer::StackAgain => {
                let asked = self.call_again(request, left.min(self.reply)).await;
                self.note(&asked);
                drop(place);
                asked.map_err(failed)
            }
            Answer::Phone => {
                let call = pin!(self.call(request, left));
                let asked = match select(call, self.timer.sleep(TAKEN)).await {
                    Either::Left((asked, _)) => asked,
                    Either::Right(((), call)) => {
                        drop(place);
                        call.await
                    }
                };
                // A phone's silence says nothing about the stack.
                if asked != Err(MiFailure::Silent) {
                    self.note(&asked);
                }
                asked.map_err(failed)
            }
        }
    }

    /// Asks whatever the breaker says, and lets the answer decide about it: the connector's own
    /// check.
    pub async fn check(&self, request: MiRequest) -> Result<MiAnswer, Failed> {
        let asked = self.call_again(request, self.reply).await;
        self.note(&asked);
        asked.map_err(failed)
    }

    async fn admit(&self, limits: Limits) -> Result<(), Failed> {
        let refused = Err(Failed::NotSent(NotSent::Unreachable));
        {
            let now = self.now();
            let mut breaker = self.breaker();
            match breaker.state {
                Breaking::Closed => return Ok(()),
                Breaking::Trying => return refused,
                Breaking::Open { until } if now < until => return refused,
                Breaking::Open { .. } => breaker.state = Breaking::Trying,
            }
        }
        self.meter.breaker(BreakerState::Trying);
        // Whoever tries must not leave the door in between when it is dropped.
        let trial = Trial { gate: self };
        let left = self.now().until(limits.reply_by);
        let there = self.try_it(left.min(self.reply / 2)).await;
        drop(trial);
        there
    }

    /// Makes sure that the stack is there. Usually nothing is asked; a stack that had nothing to do
    /// answers within a fraction of a millisecond.
    async fn hear(&self, limits: Limits) -> Result<(), Failed> {
        let now = self.now();
        if now < self.breaker().heard.after(HEARD_LATELY) {
            return Ok(());
        }
        let left = now.until(limits.send_before.min(limits.reply_by));
        self.try_it(left.min(self.reply)).await
    }

    /// Whether the stack answers at all.
    async fn try_it(&self, within: Duration) -> Result<(), Failed> {
        let asked = self.call_again(MiRequest::new("uptime"), within).await;
        self.note(&asked);
        match asked {
            Ok(_) => Ok(()),
            // The stack was not tried.
            Err(failure @ (MiFailure::NoRoom | MiFailure::TooLong)) => Err(failed(failure)),
            Err(
                MiFailure::NotSent { .. }
                | MiFailure::Silent
                | MiFailure::Plain(_)
                | MiFailure::Garbled,
            ) => Err(Failed::NotSent(NotSent::Unreachable)),
        }
    }

    async fn place(&self, limits: Limits) -> Result<Option<SemaphorePermit<'_>>, Failed> {
        let overloaded = Failed::NotSent(NotSent::Overloaded);
        if let Ok(place) = self.places.try_acquire() {
            return Ok(Some(place));
        }
        let queue = match limits.turn {
            Turn::InLine => &self.in_line,
            Turn::Ends => &self.ends,
            Turn::Own => return Ok(None),
        };
        let Some(queued) = queue.join() else { return Err(overloaded) };
        let wait = self.now().until(limits.send_before.min(limits.reply_by));
        let got = match select(pin!(self.places.acquire()), self.timer.sleep(wait)).await {
            Either::Left((Ok(place), _)) => Ok(Some(place)),
            Either::Left((Err(_), _)) | Either::Right(_) => Err(overloaded),
        };
        drop(queued);
        got
    }

    /// Asks once more after a part of the time, and takes the answer that comes first.
    async fn call_again(
        &self,
        request: MiRequest,
        within: Duration,
    ) -> Result<MiAnswer, MiFailure> {
        let soon = within / 4;
        let first = pin!(self.call(request.clone(), within));
        let first = match select(first, self.timer.sleep(soon)).await {
            Either::Left((asked, _)) => return asked,
            Either::Right(((), first)) => first,
        };
        // A stack that is busy is not asked for more.
        let Ok(_place) = self.places.try_acquire() else { return first.await };
        let second = pin!(self.call(request, within.saturating_sub(soon)));
        match select(first, second).await {
            Either::Left((Err(failure), other)) | Either::Right((Err(failure), other))
                if is_no_answer(&failure) =>
            {
                other.await
            }
            Either::Left((asked, _)) | Either::Right((asked, _)) => asked,
        }
    }

    async fn call(&self, request: MiRequest, timeout: Duration) -> Result<MiAnswer, MiFailure> {
        let command = command(&request.method);
        self.meter.sent(command);
        let mut counted =
            Counted { gate: self, command, began: Instant::now(), result: MiResult::Abandoned };
        let asked = self.mi.call(request, timeout).await;
        counted.result = match &asked {
            Ok(MiAnswer::Result(_)) => MiResult::Ok,
            Ok(MiAnswer::Error { .. }) => MiResult::Refused,
            Err(MiFailure::NotSent { .. } | MiFailure::NoRoom | MiFailure::TooLong) => {
                MiResult::NotSent
            }
            Err(MiFailure::Silent | MiFailure::Garbled | MiFailure::Plain(_)) => MiResult::Silent,
        };
        asked
    }

    /// Takes an answer, or that there was none, into account.
    fn note(&self, asked: &Result<MiAnswer, MiFailure>) {
        let answered = match asked {
            Ok(_) | Err(MiFailure::Plain(_) | MiFailure::Garbled) => true,
            Err(MiFailure::Silent | MiFailure::NotSent { .. }) => false,
            // It stayed here for a reason of ours: nothing was learned of the stack.
            Err(MiFailure::NoRoom | MiFailure::TooLong) => return,
        };
        let now = self.now();
        let mut breaker = self.breaker();
        let before = breaker.state;
        if answered {
            breaker.heard = now;
            breaker.failures = 0;
            breaker.state = Breaking::Closed;
        } else {
            breaker.failures = breaker.failures.saturating_add(1);
            match before {
                Breaking::Closed if breaker.failures < self.most_failures => {}
                Breaking::Closed | Breaking::Trying | Breaking::Open { .. } => {
                    breaker.state = Breaking::Open { until: now.after(self.open) };
                }
            }
        }
        let after = breaker.state;
        drop(breaker);
        match (before, after) {
            (Breaking::Closed, Breaking::Closed) => {}
            (_, Breaking::Closed) => self.meter.breaker(BreakerState::Closed),
            (_, Breaking::Open { .. } | Breaking::Trying) => {
                self.meter.breaker(BreakerState::Open);
            }
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is tried while the door is closed.
struct Trial<'a, M: Mi> {
    gate: &'a Gate<M>,
}

impl<M: Mi> Drop for Trial<'_, M> {
    fn drop(&mut self) {
        let mut breaker = self.gate.breaker();
        if breaker.state == Breaking::Trying {
            breaker.state = Breaking::Open { until: StoreTime(0) };
        }
    }
}

/// Requests of one kind that wait for a place, counted.
struct Queue {
    waiting: AtomicUsize,
    longest: usize,
}

impl Queue {
    fn new(longest: usize) -> Self {
        Self { waiting: AtomicUsize::new(0), longest }
    }

    /// One more, unless it is full.
    fn join(&self) -> Option<Queued<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let queued = Queued { queue: self };
        (before < self.longest).then_some(queued)
    }
}

struct Queued<'a> {
    queue: &'a Queue,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Counted<'a, M> {
    gate: &'a Gate<M>,
    command: &'static str,
    began: Instant,
    result: MiResult,
}

impl<M> Drop for Counted<'_, M> {
    fn drop(&mut self) {
        self.gate.meter.answered(self.command, self.result, self.began.elapsed());
    }
}

/// Whether the stack has said nothing.
fn is_no_answer(failure: &MiFailure) -> bool {
    match failure {
        MiFailure::Plain(_) | MiFailure::Garbled => false,
        MiFailure::Silent | MiFailure::NotSent { .. } | MiFailure::NoRoom | MiFailure::TooLong => {
            true
        }
    }
}

fn failed(failure: MiFailure) -> Failed {
    match failure {
        MiFailure::TooLong => Failed::NotParsed,
        MiFailure::NoRoom => Failed::NotSent(NotSent::Overloaded),
        MiFailure::NotSent { .. } => Failed::NotSent(NotSent::Unreachable),
        MiFailure::Plain(plain) if plain.code == 400 => Failed::NotParsed,
        MiFailure::Plain(_) => Failed::TooLarge,
        MiFailure::Silent | MiFailure::Garbled => Failed::Silent,
    }
}

/// The commands that the connector uses; a label must not be anything else.
fn command(method: &str) -> &'static str {
    const KNOWN: [&str; 16] = [
        "dlg_list_ctx",
        "dlg_send_sequential",
        "dlg_push_var",
        "dlg_end_dlg",
        "t_uac_dlg",
        "t_uac_cancel",
        "cache_fetch",
        "cache_remove",
        "call_transfer",
        "call_hold",
        "call_unhold",
        "uptime",
        "version",
        "event_subscribe",
        "subscribers_list",
        "raise_event",
    ];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}
