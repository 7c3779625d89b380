//! How fast the simulated stack is: MI commands per second, in process and over UDP.
//!
//!     cargo bench --bench simulated_stack
//!
//! Figures are printed, not judged: a bench of callplane against this stack must be far below
//! them to say anything about callplane.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss
)]

use std::collections::VecDeque;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use callplane::stack::mi::{Mi, MiRequest};
use callplane::stack::simulated::in_process::InProcess;
use callplane::stack::simulated::server::{SimulateConfig, Simulated};
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

fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the stack does not answer at once"),
    }
}

const SDP: &str = "custom:application/sdp:v=0\r\no=alice 1 2 IN IP4 127.0.0.1\r\ns=-\r\n\
                   c=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 5103 RTP/AVP 0\r\na=inactive\r\n";

fn reinvite(callid: &str, leg: &str, op: &str) -> MiRequest {
    MiRequest::new("dlg_send_sequential")
        .text("callid", callid)
        .text("method", "INVITE")
        .text("mode", leg)
        .text("body", SDP)
        .text("headers", format!("X-CP-Op: {op}\r\n"))
}

/// The requests of one hold: two looks, two re-INVITEs, one mark.
fn in_process(script: Script) {
    let started = Instant::now();
    let events = Arc::new(AtomicU64::new(0));
    let counted = events.clone();
    let stack = InProcess::new(
        World::new(1, world_config(script)),
        Box::new(move || started.elapsed()),
        Box::new(move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
        }),
    );
    let timeout = Duration::from_secs(1);
    for event in ["E_DLG_STATE_CHANGED", "E_CALL_HOLD", "E_CALL_TRANSFER"] {
        let subscribe = MiRequest::new("event_subscribe")
            .text("event", event)
            .text("socket", "udp:127.0.0.1:9");
        at_once(stack.call(subscribe, timeout)).unwrap();
    }
    let callids: Vec<String> = (0..CALLS).map(|n| format!("call-{n}")).collect();
    for callid in &callids {
        stack.with(|w, now| w.place_call_as(now, "alice", "bob", Some(callid)).unwrap());
    }
    let began = Instant::now();
    let mut holds = 0_u64;
    while began.elapsed() < RUN {
        for callid in &callids {
            let look = MiRequest::new("dlg_list_ctx").text("callid", callid.as_str());
            at_once(stack.call(look.clone(), timeout)).unwrap();
            at_once(stack.call(reinvite(callid, "caller", "a"), timeout)).unwrap();
            at_once(stack.call(reinvite(callid, "callee", "b"), timeout)).unwrap();
            let mark = MiRequest::new("dlg_push_var")
                .text("dlg_val_name", "cp_hold")
                .text("dlg_val_value", "inactive 2 2")
                .list("DID", [callid.as_str()]);
            at_once(stack.call(mark, timeout)).unwrap();
            at_once(stack.call(look, timeout)).unwrap();
            holds += 1;
        }
    }
    let took = began.elapsed();
    let per_hold = took.as_secs_f64() / holds as f64 * 1e6;
    println!(
        "in process, {script:?} script: {:.0} holds/s on one core, {per_hold:.2} us a hold, {:.2} us a command",
        holds as f64 / took.as_secs_f64(),
        per_hold / 5.0
    );
    // The same with call_hold and its events.
    events.store(0, Ordering::Relaxed);
    let began = Instant::now();
    let mut commands = 0_u64;
    while began.elapsed() < RUN {
        for callid in &callids {
            for method in ["call_hold", "call_unhold"] {
                let request = MiRequest::new(method).text("callid", callid.as_str());
                at_once(stack.call(request, timeout)).unwrap();
                commands += 1;
            }
        }
    }
    let took = began.elapsed();
    println!(
        "in process, {script:?} script: {:.0} call_hold/s, {:.1} events each",
        commands as f64 / took.as_secs_f64(),
        events.load(Ordering::Relaxed) as f64 / commands as f64
    );
}

fn over_udp(name: &str, request: impl Fn(u64) -> String) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = SimulateConfig {
        mi_udp: any,
        mi_http: None,
        control: None,
        seed: 1,
        world: world_config(Script::Stock),
    };
    let (told, address) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let simulated = Simulated::bind(config).await.unwrap();
            told.send(simulated.addresses().mi_udp).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            simulated.run(stopped).await;
        });
    });
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(address.recv().unwrap()).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let requests: Vec<String> = (0..CALLS as u64).map(&request).collect();
    let mut buffer = [0; 65_536];
    let mut latencies: Vec<Duration> = Vec::new();
    let mut sent_at: VecDeque<Instant> = VecDeque::new();
    let (mut sent, mut got) = (0_u64, 0_u64);
    let began = Instant::now();
    while began.elapsed() < RUN {
        while sent - got < 128 {
            let n = usize::try_from(sent).unwrap() % requests.len();
            socket.send(requests[n].as_bytes()).unwrap();
            sent_at.push_back(Instant::now());
            sent += 1;
        }
        socket.recv(&mut buffer).expect("a reply");
        latencies.extend(sent_at.pop_front().map(|at| at.elapsed()));
        got += 1;
    }
    let took = began.elapsed();
    latencies.sort();
    println!(
        "UDP, {name}: {:.0} commands/s, 128 in flight, p99 {:?}",
        got as f64 / took.as_secs_f64(),
        latencies[latencies.len() * 99 / 100]
    );
    let _ = stop.send(());
    server.join().unwrap();
}

fn main() {
    in_process(Script::Stock);
    in_process(Script::Reference);
    over_udp("uptime", |n| format!("{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"uptime\"}}"));
    over_udp("dlg_list of an unknown call", |n| {
        format!(
            "{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"dlg_list\",\"params\":{{\"callid\":\"call-{n}\"}}}}"
        )
    });
}
