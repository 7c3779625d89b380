//! Keeps a stack's events flowing: subscribes, refreshes, verifies, and notices restarts.
//!
//! Nothing announces a restart, and a subscription that has run out ends in silence (facts
//! W9 and W10). So the stack is asked every few seconds since when it has been up, subscriptions
//! are verified and refreshed at a third of their life, and whenever events may have been missed
//! everybody is told to look again ([`StackReport::Joined`]). So it is, again and again, while a stack
//! answers and its events do not come (`trial.rs`).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::event::{Meaning, label};
use super::meter::EventResult;
use super::sink::{Gaps, Sink};
use super::subscription::{Subscription, Taken};
use super::told::Told;
use super::trial::{Ear, Next, TRIAL_EVENT, Way};
use super::{Connected, OpenSips};
use crate::stack::mi::{Mi, MiAnswer, MiEvent, MiRequest};
use crate::stack::{Away, Reports, StackReport};

/// How long unsubscribing may take when all ends.
const GOODBYE: Duration = Duration::from_millis(500);

/// Runs until `stop`: subscribes this sink to the stack's events and reports what they mean.
///
/// The stack need not be there; it is waited for.
pub async fn keep<M: Mi, L: Mi>(
    stack: Arc<OpenSips<M, L>>,
    mut sink: Sink,
    reports: Arc<dyn Reports>,
    stop: CancellationToken,
) {
    if let Some(bytes) = sink.buffer() {
        stack.meter().event_buffer(bytes);
    }
    let told = sink.told().clone();
    let gaps = Arc::clone(&sink.gaps);
    let ear = Arc::new(Ear::default());
    let heard = Arc::clone(&ear);
    let understanding = async {
        while let Some(text) = sink.events.recv().await {
            understand(&stack, &heard, &text, &*reports);
        }
    };
    if told.is_out_of_reach() {
        tracing::warn!(
            stack = %stack.id(), socket = told.plain(),
            "OpenSIPS sends events to IPv4 addresses only; give it one in `advertise`"
        );
    }
    let subscription = Subscription::new(&stack, &told);
    let keeping =
        Keeping { stack: &stack, told: &told, subscription, gaps: &gaps, ear, reports: &*reports };
    let subscribing = async {
        let mut warned = false;
        let mut way = Way::new(told.plain(), stack.settings().events.expiry / 3);
        loop {
            match keeping.subscribe_and_watch(&mut way).await {
                Ok(()) => continue,
                Err(Away::Unreachable | Away::Incomplete) => {
                    // Once: a stack that is away for hours must not fill the log.
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(
                            stack = %stack.id(),
                            mi = stack.settings().mi,
                            "the stack does not answer; commands are refused until it does"
                        );
                    }
                }
                // It was not asked.
                Err(Away::NoRoom) => {}
            }
            stack.gate.timer.sleep(stack.settings().events.check).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {
            let goodbye = pin!(keeping.subscription.give_back());
            select(goodbye, stack.gate.timer.sleep(GOODBYE)).await;
        }
        () = understanding => {}
        () = subscribing => {}
    }
}

fn understand<M: Mi, L: Mi>(stack: &OpenSips<M, L>, ear: &Ear, text: &[u8], reports: &dyn Reports) {
    let Some(event) = MiEvent::decode(text) else {
        stack.meter().event("other", EventResult::Malformed);
        return;
    };
    ear.heard(&event, stack.meter());
    let result = match stack.heard(&event) {
        Meaning::Fact(fact) => {
            reports.report(stack.id(), StackReport::Event(fact));
            EventResult::Reported
        }
        Meaning::Nothing => EventResult::Ignored,
        Meaning::Unreadable => EventResult::Malformed,
    };
    stack.meter().event(label(&event), result);
}

/// What one stack's subscription is kept with.
struct Keeping<'a, M, L> {
    stack: &'a OpenSips<M, L>,
    told: &'a Told,
    subscription: Subscription<'a, M, L>,
    gaps: &'a Gaps,
    ear: Arc<Ear>,
    reports: &'a dyn Reports,
}

impl<M: Mi, L: Mi> Keeping<'_, M, L> {
    /// One subscription: from connecting until the stack was lost or has restarted (`Ok`: connect
    /// again at once).
    async fn subscribe_and_watch(&self, way: &mut Way) -> Result<(), Away> {
        let Self { stack, subscription, gaps, reports, .. } = self;
        let events = &stack.settings().events;
        let id = stack.id();
        let connected = stack.connect().await?;
        restarted(stack, &connected, *reports);
        let first = !stack.joined.is_cancelled();
        let taken =
            if first { subscription.make_first().await? } else { subscription.make().await? };
        let mut subscribed = taken.needed;
        if subscribed {
            let release = connected.release.map(|(major, minor)| format!("{major}.{minor}"));
            let release = release.unwrap_or_else(|| "unknown".to_owned());
            tracing::info!(stack = %id, release, reference = connected.script.is_some(), socket = self.told.plain(), "subscribed to the stack's events");
            joined(stack, *reports);
        }
        way.subscribed(taken, stack.gate.now());

        let refresh_every = events.expiry / 3;
        let mut refresh_at = stack.gate.now().after(refresh_every);
        loop {
            if let Some(taken) = self.look_at_the_way(way).await? {
                subscribed = taken.needed;
                refresh_at = stack.gate.now().after(refresh_every);
            }
            let wait = events.check.min(stack.gate.now().until(refresh_at));
            select(pin!(gaps.noticed.notified()), stack.gate.timer.sleep(wait)).await;
            match stack.check().await {
                Ok(boot) if boot == connected.uptime.boot => {}
                Ok(_) => return Ok(()),
                Err(Away::Unreachable | Away::Incomplete) => {
                    tracing::warn!(stack = %id, mi = stack.settings().mi, "the stack does not answer");
                    wait_for(stack, events.check).await;
                    // It may have forgotten us, and we have missed what happened meanwhile.
                    tracing::info!(stack = %id, "the stack answers again");
                    return Ok(());
                }
                // Nothing was learned; the next check is soon enough.
                Err(Away::NoRoom) => {}
            }
            let lost = gaps.take_lost();
            for _ in 0..lost {
                stack.meter().event("other", EventResult::Lost);
            }
            let mut look_again = gaps.take_ended() || lost > 0;
            if lost > 0 {
                tracing::warn!(stack = %id, lost, "events were lost: the queue was full");
            }
            if stack.gate.now() >= refresh_at {
                let refreshed = async {
                    let was_there = subscribed && subscription.is_there().await?;
                    Ok((was_there, subscription.make().await?.needed))
                };
                refresh_at = match refreshed.await {
                    Ok((was_there, taken)) => {
                        subscribed = taken;
                        if subscribed && was_there {
                            stack.meter().subscribed();
                        } else if subscribed {
                            tracing::warn!(stack = %id, "the event subscription was gone; events may have been missed");
                            look_again = false;
                            joined(stack, *reports);
                        }
                        stack.gate.now().after(refresh_every)
                    }
                    // Two thirds of its life are left to try again in.
                    Err(Away::NoRoom) => stack.gate.now().after(events.check),
                    Err(away @ (Away::Unreachable | Away::Incomplete)) => return Err(away),
                };
            }
            if look_again {
                reports.report(id, StackReport::Joined);
            }
        }
    }

    /// Whether events come in. Where they do not, all is subscribed to anew; what the stack took of
    /// that.
    async fn look_at_the_way(&self, way: &mut Way) -> Result<Option<Taken>, Away> {
        let (stack, told) = (self.stack, self.told);
        match way.look(&self.ear, stack.gate.now(), stack.meter()) {
            Next::Wait => Ok(None),
            Next::Raise => self.raise(way).await.map(|()| None),
            Next::Renew(times) => {
                if times == 1 {
                    tracing::warn!(
                        stack = %stack.id(), socket = told.plain(),
                        "the stack answers, and its events do not arrive: see that it can send to this socket \
                         (NetworkPolicy, firewall, address translation, `advertise`, IPv4)"
                    );
                }
                let taken = self.subscription.make_anew().await?;
                way.subscribed(taken, stack.gate.now());
                // What can be known from lists is.
                self.reports.report(stack.id(), StackReport::Joined);
                self.raise(way).await.map(|()| Some(taken))
            }
            Next::Back => {
                tracing::info!(stack = %stack.id(), socket = told.plain(), "the stack's events arrive again");
                self.reports.report(stack.id(), StackReport::Joined);
                Ok(None)
            }
        }
    }

    async fn raise(&self, way: &mut Way) -> Result<(), Away> {
        match self.stack.ask_own(way.trial(&self.ear)).await {
            Ok(MiAnswer::Result(_)) => way.raised(self.stack.gate.now()),
            Ok(MiAnswer::Error { code, message, .. }) => {
                tracing::info!(stack = %self.stack.id(), code, message, "the stack raises no trial event; whether its events arrive is not watched");
                way.refused();
            }
            Err(Away::NoRoom) => {}
            Err(away @ (Away::Unreachable | Away::Incomplete)) => return Err(away),
        }
        Ok(())
    }
}

/// The stack has taken the subscription, the first one or one after a gap.
fn joined<M: Mi, L: Mi>(stack: &OpenSips<M, L>, reports: &dyn Reports) {
    stack.meter().subscribed();
    reports.report(stack.id(), StackReport::Joined);
    stack.joined.cancel();
}

async fn wait_for<M: Mi, L: Mi>(stack: &OpenSips<M, L>, every: Duration) {
    while stack.check().await.is_err() {
        stack.gate.timer.sleep(every).await;
    }
}

fn restarted<M: Mi, L: Mi>(stack: &OpenSips<M, L>, connected: &Connected, reports: &dyn Reports) {
    if let Some(event) = stack.has_restarted(connected) {
        tracing::warn!(stack = %stack.id(), boot = %connected.uptime.boot, "the stack has restarted");
        stack.meter().restarted();
        reports.report(stack.id(), StackReport::Event(event));
    }
}

/// Why an event did not find its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEvents {
    /// The stack does not answer.
    #[error("the stack does not answer")]
    Away,
    /// The stack refuses to subscribe us.
    #[error("the stack refuses the subscription")]
    Refused,
    /// It was raised, and it never came.
    #[error("an event was raised and did not arrive")]
    Lost,
}

/// Tries the way of events: raises one that nobody uses and waits for it. How long it took.
///
/// Takes the sink whole: it is for a check, not for a running server.
///
/// # Errors
/// [`NoEvents`] says where the way ends.
pub async fn try_events<M: Mi, L: Mi>(
    stack: &OpenSips<M, L>,
    mut sink: Sink,
) -> Result<Duration, NoEvents> {
    let ask = |request| async { stack.ask_own(request).await.map_err(|_| NoEvents::Away) };
    let subscription = |socket: &str, expiry| {
        MiRequest::new("event_subscribe")
            .text("event", TRIAL_EVENT)
            .text("socket", socket)
            .number("expire", expiry)
    };
    let told = sink.told().clone();
    let mut socket = told.first();
    if let MiAnswer::Error { .. } = ask(subscription(socket, 15)).await? {
        socket = told.plain();
        if let MiAnswer::Error { .. } = ask(subscription(socket, 15)).await? {
            return Err(NoEvents::Refused);
        }
    }
    let goodbye = subscription(socket, 0);
    let began = Instant::now();
    let mut came = false;
    // A datagram may be lost once.
    for _ in 0..3 {
        let word = format!("callplane-{}", sink.local_addr().port());
        let raise =
            MiRequest::new("raise_event").text("event", TRIAL_EVENT).list("params", [word.clone()]);
        ask(raise).await?;
        let arrived = timeout(Duration::from_secs(1), async {
            while let Some(text) = sink.events.recv().await {
                if String::from_utf8_lossy(&text).contains(&word) {
                    return true;
                }
            }
            false
        });
        if arrived.await == Ok(true) {
            came = true;
            break;
        }
    }
    let took = began.elapsed();
    ask(goodbye).await?;
    if came { Ok(took) } else { Err(NoEvents::Lost) }
}
