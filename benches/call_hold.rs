//! CallHold and CallUnhold with all their events, on one core, as a client sees them.
//!
//!     cargo bench --bench call_hold
//!
//! * In memory: what is measured is a loopback TCP socket, its WebSocket, the parsed frame, the
//!   session, the engine with three commits to the memory store, the bus and the feed back to the
//!   session, and the real connector's two re-INVITEs with look and mark. Behind the connector is
//!   the simulated stack in the same process, called instead of asked over UDP; its work is part
//!   of the figure. Not in it: metrics port, console, logging.
//! * Over UDP: `callplane serve` itself; the simulated stack shares the other core with the client.
//!
//! Each command is seven messages: `Started`, twice `Start` and `Successful`, `Holding` between
//! them, `Ended`.

#[path = "load/in_process.rs"]
mod in_process;
mod load;

use std::sync::Arc;
use std::time::Duration;

use callplane::bus::{Bus as _, MemoryBus};
use callplane::clock::{Nonces as _, SystemClock, SystemNonces};
use callplane::core::ids::Epoch;
use callplane::stack::simulated::Script;
use callplane::store::Limits;
use callplane::store::memory::MemoryStore;

use load::process::{Process, myself, pin_client, serve};
use load::proxy::{Proxy, quick_world, wait_for_events};
use load::rounds::{Load, Until, hold};

/// As the product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sockets, and commands under way on each: every one has a call of its own.
const SHAPES: [(usize, usize); 3] = [(1, 1), (50, 1), (50, 16)];
const CALLS: usize = 1 + 50 + 800;
const UNTIL: Until =
    Until::Elapsed { warm_up: Duration::from_millis(500), run: Duration::from_secs(3) };

/// The whole of it, over a store in memory.
async fn in_memory(script: Script) -> std::io::Result<()> {
    let clock = Arc::new(SystemClock::new());
    let bus = Arc::new(MemoryBus::default());
    let epoch = Epoch::derive(SystemNonces::new().nonce());
    let limits = Limits::default();
    let store = MemoryStore::new(Arc::clone(&clock), Arc::clone(&bus), epoch, limits);
    in_process::serve(script, CALLS, Arc::new(store), clock, |listener| bus.attach(listener)).await
}

fn measure(name: &str, server: &Process) {
    let mut first = 0;
    for (sockets, in_flight) in SHAPES {
        let mut load = Load::connect(server, sockets);
        let mut figures = load.closed(in_flight, UNTIL, &mut hold(first), &mut |_, _| ());
        first += sockets * in_flight;
        figures.print(&format!("{name}, {sockets} connections x {in_flight} under way"));
    }
}

fn main() -> std::io::Result<()> {
    let role = std::env::args().nth(1);
    let scripts = [("stock", Script::Stock), ("reference", Script::Reference)];
    if let Some((_, script)) = scripts.iter().find(|(name, _)| role.as_deref() == Some(name)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        return runtime.block_on(in_memory(*script));
    }
    pin_client();
    println!("target, in memory: 20000 commands/s");
    for (name, script) in scripts {
        measure(&format!("in memory, {name} script"), &myself(name));
        let proxy = Proxy::start(quick_world(script, 2));
        proxy.place_calls(CALLS);
        let server = serve(&proxy.variables());
        wait_for_events(&server);
        measure(&format!("over UDP, {name} script"), &server);
    }
    Ok(())
}
