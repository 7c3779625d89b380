//! What a look may conclude from what the Management Interface answers, and what not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::sync::Arc;
use std::time::Duration;

use callplane::clock::{Clock, SystemClock, TokioTimer};
use callplane::core::act::{Act, Facts, Op, Reply, Sent, Sighting};
use callplane::core::ids::{CallId, Nonce, OpId, PodId, StackId};
use callplane::core::time::StoreTime;
use callplane::stack::SipStack;
use callplane::stack::mi::{Mi, MiAnswer, MiFailure, MiRequest};
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::{OpenSips, Surroundings};
use serde_json::{Value, json};

/// What a stack answers; where it says nothing, a stack with the reference script does.
type Answers = dyn Fn(&MiRequest) -> Option<MiAnswer> + Send + Sync;

#[derive(Clone)]
struct Fake(Arc<Answers>);

impl Mi for Fake {
    async fn call(&self, request: MiRequest, _timeout: Duration) -> Result<MiAnswer, MiFailure> {
        Ok((self.0)(&request).unwrap_or_else(|| match &*request.method {
            "uptime" => up(600),
            "version" => MiAnswer::Result(json!({"Server": "OpenSIPS (3.6.8 (x86_64/linux))"})),
            "cache_fetch" if asks_for(&request, "cp_cfg_version") => {
                MiAnswer::Result(json!({"value": "1 udp:127.0.0.1:5066 5 120"}))
            }
            _ => panic!("not expected: {request:?}"),
        }))
    }
}

fn asks_for(request: &MiRequest, word: &str) -> bool {
    format!("{:?}", request.params).contains(word)
}

fn up(seconds: u64) -> MiAnswer {
    MiAnswer::Result(json!({"Up since": "then", "Up time": format!("{seconds} [sec]")}))
}

fn call() -> CallId {
    CallId::parse("call@here").unwrap()
}

fn op_id() -> OpId {
    OpId::derive(Nonce(7), 0)
}

struct Place {
    stack: OpenSips<Fake>,
    clock: Arc<SystemClock>,
}

impl Place {
    async fn new(answers: impl Fn(&MiRequest) -> Option<MiAnswer> + Send + Sync + 'static) -> Self {
        let fake = Fake(Arc::new(answers));
        let clock = Arc::new(SystemClock::new());
        let surroundings = Surroundings {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            timer: Arc::new(TokioTimer),
            meter: Arc::new(Unmetered),
        };
        let settings = StackSettings::new(StackId::new("s"), "127.0.0.1:1");
        let stack = OpenSips::new(settings, fake.clone(), fake, surroundings);
        stack.connect().await.unwrap();
        Self { stack, clock }
    }

    async fn look(&self, referred_by: Option<OpId>, sent: Option<Sent>) -> Sighting {
        let now = self.clock.now();
        let op = Op {
            id: op_id(),
            by: PodId::new("p"),
            stack: StackId::new("s"),
            act: Act::Look { call: call(), referred_by, sent },
            send_before: now.after(Duration::from_secs(5)),
            reply_by: now.after(Duration::from_secs(10)),
        };
        match self.stack.perform(&op).await {
            Reply::Done(Facts::Looked(sighting)) => *sighting,
            other => panic!("{other:?}"),
        }
    }

    fn ago(&self, seconds: u64) -> StoreTime {
        StoreTime(self.clock.now().0 - seconds * 1000)
    }
}

fn no_such_call(request: &MiRequest) -> Option<MiAnswer> {
    match &*request.method {
        "dlg_list_ctx" if asks_for(request, "callid") => Some(MiAnswer::error(404, "no")),
        "dlg_list_ctx" => Some(MiAnswer::Result(json!({"Dialogs": []}))),
        _ => None,
    }
}

/// Marks die with the stack: one that is missing tells nothing of what a life before has sent.
#[tokio::test]
async fn a_missing_mark_counts_only_in_the_life_that_would_have_made_it() {
    let place = Place::new(|request| match &*request.method {
        "uptime" => Some(up(60)),
        "cache_fetch" if asks_for(request, "cps_") => Some(MiAnswer::error(400, "not found")),
        _ => no_such_call(request),
    })
    .await;
    for (seconds, told) in [(1, Some(false)), (50, Some(false)), (62, None), (600, None)] {
        let sent = Sent { op: op_id(), since: place.ago(seconds) };
        assert_eq!(place.look(None, Some(sent)).await.sent, told, "{seconds} s ago");
    }
}

#[tokio::test]
async fn a_mark_that_is_there_counts_always() {
    let place = Place::new(|request| match &*request.method {
        "cache_fetch" if asks_for(request, "cps_") => Some(MiAnswer::Result(json!({"value": "1"}))),
        _ => no_such_call(request),
    })
    .await;
    let sent = Sent { op: op_id(), since: place.ago(7000) };
    assert_eq!(place.look(None, Some(sent)).await.sent, Some(true));
}

fn up_call() -> MiAnswer {
    dialog("call@here", json!([]))
}

fn dialog(call: &str, values: Value) -> MiAnswer {
    MiAnswer::Result(json!({"Dialog": {
        "ID": "1a.2b", "state": 4, "callid": call, "timestart": 0,
        "from_uri": "sip:alice@here.example", "to_uri": "sip:bob@here.example",
        "CALLEES": [], "context": {"values": values}
    }}))
}

/// Which list was read decides whether a referred call that is not shown is not there.
#[tokio::test]
async fn a_look_for_a_referred_call_says_whether_a_complete_list_was_read() {
    for complete in [true, false] {
        let place = Place::new(move |request| match &*request.method {
            "dlg_list_ctx" if asks_for(request, "callid") => Some(up_call()),
            "dlg_list_ctx" if complete => Some(MiAnswer::Result(json!({"Dialogs": []}))),
            "dlg_list_ctx" => Some(MiAnswer::error(500, "does not fit")),
            _ => None,
        })
        .await;
        let sighting = place.look(Some(op_id()), None).await;
        assert!(sighting.call.is_some() && sighting.referred.is_none());
        assert_eq!(sighting.full.is_some(), complete);
        assert!(place.look(None, None).await.full.is_none(), "none was asked for");
    }
}

/// The note of the stack's own transfer module stays on a call that is transferred once more.
#[tokio::test]
async fn a_call_that_came_of_another_refer_is_not_taken_for_the_referred_one() {
    for ours in [true, false] {
        let place = Place::new(move |request| match &*request.method {
            "dlg_list_ctx" if asks_for(request, "call@here") => {
                Some(dialog("call@here", json!([{"call_transfer_callid": "new@here"}])))
            }
            "dlg_list_ctx" if asks_for(request, "new@here") => {
                let token = if ours { op_id() } else { OpId::derive(Nonce(8), 0) };
                Some(dialog("new@here", json!([{"cp_op": token.as_str()}])))
            }
            "dlg_list_ctx" => Some(MiAnswer::Result(json!({"Dialogs": []}))),
            _ => None,
        })
        .await;
        let sighting = place.look(Some(op_id()), None).await;
        assert_eq!(sighting.referred.is_some(), ours);
    }
}
