//! This process's subscription to a stack's events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::OpenSips;
use super::event::{DIALOG_EVENT, EVENTS, OWN_EVENT};
use super::told::Told;
use super::trial::TRIAL_EVENT;
use crate::stack::Away;
use crate::stack::mi::{Mi, MiAnswer, MiRequest};

/// How long one that was given back may stand: the stack counts in whole seconds.
const FORGOTTEN: Duration = Duration::from_secs(3);

/// How often it is looked whether it still does.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Subscription<'a, M, L> {
    stack: &'a OpenSips<M, L>,
    told: &'a Told,
    /// The stack refuses the other spelling of the address.
    plainly: AtomicBool,
}

/// What the stack took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// All without which commands are blind.
    pub needed: bool,
    /// The event to try the way with.
    pub trial: bool,
}

/// How one event's subscription stands at the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Alive,
    /// It has run out, and is still there.
    Over,
    Gone,
    /// There is no such event.
    Unknown,
}

impl<'a, M: Mi, L: Mi> Subscription<'a, M, L> {
    pub(super) fn new(stack: &'a OpenSips<M, L>, told: &'a Told) -> Self {
        Self { stack, told, plainly: AtomicBool::new(false) }
    }

    /// What the stack is told.
    fn socket(&self) -> &str {
        if self.plainly.load(Ordering::Relaxed) { self.told.plain() } else { self.told.first() }
    }

    /// Subscribes, or refreshes.
    pub(super) async fn make(&self) -> Result<Taken, Away> {
        let expiry = seconds(self.stack.settings().events.expiry);
        let mut taken = Taken { needed: true, trial: false };
        for event in wanted(self.stack) {
            if let Err((code, message)) = self.ask(event, expiry).await? {
                tracing::warn!(stack = %self.stack.id(), event, code, message, "the stack refuses an event subscription");
                taken.needed &= !is_needed(event);
            }
        }
        taken.trial = self.ask(TRIAL_EVENT, expiry).await?.is_ok();
        Ok(taken)
    }

    /// Subscribes for the first time. Where a name leads is looked up by the stack for a new
    /// subscription and not for a refreshed one, and a former process may have had the name.
    pub(super) async fn make_first(&self) -> Result<Taken, Away> {
        if self.told.is_name() && self.standing(DIALOG_EVENT).await? != Standing::Gone {
            self.make_anew().await
        } else {
            self.make().await
        }
    }

    /// Gives the subscription back and takes a new one.
    pub(super) async fn make_anew(&self) -> Result<Taken, Away> {
        self.give_back().await?;
        let timer = &self.stack.gate.timer;
        let until = self.stack.gate.now().after(FORGOTTEN);
        for event in wanted(self.stack).chain([TRIAL_EVENT]) {
            // To ask makes the stack forget what has run out.
            while matches!(self.standing(event).await?, Standing::Alive | Standing::Over)
                && self.stack.gate.now() < until
            {
                timer.sleep(LOOK_AGAIN).await;
            }
        }
        self.make().await
    }

    /// Unsubscribes.
    pub(super) async fn give_back(&self) -> Result<(), Away> {
        for event in wanted(self.stack).chain([TRIAL_EVENT]) {
            // What was refused is not there to be given back.
            let _ = self.ask(event, 0).await?;
        }
        Ok(())
    }

    /// Whether all of it is there: what can't be subscribed to counts as that.
    pub(super) async fn is_there(&self) -> Result<bool, Away> {
        for event in wanted(self.stack) {
            match self.standing(event).await? {
                Standing::Alive | Standing::Unknown => {}
                Standing::Over | Standing::Gone => return Ok(false),
            }
        }
        Ok(true)
    }

    /// What a refusal says.
    async fn ask(&self, event: &str, expiry: i64) -> Result<Result<(), (i64, String)>, Away> {
        let socket = self.socket();
        let refused = match self.ask_with(socket, event, expiry).await? {
            MiAnswer::Result(_) => return Ok(Ok(())),
            MiAnswer::Error { code, message, .. } => (code, message),
        };
        if socket == self.told.plain() {
            return Ok(Err(refused));
        }
        match self.ask_with(self.told.plain(), event, expiry).await? {
            MiAnswer::Result(_) => {
                self.plainly.store(true, Ordering::Relaxed);
                tracing::warn!(
                    stack = %self.stack.id(), socket = self.told.plain(),
                    "the stack takes this address in its usual form only: it may take it for another \
                     process's, if that one's begins so and has the same port"
                );
                Ok(Ok(()))
            }
            MiAnswer::Error { .. } => Ok(Err(refused)),
        }
    }

    async fn ask_with(&self, socket: &str, event: &str, expiry: i64) -> Result<MiAnswer, Away> {
        let request = MiRequest::new("event_subscribe")
            .text("event", event)
            .text("socket", socket)
            .number("expire", expiry);
        self.stack.ask_own(request).await
    }

    async fn standing(&self, event: &str) -> Result<Standing, Away> {
        let request =
            MiRequest::new("subscribers_list").text("event", event).text("socket", self.socket());
        Ok(match self.stack.ask_own(request).await? {
            MiAnswer::Result(answer) if is_alive(&answer) => Standing::Alive,
            MiAnswer::Result(_) => Standing::Over,
            // `Event not published`.
            MiAnswer::Error { message, .. } if message.starts_with("Event") => Standing::Unknown,
            MiAnswer::Error { .. } => Standing::Gone,
        })
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

/// `{"Event":{"Subscriber":{"ttl":30}}}`; `"ttl":"expired"` once it has run out.
fn is_alive(answer: &Value) -> bool {
    let subscriber = answer.get("Event").and_then(|event| event.get("Subscriber"));
    subscriber.and_then(|s| s.get("ttl")).is_some_and(Value::is_number)
}

fn seconds(expiry: Duration) -> i64 {
    i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX).max(1)
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
