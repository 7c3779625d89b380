//! A real OpenSIPS with scripted phones, in the shape of the simulated proxies of the chaos tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use callplane::stack::simulated::Script;
use serde_json::json;

use super::history::{Time, What};
use super::random::Random;
use super::record::Recorder;
use super::support::opensips::{self, OpenSips, Options, installation};
use super::support::phone::{Behaviour, Entry, HangUp, Notify, Phase, Phone, Way};
use super::wire::http;

/// Phones of each proxy in the run under load.
pub const PHONES: usize = 20;

/// Seconds until a proxy gives up a phone that says nothing. OpenSIPS takes no fewer.
pub const FR_TIMEOUT: u32 = 2;

/// Seconds that a proxy lets a phone ring.
pub const FR_INV_TIMEOUT: u32 = 20;

/// Room for events that wait to be read.
pub const RECEIVE_BUFFER: &str = "256KiB";

/// How long things may take, in the words of the configuration. A phone may ring for longer than it
/// takes until another process leads.
pub const TIMES: &str = "ring_timeout: 12s\n  refer_follow: 6s\n  grace: 500ms";

/// Where each proxy is.
static DOMAINS: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());

pub struct Stack {
    pub number: usize,
    pub mi: SocketAddr,
    pub mi_http: SocketAddr,
    phones: BTreeMap<String, Phone>,
    seen: Mutex<Seen>,
    began: Instant,
    opensips: OpenSips,
}

/// What was noted of phones already.
#[derive(Default)]
struct Seen {
    messages: BTreeMap<String, usize>,
    /// Requests, for a phone that says nothing gets each several times.
    requests: BTreeSet<(String, String)>,
    up: BTreeSet<String>,
    ended: BTreeSet<String>,
}

pub fn domain(stack: usize) -> String {
    DOMAINS.lock().unwrap().get(&stack).expect("a proxy of this number").clone()
}

/// The name of a phone, with the stack's number so that nobody confuses them.
pub fn phone(stack: usize, at: usize) -> String {
    format!("s{stack}p{at}")
}

impl Stack {
    pub async fn start(number: usize, script: Script, random: &mut Random) -> Self {
        let mut stack = Self::bare(number, script);
        for at in 0..PHONES {
            stack.add(&phone(number, at), character(at, random));
        }
        stack
    }

    /// One without phones.
    pub fn bare(number: usize, script: Script) -> Self {
        let options = Options {
            fr_timeout: FR_TIMEOUT,
            fr_inv_timeout: FR_INV_TIMEOUT,
            ..Options::default()
        };
        Self::with(number, script, options)
    }

    /// One without phones that is set up so.
    pub fn with(number: usize, script: Script, options: Options) -> Self {
        let script = match script {
            Script::Stock => opensips::Script::Stock,
            Script::Reference => opensips::Script::Reference,
        };
        let found = installation("pods_opensips").expect("an OpenSIPS");
        let opensips = tokio::task::block_in_place(|| OpenSips::start_with(found, script, options));
        DOMAINS.lock().unwrap().insert(number, opensips.sip().to_string());
        let (mi, mi_http) =
            (opensips.mi(), SocketAddr::from(([127, 0, 0, 1], opensips.ports.http)));
        let (phones, seen, began) = (BTreeMap::new(), Mutex::default(), Instant::now());
        Self { number, mi, mi_http, phones, seen, began, opensips }
    }

    /// A registered phone of this user.
    pub fn add(&mut self, user: &str, behaviour: Behaviour) {
        let phone = tokio::task::block_in_place(|| self.opensips.phone(user));
        phone.behave(|now| *now = behaviour);
        self.phones.insert(user.to_owned(), phone);
    }

    /// No domain leads to it: all proxies here have the same host.
    pub fn serves(&self) -> String {
        String::new()
    }

    /// How long it has been running.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn uri(&self, user: &str) -> String {
        self.opensips.uri(user)
    }

    pub fn phones(&self) -> impl Iterator<Item = &Phone> {
        self.phones.values()
    }

    pub fn sip(&self) -> SocketAddr {
        self.opensips.sip()
    }

    pub fn phone(&self, user: &str) -> &Phone {
        self.phones.get(user).expect("a phone of this proxy")
    }

    /// What OpenSIPS wrote.
    pub fn log(&self) -> String {
        self.opensips.log()
    }

    /// Notes what phones saw since the last time.
    pub async fn note_seen(&self, recorder: &Recorder) {
        let mut seen = self.seen.lock().unwrap();
        let mut entries: Vec<(Time, &str, Entry)> = Vec::new();
        for (user, phone) in &self.phones {
            let known = seen.messages.entry(user.clone()).or_default();
            let new = phone.log_since(*known);
            *known += new.len();
            let at = |entry: &Entry| {
                let ago = u64::try_from(phone.ago(entry.at).as_millis()).unwrap();
                recorder.now().saturating_sub(ago)
            };
            entries.extend(new.into_iter().map(|entry| (at(&entry), user.as_str(), entry)));
        }
        // A BYE is known from its phone before it is from the other.
        entries.sort_by_key(|(at, _, entry)| (*at, entry.way == Way::In));
        for (at, user, entry) in entries {
            if let Some(what) = seen.what(self.number, user, &entry) {
                recorder.note_at(at, what);
            }
        }
    }

    /// A call that phones place by themselves, once it is up.
    pub async fn place_call(&self, from: usize, to: usize) -> String {
        self.talk(&phone(self.number, from), &phone(self.number, to)).await
    }

    /// A call from one user to another, once it is up.
    pub async fn talk(&self, from: &str, to: &str) -> String {
        let call = self.phone(from).call(&self.uri(to));
        tokio::task::block_in_place(|| {
            self.phone(from).wait_phase(&call, Phase::Up);
            self.phone(to).wait_phase(&call, Phase::Up);
        });
        call
    }

    /// The calls that some phone has, ringing or up, or that the proxy has.
    pub async fn calls_of_phones(&self) -> Vec<String> {
        let live = self.phones.values().flat_map(Phone::live).map(|dialog| dialog.call_id);
        let mut calls: BTreeSet<String> = live.collect();
        calls.extend(self.listed().await);
        calls.into_iter().collect()
    }

    /// The calls that the proxy has and that are not over.
    pub async fn listed(&self) -> Vec<String> {
        let asked = json!({"jsonrpc": "2.0", "id": 1, "method": "dlg_list"});
        let listed = http(self.mi_http, "POST", "/mi", Some(&asked)).await;
        let dialogs = listed["result"]["Dialogs"].as_array().cloned().unwrap_or_default();
        let alive = dialogs.iter().filter(|dialog| dialog["state"] != 5);
        alive.filter_map(|dialog| dialog["callid"].as_str().map(str::to_owned)).collect()
    }

    /// What would have hurt real phones.
    pub fn violations(&self) -> Vec<String> {
        self.phones.values().flat_map(Phone::violations).collect()
    }

    /// The calls that a phone has, ringing or up.
    pub fn live(&self, user: &str) -> Vec<String> {
        self.phone(user).live().into_iter().map(|dialog| dialog.call_id).collect()
    }
}

impl Seen {
    /// What a message tells, unless it was told already.
    fn what(&mut self, stack: usize, phone: &str, entry: &Entry) -> Option<What> {
        let message = &entry.message;
        let call = message.call_id().to_owned();
        if entry.again || message.method() == "REGISTER" {
            return None;
        }
        if message.is_response() {
            let answered = message.method() == "INVITE" && (200..300).contains(&message.status());
            return (answered && self.up.insert(call.clone())).then_some(What::Up { stack, call });
        }
        let request = (phone.to_owned(), format!("{} {}", message.branch(), message.method()));
        if !self.requests.insert(request) {
            return None;
        }
        let phone = phone.to_owned();
        let header = |name: &str| message.header(name).unwrap_or_default().to_owned();
        let setup = call.starts_with("cp-");
        match (message.method(), entry.way) {
            // Of a call between phones the sender knows whom it asked for; a setup leg has no such.
            ("INVITE", Way::Out) if message.tag("to").is_none() => {
                let replaces = message.header("replaces");
                let replaces = replaces.map(|call| format!("?Replaces={call}")).unwrap_or_default();
                let asked = format!("{}{replaces}", message.uri());
                Some(What::Invite {
                    stack,
                    call,
                    phone,
                    from: header("from"),
                    asked,
                    by_proxy: false,
                })
            }
            ("INVITE", Way::In) if setup && message.tag("to").is_none() => {
                let (from, asked) = (header("from"), message.uri().to_owned());
                Some(What::Invite { stack, call, phone, from, asked, by_proxy: true })
            }
            ("REFER", Way::In) => Some(What::Refer { stack, call, phone, to: header("refer-to") }),
            ("BYE", way) if self.ended.insert(call.clone()) => Some(match way {
                Way::Out => What::EndedByPhone { stack, call },
                Way::In => What::EndedByProxy { stack, call },
            }),
            _ => None,
        }
    }
}

/// Most are ordinary; each of the others has something of its own.
fn character(at: usize, random: &mut Random) -> Behaviour {
    let ms = Duration::from_millis;
    let plain = Behaviour { ring_for: random.millis(0, 600), ..Behaviour::default() };
    if at < PHONES * 3 / 4 {
        return plain;
    }
    match random.below(11) {
        0 => Behaviour { answer: Some(486), ..plain },
        1 => Behaviour { answer: None, ..plain },
        2 => Behaviour { dead: true, ..plain },
        3 => Behaviour { refer: Some(603), ..plain },
        4 => Behaviour { refer: None, ..plain },
        5 => Behaviour { follow: false, ..plain },
        6 => Behaviour { notify: Notify::None, follow_after: ms(300), ..plain },
        7 => Behaviour { reinvite: Some(488), ..plain },
        8 => Behaviour { reinvite: None, ..plain },
        9 => Behaviour { hang_up: HangUp::WhenReferredIsUp, ..plain },
        _ => Behaviour { refer_after: ms(600), ring_for: ms(1500), ..plain },
    }
}

/// Waits until it is so.
pub async fn until(what: &str, within: Duration, is_so: impl AsyncFn() -> bool) -> bool {
    let deadline = Instant::now() + within;
    while !is_so().await {
        if Instant::now() > deadline {
            println!("waited in vain: {what}");
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    true
}
