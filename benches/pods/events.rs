//! From an event at the stack to a client on another process.
//!
//! Transfers ring on and on: begun at the second process, told to a session at the third, while the
//! first one leads. Their phones report progress, each time another: the event goes to the leader, from
//! there through Redis to the third process, and to the client. Most events are about calls that nobody
//! listens to, as on a real proxy. Every process hears all of them; it is this bench that sends them, in
//! the stack's place, so that it knows when.

use std::collections::HashMap;
use std::net::UdpSocket;
use std::ops::Range;
use std::time::{Duration, Instant};

use callplane::stack::simulated::{Behaviour, PhoneConfig, Script, WorldConfig};

use super::load::figures::percentile;
use super::load::process::Process;
use super::load::proxy::{DOMAIN, Proxy, metrics, quick_world};
use super::load::socket::{Socket, scratch};
use super::messages::{Place, number_behind, text_behind};
use super::site::Site;

/// Transfers that ring. A connection may have 64 commands under way.
const TRANSFERS: usize = 50;

/// Events a second, and the statuses that the transfers report meanwhile: each tells of one once.
const ROUNDS: [(u32, Range<u64>); 2] = [(5_000, 101..141), (20_000, 141..180)];

/// One in so many events is such a report.
const ONE_IN: u32 = 25;

const PATIENCE: Duration = Duration::from_secs(10);

/// Phones: two that talk, and one that rings for ever.
pub fn ringing_world() -> WorldConfig {
    let mut world = quick_world(Script::Stock, 2);
    let behaviour = Behaviour { answer: 0, ..Behaviour::default() };
    world.phones.push(PhoneConfig { behaviour, ..PhoneConfig::new("rings", "127.0.0.1:20999") });
    world
}

/// Begins transfers of these calls and waits until the last one rings; the session's place.
pub fn ring(socket: &mut Socket, calls: impl Iterator<Item = usize>) -> Place {
    let mut wanted = 0;
    for n in calls {
        wanted += 1;
        socket.queue(&format!(
            r#"{{"jsonrpc":"2.0","id":{n},"method":"CallBlindTransfer","params":{{"cmd_id":"{n}","callid":"call-{n}","leg":"callee","destination":"sip:rings@{DOMAIN}"}}}}"#
        ));
    }
    socket.send();
    let (mut place, mut ringing, mut scratch) = (Place::default(), 0, scratch());
    while ringing < wanted {
        socket.wait(&mut scratch, PATIENCE, |message| {
            place.note(message);
            let text = String::from_utf8_lossy(message);
            assert!(!text.contains(r#""event":"Error""#), "{text}");
            ringing += usize::from(text.contains(r#""extra":"180"#));
        });
    }
    place
}

/// Which transfer, and which status it reports.
type Report = (u64, u64);

/// Where the stack sends its events: all who subscribed.
fn subscribers(proxy: &Proxy) -> Vec<String> {
    let told = proxy.ask("subscribers_list", r#"{"event":"E_CALL_TRANSFER"}"#);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let list = told["result"]["Event"]["Subscribers"].as_array().expect("somebody subscribed");
    let socket = |one: &serde_json::Value| {
        one["socket"].as_str().and_then(|socket| socket.strip_prefix("udp:")).unwrap().to_owned()
    };
    list.iter().map(socket).collect()
}

/// Sends all events at their pace; when each report left.
fn send(to: &[String], rate: u32, statuses: &Range<u64>) -> HashMap<Report, Instant> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sent = HashMap::new();
    let (gap, began) = (Duration::from_secs(1) / rate, Instant::now());
    let all = u32::try_from(reports(statuses)).unwrap() * ONE_IN;
    for n in 0..all {
        let due = began + gap * n;
        while Instant::now() < due {
            std::thread::sleep(Duration::from_micros(50));
        }
        let event = if n.is_multiple_of(ONE_IN) {
            let report = u64::from(n / ONE_IN);
            let transfer = report % TRANSFERS as u64;
            let status = statuses.start + report / TRANSFERS as u64;
            sent.insert((transfer, status), Instant::now());
            format!(
                r#"{{"jsonrpc":"2.0","method":"E_CALL_TRANSFER","params":{{"callid":"call-{transfer}","leg":"callee","transfer_callid":"","destination":"","state":"notify","status":"{status} Progress"}}}}"#
            )
        } else {
            format!(
                r#"{{"jsonrpc":"2.0","method":"E_DLG_STATE_CHANGED","params":{{"id":"{n}","db_id":"{n}","callid":"nobody-listens-to-{n}@198.51.100.7","from_tag":"f","to_tag":"t","old_state":3,"new_state":4}}}}"#
            )
        };
        for subscriber in to {
            socket.send_to(event.as_bytes(), subscriber).unwrap();
        }
    }
    println!(
        "  {:.0} events/s to each of {} processes, one in {ONE_IN} about a command",
        f64::from(all) / began.elapsed().as_secs_f64(),
        to.len()
    );
    sent
}

fn reports(statuses: &Range<u64>) -> usize {
    TRANSFERS * usize::try_from(statuses.end - statuses.start).unwrap()
}

/// Notes when each report reaches the client, until all have or no more come.
fn receive(socket: &mut Socket, wanted: usize) -> HashMap<Report, Instant> {
    let (mut came, mut scratch) = (HashMap::with_capacity(wanted), scratch());
    while came.len() < wanted {
        let more = socket.comes(&mut scratch, PATIENCE, |message| {
            let now = Instant::now();
            if let (Some(transfer), Some(status)) =
                (number_behind(message, r#""cmd_id":""#), number_behind(message, r#""extra":""#))
                && text_behind(message, r#""event":""#) == Some("TransferPending")
            {
                came.entry((transfer, status)).or_insert(now);
            }
        });
        if !more {
            break;
        }
    }
    came
}

/// The whole of it.
pub fn latency() {
    println!("target: p99 10 ms");
    let site = Site::start(3, ringing_world(), TRANSFERS);
    let mut at_second = Socket::connect(site.pods[1].clients);
    let place = ring(&mut at_second, 0..TRANSFERS);
    let mut at_third = Socket::connect(site.pods[2].clients);
    place.resume(&mut at_third);
    drop(at_second);
    let subscribers = subscribers(&site.proxy);
    for (rate, statuses) in &ROUNDS {
        round(&site, &mut at_third, &subscribers, *rate, statuses);
    }
}

fn round(site: &Site, client: &mut Socket, to: &[String], rate: u32, statuses: &Range<u64>) {
    let cpu = || site.pods.iter().map(Process::cpu).collect::<Vec<_>>();
    let (before, cpu_before) = (site.spent(), cpu());
    let (sent, came) = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(client, reports(statuses)));
        (send(to, rate, statuses), receiving.join().unwrap())
    });
    let (after, cpu_after) = (site.spent(), cpu());
    let mut latencies: Vec<Duration> = sent
        .iter()
        .filter_map(|(report, sent)| Some(came.get(report)?.saturating_duration_since(*sent)))
        .collect();
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| percentile(&mut latencies, share));
    println!(
        "  from the event to the client: p50 {p50:.2} ms, p99 {p99:.2} ms, longest {most:.2} ms; {} \
         of {} told; each event:",
        latencies.len(),
        sent.len()
    );
    let events = sent.len() as u64 * u64::from(ONE_IN);
    before.print(&after, events);
    let each = cpu_before.iter().zip(&cpu_after).map(|(before, after)| {
        format!("{:.1} us", (*after - *before).as_secs_f64() * 1e6 / events as f64)
    });
    println!("    each process: {} (the first one leads)", each.collect::<Vec<_>>().join(", "));
    let lost = site.pods.iter().map(|pod| lost(&metrics(pod))).sum::<f64>();
    if lost > 0.0 {
        println!("    {lost} events lost, all processes together");
    }
}

/// Events that a process could not take.
fn lost(metrics: &str) -> f64 {
    let lines =
        metrics.lines().filter(|line| line.starts_with("callplane_event_lost_events_total"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
