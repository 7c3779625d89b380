//! Keeps a stack's events flowing: subscribes, refreshes, verifies, and notices restarts.
//!
//! Nothing announces a restart, and a subscription that has run out ends in silence (facts
//! W9 and W10). So the stack is asked every few seconds since when it has been up, subscriptions
//! are verified and refreshed at a third of their life, and whenever events may have been missed
//! everybody is told to look again ([`StackReport::Joined`]).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use serde_json::Value;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::event::{DIALOG_EVENT, EVENTS, Meaning, OWN_EVENT, label};
use super::meter::EventResult;
use super::sink::Sink;
use super::{Connected, OpenSips};
use crate::stack::mi::{Mi, MiAnswer, MiEvent, MiRequest};
use crate::stack::{Away, Reports, StackReport};

/// How long unsubscribing may take when all ends.
const GOODBYE: Duration = Duration::from_millis(500);

/// An event that nobody uses, to try the way of events with.
const TRIAL_EVENT: &str = "E_CORE_PROC_AUTO_SCALE";

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
    let socket = sink.socket().to_owned();
    let gaps = Arc::clone(&sink.gaps);
    let understanding = async {
        while let Some(text) = sink.events.recv().await {
            understand(&stack, &text, &*reports);
        }
    };
    let subscribing = async {
        let mut warned = false;
        loop {
            let until_lost = subscribe_and_watch(&stack, &socket, &gaps, &*reports);
            match until_lost.await {
                Ok(()) => continue,
                Err(Away::Unreachable | Away::Incomplete) => {
                    // Once: a stack that is away for hours must not fill the log.
                    if !std::mem::replace(&mut warned, true) {
                        tracing::warn!(stack = %stack.id(), "the stack does not answer; commands are refused until it does");
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
            let goodbye = pin!(subscribe(&stack, &socket, 0));
            select(goodbye, stack.gate.timer.sleep(GOODBYE)).await;
        }
        () = understanding => {}
        () = subscribing => {}
    }
}

fn understand<M: Mi, L: Mi>(stack: &OpenSips<M, L>, text: &[u8], reports: &dyn Reports) {
    let Some(event) = MiEvent::decode(text) else {
        stack.meter().event("other", EventResult::Malformed);
        return;
    };
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

/// One subscription: from connecting until the stack was lost or has restarted (`Ok`: connect
/// again at once).
async fn subscribe_and_watch<M: Mi, L: Mi>(
    stack: &OpenSips<M, L>,
    socket: &str,
    gaps: &super::sink::Gaps,
    reports: &dyn Reports,
) -> Result<(), Away> {
    let events = &stack.settings().events;
    let id = stack.id();
    let connected = stack.connect().await?;
    restarted(stack, &connected, reports);
    let mut subscribed = subscribe(stack, socket, seconds(events.expiry)).await?;
    if subscribed {
        let release = connected.release.map(|(major, minor)| format!("{major}.{minor}"));
        let release = release.unwrap_or_else(|| "unknown".to_owned());
        tracing::info!(stack = %id, release, reference = connected.script.is_some(), socket, "subscribed to the stack's events");
        joined(stack, reports);
    }

    let refresh_every = events.expiry / 3;
    let mut refresh_at = stack.gate.now().after(refresh_every);
    loop {
        let wait = events.check.min(stack.gate.now().until(refresh_at));
        select(pin!(gaps.noticed.notified()), stack.gate.timer.sleep(wait)).await;
        match stack.check().await {
            Ok(boot) if boot == connected.uptime.boot => {}
            Ok(_) => return Ok(()),
            Err(Away::Unreachable | Away::Incomplete) => {
                tracing::warn!(stack = %id, "the stack does not answer");
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
                let was_there = subscribed && still_subscribed(stack, socket).await?;
                let taken = subscribe(stack, socket, seconds(events.expiry)).await?;
                Ok((was_there, taken))
            };
            refresh_at = match refreshed.await {
                Ok((was_there, taken)) => {
                    subscribed = taken;
                    if subscribed && was_there {
                        stack.meter().subscribed();
                    } else if subscribed {
                        tracing::warn!(stack = %id, "the event subscription was gone; events may have been missed");
                        look_again = false;
                        joined(stack, reports);
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

/// Whether commands are blind without this event: how calls stand, and what the reference script
/// tells. The others a stack may lack.
fn is_needed(event: &str) -> bool {
    event == DIALOG_EVENT || event == OWN_EVENT
}

/// The events to subscribe to on this stack's script.
fn wanted<M: Mi, L: Mi>(stack: &OpenSips<M, L>) -> impl Iterator<Item = &'static str> {
    let own = stack.script().is_some().then_some(OWN_EVENT);
    EVENTS.into_iter().chain(own)
}

/// Subscribes, or refreshes; with `expiry` 0 unsubscribes. Says whether the stack took all that is
/// needed.
async fn subscribe<M: Mi, L: Mi>(
    stack: &OpenSips<M, L>,
    socket: &str,
    expiry: i64,
) -> Result<bool, Away> {
    let mut taken = true;
    for event in wanted(stack) {
        let request = MiRequest::new("event_subscribe")
            .text("event", event)
            .text("socket", socket)
            .number("expire", expiry);
        match stack.ask_own(request).await? {
            MiAnswer::Result(_) => {}
            MiAnswer::Error { code, message, .. } => {
                tracing::warn!(stack = %stack.id(), event, code, message, "the stack refuses an event subscription");
                taken &= !is_needed(event);
            }
        }
    }
    Ok(taken)
}

/// Whether every subscription is still there.
async fn still_subscribed<M: Mi, L: Mi>(
    stack: &OpenSips<M, L>,
    socket: &str,
) -> Result<bool, Away> {
    for event in wanted(stack) {
        let request =
            MiRequest::new("subscribers_list").text("event", event).text("socket", socket);
        let there = match stack.ask_own(request).await? {
            MiAnswer::Result(answer) => is_alive(&answer),
            // `Event not published`: it could not be subscribed to in the first place.
            MiAnswer::Error { message, .. } => message.starts_with("Event"),
        };
        if !there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `{"Event":{"Subscriber":{"ttl":30}}}`; `"ttl":"expired"` once it has run out.
fn is_alive(answer: &Value) -> bool {
    let subscriber = answer.get("Event").and_then(|event| event.get("Subscriber"));
    subscriber.and_then(|s| s.get("ttl")).is_some_and(Value::is_number)
}

fn seconds(expiry: Duration) -> i64 {
    i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX).max(1)
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
    let subscription = |expiry| {
        MiRequest::new("event_subscribe")
            .text("event", TRIAL_EVENT)
            .text("socket", sink.socket())
            .number("expire", expiry)
    };
    if let MiAnswer::Error { .. } = ask(subscription(15)).await? {
        return Err(NoEvents::Refused);
    }
    let goodbye = subscription(0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_subscription_that_ran_out_is_not_alive() {
        assert!(is_alive(&json!({"Event": {"Subscriber": {"expire": 30, "ttl": 30}}})));
        assert!(!is_alive(&json!({"Event": {"Subscriber": {"expire": 30, "ttl": "expired"}}})));
        assert!(!is_alive(&json!({"Event": {}})));
    }
}
