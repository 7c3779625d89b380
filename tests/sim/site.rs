//! Everything that is there: processes, store, bus, leases, proxies with their phones.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::core::ids::{Epoch, Nonce, TenantId};
use callplane::stack::simulated::{
    Behaviour, Notify, PhoneConfig, Replaces, Script, World, WorldConfig,
};

use super::api::ApiServer;
use super::bug::Bug;
use super::bus::Publisher;
use super::executor::Executor;
use super::history::What;
use super::network::Network;
use super::pod::Running;
use super::proxy::Proxy;
use super::random::Random;
use super::record::{BEGINNING, Recorder};
use super::run::{CALM, SWEPT};
use super::store::{Server, Stream};

pub const PODS: usize = 3;
const PHONES: usize = 10;

/// The name of a proxy's domain.
pub fn domain(stack: usize) -> String {
    format!("127.0.0.{}:5060", stack + 1)
}

pub fn phone(stack: usize, number: usize) -> String {
    format!("p{stack}{number}")
}

/// Who elects the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elects {
    /// A lease in the store, for each stack.
    Store,
    /// A Lease at an API server, for all.
    ApiServer,
}

pub struct Site {
    pub executor: Executor,
    pub network: Arc<Network>,
    pub recorder: Arc<Recorder>,
    pub server: Arc<Server>,
    pub publisher: Arc<Publisher>,
    pub proxies: Vec<Arc<Proxy>>,
    pub tenants: Vec<TenantId>,
    pub bug: Option<Bug>,
    /// Where a Lease elects the leader; `None`: a lease in the store does.
    pub api: Option<Arc<ApiServer>>,
    pods: Mutex<Vec<Pod>>,
    random: Mutex<Random>,
}

struct Pod {
    lives: u64,
    running: Option<Arc<Running>>,
}

impl Site {
    pub fn new(random: &mut Random, bug: Option<Bug>, elects: Elects) -> Arc<Self> {
        let executor = Executor::new(random.fork(), CALM + SWEPT);
        let network = Arc::new(Network::new(random.fork()));
        let recorder = Recorder::new(executor);
        let publisher = Publisher::new(executor, Arc::clone(&network), bug);
        let stream = Stream {
            recorder: Arc::clone(&recorder),
            publisher: Arc::clone(&publisher),
            skipped: Arc::default(),
        };
        let epoch = Epoch::derive(Nonce(u128::from(random.next()) << 64));
        let server = Server::new(executor, Arc::clone(&network), stream, epoch, bug);
        let proxies = (0..2)
            .map(|number| {
                let world = world(number, random);
                let (network, recorder) = (Arc::clone(&network), Arc::clone(&recorder));
                let random = random.fork();
                Proxy::new(number, world, executor, network, recorder, bug, random)
            })
            .collect();
        let tenants = ["default", "other"];
        let pods = (0..PODS).map(|_| Pod { lives: 0, running: None }).collect();
        let api = match elects {
            Elects::Store => None,
            Elects::ApiServer => Some(ApiServer::new(executor, Arc::clone(&network))),
        };
        Arc::new(Self {
            executor,
            network,
            recorder,
            server,
            publisher,
            proxies,
            tenants: tenants.iter().map(|name| tenant(name)).collect(),
            bug,
            api,
            pods: Mutex::new(pods),
            random: Mutex::new(random.fork()),
        })
    }

    /// A generator for a new part.
    pub fn fork(&self) -> Random {
        self.random.lock().unwrap().fork()
    }

    pub fn draw<R>(&self, draw: impl FnOnce(&mut Random) -> R) -> R {
        draw(&mut self.random.lock().unwrap())
    }

    pub fn start(self: &Arc<Self>, pod: usize) {
        let mut pods = self.pods.lock().unwrap();
        if pods[pod].running.is_none() {
            pods[pod].lives += 1;
            let wrong = self.draw(|random| random.below(400)).cast_signed() - 200;
            pods[pod].running = Some(Running::start(self, pod, pods[pod].lives, wrong));
        }
    }

    pub fn kill(&self, pod: usize) -> Option<Arc<Running>> {
        let running = self.pods.lock().unwrap()[pod].running.take()?;
        running.kill(self, pod);
        Some(running)
    }

    pub fn running(&self, pod: usize) -> Option<Arc<Running>> {
        self.pods.lock().unwrap()[pod].running.clone()
    }

    /// A call that phones placed by themselves; `None` where the phones did not come together.
    pub fn place_call(&self, stack: usize, number: usize, from: usize, to: usize) -> String {
        let call = format!("call-{stack}-{number}");
        self.proxies[stack].with(|world, now| {
            world.place_call_as(now, &phone(stack, from), &phone(stack, to), Some(&call))
        });
        self.recorder.note(What::Given { stack, call: call.clone() });
        call
    }
}

fn tenant(name: &str) -> TenantId {
    serde_json::from_value(name.into()).unwrap()
}

fn world(number: usize, random: &mut Random) -> World {
    let mut phones = Vec::new();
    for at in 0..PHONES {
        let contact = format!("127.0.0.{}:{}", number + 1, 5101 + at * 4);
        let config = PhoneConfig::new(&phone(number, at), &contact);
        phones.push(PhoneConfig { behaviour: character(at, random), ..config });
    }
    let config = WorldConfig {
        script: if number == 0 { Script::Stock } else { Script::Reference },
        domain: domain(number),
        callplane_socket: format!("127.0.0.{}:5066", number + 1),
        fr_timeout: Duration::from_secs(1),
        fr_inv_timeout: Duration::from_secs(20),
        dead_man: Duration::from_secs(60),
        unix_epoch: BEGINNING,
        phones,
        ..WorldConfig::default()
    };
    let mut world = World::new(random.next(), config);
    world.note_what_phones_see();
    world
}

/// The first half are ordinary; each of the others has something of its own.
fn character(at: usize, random: &mut Random) -> Behaviour {
    let ring_ms = random.below(1200);
    let plain = Behaviour { ring_ms, ..Behaviour::default() };
    if at < PHONES / 2 {
        return plain;
    }
    match random.below(16) {
        0 => Behaviour { answer: 486, ..plain },
        1 => Behaviour { answer: 0, ..plain },
        2 => Behaviour { answer: 0, ring: false, ..plain },
        3 => Behaviour { refer: 603, ..plain },
        4 => Behaviour { refer: 0, ..plain },
        5 => Behaviour { follow: false, ..plain },
        6 => Behaviour { copies_marks: false, ..plain },
        7 => Behaviour { notify: Notify::None, follow_ms: 300, ..plain },
        8 => Behaviour { reinvite: 488, ..plain },
        9 => Behaviour { reinvite: 0, ..plain },
        10 => Behaviour { hang_up_ms: Some(2000 + random.below(8000)), ..plain },
        11 => Behaviour { bye_before_follow: true, ..plain },
        12 => Behaviour { bye_after_refer: true, refer_ms: 300, ..plain },
        13 => Behaviour { answers_cancelled: true, ring_ms: 3000, ..plain },
        14 => Behaviour { replaces: Replaces::Ignored, ..plain },
        _ => Behaviour { challenged: true, reinvite_ms: 400, ..plain },
    }
}
