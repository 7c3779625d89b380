//! The INVITE that rings a caller's phone.

use super::event::bounded_status;
use super::gate::{Answer, Limits};
use super::script::Script;
use super::settings::SETUP_SDP;
use super::{OpenSips, last_failed, refused_by_stack};
use crate::core::act::{Act, Facts, Op, Refuser, Reply};
use crate::core::failure::SipStatus;
use crate::stack::mi::{Mi, MiAnswer, MiRequest};
use serde_json::Value;

/// What asks a phone to answer by itself; phones know one of the two (fact F26).
const AUTO_ANSWER: &str = "Call-Info: <sip:callplane>;answer-after=0\r\n\
    Alert-Info: <http://callplane>;info=alert-autoanswer\r\n";

impl<M: Mi, L: Mi> OpenSips<M, L> {
    pub(super) async fn invite(&self, op: &Op, limits: Limits) -> Reply {
        let script = self.script();
        let request = match self.invite_request(op, script.as_ref()) {
            Ok(request) => request,
            Err(refusal) => return refusal,
        };
        if let Act::Invite { call, .. } = &op.act {
            self.named.note(call, self.gate.now());
        }
        match self.gate.ask(request, Answer::Phone, limits).await {
            Ok(MiAnswer::Result(answer)) => outcome(&answer, script.is_some()),
            Ok(MiAnswer::Error { code, message, .. }) => refused_by_stack(code, &message),
            Err(failed) => last_failed(failed),
        }
    }

    fn invite_request(&self, op: &Op, script: Option<&Script>) -> Result<MiRequest, Reply> {
        let Act::Invite { call, caller, callee, display, auto_answer } = &op.act else {
            return Err(refused_by_stack(500, "not an INVITE"));
        };
        let next_hop = match script {
            Some(script) => Some(format!("sip:{}", script.address())),
            None => self.settings.next_hop.clone(),
        };
        let contact = next_hop.as_deref().unwrap_or(caller.as_str());
        let contact = host_and_port(contact);
        // The caller's phone is shown the callee; `gr` keeps the proxy from taking this contact
        // for a registered user (fact F3).
        let shown = display.as_ref().map(|d| format!("\"{}\" ", d.as_str())).unwrap_or_default();
        let tag = op.id.as_str();
        let mut headers = format!(
            "From: {shown}<{callee}>;tag=cp{tag}\r\n\
             To: <{caller}>\r\n\
             Contact: <sip:callplane@{contact};gr=cp>\r\n\
             Content-Type: application/sdp\r\n\
             CSeq: 1 INVITE\r\n\
             Call-ID: {call}\r\n"
        );
        match (script, auto_answer) {
            // Two phones that answer at once end OpenSIPS (F1): only the reference script is safe.
            (None, true) => {
                return Err(refused_by_stack(501, "auto_answer needs the reference script"));
            }
            (Some(_), true) => headers.push_str(AUTO_ANSWER),
            (_, false) => {}
        }
        let mut request =
            MiRequest::new("t_uac_dlg").text("method", "INVITE").text("ruri", caller.as_str());
        if let Some(script) = script {
            headers.push_str("X-CP-Op: ");
            headers.push_str(op.id.as_str());
            headers.push_str("\r\n");
            request = request.text("socket", script.socket.clone());
        }
        if let Some(next_hop) = next_hop {
            request = request.text("next_hop", next_hop);
        }
        let body = self.settings.setup_sdp.as_deref().unwrap_or(SETUP_SDP);
        Ok(request.text("headers", headers).text("body", body))
    }
}

/// What the reference script answers to the second INVITE of one operation.
const ALREADY_DONE: &str = "Command already done";

/// `{"Status":"486 Busy Here","Message":"..."}`: every end of an INVITE is a result.
fn outcome(answer: &Value, reference: bool) -> Reply {
    let status = answer.get("Status").and_then(Value::as_str).and_then(SipStatus::parse);
    match status.map(bounded_status) {
        Some(status) if (200..300).contains(&status.code) => {
            let message = answer.get("Message").and_then(Value::as_str).unwrap_or_default();
            Reply::Done(Facts::Answered { takes_refer: takes_refer(message) })
        }
        // The request arrived twice: the other one is the call.
        Some(SipStatus { code: 482, reason }) if reference && &*reason == ALREADY_DONE => {
            Reply::Done(Facts::Adopted)
        }
        Some(SipStatus { code, reason }) => Reply::Refused { by: Refuser::Phone, code, reason },
        None => Reply::Silent,
    }
}

/// Whether the headers' `Allow` names REFER; `None` without one (RFC 3261 section 20.5).
fn takes_refer(message: &str) -> Option<bool> {
    let headers = message.lines().take_while(|line| !line.is_empty());
    let mut allow = headers.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("Allow").then_some(value)
    });
    let first = allow.next()?;
    let names_refer =
        |value: &str| value.split(',').any(|method| method.trim().eq_ignore_ascii_case("REFER"));
    Some(names_refer(first) || allow.any(names_refer))
}

/// `host:port` of `sip:user@host:port;parameters`.
fn host_and_port(uri: &str) -> &str {
    let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split([';', '?', '>']).next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn allow_may_stand_in_several_lines_or_not_at_all() {
        assert_eq!(takes_refer("Via: x\r\nAllow: INVITE, ACK\r\nallow: REFER\r\n\r\n"), Some(true));
        assert_eq!(takes_refer("Allow: INVITE,REFER,BYE\r\n"), Some(true));
        assert_eq!(takes_refer("Allow: INVITE, BYE\r\n\r\nAllow: REFER"), Some(false));
        assert_eq!(takes_refer("Via: x\r\n\r\nv=0"), None);
    }

    #[test]
    fn every_final_answer_is_told_apart() {
        let busy = outcome(&json!({"Status": "486 Busy Here"}), true);
        assert_eq!(
            busy,
            Reply::Refused { by: Refuser::Phone, code: 486, reason: "Busy Here".into() }
        );
        let answered = outcome(&json!({"Status": "200 OK", "Message": "Allow: REFER\r\n"}), true);
        assert_eq!(answered, Reply::Done(Facts::Answered { takes_refer: Some(true) }));
        let again = json!({"Status": "482 Command already done"});
        assert_eq!(outcome(&again, true), Reply::Done(Facts::Adopted));
        assert!(matches!(outcome(&again, false), Reply::Refused { .. }));
        assert_eq!(outcome(&json!("OK"), true), Reply::Silent);
    }

    #[test]
    fn the_contact_is_where_the_stack_is() {
        assert_eq!(host_and_port("sip:127.0.0.1:5060"), "127.0.0.1:5060");
        assert_eq!(host_and_port("sip:a@[::1]:5060;transport=tcp"), "[::1]:5060");
        assert_eq!(host_and_port("sip:a@h"), "h");
    }
}
