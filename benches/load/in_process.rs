//! The whole of a server but for its stack's sockets: the real connector calls a simulated stack in the
//! same process instead of asking it over UDP. Metrics port, console and logging are not in it.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callplane::app::{Desk, FeedListener, TokioHost, settings};
use callplane::client::feed::Feed;
use callplane::client::{self, Client};
use callplane::clock::{Clock, Nonces, SystemNonces, TokioTimer};
use callplane::config::Config;
use callplane::core::act::{Op, Reply};
use callplane::core::command::Input;
use callplane::core::ids::{Install, PodId, StackId, TenantId};
use callplane::core::plan::Times;
use callplane::core::record::Record;
use callplane::core::time::StoreTime;
use callplane::engine::{Engine, Observer, Parts, RUNNING, Settings};
use callplane::metrics::Metrics;
use callplane::stack::Stacks;
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::{OpenSips, Surroundings};
use callplane::stack::simulated::in_process::InProcess;
use callplane::stack::simulated::{Script, World};
use callplane::store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::load::process::serving;
use super::load::proxy::quick_world;

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
    fn begun(&self, _record: &Record) {}

    fn ended(&self, _: &Record, _at: StoreTime) {}

    fn performed(&self, _: &Record, _: &Op, _: &Reply, _: Range<StoreTime>) {}

    fn took_in(&self, _: &Record, _: &[Input], _: Range<StoreTime>) {}
}

/// Places so many calls, then serves over this store until the bench ends. `attach` has a listener told
/// what is committed.
pub async fn serve<S: Store>(
    script: Script,
    calls: usize,
    store: Arc<S>,
    clock: Arc<dyn Clock>,
    attach: impl FnOnce(Arc<FeedListener>),
) -> std::io::Result<()> {
    let started = Instant::now();
    let now = Box::new(move || started.elapsed());
    // A hold by re-INVITE wants no events of the stack.
    let world = World::new(1, quick_world(script, 2));
    let mi = InProcess::new(world, now, Box::new(|_, _| ()));
    for n in 0..calls {
        let name = format!("call-{n}");
        let placed =
            mi.with(|world, now| world.place_call_as(now, "phone0", "phone1", Some(&name)));
        assert!(placed.is_some(), "{name} can't be placed");
    }
    let nonces = Arc::new(SystemNonces::new());
    let name = StackId::new("memory");
    let surroundings = Surroundings {
        clock: Arc::clone(&clock),
        timer: Arc::new(TokioTimer),
        meter: Arc::new(Unmetered),
    };
    let settings = StackSettings::new(name.clone(), "in process");
    let stack = OpenSips::new(settings, mi.clone(), mi, surroundings);
    assert!(stack.connect().await.is_ok(), "the simulated stack answers");

    let head = store.head(&TenantId::default()).await;
    let feed = Feed::new(head.map_err(std::io::Error::other)?);
    attach(Arc::new(FeedListener(Arc::clone(&feed))));
    let host = TokioHost::new(TaskTracker::new());
    let parts = Parts {
        store,
        stacks: Arc::new(OneStack { name, stack }),
        clock: Arc::clone(&clock),
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
    tokio::spawn(host.drive(Arc::clone(&engine), clock, stop.clone()));
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
