//! Looking, ending, marking, revoking: the acts that are safe to repeat.

use super::dialog::{HOLD_VALUE, Listed};
use super::gate::{Answer, Failed, Limits};
use super::{OpenSips, last_failed, lists, preparing_failed, refused_by_stack, script};
use crate::core::act::{Dialog, DialogState, Facts, NotSent, Reply, Sent, Sighting};
use crate::core::ids::{CallId, DialogId, OpId};
use crate::core::sdp::HoldMark;
use crate::stack::mi::{Mi, MiAnswer, MiRequest};
use serde_json::Value;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{Either, select};

use crate::stack::{Away, Snapshot};

/// What a list by Call-ID said.
pub(super) enum Asked {
    /// The answer, with a dialog in it.
    There(Value),
    /// 404, which is only a hint (fact F4).
    NotFound,
    /// Something else; nothing was sent to a phone.
    Otherwise(Reply),
}

impl<M: Mi, L: Mi> OpenSips<M, L> {
    /// Asks for one dialog with its values.
    pub(super) async fn dialog_of(&self, call: &CallId, limits: Limits) -> Asked {
        let request = MiRequest::new("dlg_list_ctx").text("callid", call.as_str());
        match self.gate.ask(request, Answer::StackAgain, limits).await {
            Ok(MiAnswer::Result(answer)) if Listed::only(&answer).is_some() => {
                self.named.note(call, self.gate.now());
                Asked::There(answer)
            }
            Ok(MiAnswer::Result(_)) => Asked::Otherwise(refused_by_stack(500, "unreadable list")),
            Ok(MiAnswer::Error { code: 404, .. }) => Asked::NotFound,
            Ok(MiAnswer::Error { code, message, .. }) => {
                Asked::Otherwise(refused_by_stack(code, &message))
            }
            Err(failed) => Asked::Otherwise(preparing_failed(failed)),
        }
    }

    /// A full list, as far as there is time for one.
    async fn full_list(&self, limits: Limits) -> Result<Arc<Snapshot>, Away> {
        // What the looks saw so far must still be told in time.
        let left = self.gate.now().until(limits.reply_by).mul_f32(0.9);
        let list = pin!(self.lists.full(&self.gate, left));
        match select(list, self.gate.timer.sleep(left)).await {
            Either::Left((list, _)) => list,
            Either::Right(((), _)) => Err(Away::Incomplete),
        }
    }

    fn sighting(&self, call: &CallId, list: &Result<Arc<Snapshot>, Away>) -> Sighting {
        let now = self.gate.now();
        match list {
            Ok(list) => Sighting {
                call: lists::of_call(list, call).cloned().map(Box::new),
                referred: None,
                full: Some(list.uptime.clone()),
                named_recently: self.named.lately(call, now),
                sent: None,
            },
            Err(Away::Unreachable | Away::Incomplete | Away::NoRoom) => self.only_seen(call, None),
        }
    }

    /// What one dialog, and no list, tells.
    fn only_seen(&self, call: &CallId, dialog: Option<Dialog>) -> Sighting {
        Sighting {
            call: dialog.map(Box::new),
            referred: None,
            full: None,
            named_recently: self.named.lately(call, self.gate.now()),
            sent: None,
        }
    }

    /// The call was not found: what a full list says of it.
    pub(super) async fn missing(&self, call: &CallId, limits: Limits) -> Reply {
        let list = self.full_list(limits).await;
        let sighting = Box::new(self.sighting(call, &list));
        Reply::Missing { call: call.clone(), sighting }
    }

    pub(super) async fn look(
        &self,
        call: &CallId,
        referred_by: Option<&OpId>,
        sent: Option<&Sent>,
        limits: Limits,
    ) -> Reply {
        let (mut sighting, listed) = match self.dialog_of(call, limits).await {
            Asked::There(answer) => {
                let listed = Listed::only(&answer);
                let dialog = listed.and_then(Listed::to_dialog);
                let new_call = listed.and_then(Listed::transferred_to);
                let mut sighting = self.only_seen(call, dialog);
                if let (Some(token), Some(new_call)) = (referred_by, new_call) {
                    let seen = self.seen_alone(&new_call, limits).await;
                    sighting.referred = seen.filter(|dialog| self.carries(dialog, token));
                }
                (sighting, None)
            }
            Asked::NotFound => {
                let list = self.full_list(limits.any_time()).await;
                (self.sighting(call, &list), Some(list))
            }
            Asked::Otherwise(reply) => return reply,
        };
        if let (Some(token), None) = (referred_by, &sighting.referred) {
            let list = match listed {
                Some(list) => list,
                None => self.full_list(limits.any_time()).await,
            };
            if let Ok(list) = list {
                sighting.referred = lists::of_token(&list, token, call).cloned().map(Box::new);
                // A call that was found, and can't be read, is not absent.
                sighting.full =
                    sighting.full.or_else(|| sighting.call.is_some().then(|| list.uptime.clone()));
            }
        }
        if let Some(sent) = sent {
            sighting.sent = self.was_sent(sent, limits.any_time()).await;
        }
        Reply::Done(Facts::Looked(Box::new(sighting)))
    }

    /// Whether this REFER can have brought the call about: what callops noted may have come of one
    /// before. The reference script notes the token itself.
    fn carries(&self, dialog: &Dialog, token: &OpId) -> bool {
        !self.known().capabilities.referral_tokens || dialog.last_op.as_ref() == Some(token)
    }

    async fn seen_alone(&self, call: &CallId, limits: Limits) -> Option<Box<Dialog>> {
        match self.dialog_of(call, limits.any_time()).await {
            Asked::There(answer) => Listed::only(&answer)?.to_dialog().map(Box::new),
            Asked::NotFound | Asked::Otherwise(_) => None,
        }
    }

    /// The reference script marks what the proxy sent, before it is sent. The mark was there in
    /// 200 of 200 tries on both releases; the Management Interface takes requests one by one.
    /// Marks die with the stack, so a missing one tells nothing of what was sent in a life before.
    async fn was_sent(&self, sent: &Sent, limits: Limits) -> Option<bool> {
        self.known().script.as_ref()?;
        let request = MiRequest::new("cache_fetch")
            .text("system", "local")
            .text("attr", format!("cps_{}", sent.op));
        match self.gate.ask(request, Answer::StackAgain, limits).await {
            Ok(MiAnswer::Result(_)) => Some(true),
            Ok(MiAnswer::Error { code: 400, .. }) => {
                let uptime = MiRequest::new("uptime");
                let up = match self.gate.ask(uptime, Answer::StackAgain, limits).await {
                    Ok(MiAnswer::Result(uptime)) => script::up_time(&uptime)?,
                    Ok(MiAnswer::Error { .. }) | Err(_) => return None,
                };
                let was_up = sent.since.until(self.gate.now()) + script::UP_TIME_GRAIN <= up;
                was_up.then_some(false)
            }
            Ok(MiAnswer::Error { .. }) | Err(_) => None,
        }
    }

    pub(super) async fn end(&self, call: &CallId, limits: Limits) -> Reply {
        // OpenSIPS takes a Call-ID that looks like a dialog id for one: another call's.
        if !reads_as_dialog_id(call.as_str()) {
            match self.end_by(call.as_str(), limits).await {
                Ok(MiAnswer::Result(_)) => return Reply::Done(Facts::Nothing),
                Ok(MiAnswer::Error { code: 404, .. }) => {}
                Ok(MiAnswer::Error { code, message, .. }) => {
                    return refused_by_stack(code, &message);
                }
                Err(failed) => return last_failed(failed),
            }
        }
        let limits = limits.any_time();
        let list = self.full_list(limits).await;
        let alive: Vec<DialogId> = match &list {
            Ok(list) => {
                let dialogs = list.dialogs.iter().filter(|dialog| dialog.call == *call);
                let alive = dialogs.filter(|dialog| dialog.state != DialogState::Deleted);
                alive.map(|dialog| dialog.id.clone()).collect()
            }
            Err(Away::Unreachable | Away::Incomplete | Away::NoRoom) => Vec::new(),
        };
        for id in &alive {
            match self.end_by(id.as_str(), limits).await {
                Ok(MiAnswer::Result(_)) => return Reply::Done(Facts::Nothing),
                // It ended by itself in between.
                Ok(MiAnswer::Error { code: 404, .. }) => {}
                Ok(MiAnswer::Error { code, message, .. }) => {
                    return refused_by_stack(code, &message);
                }
                Err(failed) => return last_failed(failed),
            }
        }
        let sighting = Box::new(self.sighting(call, &list));
        Reply::Missing { call: call.clone(), sighting }
    }

    async fn end_by(&self, id: &str, limits: Limits) -> Result<MiAnswer, Failed> {
        let request = MiRequest::new("dlg_end_dlg").text("dialog_id", id);
        self.gate.ask(request, Answer::Stack, limits).await
    }

    pub(super) async fn mark(&self, call: &CallId, held: bool, limits: Limits) -> Reply {
        let answer = match self.dialog_of(call, limits).await {
            Asked::There(answer) => answer,
            Asked::NotFound => return self.missing(call, limits).await,
            Asked::Otherwise(reply) => return reply,
        };
        let Some(dialog) = Listed::only(&answer) else {
            return refused_by_stack(500, "unreadable list");
        };
        let mark = HoldMark { held, ..dialog.hold_mark() };
        match self.write_mark(dialog, mark, limits).await {
            Ok(MiAnswer::Result(_)) => Reply::Done(Facts::Nothing),
            Ok(MiAnswer::Error { code, message, .. }) => refused_by_stack(code, &message),
            Err(failed) => last_failed(failed),
        }
    }

    /// Writes the hold mark. OpenSIPS says OK also for a dialog that is not there.
    pub(super) async fn write_mark(
        &self,
        dialog: Listed<'_>,
        mark: HoldMark,
        limits: Limits,
    ) -> Result<MiAnswer, Failed> {
        let Some(id) = dialog.id() else {
            return Err(Failed::NotSent(NotSent::Unreachable));
        };
        let request = MiRequest::new("dlg_push_var")
            .text("dlg_val_name", HOLD_VALUE)
            .text("dlg_val_value", mark.to_text())
            .list("DID", [id.as_str()]);
        self.gate.ask(request, Answer::StackAgain, limits).await
    }

    pub(super) async fn revoke(&self, token: &OpId, limits: Limits) -> Reply {
        if !self.known().capabilities.referral_tokens {
            return refused_by_stack(501, "this script has no tokens");
        }
        let request = MiRequest::new("cache_remove")
            .text("system", "local")
            .text("attr", format!("cpr_{token}"));
        match self.gate.ask(request, Answer::Stack, limits).await {
            Ok(MiAnswer::Result(_)) => Reply::Done(Facts::Nothing),
            Ok(MiAnswer::Error { code, message, .. }) => refused_by_stack(code, &message),
            Err(failed) => last_failed(failed),
        }
    }

    pub(super) async fn cancel_invite(&self, call: &CallId, limits: Limits) -> Reply {
        let request =
            MiRequest::new("t_uac_cancel").text("callid", call.as_str()).text("cseq", "1");
        // Of two only one reaches the phone (seen on 3.6.8 and 4.0.1).
        match self.gate.ask(request, Answer::StackAgain, limits).await {
            Ok(MiAnswer::Result(_)) => Reply::Done(Facts::Nothing),
            Ok(MiAnswer::Error { code, message, .. }) => refused_by_stack(code, &message),
            Err(failed) => last_failed(failed),
        }
    }
}

/// Whether OpenSIPS would read this as one of its own dialog ids: two hexadecimal numbers with a
/// dot between them (source: `parse_dlg_did`), or one decimal number (`db_id`).
fn reads_as_dialog_id(text: &str) -> bool {
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    let numbers = text.split_once('.').is_some_and(|(entry, id)| hex(entry) && hex(id));
    numbers || text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_that_is_a_dialog_id_to_the_stack_is_known() {
        for id in ["f35.0e7f64f2", "1.2", "5768934258656"] {
            assert!(reads_as_dialog_id(id), "{id}");
        }
        for call in ["cp-a-0-abc", "alice-19c82d3cc729", "a.b@c", "1.2.3.4", "."] {
            assert!(!reads_as_dialog_id(call), "{call}");
        }
    }
}
