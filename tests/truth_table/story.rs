//! What a client was told of one command, and what must hold of every such story.

use serde_json::{Map, Value};

pub struct Story {
    events: Vec<Value>,
}

/// How a command ends badly. Start from [`FAILED`].
#[derive(Clone, Copy)]
pub struct Bad {
    pub outcome: &'static str,
    /// `data` of `Error`: the old text.
    pub text: &'static str,
    pub code: &'static str,
    /// 0: no SIP status decided it.
    pub sip: u16,
    pub up: &'static str,
    /// What else stands in `Ended`, as JSON.
    pub remarks: &'static str,
}

pub const FAILED: Bad =
    Bad { outcome: "failed", text: "", code: "", sip: 0, up: "no", remarks: "{}" };

pub const CANCELLED: Bad =
    Bad { outcome: "cancelled", text: "cancelled", code: "cancelled", sip: 487, ..FAILED };

/// In every `Ended`.
const ALWAYS: [&str; 5] = ["cmd_id", "event", "outcome", "epoch", "seq"];

impl Story {
    /// The laws of every story: `Started` first, one `Ended` last, at most one `Error`, directly
    /// before it, and numbers that grow.
    pub fn new(events: Vec<Value>) -> Story {
        let story = Story { events };
        let names = story.names();
        assert_eq!(names.first(), Some(&"Started"), "{names:?}");
        assert_eq!(names.iter().filter(|name| **name == "Ended").count(), 1, "{names:?}");
        assert_eq!(names.last(), Some(&"Ended"), "{names:?}");
        let errors = names.iter().filter(|name| **name == "Error").count();
        let directly = names.iter().rev().nth(1) == Some(&"Error");
        assert!(errors == 0 || (errors == 1 && directly), "{names:?}");
        let success = story.ended()["outcome"] == "success";
        assert_eq!(success, errors == 0, "{:#?}", story.events);
        let numbers: Vec<u64> = story.events.iter().map(|e| e["seq"].as_u64().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        story
    }

    fn names(&self) -> Vec<&str> {
        self.events.iter().map(|event| event["event"].as_str().unwrap()).collect()
    }

    /// The names in order, without those of a phone's 180: whether that is seen before its final
    /// answer is up to the processes of the proxy.
    pub fn steps(&self) -> Vec<&str> {
        let may_be_late = ["CallerRinging", "TransferPending"];
        self.names().into_iter().filter(|name| !may_be_late.contains(name)).collect()
    }

    pub fn has(&self, event: &str) -> bool {
        self.names().contains(&event)
    }

    /// The `data` of the first event of this name.
    pub fn data(&self, event: &str) -> &Value {
        let found = self.events.iter().find(|told| told["event"] == event);
        &found.unwrap_or_else(|| panic!("no {event}: {:#?}", self.events))["data"]
    }

    /// Every event that names a leg, with it, in order.
    pub fn legs(&self) -> Vec<(&str, &str)> {
        self.events
            .iter()
            .filter_map(|event| Some((event["event"].as_str()?, event["data"]["leg"].as_str()?)))
            .collect()
    }

    fn ended(&self) -> &Value {
        self.events.last().unwrap()
    }

    fn remarks(&self) -> Value {
        let ended = self.ended().as_object().unwrap();
        let unknown = self.ended()["outcome"] == "unknown";
        let rest: Map<String, Value> = ended
            .iter()
            .filter(|(key, _)| !ALWAYS.contains(&key.as_str()))
            .filter(|(key, _)| !unknown || *key != "up")
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        Value::Object(rest)
    }

    #[track_caller]
    pub fn succeeds(&self, steps: &[&str], remarks: &str) {
        assert_eq!(self.steps(), steps, "{:#?}", self.events);
        assert_eq!(self.ended()["outcome"], "success", "{:#?}", self.events);
        assert_eq!(self.remarks(), serde_json::from_str::<Value>(remarks).unwrap());
    }

    /// It went through these steps and ended badly, just so. `Error` and `Ended` need not be named.
    #[track_caller]
    pub fn fails(&self, steps: &[&str], bad: Bad) {
        let told: Vec<&str> = steps.iter().copied().chain(["Error", "Ended"]).collect();
        assert_eq!(self.steps(), told, "{:#?}", self.events);
        self.ends(bad);
    }

    /// It ended badly, just so, whatever went before.
    #[track_caller]
    pub fn ends(&self, bad: Bad) {
        let told = &self.events;
        let error = told.iter().rev().nth(1).unwrap();
        assert_eq!(error["data"], bad.text, "{told:#?}");
        assert_eq!(error["error"]["code"], bad.code, "{told:#?}");
        assert_eq!(
            error["error"]["sip_status"].as_u64().unwrap_or(0),
            u64::from(bad.sip),
            "{told:#?}"
        );
        let reason = error["error"]["sip_reason"].as_str();
        assert_eq!(reason.is_some(), bad.sip != 0, "{told:#?}");
        if let Some(reason) = reason.filter(|_| bad.text.contains(&bad.sip.to_string())) {
            assert!(bad.text.ends_with(reason), "{told:#?}");
        }
        assert_eq!(error["error"]["up"], bad.up, "{told:#?}");
        let ended = self.ended();
        assert_eq!(ended["outcome"], bad.outcome, "{told:#?}");
        if bad.outcome == "unknown" {
            assert_eq!(ended["up"], bad.up, "{told:#?}");
        }
        let remarks = serde_json::from_str::<Value>(bad.remarks).unwrap();
        assert_eq!(self.remarks(), remarks, "{told:#?}");
    }
}
