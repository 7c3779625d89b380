//! What a phone of a stage does, in one vocabulary for simulated and scripted phones.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::phone::{self, HangUp, Replaces};

/// One trait of a phone. A phone without any rings, answers, and does what it is asked.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// Rings and refuses calls with this status.
    Refuse(u16),
    /// Rings this long, in milliseconds, before its final answer.
    RingFor(u64),
    RingForEver,
    /// Is registered, and never says a word.
    Off,
    /// Rings for ever; its 200 crosses a CANCEL.
    CrossCancel,
    /// Its `Allow` names no REFER.
    AllowNoRefer,
    RefuseRefer(u16),
    NeverAnswerRefer,
    /// Time until the REFER is answered, in milliseconds.
    AnswerReferAfter(u64),
    /// Says 202 and places no call.
    IgnoreRefer,
    /// Places the referred call so many milliseconds after its 202.
    DialAfter(u64),
    /// Says 202, hangs up, and dials so many milliseconds later all the same.
    HangUpThenDial(u64),
    /// Says 202 and hangs up.
    HangUpInstead,
    /// Hangs up in the old call once the referred one is up.
    HangUpWhenReferred,
    /// Its INVITE carries nothing of what the REFER gave it: it could be anybody's.
    DropMarks,
    /// Says this in every NOTIFY.
    NotifyText(&'static str),
    RefuseReinvite(u16),
    NeverAnswerReinvite,
    /// The proxy challenges its calls, after creating a dialog where the script is a stock one:
    /// two dialogs with one Call-ID. Scripted phones can't answer a challenge.
    Challenged,
    /// Never heard of Replaces.
    IgnoreReplaces,
    /// A Replaces that names no call makes an ordinary call.
    LenientReplaces,
}

const NO_REFER: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS";

/// A simulated phone's behaviour, in the control interface's words.
pub fn simulated(traits: &[Does]) -> Value {
    let mut all = json!({"replaces": "strict"});
    for does in traits {
        let part = match does {
            Does::Refuse(status) => json!({"answer": status}),
            Does::RingFor(ms) => json!({"ring_ms": ms}),
            Does::RingForEver => json!({"answer": 0}),
            Does::Off => json!({"ring": false, "answer": 0}),
            Does::CrossCancel => json!({"answer": 0, "answers_cancelled": true}),
            Does::AllowNoRefer => json!({"allow": NO_REFER}),
            Does::RefuseRefer(status) => json!({"refer": status}),
            Does::NeverAnswerRefer => json!({"refer": 0}),
            Does::AnswerReferAfter(ms) => json!({"refer_ms": ms}),
            Does::IgnoreRefer => json!({"follow": false}),
            Does::DialAfter(ms) => json!({"follow_ms": ms}),
            Does::HangUpThenDial(ms) => json!({"bye_before_follow": true, "follow_ms": ms}),
            // It hangs up only if it means to dial: an hour later.
            Does::HangUpInstead => json!({"bye_before_follow": true, "follow_ms": 3_600_000}),
            Does::HangUpWhenReferred => json!({"bye_after_refer": true}),
            Does::DropMarks => json!({"copies_marks": false}),
            Does::NotifyText(text) => json!({"notify_body": format!("SIP/2.0 {text}\r\n")}),
            Does::RefuseReinvite(status) => json!({"reinvite": status}),
            Does::NeverAnswerReinvite => json!({"reinvite": 0}),
            Does::Challenged => json!({"challenged": true}),
            Does::IgnoreReplaces => json!({"replaces": "ignored"}),
            Does::LenientReplaces => json!({"replaces": "supported"}),
        };
        let (Value::Object(all), Value::Object(part)) = (&mut all, part) else { unreachable!() };
        all.extend(part);
    }
    all
}

/// A scripted phone's behaviour.
pub fn scripted(traits: &[Does]) -> phone::Behaviour {
    let ms = Duration::from_millis;
    let mut b = phone::Behaviour::default();
    for does in traits {
        match *does {
            Does::Refuse(status) => {
                b.answer = Some(status);
                b.answer_headers = with_refusal(status);
            }
            Does::RingFor(wait) => b.ring_for = ms(wait),
            Does::RingForEver => b.answer = None,
            Does::Off => b.dead = true,
            Does::CrossCancel => (b.answer, b.cancelled) = (None, 200),
            Does::AllowNoRefer => b.allow = Some(NO_REFER.to_owned()),
            Does::RefuseRefer(status) => b.refer = Some(status),
            Does::NeverAnswerRefer => b.refer = None,
            Does::AnswerReferAfter(wait) => b.refer_after = ms(wait),
            Does::IgnoreRefer => b.follow = false,
            Does::DialAfter(wait) => b.follow_after = ms(wait),
            Does::HangUpThenDial(wait) => {
                (b.hang_up, b.follow_after) = (HangUp::AfterTheAnswer, ms(wait));
            }
            Does::HangUpInstead => (b.hang_up, b.follow) = (HangUp::AfterTheAnswer, false),
            Does::HangUpWhenReferred => b.hang_up = HangUp::WhenReferredIsUp,
            Does::DropMarks => (b.copies_parameters, b.copies_referred_by) = (false, false),
            Does::NotifyText(text) => b.notify_body = Some(format!("SIP/2.0 {text}\r\n")),
            Does::RefuseReinvite(status) => b.reinvite = Some(status),
            Does::NeverAnswerReinvite => b.reinvite = None,
            Does::Challenged => panic!("a scripted phone answers no challenge"),
            Does::IgnoreReplaces => b.replaces = Replaces::Ignored,
            Does::LenientReplaces => b.replaces = Replaces::Lenient,
        }
    }
    b
}

/// What a refusal of this status carries (RFC 3261 sections 21.3 and 22).
fn with_refusal(status: u16) -> Vec<(String, String)> {
    let field = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    let challenge = "Digest realm=\"phone\", nonce=\"n\"";
    match status {
        300..=399 => field("Contact", "<sip:elsewhere@127.0.0.1:9>"),
        401 => field("WWW-Authenticate", challenge),
        407 => field("Proxy-Authenticate", challenge),
        _ => Vec::new(),
    }
}
