//! Clients that come back, to another process than before.

use std::time::{Duration, Instant};

use callplane::stack::simulated::Script;

use super::load::figures::percentile;
use super::load::process::Process;
use super::load::proxy::quick_world;
use super::load::rounds::{Load, Until, Wanted, echo, hold};
use super::load::socket::{Socket, scratch};
use super::messages::{Place, number_behind, recovers, text_behind};
use super::site::Site;

const PATIENCE: Duration = Duration::from_secs(60);

/// Holds whose entries a client misses: seven each.
const MISSED: usize = 143;
const ENTRIES: usize = MISSED * 7;

/// Holds of other sessions for each of them, where others are at work.
const OTHERS: usize = 50;

const TRIES: usize = 5;

/// A command on a socket, to its `Ended`.
fn run(socket: &mut Socket, scratch: &mut [u8], request: &str, mut each: impl FnMut(&[u8])) {
    socket.queue(request);
    socket.send();
    let mut ended = false;
    while !ended {
        socket.wait(scratch, PATIENCE, |message| {
            each(message);
            ended |= text_behind(message, r#""event":""#) == Some("Ended");
        });
    }
}

/// A session that held and took back a call so often, at this process; where it stood before the
/// first. Others are at work meanwhile.
fn miss(at: &Process, from: usize, others: usize) -> Place {
    let mut socket = Socket::connect(at.clients);
    let (mut place, mut first, mut scratch) = (Place::default(), None, scratch());
    let mut load = Load::spread(&[at], OTHERS);
    let (mut ask, mut ask_other) = (hold(from), hold(from + 1));
    for round in 0..MISSED as u64 {
        if others > 0 {
            let until = Until::Done(others as u64);
            load.closed(1, until, &mut ask_other, &mut |_, _| ());
        }
        let mut text = String::new();
        ask(&mut text, &Wanted { number: round, slot: 0, round });
        run(&mut socket, &mut scratch, &text, |message| {
            place.note(message);
            // Its `Started` is the first entry.
            first.get_or_insert_with(|| Place { seq: place.seq - 1, ..place.clone() });
        });
    }
    first.unwrap()
}

/// From the request to the last entry.
fn catch_up(place: &Place, at: &Process) -> Duration {
    let (mut socket, mut scratch) = (Socket::connect(at.clients), scratch());
    let asked = Instant::now();
    socket.queue(&place.request());
    socket.send();
    let (mut answered, mut entries) = (false, 0);
    while entries < ENTRIES {
        socket.wait(&mut scratch, PATIENCE, |message| {
            if answered {
                entries += usize::from(number_behind(message, r#""seq":"#).is_some());
            } else {
                answered = recovers(message);
            }
        });
    }
    asked.elapsed()
}

/// A client that missed a thousand entries.
pub fn missed() {
    println!("target: {ENTRIES} entries in 100 ms");
    let site = Site::start(2, quick_world(Script::Stock, 2), 2 * (1 + OTHERS));
    for (from, others) in [(0, 0), (1 + OTHERS, OTHERS)] {
        let place = miss(&site.pods[0], from, others);
        let before = site.spent();
        let mut took: Vec<Duration> = (0..TRIES).map(|_| catch_up(&place, &site.pods[1])).collect();
        let redis = (site.spent().redis - before.redis) / u32::try_from(TRIES).unwrap();
        let [middle, longest] = [0.5, 1.0].map(|share| percentile(&mut took, share));
        println!(
            "  {ENTRIES} entries among those of about {} other commands: {middle:.1} ms, longest of {TRIES} \
             {longest:.1} ms; processor of Redis {:.1} ms",
            MISSED * others,
            redis.as_secs_f64() * 1e3
        );
    }
}

/// Sockets of the process that is killed.
const SOCKETS: usize = 10_000;

/// Clients that connect at the same time.
const AT_ONCE: usize = 64;

/// Opens a socket, and sends its first request.
fn open(at: &Process, n: usize) -> (Socket, Place) {
    let (mut socket, mut place, mut scratch) =
        (Socket::connect(at.clients), Place::default(), vec![0; 4096]);
    let mut text = String::new();
    echo(&mut text, &Wanted { number: n as u64, slot: 0, round: 0 });
    run(&mut socket, &mut scratch, &text, |message| place.note(message));
    (socket, place)
}

/// Does something for each of them, so many at once.
fn beside<T: Send, R: Send>(all: Vec<T>, each: impl Fn(usize, T) -> R + Sync) -> Vec<R> {
    let mut parts: Vec<Vec<(usize, T)>> = (0..AT_ONCE).map(|_| Vec::new()).collect();
    for (n, one) in all.into_iter().enumerate() {
        parts[n % AT_ONCE].push((n, one));
    }
    let each = &each;
    std::thread::scope(|scope| {
        let works = parts.into_iter().map(|part| {
            scope.spawn(move || part.into_iter().map(|(n, one)| each(n, one)).collect::<Vec<_>>())
        });
        let works: Vec<_> = works.collect();
        works.into_iter().flat_map(|work| work.join().unwrap()).collect()
    })
}

/// Ten thousand clients whose process is killed. All come back at once.
pub fn homeless() {
    println!("target: {SOCKETS} sockets in 10 s");
    let most = rlimit::increase_nofile_limit(u64::MAX).unwrap_or_default();
    let sockets = SOCKETS.min(usize::try_from(most).unwrap_or(usize::MAX) * 3 / 5);
    for others in [0, 50_000] {
        let mut site = Site::start(3, quick_world(Script::Stock, 2), OTHERS);
        let pod = &site.pods[0];
        let (empty, began) = (pod.resident(), Instant::now());
        let opened = beside((0..sockets).collect(), |n, _| open(pod, n));
        println!(
            "  {sockets} sockets opened in {:.2} s, {:.0} bytes of the process each",
            began.elapsed().as_secs_f64(),
            (pod.resident() - empty) as f64 / sockets as f64
        );
        if others > 0 {
            let mut load = Load::spread(&[&site.pods[1]], OTHERS);
            let until = Until::Done(others / 7);
            load.closed(1, until, &mut hold(0), &mut |_, _| ());
        }
        let killed = site.pods.remove(0);
        let before = site.spent();
        let began = Instant::now();
        // It is killed with SIGKILL.
        drop(killed);
        let places: Vec<Place> = opened.into_iter().map(|(_, place)| place).collect();
        let back = beside(places, |n, place| {
            let mut socket = Socket::connect(site.pods[n % 2].clients);
            place.resume(&mut socket);
            (socket, began.elapsed())
        });
        let mut took: Vec<Duration> = back.iter().map(|(_, took)| *took).collect();
        let [half, all] = [0.5, 1.0].map(|share| percentile(&mut took, share) / 1e3);
        let after = site.spent();
        println!(
            "  all connected and resumed in {all:.2} s (half of them in {half:.2} s), with {others} \
             entries of others meanwhile; each:"
        );
        before.print(&after, sockets as u64);
    }
}
