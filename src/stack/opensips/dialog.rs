//! A dialog as `dlg_list` and `dlg_list_ctx` show it.

use std::sync::Arc;

use serde_json::Value;

use crate::core::act::{Dialog, DialogState, ReferMark};
use crate::core::ids::{CallId, DialogId, OpId};
use crate::core::request::Leg;
use crate::core::sdp::HoldMark;

/// The dialog value that tells whether we hold the call.
pub(super) const HOLD_VALUE: &str = "cp_hold";

/// The dialog value in which the reference script keeps the last operation of ours.
const OP_VALUE: &str = "cp_op";

/// The value in which callops keeps the Call-ID of a transferred call (measured on both versions).
const TRANSFER_VALUE: &str = "call_transfer_callid";

/// The dialog value in which callops keeps the leg that was sent its REFER; empty: refused.
const TRANSFER_LEG_VALUE: &str = "call_transfer_leg";

/// One dialog object of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'a>(&'a Value);

impl<'a> Listed<'a> {
    /// The dialog in the answer to a list by Call-ID: `{"Dialog":{...}}`.
    pub fn only(answer: &'a Value) -> Option<Self> {
        answer.get("Dialog").filter(|dialog| dialog.is_object()).map(Self)
    }

    /// The dialogs in the answer to a full list: `{"Dialogs":[...]}`. `None`: it is no such list,
    /// or one page of it.
    pub fn all(answer: &'a Value) -> Option<impl Iterator<Item = Self> + use<'a>> {
        let whole = answer.get("count").is_none();
        let list = answer.get("Dialogs").and_then(Value::as_array).filter(|_| whole)?;
        Some(list.iter().map(Self))
    }

    fn text(self, name: &str) -> Option<&'a str> {
        self.0.get(name)?.as_str()
    }

    /// The stack's handle, if it has an acceptable form.
    pub fn id(self) -> Option<DialogId> {
        DialogId::parse(self.text("ID")?).ok()
    }

    pub fn state(self) -> Option<DialogState> {
        DialogState::from_number(self.0.get("state")?.as_u64()?)
    }

    /// Who called.
    pub fn from(self) -> &'a str {
        self.text("from_uri").unwrap_or_default()
    }

    /// Who was called.
    pub fn to(self) -> &'a str {
        self.text("to_uri").unwrap_or_default()
    }

    /// The address of a party.
    pub fn party(self, leg: Leg) -> &'a str {
        match leg {
            Leg::Caller => self.from(),
            Leg::Callee => self.to(),
        }
    }

    /// The branch that answered: the one with a contact (fact F15).
    fn callee(self) -> Option<&'a Value> {
        let callees = self.0.get("CALLEES")?.as_array()?;
        let contact = |callee: &&Value| {
            let contact = callee.get("callee_contact").and_then(Value::as_str);
            contact.is_some_and(|contact| !contact.is_empty())
        };
        callees.iter().find(contact).or_else(|| callees.last())
    }

    fn callee_text(self, name: &str) -> Option<&'a str> {
        self.callee()?.get(name)?.as_str()
    }

    /// A party's tag; empty before it has one.
    pub fn tag(self, leg: Leg) -> &'a str {
        match leg {
            Leg::Caller => self.text("caller_tag"),
            Leg::Callee => self.callee_text("callee_tag"),
        }
        .unwrap_or_default()
    }

    /// What a party said of its media last.
    pub fn sdp(self, leg: Leg) -> Option<&'a str> {
        match leg {
            Leg::Caller => self.text("caller_sdp"),
            Leg::Callee => self.callee_text("callee_sdp"),
        }
        .filter(|sdp| !sdp.is_empty())
    }

    /// What a party was told of the other's media last: what a relay made of it, else what the
    /// other side said. Our own offers are not seen here; their versions are in the hold mark.
    pub fn sdp_sent_to(self, leg: Leg) -> Option<&'a str> {
        match leg {
            Leg::Caller => self.text("caller_sent_sdp"),
            Leg::Callee => self.callee_text("callee_sent_sdp"),
        }
        .filter(|sdp| !sdp.is_empty())
        .or_else(|| self.sdp(leg.other()))
    }

    /// A value that was set on the dialog; only `dlg_list_ctx` shows them.
    fn value(self, name: &str) -> Option<&'a str> {
        let values = self.0.get("context")?.get("values")?.as_array()?;
        values.iter().find_map(|value| value.get(name))?.as_str()
    }

    /// Whether and how we hold the call.
    pub fn hold_mark(self) -> HoldMark {
        self.value(HOLD_VALUE).and_then(HoldMark::parse).unwrap_or_default()
    }

    /// The last operation of ours inside the dialog.
    pub fn last_op(self) -> Option<OpId> {
        OpId::parse(self.value(OP_VALUE)?).ok()
    }

    /// The call that callops saw come of a transfer of this one.
    pub fn transferred_to(self) -> Option<CallId> {
        CallId::parse(self.value(TRANSFER_VALUE)?).ok()
    }

    /// As the core sees it. `None`: its ids or its state are nothing that we could ever use.
    pub fn to_dialog(self) -> Option<Dialog> {
        Some(Dialog {
            call: CallId::parse(self.text("callid")?).ok()?,
            id: self.id()?,
            state: self.state()?,
            from: Arc::from(self.from()),
            to: Arc::from(self.to()),
            last_op: self.last_op(),
            refer: self.refer_mark(),
        })
    }

    /// What callops noted of a transfer of this call; only `dlg_list_ctx` shows it.
    fn refer_mark(self) -> Option<ReferMark> {
        if let Some(new_call) = self.transferred_to() {
            return Some(ReferMark::Placed(new_call));
        }
        let leg = self.value(TRANSFER_LEG_VALUE)?;
        Some(if leg.is_empty() { ReferMark::Refused } else { ReferMark::Out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call() -> Value {
        json!({"Dialog": {
            "ID": "f35.0e7f64f2", "state": 4, "timestart": 1000, "callid": "a@b",
            "from_uri": "sip:alice@h", "to_uri": "sip:bob@h", "caller_tag": "t1",
            "caller_sdp": "caller's", "caller_contact": "sip:alice@c",
            "CALLEES": [
                {"callee_tag": "dead", "callee_contact": "", "callee_sdp": "dead's"},
                {"callee_tag": "t2", "callee_contact": "sip:bob@c", "callee_sdp": "callee's",
                 "callee_sent_sdp": "relayed"}
            ],
            "context": {"values": [{"n": 7}, {"cp_hold": "held:3:4:ff"}, {"cp_op": "0a"}]}
        }})
    }

    #[test]
    fn the_branch_that_answered_is_the_callee() {
        let value = call();
        let listed = Listed::only(&value).unwrap();
        assert_eq!(listed.tag(Leg::Callee), "t2");
        assert_eq!(listed.sdp_sent_to(Leg::Caller), Some("callee's"));
        assert_eq!(listed.sdp_sent_to(Leg::Callee), Some("relayed"));
    }

    #[test]
    fn values_are_found_among_others() {
        let value = call();
        let listed = Listed::only(&value).unwrap();
        let mark = HoldMark { held: true, caller: 3, callee: 4, seen: 0xff };
        assert_eq!(listed.hold_mark(), mark);
        let dialog = listed.to_dialog().unwrap();
        assert_eq!(dialog.last_op.unwrap().as_str(), "0a");
        assert_eq!(dialog.state, DialogState::Confirmed);
    }

    #[test]
    fn a_page_is_no_full_list() {
        assert!(Listed::all(&json!({"Dialogs": []})).is_some());
        assert!(Listed::all(&json!({"count": 1, "Dialogs": []})).is_none());
        assert!(Listed::all(&json!("OK")).is_none());
    }
}
