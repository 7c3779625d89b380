//! `t_uac_dlg` and `t_uac_cancel`: SIP requests the proxy sends for its Management Interface.

use serde_json::{Value, json};

use super::calls::{EndedBy, Invite};
use super::commands::{Asker, Params};
use super::dialogs::{Call, CallKey, Party, Setup, State, Uac};
use super::sip_text::{self, address_uri, header, host, is_sip, reason, unescape, user};
use super::world::World;
use crate::stack::mi::MiAnswer;

impl World {
    /// `t_uac_dlg`: the answer is the final SIP answer, whatever it is; nothing while it rings.
    pub(super) fn uac_dialog(&mut self, asker: Asker, params: &Params<'_>) {
        match self.start_uac(&asker, params) {
            Ok(None) => {}
            Ok(Some(answer)) | Err(answer) => self.answer(asker, answer),
        }
    }

    fn start_uac(
        &mut self,
        asker: &Asker,
        params: &Params<'_>,
    ) -> Result<Option<MiAnswer>, MiAnswer> {
        let bad = |text: &str| MiAnswer::error(400, text);
        let method = params.text("method")?;
        let ruri = params.text("ruri")?;
        let next_hop = params.optional_text("next_hop")?;
        let body = params.optional_text("body")?.filter(|b| !b.is_empty());
        let raw = params.text("headers")?;
        if !is_sip(&ruri) {
            return Err(bad("Invalid ruri"));
        }
        if next_hop.as_deref().is_some_and(|h| !is_sip(h)) {
            return Err(bad("Invalid next_hop"));
        }
        if let Some(socket) = params.optional_text("socket")? {
            let ours = [&self.domain, &self.callplane_socket];
            let known = socket
                .strip_prefix("udp:")
                .or_else(|| socket.strip_prefix("tcp:"))
                .is_some_and(|s| ours.iter().any(|o| ***o == *s));
            if !known {
                return Err(MiAnswer::error(404, "Local socket not found"));
            }
        }
        let headers = unescape(&raw);
        if !headers.is_empty() && !headers.ends_with("\r\n") {
            return Err(bad("Bad headers"));
        }
        if body.is_some() && header(&headers, "Content-Type").is_none() {
            return Err(bad("Content-Type missing"));
        }
        let to = header(&headers, "To").ok_or_else(|| bad("To missing"))?.to_owned();
        let from = header(&headers, "From").ok_or_else(|| bad("From missing"))?.to_owned();
        let cseq = header(&headers, "CSeq").map_or_else(|| format!("10 {method}"), str::to_owned);
        if cseq.split_whitespace().nth(1) != Some(&*method) {
            return Err(bad("CSeq method mismatch"));
        }
        let callid = match header(&headers, "Call-ID") {
            Some(given) => given.to_owned(),
            None => format!("{}@{}", self.random.hex(16), self.domain),
        };
        let uac = Uac {
            asker: Some(asker.clone()),
            cseq: cseq.clone(),
            // Without a next hop the INVITE goes where the request URI leads. To the proxy itself: then
            // it comes in like any other (measured: tests/truth_table, row 01).
            through_script: next_hop.is_some() || self.is_own(&ruri),
            from,
            to,
        };
        match &*method {
            "INVITE" => {
                let op = header(&headers, "X-CP-Op").map(str::to_owned);
                if let Some(op) = op.as_deref().filter(|_| self.reference()) {
                    self.mark_sent(op, &callid);
                }
                let own_tag = sip_text::tag(&uac.from).map(str::to_owned);
                let invite = Invite {
                    from_uri: address_uri(&uac.from).to_owned(),
                    to_uri: address_uri(&uac.to).to_owned(),
                    ruri: ruri.into_owned(),
                    caller: Party::Uac,
                    caller_tag: own_tag
                        .unwrap_or_else(|| format!("{}-{}", self.uac_tag, self.random.hex(4))),
                    caller_contact: header(&headers, "Contact")
                        .map(address_uri)
                        .unwrap_or_default()
                        .to_owned(),
                    cseq: cseq.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(1),
                    sdp: body.map(std::borrow::Cow::into_owned),
                    callid,
                    uac: Some(uac),
                    op,
                    referral: None,
                    referred_by: None,
                    replaces: None,
                };
                self.invite(invite);
                Ok(None)
            }
            "BYE" => Ok(Some(self.uac_bye(&callid, &ruri, &uac))),
            _ => Ok(Some(self.uac_request(&callid, &ruri, &uac))),
        }
    }

    /// A BYE made by hand, as the Go server does: the script matches it to the dialog by Call-ID
    /// and tags, and the dialog ends.
    fn uac_bye(&mut self, callid: &str, ruri: &str, uac: &Uac) -> MiAnswer {
        let key = self.calls.by_callid(callid).filter(|k| {
            self.calls
                .get(*k)
                .and_then(Call::state)
                .is_some_and(|s| s == State::Confirmed || s == State::Answered)
        });
        match key {
            Some(key) => {
                let answer = self.uac_request(callid, ruri, uac);
                self.end_call(key, EndedBy::Phone(super::dialogs::Side::Caller));
                answer
            }
            None => status(481, reason(481), None),
        }
    }

    /// Any request outside a call: a registered phone says 200.
    fn uac_request(&self, callid: &str, ruri: &str, uac: &Uac) -> MiAnswer {
        let phone = user(ruri)
            .and_then(|name| self.phone_number(name))
            .and_then(|i| self.phones.get(i))
            .filter(|p| p.registered || host(ruri) == host(&p.contact));
        let Some(phone) = phone else { return status(404, reason(404), None) };
        let message = format!(
            "Via: SIP/2.0/UDP {};branch=z9hG4bK0000.0.0\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {callid}\r\n\
             CSeq: {}\r\nContact: <{}>\r\nContent-Length: 0\r\n\r\n",
            self.domain, uac.from, uac.to, uac.cseq, phone.contact
        );
        MiAnswer::Result(json!({
            "Status": "200 OK",
            "RURI": phone.contact,
            "Next-hop": phone.contact,
            "Message": message,
        }))
    }

    /// `t_uac_cancel`.
    pub(super) fn uac_cancel(&mut self, params: &Params<'_>) -> Result<MiAnswer, MiAnswer> {
        let callid = params.text("callid")?;
        let _cseq = params.text("cseq")?;
        let none = || MiAnswer::error(481, "No such transaction");
        let key = self
            .calls
            .all_by_callid(&callid)
            .iter()
            .copied()
            .find(|k| self.calls.get(*k).is_some_and(|c| c.uac.is_some()))
            .ok_or_else(none)?;
        match self.calls.get(key).map(|c| c.setup) {
            Some(Setup::Calling | Setup::Ringing) => {
                self.cancel(key);
                Ok(MiAnswer::Result("OK".into()))
            }
            // A second cancel, also after the 487, says OK as well (measured).
            Some(Setup::Cancelling | Setup::Failed) => Ok(MiAnswer::Result("OK".into())),
            Some(Setup::Answered) | None => Err(none()),
        }
    }

    fn waiting_asker(&mut self, key: CallKey) -> Option<Asker> {
        self.calls.get_mut(key)?.uac.as_mut()?.asker.take()
    }

    /// The `t_uac_dlg` behind this call is answered: 200.
    pub(super) fn uac_answered(&mut self, key: CallKey) {
        let Some(asker) = self.waiting_asker(key) else { return };
        let Some(call) = self.calls.get(key) else { return };
        let contact = call.callee.contact.clone();
        let routes: Vec<String> = self.routes(call).into_iter().rev().collect();
        let next_hop = routes
            .first()
            .map_or_else(|| contact.clone(), |r| r.trim_matches(['<', '>']).to_owned());
        let sdp = call.callee.sdp.clone().unwrap_or_else(|| "".into());
        let allow = self
            .party_phone(call.callee.party)
            .and_then(|p| p.behaviour.allow.as_deref())
            .map(|a| format!("Allow: {a}\r\n"))
            .unwrap_or_default();
        let message = format!(
            "{}Contact: <{contact}>\r\n{allow}Content-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{sdp}",
            self.message_start(call, false),
            sdp.len()
        );
        let mut result = json!({
            "Status": "200 OK", "RURI": contact, "Next-hop": next_hop, "Message": message,
        });
        if !routes.is_empty()
            && let Some(map) = result.as_object_mut()
        {
            map.insert("Routes".to_owned(), routes.into());
        }
        self.answer(asker, MiAnswer::Result(result));
    }

    /// It is refused, by a phone or by the script.
    pub(super) fn uac_refused(&mut self, key: CallKey, code: u16, text: &str, by_script: bool) {
        let Some(asker) = self.waiting_asker(key) else { return };
        let Some(call) = self.calls.get(key) else { return };
        let message = format!("{}Content-Length: 0\r\n\r\n", self.message_start(call, by_script));
        // The proxy turns a phone's 503 into 500 (measured).
        let code = if code == 503 && !by_script { 500 } else { code };
        let answer = status(code, text, Some(message));
        self.answer(asker, answer);
    }

    /// Nobody answered in time: no message.
    pub(super) fn uac_timed_out(&mut self, key: CallKey) {
        if let Some(asker) = self.waiting_asker(key) {
            self.answer(asker, status(408, reason(408), None));
        }
    }

    /// Record-Route of a call through the script, as the message carries them.
    fn routes(&self, call: &Call) -> Vec<String> {
        let Some(dialog) = call.dialog.as_ref() else { return Vec::new() };
        let (tag, id) = (&call.caller.tag, dialog.id);
        if self.reference() {
            let route = |socket: &str| format!("<sip:{socket};r2=on;lr;ftag={tag};did={id}>");
            vec![route(&self.domain), route(&self.callplane_socket)]
        } else {
            vec![format!("<sip:{};lr;ftag={tag};did={id}>", self.domain)]
        }
    }

    /// The headers every reply to our INVITE begins with.
    fn message_start(&self, call: &Call, by_script: bool) -> String {
        let Some(uac) = call.uac.as_ref() else { return String::new() };
        let socket = &call.caller.bind;
        let branch = self.branch(call);
        let tag = match call.callee.tag.as_str() {
            "" => format!("{}.{}", branch.get(..4).unwrap_or_default(), self.uac_tag),
            tag => tag.to_owned(),
        };
        let from = match sip_text::tag(&uac.from) {
            Some(_) => format!("From: {}\r\n", uac.from),
            None => format!("From: {};tag={}\r\n", uac.from, call.caller.tag),
        };
        let to = format!("To: {};tag={tag}\r\n", uac.to);
        let rest = format!("Call-ID: {}\r\nCSeq: {}\r\n", call.callid, uac.cseq);
        let via = format!("Via: SIP/2.0/UDP {socket};branch=z9hG4bK{branch}.0\r\n");
        if by_script {
            return format!("{via}{to}{from}{rest}Server: {}\r\n", self.config.version.server());
        }
        let routes: String =
            self.routes(call).iter().map(|r| format!("Record-Route: {r}\r\n")).collect();
        format!("{via}{routes}{from}{to}{rest}")
    }

    fn branch(&self, call: &Call) -> String {
        let hash = call.callid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        let hex = format!("{hash:016x}");
        let (entry, label) = hex.split_at(4);
        format!("{entry}.{}", label.get(..7).unwrap_or(label))
    }
}

fn status(code: u16, text: &str, message: Option<String>) -> MiAnswer {
    let mut result = json!({"Status": format!("{code} {text}")});
    if let (Some(message), Some(map)) = (message, result.as_object_mut()) {
        map.insert("Message".to_owned(), Value::String(message));
    }
    MiAnswer::Result(result)
}

/// The bare name in an address of record, `alice` of `sip:alice@host` or `alice@host`.
pub(super) fn record_name(aor: &str) -> &str {
    let aor = aor.strip_prefix("sip:").unwrap_or(aor);
    sip_text::bare(aor.split('@').next().unwrap_or(aor))
}
