//! What goes wrong, and when.

use std::sync::Arc;
use std::time::Duration;

use callplane::core::ids::{Epoch, Nonce};
use callplane::stack::simulated::World;
use callplane::stack::simulated::faults::Chance;

use super::api::ApiServer;
use super::client::Client;
use super::executor::{START, WORLD};
use super::history::{Fault, What};
use super::network::{Place, Way};
use super::pod::stack_id;
use super::random::Random;
use super::run::CALM;
use super::site::{PODS, Site};

/// Faults of a schedule, but for one in ten that has none.
const LEAST: u64 = 5;
const MOST: u64 = 9;

/// They begin within this.
const BEGIN: (u64, u64) = (1200, 10_000);

pub fn plan(site: &Arc<Site>, clients: &[Arc<Client>], random: &mut Random) {
    if random.percent(10) {
        return;
    }
    for _ in 0..LEAST + random.below(MOST - LEAST + 1) {
        let at = START + random.millis(BEGIN.0, BEGIN.1);
        let lasts = random.millis(200, 3500);
        let (site, clients, mut random) = (Arc::clone(site), clients.to_vec(), random.fork());
        site.executor.at(at, WORLD, move || strike(&site, &clients, &mut random, lasts));
    }
}

fn strike(site: &Arc<Site>, clients: &[Arc<Client>], random: &mut Random, lasts: Duration) {
    let pod = random.index(PODS);
    let stack = random.index(2);
    let at = site.executor.now();
    let until = (at + lasts).min(CALM);
    // Where an API server elects, there is more that can go wrong.
    let kinds = if site.api.is_some() { 20 } else { 15 };
    match random.below(kinds) {
        0 | 1 => crash(site, clients, pod, until),
        2 => pause(site, pod, until),
        3 => cut(site, Fault::Store, Place::Pod(pod), Place::Store, until),
        4 => {
            note(site, Fault::Store, until);
            site.server.freeze(until);
        }
        5 => {
            let lost = u32::try_from(random.below(400_000)).unwrap();
            let doubled = u32::try_from(random.below(300_000)).unwrap();
            let most = 2_000 + random.below(600_000);
            let worse =
                move |way: &mut Way| (way.lost, way.doubled, way.most) = (lost, doubled, most);
            weather(site, Fault::Store, Place::Pod(pod), Place::Store, until, worse);
        }
        6 => {
            let lost = u32::try_from(random.below(500_000)).unwrap();
            let most = 2_000 + random.below(1_500_000);
            for pod in 0..PODS {
                let worse =
                    move |way: &mut Way| (way.lost, way.most, way.doubled) = (lost, most, lost);
                weather(site, Fault::Bus, Place::Bus, Place::Pod(pod), until, worse);
            }
        }
        7 => cut(site, Fault::Stack { stack }, Place::Pod(pod), Place::Stack(stack), until),
        8 => {
            let lost = u32::try_from(random.below(400_000)).unwrap();
            let most = 2_000 + random.below(800_000);
            for pod in 0..PODS {
                let to = Place::Stack(stack);
                let out = move |way: &mut Way| (way.lost, way.most) = (lost, most);
                // Events may come twice; requests do not (a management network that doubles
                // datagrams is ruled out).
                let back = move |way: &mut Way| {
                    (way.lost, way.most, way.doubled) = (lost, most, lost / 2);
                };
                let kind = Fault::Stack { stack };
                one_way(site, Place::Pod(pod), to, until, out);
                one_way(site, to, Place::Pod(pod), until, back);
                note(site, kind, until);
            }
        }
        9 => site.proxies[stack].restart(random.millis(0, 2500).min(until.saturating_sub(at))),
        10 | 11 => lose_tail(site, random),
        12 => {
            note(site, Fault::Store, until);
            site.server.leave_alone(until);
        }
        13 => {
            // It answers, and its events reach nobody.
            note(site, Fault::Stack { stack }, until);
            let deaf = |ppm| {
                let chance = Chance { next: 0, ppm };
                move |world: &mut World, _| world.faults().lose_events = chance
            };
            site.proxies[stack].with(deaf(1_000_000));
            let site = Arc::clone(site);
            site.clone().executor.at(until, WORLD, move || site.proxies[stack].with(deaf(0)));
        }
        14 if site.api.is_none() => {
            note(site, Fault::Lease, until);
            site.server.take_lease(&stack_id(stack));
        }
        kind => {
            if let Some(api) = &site.api {
                note(site, Fault::Lease, until);
                at_the_api_server(site, api, kind, pod, until, random);
            }
        }
    }
}

/// What may go wrong with an API server lasts longer than other things: up to the end of faults.
fn at_the_api_server(
    site: &Arc<Site>,
    api: &Arc<ApiServer>,
    kind: u64,
    pod: usize,
    until: Duration,
    random: &mut Random,
) {
    let long = until.max(CALM.min(site.executor.now() + random.millis(500, 12_000)));
    match kind {
        14 => {
            let holders = [None, Some(""), Some("somebody")];
            api.meddle(holders[random.index(holders.len())]);
        }
        15 => api.freeze(long),
        16 => {
            cut(site, Fault::Lease, Place::Pod(pod), Place::Api, long);
        }
        17 => {
            // It takes up to ten seconds.
            let most = 1_000_000 + random.below(9_000_000);
            for pod in 0..PODS {
                one_way(site, Place::Pod(pod), Place::Api, long, move |way| way.most = most);
            }
        }
        18 => {
            for pod in 0..PODS {
                let lost = u32::try_from(random.below(500_000)).unwrap();
                let worse = move |way: &mut Way| way.lost = lost;
                weather(site, Fault::Lease, Place::Pod(pod), Place::Api, long, worse);
            }
        }
        _ => api.hang_up(),
    }
}

fn note(site: &Site, kind: Fault, until: Duration) {
    let until = u64::try_from(until.as_millis()).unwrap();
    site.recorder.note(What::Fault { kind, until });
}

fn crash(site: &Arc<Site>, clients: &[Arc<Client>], pod: usize, until: Duration) {
    let Some(running) = site.kill(pod) else { return };
    note(site, Fault::Crash, until);
    for client in clients {
        client.process_died(pod, running.life);
    }
    let site = Arc::clone(site);
    site.executor.at(until, WORLD, move || site.start(pod));
}

fn pause(site: &Arc<Site>, pod: usize, until: Duration) {
    let Some(running) = site.running(pod) else { return };
    note(site, Fault::Pause, until);
    site.executor.pause(running.group);
    let site = Arc::clone(site);
    site.executor.at(until, WORLD, move || site.executor.go_on(running.group));
}

/// What the store acknowledges from now on is lost a little later, or everything is.
fn lose_tail(site: &Arc<Site>, random: &mut Random) {
    let memory = (!random.percent(20)).then(|| site.server.remember());
    let (wait, epoch) =
        (random.millis(1, 1500), Epoch::derive(Nonce(u128::from(random.next()) << 64)));
    let site = Arc::clone(site);
    site.executor.after(wait, WORLD, move || {
        note(&site, Fault::StoreLost, site.executor.now());
        site.server.forget_since(memory, epoch);
    });
}

fn cut(site: &Arc<Site>, kind: Fault, one: Place, other: Place, until: Duration) {
    weather(site, kind, one, other, until, |way| way.cut = true);
}

fn weather(
    site: &Arc<Site>,
    kind: Fault,
    one: Place,
    other: Place,
    until: Duration,
    worse: impl Fn(&mut Way) + Clone,
) {
    note(site, kind, until);
    one_way(site, one, other, until, worse.clone());
    one_way(site, other, one, until, worse);
}

fn one_way(site: &Arc<Site>, from: Place, to: Place, until: Duration, worse: impl Fn(&mut Way)) {
    site.network.change(from, to, worse);
    let site = Arc::clone(site);
    site.executor.at(until, WORLD, move || {
        site.network.change(from, to, |way| *way = Way::default());
    });
}
