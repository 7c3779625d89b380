//! A stage: a SIP stack of one kind and grade with phones around it, the real server before it, and
//! a client before that. A row is written once and played on every stage it can be told on.
//!
//! * [`behaviour`] says what a phone does, for simulated and scripted ones alike;
//! * [`simulated`] is the simulated stack, [`crate::support::opensips`] the real one;
//! * [`crate::site`] has the server, and the wire that loses and doubles what a row names;
//! * [`client`] is the client.

pub mod behaviour;
pub mod client;
mod simulated;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Runtime;

pub use behaviour::Does;
pub use client::Run;

use crate::site::wire::Wire;
use crate::site::{self, DOMAIN, Site};
use crate::support::mi::Mi;
use crate::support::opensips::{self, OpenSips, Options, installation};
use crate::support::phone::{Phase, Phone, Role};
use crate::support::sip::Direction;
use crate::support::wait_until;

/// Seconds that the stacks let a phone ring.
const FR_INV_TIMEOUT: u64 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Simulated,
    OpenSips,
}

/// The grade of the stack's script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    Stock,
    Reference,
}

/// What a row wants otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Seconds that a phone may ring when the command does not say.
    pub ring: u64,
    /// `commands.transfer`.
    pub transfer: &'static str,
    /// `commands.hold`.
    pub hold: &'static str,
    /// The relay between server and stack. Without it a stack that is away refuses at once.
    pub wire: bool,
    /// Whether the stack's own address is configured as `next_hop`.
    pub next_hop: bool,
}

pub const PLAIN: Setup =
    Setup { ring: 5, transfer: "sequential", hold: "reinvite", wire: true, next_hop: true };

/// A call as the proxy lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub call: String,
    pub state: u64,
    pub from: String,
    pub to: String,
}

enum World {
    Simulated(Box<simulated::Proxy>),
    OpenSips { opensips: Box<OpenSips>, phones: Mutex<BTreeMap<String, Phone>> },
}

pub struct Stage {
    pub grade: Grade,
    world: World,
    wire: Option<Wire>,
    site: Option<Site>,
    client: client::Client,
    setup: Setup,
    runtime: Runtime,
}

/// Plays a row on a stage of this kind for each of these grades.
pub fn play(name: &str, kind: Kind, grades: &[Grade], setup: Setup, row: fn(&mut Stage)) {
    let play_one = |grade| {
        let Some(mut stage) = Stage::set(name, kind, grade, setup) else { return };
        row(&mut stage);
        stage.close();
    };
    std::thread::scope(|scope| {
        let playing = grades.iter().map(|grade| (grade, scope.spawn(move || play_one(*grade))));
        for (grade, playing) in playing.collect::<Vec<_>>() {
            assert!(playing.join().is_ok(), "{name} failed with the {grade:?} script");
        }
    });
}

impl Stage {
    fn set(name: &str, kind: Kind, grade: Grade, setup: Setup) -> Option<Stage> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle();
        let (world, mi, domain, fr_timeout) = match kind {
            Kind::Simulated => {
                let proxy = simulated::Proxy::start(handle, grade);
                let mi = proxy.mi;
                let domain = DOMAIN.to_owned();
                (World::Simulated(Box::new(proxy)), mi, domain, simulated::FR_TIMEOUT)
            }
            Kind::OpenSips => {
                let script = match grade {
                    Grade::Stock => opensips::Script::Stock,
                    Grade::Reference => opensips::Script::Reference,
                };
                let options = Options::default();
                let fr_timeout = u64::from(options.fr_timeout);
                let found = installation(name)?;
                let opensips = Box::new(OpenSips::start_with(found, script, options));
                let (mi, domain) = (opensips.mi(), opensips.sip().to_string());
                let phones = Mutex::default();
                (World::OpenSips { opensips, phones }, mi, domain, fr_timeout)
            }
        };
        let wire = setup.wire.then(|| runtime.block_on(Wire::before(mi)));
        let mi = wire.as_ref().map_or(mi, |wire| wire.mi);
        let next_hop =
            if setup.next_hop { format!("next_hop: 'sip:{domain}', ") } else { String::new() };
        let text = format!(
            "commands: {{ring_timeout: {ring}s, refer_follow: 1500ms, grace: 400ms, \
                          transfer: {transfer}, hold: {hold}}}\n\
             stacks:\n  - {{name: stage, mi: 'udp:{mi}', {next_hop}\
                             fr_timeout: {fr_timeout}s, fr_inv_timeout: {FR_INV_TIMEOUT}s, grade: {grade}}}\n",
            ring = setup.ring,
            transfer = setup.transfer,
            hold = setup.hold,
            // A stock stack that has just started is asked again for a while otherwise.
            grade = match grade {
                Grade::Stock => "stock",
                Grade::Reference => "auto",
            },
        );
        let mut config = site::configured(&text);
        config.drain.timeout = Duration::from_secs(10);
        let site = runtime.block_on(Site::of(&config));
        let client = client::Client::connect(handle, site.clients);
        let stage = Stage { grade, world, wire, site: Some(site), client, setup, runtime };
        stage.wait_joined();
        Some(stage)
    }

    /// Waits until the server gets the stack's events.
    pub fn wait_joined(&self) {
        self.runtime.block_on(self.site.as_ref().unwrap().joined());
    }

    pub fn is_reference(&self) -> bool {
        self.grade == Grade::Reference
    }

    pub fn wire(&self) -> &Wire {
        self.wire.as_ref().expect("this row's setup has a wire")
    }

    // ---- phones ------------------------------------------------------------------------------

    /// The address of a user.
    pub fn uri(&self, user: &str) -> String {
        match &self.world {
            World::Simulated(_) => format!("sip:{user}@{}", DOMAIN),
            World::OpenSips { opensips, .. } => opensips.uri(user),
        }
    }

    /// A registered phone of this user that does so; or the same phone, from now on.
    pub fn phone(&self, user: &str, traits: &[Does]) {
        match &self.world {
            World::Simulated(proxy) => proxy.behave(user, traits),
            World::OpenSips { opensips, phones } => {
                let mut phones = phones.lock().unwrap();
                let phone = phones.entry(user.to_owned()).or_insert_with(|| opensips.phone(user));
                let wanted = behaviour::scripted(traits);
                phone.behave(|behaviour| *behaviour = wanted);
            }
        }
    }

    pub fn phones(&self, users: &[&str]) {
        for user in users {
            self.phone(user, &[]);
        }
    }

    fn scripted<T>(&self, user: &str, with: impl FnOnce(&Phone) -> T) -> Option<T> {
        match &self.world {
            World::Simulated(_) => None,
            World::OpenSips { phones, .. } => {
                Some(with(phones.lock().unwrap().get(user).expect("a phone of this stage")))
            }
        }
    }

    /// A phone calls another; its call, as soon as it is placed.
    pub fn call(&self, from: &str, to: &str) -> String {
        match &self.world {
            World::Simulated(proxy) => proxy.place_call(from, to),
            World::OpenSips { opensips, .. } => {
                let to = opensips.uri(to);
                self.scripted(from, |phone| phone.call(&to)).unwrap()
            }
        }
    }

    /// Two phones talk; waits until everybody sees the call up.
    pub fn talk(&self, from: &str, to: &str) -> String {
        let call = self.call(from, to);
        self.wait_up(&call);
        self.scripted(from, |phone| phone.wait_phase(&call, Phase::Up));
        self.scripted(to, |phone| phone.wait_phase(&call, Phase::Up));
        call
    }

    /// A phone hangs up, or gives up the call that it is placing.
    pub fn hang_up(&self, user: &str, call: &str) {
        if let World::Simulated(proxy) = &self.world {
            proxy.hang_up(user, call);
        }
        self.scripted(user, |phone| {
            let dialog = phone.dialog(call).expect("a call of this phone");
            if dialog.phase == Phase::Early && dialog.role == Role::Caller {
                phone.cancel(call);
            } else {
                phone.hang_up(call);
            }
        });
    }

    /// A stranger calls somebody and says that this is the transfer of a call of others; its call.
    pub fn forge_transfer(&self, forger: &str, call: &str, to: &str) -> String {
        match &self.world {
            World::Simulated(proxy) => proxy.forge_transfer(forger, call, to),
            World::OpenSips { opensips, .. } => {
                let dialogs = opensips.dialogs();
                let dialog = dialogs.iter().find(|dialog| dialog.call_id == call).unwrap();
                let to = format!("{};osid={}", opensips.uri(to), dialog.id);
                self.scripted(forger, |phone| phone.call(&to)).unwrap()
            }
        }
    }

    /// A phone's own re-INVITE; waits until the other side has it.
    pub fn goes_inactive(&self, user: &str, other: &str, call: &str) {
        if let World::Simulated(proxy) = &self.world {
            proxy.reinvite(user, call, "inactive");
        }
        self.scripted(user, |phone| phone.reinvite(call, Direction::Inactive));
        self.wait_offered(other, call, "inactive");
    }

    /// The calls that ring at a phone or are up there, the newest last.
    pub fn calls_at(&self, user: &str) -> Vec<String> {
        match &self.world {
            World::Simulated(proxy) => proxy.at_phone(user),
            World::OpenSips { .. } => {
                let live = self.scripted(user, Phone::live).unwrap();
                live.into_iter().map(|dialog| dialog.call_id).collect()
            }
        }
    }

    /// Waits for a call at a phone that is not among these.
    pub fn wait_call_at(&self, user: &str, known: &[&str]) -> String {
        wait_until(&format!("a call at {user}"), || {
            self.calls_at(user).into_iter().rev().find(|call| !known.contains(&call.as_str()))
        })
    }

    /// How many calls came in at a scripted phone; a simulated one does not count them.
    pub fn invited(&self, user: &str) -> Option<usize> {
        self.scripted(user, |phone| {
            let view = phone.view();
            let first = |message: &&crate::support::sip::Message| message.tag("to").is_none();
            view.received("INVITE").into_iter().filter(first).count()
        })
    }

    fn offered(&self, user: &str, call: &str) -> String {
        match &self.world {
            World::Simulated(proxy) => proxy.offered(user, call),
            World::OpenSips { .. } => {
                let dialog = self.scripted(user, |phone| phone.dialog(call)).unwrap().unwrap();
                dialog.offers.last().map_or("none", |offer| offer.direction.name()).to_owned()
            }
        }
    }

    /// Waits until this is what a phone was offered last.
    pub fn wait_offered(&self, user: &str, call: &str, direction: &str) {
        wait_until(&format!("{user} is offered {direction}"), || {
            (self.offered(user, call) == direction).then_some(())
        });
    }

    /// Waits until a scripted phone has got a re-INVITE; the simulated stack has no race to lose.
    pub fn wait_reinvited(&self, user: &str, call: &str) {
        self.scripted(user, |phone| {
            let reinvites = |view: &crate::support::phone::View| {
                let requests = view.received("INVITE");
                requests.iter().any(|m| m.call_id() == call && m.tag("to").is_some()).then_some(())
            };
            phone.wait("a re-INVITE", reinvites);
        });
    }

    // ---- the proxy ---------------------------------------------------------------------------

    /// The calls that the proxy knows of now and that are not over.
    pub fn listed(&self) -> Vec<Known> {
        match &self.world {
            World::Simulated(proxy) => proxy.listed(),
            World::OpenSips { opensips, .. } => opensips
                .dialogs()
                .into_iter()
                .map(|d| Known { call: d.call_id, state: d.state, from: d.from, to: d.to })
                .collect(),
        }
    }

    pub fn wait_up(&self, call: &str) {
        wait_until(&format!("{call} in state 4"), || {
            let listed = self.listed();
            listed.iter().any(|known| known.call == call && known.state == 4).then_some(())
        });
    }

    /// Exactly these calls are up at the proxy, now.
    pub fn only_listed(&self, calls: &[&str]) {
        let listed = self.listed();
        let mut up: Vec<&str> = listed.iter().map(|known| known.call.as_str()).collect();
        let mut wanted = calls.to_vec();
        up.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(up, wanted, "{listed:#?}");
    }

    /// Waits until exactly these calls are up: at the proxy, and at the phones.
    pub fn wait_only(&self, calls: &[&str]) {
        let mut wanted = calls.to_vec();
        wanted.sort_unstable();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let listed = self.listed();
            let mut up: Vec<&str> = listed.iter().map(|known| known.call.as_str()).collect();
            up.sort_unstable();
            let confirmed = listed.iter().all(|known| known.state == 4);
            let at_phones = self.at_phones();
            if up == wanted && confirmed && at_phones == wanted && self.all_acked() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "wanted {wanted:?}, the proxy has {listed:#?}, the phones {at_phones:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The calls that any phone has, once each.
    fn at_phones(&self) -> Vec<String> {
        let mut calls = match &self.world {
            World::Simulated(proxy) => proxy.at_phones(),
            World::OpenSips { phones, .. } => {
                let phones = phones.lock().unwrap();
                let live = phones.values().flat_map(Phone::live);
                live.map(|dialog| dialog.call_id).collect()
            }
        };
        calls.sort_unstable();
        calls.dedup();
        calls
    }

    /// No phone waits for the ACK of its answer.
    fn all_acked(&self) -> bool {
        match &self.world {
            World::Simulated(_) => true,
            World::OpenSips { phones, .. } => {
                let phones = phones.lock().unwrap();
                let mut seen = phones.values().flat_map(Phone::violations);
                !seen.any(|violation| violation.contains("never ACKed"))
            }
        }
    }

    /// The stack hangs: it answers nothing, and calls go on.
    pub fn freeze(&self) {
        match &self.world {
            World::Simulated(proxy) => proxy.silent(true),
            World::OpenSips { opensips, .. } => opensips.freeze(),
        }
    }

    pub fn thaw(&self) {
        match &self.world {
            World::Simulated(proxy) => proxy.silent(false),
            World::OpenSips { opensips, .. } => opensips.thaw(),
        }
    }

    /// Waits until the stack has been up for so many seconds, as it counts them.
    pub fn wait_up_for(&self, seconds: u64) {
        match &self.world {
            World::Simulated(proxy) => wait_up_for(proxy.mi, seconds),
            World::OpenSips { opensips, .. } => wait_up_for(opensips.mi(), seconds),
        }
    }

    /// The stack restarts and forgets its dialogs; the phones notice nothing.
    pub fn restart(&mut self) {
        match &mut self.world {
            World::Simulated(proxy) => proxy.restart(),
            World::OpenSips { opensips, .. } => {
                // Its time of birth counts in seconds: only what began well before it is known to
                // have begun in another life.
                wait_up_for(opensips.mi(), up_for(&mut opensips.connect()) + 2);
                opensips.restart();
            }
        }
    }

    /// The stack goes away.
    pub fn stop_stack(&mut self) {
        match &mut self.world {
            World::Simulated(proxy) => proxy.stop(),
            World::OpenSips { opensips, .. } => opensips.stop(),
        }
    }

    /// The stack comes back on the same ports.
    pub fn start_stack(&mut self) {
        match &mut self.world {
            World::Simulated(proxy) => proxy.start_again(),
            World::OpenSips { opensips, .. } => opensips.start_again(),
        }
    }

    // ---- commands ----------------------------------------------------------------------------

    /// `CallStart` with a short time to ring, if one is given.
    pub fn start(&self, caller: &str, callee: &str, ring: Option<u64>) -> Run {
        let mut params = json!({"caller": self.uri(caller), "callee": self.uri(callee)});
        params["ringing"] = json!(true);
        if let Some(ring) = ring {
            params["ring_timeout"] = json!(ring);
        }
        self.client.begin("CallStart", params)
    }

    pub fn blind(&self, call: &str, leg: &str, target: &str) -> Run {
        let params = json!({"callid": call, "leg": leg, "destination": self.uri(target)});
        self.client.begin("CallBlindTransfer", params)
    }

    /// `leg_a` of `a` is sent to `leg_b` of `b`.
    pub fn attended(&self, (a, leg_a): (&str, &str), (b, leg_b): (&str, &str)) -> Run {
        let params = json!({"callidA": a, "legA": leg_a, "callidB": b, "legB": leg_b});
        self.client.begin("CallAttendedTransfer", params)
    }

    pub fn hold(&self, call: &str) -> Run {
        self.client.begin("CallHold", json!({"callid": call}))
    }

    pub fn unhold(&self, call: &str) -> Run {
        self.client.begin("CallUnhold", json!({"callid": call}))
    }

    pub fn end(&self, call: &str) -> Run {
        self.client.begin("CallEnd", json!({"callid": call}))
    }

    /// A request that is refused at once; the error.
    pub fn refused(&self, method: &str, call: &str) -> serde_json::Value {
        self.client.request(method, &json!({"callid": call}))["error"].clone()
    }

    pub fn cancel(&self, run: &Run) {
        self.client.cancel(run);
    }

    // ---- the end -----------------------------------------------------------------------------

    /// Nothing improper was seen by anybody, and the server stops in order.
    fn close(mut self) {
        self.client.check_nothing_after_ended();
        // A stack that hung or was busy sends what it owes a little later.
        wait_until("the ACK of every answer", || self.all_acked().then_some(()));
        if let World::OpenSips { opensips, phones } = &mut self.world {
            // The stack's own hold never raises the version of its offers (fact F9).
            let known = if self.setup.hold == "call_hold" { "offer o= version" } else { "\0" };
            for (user, phone) in phones.get_mut().unwrap().iter() {
                let mut seen = phone.violations();
                seen.retain(|violation| !violation.contains(known));
                assert_eq!(seen, Vec::<String>::new(), "at {user}");
            }
            assert!(opensips.is_alive(), "OpenSIPS died:\n{}", opensips.log());
        }
        self.client.leave();
        let site = self.site.take().unwrap();
        let in_order = self.runtime.block_on(site.stop());
        assert!(in_order, "the server did not stop in order");
    }
}

fn wait_up_for(mi: SocketAddr, seconds: u64) {
    let mut mi = Mi::connect(mi);
    wait_until("the stack is old enough", || (up_for(&mut mi) >= seconds).then_some(()));
}

/// How many seconds the stack has been up, as it counts them.
fn up_for(mi: &mut Mi) -> u64 {
    let uptime = mi.call("uptime", serde_json::Value::Null).unwrap();
    let up = uptime["Up time"].as_str().unwrap().split(' ').next().unwrap();
    up.parse().unwrap()
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        println!("---- with the {:?} script\n---- client\n{}", self.grade, self.client.log());
        if let Some(wire) = &self.wire {
            println!("---- wire\n{}", wire.log());
        }
        if let World::OpenSips { phones, .. } = &self.world
            && let Ok(phones) = phones.lock()
        {
            for (user, phone) in phones.iter() {
                println!("---- {user}\n{}", phone.view().transcript());
            }
        }
    }
}
