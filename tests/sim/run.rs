//! One schedule: what a seed makes of clients, phones, faults and order.

use std::sync::Arc;
use std::time::Duration;

use super::bug::Bug;
use super::client::Client;
use super::executor::{START, WORLD};
use super::faults;
use super::history::{History, What};
use super::proxy::Proxy;
use super::random::Random;
use super::site::{Elects, PODS, Site};

/// Clients of the first tenant, and of the other.
const CLIENTS: [usize; 2] = [3, 1];

/// What clients do of their own, all together.
const ACTS: u64 = 28;

/// Within this they do it.
const BUSY: u64 = 8_000;

/// Faults end by then.
pub const CALM: Duration = Duration::from_secs(15);

/// When all has ended for the clients, legs of callplane's own are waited for this long.
const AFTER: Duration = Duration::from_secs(30);

/// What the bus lost before is read from the streams by then.
pub const SWEPT: Duration = Duration::from_millis(5_500);

/// And what should not come is waited for this long.
const QUIET: Duration = Duration::from_millis(1_500);

/// Longest wait for the end of everything.
const LONGEST: Duration = Duration::from_secs(240);

/// A seed with this bit is played with a Lease at an API server, every other one with leases in the
/// store.
pub const KUBERNETES: u64 = 1 << 62;

/// Plays a seed.
pub fn run(seed: u64, bug: Option<Bug>) -> History {
    let mut random = Random::new(seed);
    let elects = if seed & KUBERNETES == 0 { Elects::Store } else { Elects::ApiServer };
    let site = Site::new(&mut random, bug, elects);
    for pod in 0..PODS {
        site.start(pod);
    }
    let clients = clients(&site, &mut random);
    faults::plan(&site, &clients, &mut random);
    let mut rest = Rest::default();
    watch(&site, &clients);
    loop {
        site.executor.settle();
        if rest.is_over(&site, &clients) {
            break;
        }
        let due = site.proxies.iter().map(|proxy| proxy.due());
        let next = due.fold(site.executor.due().unwrap_or(u64::MAX), u64::min);
        if next == u64::MAX {
            break;
        }
        site.executor.advance(next);
        for proxy in &site.proxies {
            if proxy.due() <= next {
                proxy.advance();
            }
        }
        site.executor.fire();
    }
    note_what_is_left(&site);
    let mut history = site.recorder.take();
    history.calm = u64::try_from(CALM.as_millis()).unwrap();
    history.end = u64::try_from(site.executor.now().as_millis()).unwrap();
    // Whatever still runs must not come back when its parts are dropped.
    for pod in 0..PODS {
        site.kill(pod);
    }
    site.executor.clear();
    history
}

fn clients(site: &Arc<Site>, random: &mut Random) -> Vec<Arc<Client>> {
    let mut clients = Vec::new();
    for (tenant, count) in CLIENTS.into_iter().enumerate() {
        let mut calls = Vec::new();
        for number in 0..3 {
            let stack = random.index(2);
            let (number, from) = (tenant * 10 + number, random.index(10));
            let to = (from + 1 + random.index(9)) % 10;
            calls.push((stack, site.place_call(stack, number, from, to)));
        }
        for _ in 0..count {
            let tenant = site.tenants[tenant].clone();
            clients.push(Client::new(site, clients.len(), tenant, calls.clone()));
        }
    }
    for client in &clients {
        let connecting = Arc::clone(client);
        site.executor.at(START + random.millis(300, 1500), WORLD, move || connecting.connect());
    }
    for _ in 0..ACTS {
        let acting = Arc::clone(random.pick(&clients));
        site.executor.at(START + random.millis(1500, 1500 + BUSY), WORLD, move || acting.act());
    }
    clients
}

/// Clients ask after what they may have missed, every second.
fn watch(site: &Arc<Site>, clients: &[Arc<Client>]) {
    let (again, watched) = (Arc::clone(site), clients.to_vec());
    site.executor.after(Duration::from_secs(1), WORLD, move || {
        for client in &watched {
            client.ask_after();
        }
        watch(&again, &watched);
    });
}

/// When a schedule is over.
#[derive(Default)]
struct Rest {
    /// Looked at again then.
    look_at: Duration,
    /// Since when all has ended for the clients.
    settled: Option<Duration>,
    /// Since when callplane has no leg of its own either.
    quiet: Option<Duration>,
}

impl Rest {
    fn is_over(&mut self, site: &Site, clients: &[Arc<Client>]) -> bool {
        let now = site.executor.now();
        if now < (CALM + SWEPT).max(self.look_at) {
            return false;
        }
        self.look_at = now + Duration::from_millis(500);
        if !clients.iter().all(|client| client.is_settled()) {
            (self.settled, self.quiet) = (None, None);
            return now >= CALM + LONGEST;
        }
        let settled = *self.settled.get_or_insert(now);
        if site.proxies.iter().any(|proxy| has_setup_leg(proxy)) {
            self.quiet = None;
            return now >= settled + AFTER;
        }
        now >= *self.quiet.get_or_insert(now) + QUIET
    }
}

fn has_setup_leg(proxy: &Proxy) -> bool {
    let phones = proxy.with(|world, _| world.phones());
    phones.iter().flat_map(|phone| &phone.calls).any(|call| call.starts_with("cp-"))
}

fn note_what_is_left(site: &Site) {
    for proxy in &site.proxies {
        let calls = proxy.with(|world, _| (world.calls(), world.phones()));
        let (calls, phones) = calls;
        for call in calls {
            let rings = phones.iter().any(|phone| phone.calls.contains(&call.callid));
            if rings {
                let setup = call.callid.starts_with("cp-");
                site.recorder.note(What::Left { stack: proxy.number, call: call.callid, setup });
            }
        }
    }
}
