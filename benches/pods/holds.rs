//! CallHold and CallUnhold with all their events through Redis: what a command costs.

use std::time::Duration;

use callplane::stack::simulated::Script;

use super::load::proxy::quick_world;
use super::load::rounds::{Load, Until, hold};
use super::site::Site;

/// Sockets, and commands under way on each.
const SHAPES: [(usize, usize); 3] = [(1, 1), (48, 1), (48, 16)];
const MOST: usize = 48 * 16;
const WARM_UP: Until = Until::Elapsed { warm_up: Duration::ZERO, run: Duration::from_millis(700) };
const RUN: Until = Until::Elapsed { warm_up: Duration::ZERO, run: Duration::from_secs(4) };

fn measure(site: &Site, sockets: usize, in_flight: usize) -> f64 {
    let mut load = Load::spread(&site.all(), sockets);
    load.closed(in_flight, WARM_UP, &mut hold(0), &mut |_, _| ());
    let (before, asked) = (site.spent(), load.asked());
    let mut figures = load.closed(in_flight, RUN, &mut hold(0), &mut |_, _| ());
    let after = site.spent();
    figures.print(&format!("  {} pods, {sockets} connections x {in_flight}", site.pods.len()));
    before.print(&after, load.asked() - asked);
    figures.rate()
}

/// One process.
pub fn one_pod() {
    println!("target: 3000 commands/s with everything on this machine's cores; 3 commits or less");
    let site = Site::start(1, quick_world(Script::Stock, 2), MOST);
    for (sockets, in_flight) in SHAPES {
        measure(&site, sockets, in_flight);
    }
}

/// The same load before one, two and three processes.
pub fn spread() {
    let mut site = Site::start(1, quick_world(Script::Stock, 2), MOST);
    let alone = measure(&site, 48, 4);
    for _ in 0..2 {
        site.add();
        let rate = measure(&site, 48, 4);
        println!("    {:.2} of one pod's commands/s", rate / alone);
    }
}
