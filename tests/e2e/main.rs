//! callplane as its chart runs it: in pods of a real node of Kubernetes, under load, while pods are
//! deleted, killed, frozen, cut off, replaced, scaled and moved. Then the history is judged.
//!
//! Where this machine can't be a node it says that it was skipped, and why; `E2E=must` (`make e2e`) fails
//! there. `E2E_KEEP` names a folder that keeps logs and histories, `E2E_SEED` draws phones and clients,
//! `E2E_CLIENTS` says how many there are.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
)]

#[path = "../api_server/mod.rs"]
mod api_server;
#[path = "../chaos/client.rs"]
mod client;
mod costs;
mod faults;
#[path = "../history/mod.rs"]
mod history;
mod load;
#[path = "../chaos/lost.rs"]
mod lost;
#[path = "../node/mod.rs"]
mod node;
mod overlay;
mod pods;
#[path = "../chaos/proxies.rs"]
mod proxies;
#[path = "../chaos/random.rs"]
mod random;
mod reach;
#[path = "../chaos/record.rs"]
mod record;
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod site;
#[path = "../chaos/stack.rs"]
mod stack;
#[path = "../chaos/told.rs"]
mod told;
#[path = "../chaos/wire.rs"]
mod wire;

use std::time::{SystemTime, UNIX_EPOCH};

use load::Load;
use node::Node;
use random::Random;
use site::Site;

/// Starts what follows inside.
#[test]
fn callplane_keeps_its_promises_in_pods() {
    let name = "callplane_keeps_its_promises_in_pods";
    if node::is_here(name) && redis_server::is_here(name) {
        node::inside::run("in_pods");
    } else {
        assert!(std::env::var_os("E2E").is_none(), "{name} was to run, and was skipped");
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
#[ignore = "is started by the other, inside"]
fn in_pods() {
    assert!(node::inside::is_inside(), "make e2e starts it");
    let of_the_clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let seed = number("E2E_SEED").unwrap_or_else(of_the_clock);
    println!("E2E_SEED={seed}");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let node = Node::start();
    runtime.block_on(async {
        let mut random = Random::new(seed);
        let site = Site::install(&node, &mut random).await;
        let clients = usize::try_from(number("E2E_CLIENTS").unwrap_or(20)).unwrap();
        let load = Load::start(&site, clients, &mut random).await;
        let before = costs::of(&site);
        tokio::task::block_in_place(|| faults::play(&site, &load));
        let judged = load.end(&site).await;
        println!("{}", costs::table(&site, &before));
        println!("{judged}");
        judged.assert_kept();
        tokio::task::block_in_place(|| {
            site.tells_of_takeovers();
            site.test();
            site.uninstall();
            reach::try_each(&site);
            overlay::try_it(&node);
        });
    });
}
