//! REFER: asking one party of a confirmed call to call somebody else.

use super::OpenSips;
use super::dialog::Listed;
use super::gate::{Answer, Limits};
use super::look::Asked;
use super::reinvite::not_ready;
use super::script::Script;
use super::{last_failed, refused_by_stack};
use crate::core::act::{Facts, Op, ReferTo, Reply};
use crate::core::ids::{CallId, OpId};
use crate::core::plan::ReferBy;
use crate::core::request::Leg;
use crate::core::script::CallopsMode;
use crate::core::sip_address::SipAddress;
use crate::stack::mi::{Mi, MiAnswer, MiRequest};
use std::fmt::Write as _;
use std::time::Duration;

/// How long a REFER waits at least, beside the look that precedes it. OpenSIPS tells state 4 from
/// within its handling of the ACK. A request of the same dialog that another of its processes
/// makes at that moment gives the ACK its own `CSeq`; the phone then repeats its 200 (fact
/// F31).
const ACK_LEAVES: Duration = Duration::from_millis(1);

impl<M: Mi, L: Mi> OpenSips<M, L> {
    pub(super) async fn refer(
        &self,
        op: &Op,
        call: &CallId,
        leg: Leg,
        to: &ReferTo,
        limits: Limits,
    ) -> Reply {
        let leaves = self.gate.timer.sleep(ACK_LEAVES);
        let answer = match self.dialog_of(call, limits.preparing()).await {
            Asked::There(answer) => answer,
            Asked::NotFound => return self.missing(call, limits).await,
            Asked::Otherwise(reply) => return reply,
        };
        let Some(dialog) = Listed::only(&answer) else {
            return refused_by_stack(500, "unreadable list");
        };
        if let Some(refusal) = not_ready(dialog) {
            return refusal;
        }
        leaves.await;
        let transferee = dialog.party(leg).into();
        let by = self.known().capabilities.refer;
        let sent = match by {
            ReferBy::Sequential => self.refer_in_dialog(op, call, dialog, leg, to, limits).await,
            ReferBy::Stack => self.call_transfer(call, leg, to, limits).await,
        };
        match sent {
            Ok(code) => Reply::Done(Facts::Referred { code, transferee }),
            Err(reply) => reply,
        }
    }

    async fn refer_in_dialog(
        &self,
        op: &Op,
        call: &CallId,
        dialog: Listed<'_>,
        leg: Leg,
        to: &ReferTo,
        limits: Limits,
    ) -> Result<u16, Reply> {
        let script = self.script();
        let (address, replaces) = match to {
            ReferTo::Address(address) => (address.clone(), None),
            ReferTo::Replacing { call: consult, leg: stays } => {
                let (address, replaces) = self.replacing(consult, *stays, limits).await?;
                (address, Some(replaces))
            }
        };
        if address.carries_ours() {
            return Err(refused_by_stack(400, "the address has a parameter of ours"));
        }
        let mut target = address.as_str().to_owned();
        match &script {
            Some(_) => write_parameter(&mut target, "cpt", op.id.as_str()),
            // With a Replaces header callops knows the call by that.
            None if replaces.is_some() => {}
            None => match self.settings.callops {
                CallopsMode::Param => {
                    let id = dialog.id().ok_or_else(|| refused_by_stack(500, "no dialog id"))?;
                    write_parameter(&mut target, "osid", id.as_str());
                }
                CallopsMode::CallId => write_parameter(&mut target, "osid", call.as_str()),
                CallopsMode::Manual => {}
            },
        }
        if let Some(replaces) = replaces {
            target.push_str("?Replaces=");
            target.push_str(&replaces);
        }
        let mut headers = format!("Refer-To: <{target}>\r\n");
        if let Some(script) = &script {
            headers.push_str(&token_headers(script, &op.id));
        }
        let request = MiRequest::new("dlg_send_sequential")
            .text("callid", call.as_str())
            .text("method", "REFER")
            .text("mode", leg.as_str())
            .text("body", "none")
            .text("headers", headers);
        self.in_dialog(request, call, limits).await
    }

    /// The party that stays, and the `Replaces` that takes its call over (RFC 3891 section 3: the
    /// to-tag is its own, the from-tag the other's).
    async fn replacing(
        &self,
        consult: &CallId,
        stays: Leg,
        limits: Limits,
    ) -> Result<(SipAddress, String), Reply> {
        let answer = match self.dialog_of(consult, limits.preparing()).await {
            Asked::There(answer) => answer,
            Asked::NotFound => return Err(self.missing(consult, limits).await),
            Asked::Otherwise(reply) => return Err(reply),
        };
        let dialog =
            Listed::only(&answer).ok_or_else(|| refused_by_stack(500, "unreadable list"))?;
        if not_ready(dialog).is_some() {
            return Err(refused_by_stack(410, "Transfer dialog not ready"));
        }
        let unusable = || refused_by_stack(400, "the other call's party has no usable address");
        let address = SipAddress::parse(dialog.party(stays)).map_err(|_| unusable())?;
        let (to_tag, from_tag) = (dialog.tag(stays), dialog.tag(stays.other()));
        if to_tag.is_empty() || from_tag.is_empty() {
            return Err(refused_by_stack(410, "Transfer dialog not ready"));
        }
        let plain = format!("{consult};to-tag={to_tag};from-tag={from_tag}");
        Ok((address, escaped(&plain)))
    }

    /// `call_transfer`: says only that the REFER was sent (trace `blind_refused`).
    async fn call_transfer(
        &self,
        call: &CallId,
        leg: Leg,
        to: &ReferTo,
        limits: Limits,
    ) -> Result<u16, Reply> {
        let request =
            MiRequest::new("call_transfer").text("callid", call.as_str()).text("leg", leg.as_str());
        let request = match to {
            ReferTo::Address(address) if address.carries_ours() => {
                return Err(refused_by_stack(400, "the address has a parameter of ours"));
            }
            ReferTo::Address(address) => request.text("destination", address.as_str()),
            ReferTo::Replacing { call, leg } => {
                request.text("transfer_callid", call.as_str()).text("transfer_leg", leg.as_str())
            }
        };
        match self.gate.ask(request, Answer::Stack, limits).await {
            Ok(MiAnswer::Result(_)) => Ok(0),
            Ok(MiAnswer::Error { code: 404, message, .. }) => {
                let missing = match to {
                    ReferTo::Replacing { call, .. } if message.starts_with("Transfer") => call,
                    ReferTo::Replacing { .. } | ReferTo::Address(_) => call,
                };
                Err(self.missing(missing, limits.any_time()).await)
            }
            Ok(MiAnswer::Error { code, message, .. }) => Err(refused_by_stack(code, &message)),
            Err(failed) => Err(last_failed(failed)),
        }
    }
}

/// The reference script arms the token when it sees `X-CP-Op`, and finds it again in the referred
/// INVITE's address or, where a phone drops the parameter, in its `Referred-By`.
fn token_headers(script: &Script, token: &OpId) -> String {
    let address = script.address();
    format!("Referred-By: <sip:callplane@{address};cpt={token}>\r\nX-CP-Op: {token}\r\n")
}

fn write_parameter(target: &mut String, name: &str, value: &str) {
    // Writing to a String can't fail.
    let _ = write!(target, ";{name}={value}");
}

/// RFC 3261 section 19.1.1: whatever is not plain inside a URI's header part is escaped.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 24);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!') {
            out.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaces_is_escaped_as_the_stacks_own_transfer_does() {
        // Trace `attended`.
        assert_eq!(
            escaped("alice-220edf4cdcad;to-tag=2ccf447a;from-tag=0b972641"),
            "alice-220edf4cdcad%3Bto-tag%3D2ccf447a%3Bfrom-tag%3D0b972641"
        );
        assert_eq!(escaped("a@b>\r\n"), "a%40b%3E%0D%0A");
    }
}
