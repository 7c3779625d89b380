//! The simulated proxies: what their phones do, and what they saw.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use callplane::stack::simulated::server::{SimulateConfig, Simulated};
use callplane::stack::simulated::{Behaviour, Notify, PhoneConfig, Script};
use serde_json::Value;
use tokio::sync::oneshot;

use super::history::What;
use super::random::Random;
use super::record::Recorder;
use super::wire::http;

/// Phones of each proxy.
pub const PHONES: usize = 40;

/// Seconds until a proxy gives up a phone that says nothing.
pub const FR_TIMEOUT: u32 = 1;

/// Seconds that a proxy lets a phone ring.
pub const FR_INV_TIMEOUT: u32 = 20;

/// Room for events that wait to be read.
pub const RECEIVE_BUFFER: &str = "256KiB";

/// How long things may take, in the words of the configuration.
pub const TIMES: &str = "ring_timeout: 4s\n  refer_follow: 2s\n  grace: 500ms";

pub struct Stack {
    pub number: usize,
    pub mi: SocketAddr,
    pub mi_http: SocketAddr,
    control: SocketAddr,
    /// Between which two this clock is ahead of the proxy's, in ms.
    ahead: Mutex<(i64, i64)>,
    _stop: oneshot::Sender<()>,
}

pub fn domain(stack: usize) -> String {
    format!("stack{stack}.example")
}

/// The name of a phone, with the stack's number so that nobody confuses them.
pub fn phone(stack: usize, at: usize) -> String {
    format!("s{stack}p{at}")
}

impl Stack {
    pub async fn start(number: usize, script: Script, random: &mut Random) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), number, script, random).await
    }

    /// One that processes reach at this address.
    pub async fn start_at(
        address: IpAddr,
        number: usize,
        script: Script,
        random: &mut Random,
    ) -> Self {
        let phones = (0..PHONES)
            .map(|at| PhoneConfig {
                behaviour: character(at, random),
                ..PhoneConfig::new(&phone(number, at), &format!("127.0.0.1:{}", 5101 + 4 * at))
            })
            .collect();
        let patience = [FR_TIMEOUT, FR_INV_TIMEOUT];
        Self::with_at(address, number, script, phones, patience, random.next()).await
    }

    /// One with these phones. It gives up a phone that says nothing after so many seconds, and one that
    /// rings after so many.
    pub async fn with(
        number: usize,
        script: Script,
        phones: Vec<PhoneConfig>,
        patience: [u32; 2],
        seed: u64,
    ) -> Self {
        let here = Ipv4Addr::LOCALHOST.into();
        Self::with_at(here, number, script, phones, patience, seed).await
    }

    async fn with_at(
        address: IpAddr,
        number: usize,
        script: Script,
        phones: Vec<PhoneConfig>,
        [silence, ringing]: [u32; 2],
        seed: u64,
    ) -> Self {
        let any = SocketAddr::new(address, 0);
        let mut config = SimulateConfig {
            mi_udp: any,
            mi_http: Some(any),
            control: Some(any),
            seed,
            ..SimulateConfig::default()
        };
        config.world.script = script;
        config.world.domain = domain(number);
        config.world.fr_timeout = Duration::from_secs(silence.into());
        config.world.fr_inv_timeout = Duration::from_secs(ringing.into());
        config.world.dead_man = Duration::from_secs(60);
        config.world.phones = phones;
        let simulated = Simulated::bind(config).await.unwrap();
        let at = simulated.addresses();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(simulated.run(async {
            let _ = stopped.await;
        }));
        let ahead = Mutex::new((i64::MIN, i64::MAX));
        let (mi_http, control) = (at.mi_http.unwrap(), at.control.unwrap());
        let stack = Self { number, mi: at.mi_udp, mi_http, control, ahead, _stop: stop };
        stack.ask("GET", "/seen", None).await;
        stack
    }

    /// The domain by which it is found.
    pub fn serves(&self) -> String {
        domain(self.number)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        http(self.control, method, path, body).await
    }

    /// Notes what phones saw since the last time.
    pub async fn note_seen(&self, recorder: &Recorder) {
        let stack = self.number;
        let time = || recorder.now().cast_signed();
        let before = time();
        let answer = self.ask("GET", "/seen", None).await;
        let theirs = answer["now_ms"].as_i64().unwrap();
        let ahead = {
            // They looked at their clock between the two looks at ours.
            let mut ahead = self.ahead.lock().unwrap();
            *ahead = (ahead.0.max(before - theirs), ahead.1.min(time() - theirs));
            i64::midpoint(ahead.0, ahead.1)
        };
        for seen in answer["seen"].as_array().unwrap() {
            let text = |name: &str| seen[name].as_str().unwrap().to_owned();
            let call = text("call");
            let what = match seen["what"].as_str().unwrap() {
                "invite" => What::Invite {
                    stack,
                    call,
                    phone: text("phone"),
                    from: text("from"),
                    asked: text("asked"),
                    by_proxy: seen["by_proxy"].as_bool().unwrap(),
                },
                "refer" => What::Refer { stack, call, phone: text("phone"), to: text("to") },
                "up" => What::Up { stack, call },
                "ended_by_proxy" => What::EndedByProxy { stack, call },
                "ended_by_phone" => What::EndedByPhone { stack, call },
                other => panic!("phones saw {other}"),
            };
            let at = seen["at_ms"].as_i64().unwrap() + ahead;
            recorder.note_at(at.max(0).cast_unsigned(), what);
        }
    }

    /// A call that phones place by themselves.
    pub async fn place_call(&self, from: usize, to: usize) -> String {
        self.talk(&phone(self.number, from), &phone(self.number, to)).await
    }

    /// A call from one phone to another.
    pub async fn talk(&self, from: &str, to: &str) -> String {
        let body = serde_json::json!({"from": from, "to": to});
        let placed = self.ask("POST", "/calls", Some(&body)).await;
        placed["callid"].as_str().unwrap().to_owned()
    }

    /// Whether all of these calls are up.
    pub async fn are_up(&self, calls: &[String]) -> bool {
        let all = self.ask("GET", "/calls", None).await;
        let is_up = |call: &String| {
            all.as_array().unwrap().iter().any(|one| one["callid"] == **call && one["state"] == 4)
        };
        calls.iter().all(is_up)
    }

    /// The calls that some phone has, ringing or up.
    pub async fn calls_of_phones(&self) -> Vec<String> {
        let phones = self.ask("GET", "/phones", None).await;
        let calls = phones.as_array().unwrap().iter().flat_map(|phone| {
            phone["calls"].as_array().unwrap().iter().map(|call| call.as_str().unwrap().to_owned())
        });
        let calls: std::collections::BTreeSet<String> = calls.collect();
        calls.into_iter().collect()
    }
}

/// Most are ordinary; each of the others has something of its own.
fn character(at: usize, random: &mut Random) -> Behaviour {
    let plain = Behaviour { ring_ms: random.below(600), ..Behaviour::default() };
    if at < PHONES * 3 / 4 {
        return plain;
    }
    match random.below(12) {
        0 => Behaviour { answer: 486, ..plain },
        1 => Behaviour { answer: 0, ..plain },
        2 => Behaviour { answer: 0, ring: false, ..plain },
        3 => Behaviour { refer: 603, ..plain },
        4 => Behaviour { refer: 0, ..plain },
        5 => Behaviour { follow: false, ..plain },
        6 => Behaviour { notify: Notify::None, follow_ms: 300, ..plain },
        7 => Behaviour { reinvite: 488, ..plain },
        8 => Behaviour { reinvite: 0, ..plain },
        9 => Behaviour { hang_up_ms: Some(2000 + random.below(8000)), ..plain },
        10 => Behaviour { refer_ms: 600, ring_ms: 1500, ..plain },
        _ => Behaviour { reinvite_ms: 400, follow_ms: 700, ..plain },
    }
}
