//! How many holds the connector makes a second: each two acts, each act three management requests
//! (look, mark, re-INVITE).
//!
//!     cargo bench --bench connector
//!
//! In process the stack answers at once, so the figure is what connector and simulated stack cost
//! together on one core. Over UDP the simulated stack runs in a thread of its own. Figures are
//! printed, not judged.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use callplane::clock::{Clock, SystemClock, TokioTimer};
use callplane::core::act::{Act, Facts, Offer, Op, Reply};
use callplane::core::ids::{CallId, Nonce, OpId, PodId, StackId};
use callplane::core::request::Leg;
use callplane::stack::SipStack;
use callplane::stack::mi::Mi;
use callplane::stack::opensips::meter::Unmetered;
use callplane::stack::opensips::settings::StackSettings;
use callplane::stack::opensips::{self, OpenSips, Surroundings};
use callplane::stack::simulated::in_process::InProcess;
use callplane::stack::simulated::server::{Addresses, SimulateConfig, Simulated};
use callplane::stack::simulated::{PhoneConfig, Script, World, WorldConfig};

const CALLS: usize = 1000;
const RUN: Duration = Duration::from_secs(3);

fn world_config(script: Script) -> WorldConfig {
    WorldConfig {
        script,
        hop: Duration::ZERO,
        phones: vec![
            PhoneConfig::new("alice", "127.0.0.1:5101"),
            PhoneConfig::new("bob", "127.0.0.1:5102"),
        ],
        ..WorldConfig::default()
    }
}

fn surroundings(clock: &Arc<SystemClock>) -> Surroundings {
    Surroundings {
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        timer: Arc::new(TokioTimer),
        meter: Arc::new(Unmetered),
    }
}

/// Holds a call, or takes it back: both legs.
async fn half_round<M: Mi, L: Mi>(
    stack: &OpenSips<M, L>,
    clock: &SystemClock,
    call: &CallId,
    hold: bool,
    nonce: Nonce,
) {
    let offers = if hold {
        [(Leg::Caller, Offer::Hold { first: true }), (Leg::Callee, Offer::Hold { first: false })]
    } else {
        [
            (Leg::Callee, Offer::Resume { first: true, last: false }),
            (Leg::Caller, Offer::Resume { first: false, last: true }),
        ]
    };
    for (n, (leg, offer)) in (0..).zip(offers) {
        let now = clock.now();
        let op = Op {
            id: OpId::derive(nonce, n),
            by: PodId::new("bench"),
            stack: StackId::new("bench"),
            act: Act::ReInvite { call: call.clone(), leg, offer },
            send_before: now.after(Duration::from_secs(5)),
            reply_by: now.after(Duration::from_secs(10)),
        };
        assert_eq!(stack.perform(&op).await, Reply::Done(Facts::Nothing));
    }
}

fn print(name: &str, holds: u64, took: Duration) {
    println!(
        "{name}: {:.0} holds or unholds/s, {:.1} us each",
        holds as f64 / took.as_secs_f64(),
        took.as_secs_f64() / holds as f64 * 1e6
    );
}

fn in_process(script: Script) {
    let started = Instant::now();
    let world = World::new(1, world_config(script));
    let now = Box::new(move || started.elapsed());
    let mi = InProcess::new(world, now, Box::new(|_, _| ()));
    let calls: Vec<CallId> =
        (0..CALLS).map(|n| CallId::parse(&format!("call-{n}")).unwrap()).collect();
    for call in &calls {
        mi.with(|w, now| w.place_call_as(now, "alice", "bob", Some(call.as_str())).unwrap());
    }
    let clock = Arc::new(SystemClock::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = StackSettings::new(StackId::new("bench"), "in process");
        let stack = OpenSips::new(settings, mi.clone(), mi, surroundings(&clock));
        stack.connect().await.unwrap();
        let began = Instant::now();
        let mut holds = 0_u64;
        while began.elapsed() < RUN {
            for hold in [true, false] {
                for call in &calls {
                    holds += 1;
                    half_round(&stack, &clock, call, hold, Nonce(u128::from(holds))).await;
                }
            }
        }
        print(&format!("in process, {script:?} script"), holds, began.elapsed());
    });
}

/// Has a phone of the simulated stack place a call.
fn place(control: SocketAddr, call: &str) {
    let body = format!(r#"{{"from":"alice","to":"bob","callid":"{call}"}}"#);
    let mut stream = TcpStream::connect(control).unwrap();
    write!(
        stream,
        "POST /calls HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

fn over_udp(at_a_time: usize) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = SimulateConfig {
        mi_udp: any,
        mi_http: None,
        control: Some(any),
        seed: 1,
        world: world_config(Script::Stock),
    };
    let (told, addresses) = std::sync::mpsc::channel::<Addresses>();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let simulated = Simulated::bind(config).await.unwrap();
            told.send(simulated.addresses()).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            simulated.run(stopped).await;
        });
    });
    let addresses = addresses.recv().unwrap();
    for n in 0..at_a_time {
        place(addresses.control.unwrap(), &format!("call-{n}"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clock = Arc::new(SystemClock::new());
        let mi = addresses.mi_udp.to_string();
        let settings = StackSettings::new(StackId::new("bench"), mi);
        let stack = opensips::open(settings, surroundings(&clock)).await.unwrap();
        stack.connect().await.unwrap();
        let (stack, clock) = (&stack, &*clock);
        let holds = AtomicUsize::new(0);
        let began = Instant::now();
        let callers = (0..at_a_time).map(|n| {
            let holds = &holds;
            async move {
                let call = CallId::parse(&format!("call-{n}")).unwrap();
                while began.elapsed() < RUN {
                    for hold in [true, false] {
                        let nonce = holds.fetch_add(1, Ordering::Relaxed);
                        let nonce = Nonce(u128::try_from(nonce).unwrap());
                        half_round(stack, clock, &call, hold, nonce).await;
                    }
                }
            }
        });
        futures_util::future::join_all(callers).await;
        let holds = u64::try_from(holds.load(Ordering::Relaxed)).unwrap();
        print(&format!("over UDP, {at_a_time} at a time"), holds, began.elapsed());
    });
    let _ = stop.send(());
    server.join().unwrap();
}

fn main() {
    in_process(Script::Stock);
    in_process(Script::Reference);
    over_udp(1);
    over_udp(64);
}
