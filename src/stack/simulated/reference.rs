//! What the reference script adds to a stock one (`docs/opensips/opensips.cfg`, route by route):
//! marks before sending, starts at most once, one-use tokens, `E_CALLPLANE`.

use std::time::Duration;

use super::dialogs::{CallKey, Side};
use super::events::{self, Callplane};
use super::sip_text::{self, parameter};
use super::world::World;

/// How long an armed token is good.
const TOKEN_LIFE: Duration = Duration::from_secs(120);

/// What became of the token of an INVITE.
pub(super) enum Redeemed {
    /// It carries none.
    NoToken,
    /// It was armed; now it is used up.
    Good(Token),
    /// Unknown, used by another call, or revoked: 603.
    Refused,
}

/// A redeemed token.
pub(super) struct Token {
    op: String,
    /// Call-ID of the call in which the REFER went out.
    old_callid: String,
    /// The leg that got the REFER.
    leg: String,
}

impl World {
    /// `local_route`: the mark of everything that leaves with `X-CP-Op`.
    pub(super) fn mark_sent(&mut self, op: &str, callid: &str) {
        self.cache_put(&format!("cps_{op}"), callid, Some(self.config.mark_life));
    }

    /// `local_route`, for a request inside a dialog to `side`: mark, dialog values, token, event.
    pub(super) fn request_leaves(&mut self, key: CallKey, side: Side, method: &str, op: &str) {
        let Some(call) = self.calls.get(key) else { return };
        let (callid, tag) = (call.callid.clone(), call.end(side).tag.clone());
        self.mark_sent(op, &callid);
        self.set_value(key, "cp_op", op.into());
        if method == "REFER" {
            self.set_value(key, "cp_referred_tag", tag.into());
            self.cache_put(&format!("cpl_{op}"), side.text(), Some(TOKEN_LIFE));
            self.cache_put(&format!("cpr_{op}"), &callid, Some(TOKEN_LIFE));
        }
        self.report(key, side.other(), &Callplane::Sent { method });
    }

    /// `route[REDEEM]`: an INVITE from outside with a token (URI parameter or Referred-By).
    pub(super) fn redeem(&mut self, key: CallKey) -> Redeemed {
        let Some(call) = self.calls.get(key).filter(|c| c.uac.is_none()) else {
            return Redeemed::NoToken;
        };
        let from_header = || {
            let (_, token) = call.referred_by.as_deref()?.split_once("cpt=")?;
            token.split(|c: char| !c.is_ascii_alphanumeric()).next().filter(|t| !t.is_empty())
        };
        let Some(op) = parameter(&call.requested, "cpt").or_else(from_header) else {
            return Redeemed::NoToken;
        };
        let (op, callid) = (op.to_owned(), call.callid.clone());
        let (from, ruri) = (call.from_uri.clone(), call.requested.clone());
        // What callplane never sent leaves nothing behind.
        if self.cache_get(&format!("cps_{op}")).is_none() {
            return Redeemed::Refused;
        }
        let first = self.first_use(&format!("cpu_{op}"));
        let user = format!("cpc_{op}");
        if !first && self.cache_get(&user) != Some(&*callid) {
            return Redeemed::Refused;
        }
        let Some(old_callid) = self.cache_get(&format!("cpr_{op}")).map(str::to_owned) else {
            if first {
                let revoked = Callplane::Failed { code: 603 };
                let event = events::callplane(&revoked, &callid, &op, &from, &ruri);
                self.raise(event);
            }
            return Redeemed::Refused;
        };
        self.cache_put(&user, &callid, Some(TOKEN_LIFE));
        let leg = self.cache_get(&format!("cpl_{op}")).unwrap_or("callee").to_owned();
        Redeemed::Good(Token { op, old_callid, leg })
    }

    /// `route[NEW_CALL]` after `create_dialog`: the dialog's values and, with a token, the
    /// transfer.
    pub(super) fn mark_dialog(&mut self, key: CallKey, op: Option<&str>, token: Option<&Token>) {
        let Some(call) = self.calls.get(key) else { return };
        let tag = call.caller.tag.clone();
        self.set_value(key, "cp_caller_tag", tag.into());
        if let Some(op) = op {
            self.set_value(key, "cp_op", op.into());
        }
        let Some(token) = token else { return };
        self.set_value(key, "cp_op", token.op.as_str().into());
        let Some(call) = self.calls.get_mut(key) else { return };
        call.by_token = true;
        let stripped = sip_text::without_parameter(&call.requested, "cpt");
        self.blind_replace(key, &token.old_callid, &token.leg);
        self.report_at(key, &Callplane::Referred { old: &token.old_callid }, &stripped);
    }

    /// `route[IN_DIALOG]`: a NOTIFY of the leg that got our REFER.
    pub(super) fn notify_passes(&mut self, key: CallKey, side: Side, body: &str) {
        let ours = self.calls.get(key).is_some_and(|c| {
            c.dialog.as_ref().and_then(|d| d.text_value("cp_referred_tag"))
                == Some(c.end(side).tag.as_str())
        });
        if ours {
            self.report(key, side, &Callplane::Notify { body });
        }
    }
}
