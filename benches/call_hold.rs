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

mod load;

use std::sync::Arc;
use std::time::{Duration, Instant};

use callplane::app::{Desk, FeedListener, TokioHost, settings};
use callplane::bus::{Bus as _, MemoryBus};
use callplane::client::feed::Feed;
use callplane::client::{self, Client};
use callplane::clock::{Clock, Nonces, SystemClock, SystemNonces};
use callplane::config::Config;
use callplane::core::act::Reply;
use callplane::core::failure::Outcome;
use callplane::core::ids::{Epoch, Install, PodId, StackId};
use callplane::core::plan::Times;
use callplane::core::record::Position;
use callplane::core::request::Method;
use callplane::engine::{Engine, Observer, Parts, RUNNING, Settings};
use callplane::metrics::Metrics;
use callplane::stack::Stacks;
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::{OpenSips, Surroundings, TokioTimer};
use callplane::stack::simulated::in_process::InProcess;
use callplane::stack::simulated::{Script, World};
use callplane::store::Limits;
use callplane::store::memory::MemoryStore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use load::process::{Process, myself, pin_client, serve, serving};
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

type InMemory = OpenSips<InProcess, InProcess>;

struct OneStack {
    name: StackId,
    stack: InMemory,
}

impl Stacks for OneStack {
    type Stack = InMemory;

    fn get(&self, id: &StackId) -> Option<&InMemory> {
        (*id == self.name).then_some(&self.stack)
    }

    fn names(&self) -> &[StackId] {
        std::slice::from_ref(&self.name)
    }

    fn of_domain(&self, _domain: &str) -> Option<StackId> {
        Some(self.name.clone())
    }
}

struct Unobserved;

impl Observer for Unobserved {
    fn begun(&self, _method: Method) {}

    fn ended(&self, _method: Method, _outcome: Outcome, _took: Duration) {}

    fn performed(&self, _verb: &'static str, _reply: &Reply, _took: Duration) {}
}

/// The whole of a server but for its stack's sockets, with its calls placed.
async fn in_memory(script: Script) -> std::io::Result<()> {
    let started = Instant::now();
    let now = Box::new(move || started.elapsed());
    // A hold by re-INVITE wants no events of the stack.
    let world = World::new(1, quick_world(script, 2));
    let mi = InProcess::new(world, now, Box::new(|_, _| ()));
    for n in 0..CALLS {
        let name = format!("call-{n}");
        let placed =
            mi.with(|world, now| world.place_call_as(now, "phone0", "phone1", Some(&name)));
        assert!(placed.is_some(), "{name} can't be placed");
    }
    let clock = Arc::new(SystemClock::new());
    let dyn_clock: Arc<dyn Clock> = Arc::clone(&clock) as _;
    let nonces = Arc::new(SystemNonces::new());
    let name = StackId::new("memory");
    let surroundings = Surroundings {
        clock: Arc::clone(&dyn_clock),
        timer: Arc::new(TokioTimer),
        meter: Arc::new(Unmetered),
    };
    let settings = StackSettings::new(name.clone(), "in process");
    let stack = OpenSips::new(settings, mi.clone(), mi, surroundings);
    assert!(stack.connect().await.is_ok(), "the simulated stack answers");

    let epoch = Epoch::derive(nonces.nonce());
    let bus = Arc::new(MemoryBus::default());
    let store = MemoryStore::new(clock, Arc::clone(&bus), epoch.clone(), Limits::default());
    let feed = Feed::new(Position { epoch, seq: 0 });
    bus.attach(Arc::new(FeedListener(Arc::clone(&feed))));
    let host = TokioHost::new(TaskTracker::new());
    let parts = Parts {
        store: Arc::new(store),
        stacks: Arc::new(OneStack { name, stack }),
        clock: Arc::clone(&dyn_clock),
        nonces: Arc::clone(&nonces) as _,
        host: Arc::clone(&host) as _,
        observer: Arc::new(Unobserved),
    };
    let settings = Settings {
        pod: PodId::new("bench"),
        install: Install::default(),
        times: Times::default(),
        times_at: std::collections::BTreeMap::new(),
        keep_calls: Duration::from_secs(24 * 60 * 60),
        keep_others: Duration::from_secs(15 * 60),
        one_start_per_caller: true,
        running: RUNNING,
    };
    let engine = Engine::new(parts, settings);
    let stop = CancellationToken::new();
    tokio::spawn(host.drive(Arc::clone(&engine), dyn_clock, stop.clone()));
    let client = Client::new(
        Desk::new(engine),
        feed,
        settings::client(&Config::default()),
        Arc::new(move || nonces.nonce()),
        Metrics::new().sessions,
        stop,
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    serving(listener.local_addr()?);
    client::serve(client, listener, axum::Router::new()).await;
    Ok(())
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
