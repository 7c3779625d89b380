//! CallHold and CallUnhold with all their events through Redis: what a command costs.

use std::sync::Arc;
use std::time::Duration;

use callplane::bus::Bus as _;
use callplane::core::ids::Install;
use callplane::stack::simulated::Script;
use callplane::store::Limits;
use callplane::store::redis::{Address, RedisBus, RedisStore, Settings};

use super::in_process;
use super::load::process::myself_anywhere;
use super::load::proxy::quick_world;
use super::load::rounds::{Load, Until, hold};
use super::site::Site;

/// Sockets, and commands under way on each.
const SHAPES: [(usize, usize); 3] = [(1, 1), (48, 1), (48, 16)];
const SPREAD: (usize, usize) = (48, 4);

/// Each that is under way has a call of its own, and another one while warming up.
const CALLS: usize = 2 * (1 + 48 + 768);
const SPREAD_CALLS: usize = 4 * 2 * 48 * 4;

const WARM_UP: Until = Until::Elapsed { warm_up: Duration::ZERO, run: Duration::from_millis(700) };
const RUN: Until = Until::Elapsed { warm_up: Duration::ZERO, run: Duration::from_secs(4) };

/// What the processes are called when they are a program of this bench.
pub const IN_PROCESS: &str = "in-process";

/// Loads a site with commands about calls from this one on; the first one that is free then, and
/// commands a second.
fn measure(site: &Site, (sockets, in_flight): (usize, usize), first: usize) -> (usize, f64) {
    let mut load = Load::spread(&site.all(), sockets);
    let calls = sockets * in_flight;
    load.closed(in_flight, WARM_UP, &mut hold(first), &mut |_, _| ());
    let (before, asked) = (site.spent(), load.asked());
    let mut figures = load.closed(in_flight, RUN, &mut hold(first + calls), &mut |_, _| ());
    let after = site.spent();
    figures.print(&format!("  {} pods, {sockets} connections x {in_flight}", site.pods.len()));
    before.print(&after, load.asked() - asked);
    (first + 2 * calls, figures.rate())
}

/// One process, then the same without the stack's sockets.
pub fn one_pod() {
    println!("target: 3000 commands/s with everything on this machine's cores; 3 commits or less");
    let site = Site::start(1, quick_world(Script::Stock, 2), CALLS);
    SHAPES.iter().fold(0, |first, shape| measure(&site, *shape, first).0);
    drop(site);
    println!("  the stack in the same process, called instead of asked:");
    let mut site = Site::start(0, quick_world(Script::Stock, 2), 0);
    site.pods.push(myself_anywhere(&[IN_PROCESS, &site.redis_address()]));
    SHAPES.iter().fold(0, |first, shape| measure(&site, *shape, first).0);
}

/// The process with its stack, over this Redis.
pub async fn in_process(redis: &str) -> std::io::Result<()> {
    let address = Address::of_server(redis).map_err(std::io::Error::other)?;
    let settings = Settings::of(address);
    let store = RedisStore::start(settings, Install::default(), Limits::default());
    let store = Arc::new(store.map_err(std::io::Error::other)?);
    let bus = RedisBus::start(Arc::clone(&store)).await.map_err(std::io::Error::other)?;
    let clock = store.clock();
    in_process::serve(Script::Stock, CALLS, store, clock, |listener| bus.attach(listener)).await
}

/// The same load before one, two and three processes, and before eight: what it costs that all of them
/// hear everything.
pub fn spread() {
    let mut site = Site::start(1, quick_world(Script::Stock, 2), SPREAD_CALLS);
    let (mut first, alone) = measure(&site, SPREAD, 0);
    for pods in [2, 3, 8] {
        while site.pods.len() < pods {
            site.add();
        }
        let (next, rate) = measure(&site, SPREAD, first);
        first = next;
        println!("    {:.2} of one pod's commands/s", rate / alone);
    }
}
