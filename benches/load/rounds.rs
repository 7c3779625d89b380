//! The loops that load a server: closed (so many commands under way) and paced (so many a
//! second). Both spin over their sockets on one core, so that nothing is late for waiting.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::figures::Figures;
use super::process::Process;
use super::socket::{Socket, scratch};

/// Commands whose `Ended` does not come in this time never end.
const PATIENCE: Duration = Duration::from_secs(20);

/// More than are ever under way; a power of two.
const MOST: usize = 1 << 16;

/// A command to be asked. Its number is its `cmd_id`.
pub struct Wanted {
    /// Counts up over all commands.
    pub number: u64,
    /// Which of the commands that are under way at a time.
    pub slot: usize,
    /// How many this slot has asked before.
    pub round: u64,
}

/// Writes a request.
pub type Ask<'a> = &'a mut dyn FnMut(&mut String, &Wanted);

#[derive(Clone, Copy)]
struct Open {
    number: u64,
    slot: usize,
    round: u64,
    since: Instant,
}

/// How long a closed loop runs.
#[derive(Clone, Copy)]
pub enum Until {
    /// So long, after warming up for a while.
    Elapsed { warm_up: Duration, run: Duration },
    /// So many commands.
    Done(u64),
}

/// How fast a paced loop runs, and how long.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Commands a second.
    pub a_second: u32,
    /// Commands in all.
    pub commands: u32,
}

/// What a loop does while nothing comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Idle {
    /// It spins: its core is its own, or shared with who plays the stack.
    Spin,
    /// It sleeps a little: the servers want every core.
    Sleep,
}

/// How long a loop sleeps that shares the cores with the servers.
const NAP: Duration = Duration::from_micros(50);

/// Sockets, and what is under way on them.
pub struct Load<'a> {
    servers: Vec<&'a Process>,
    idle: Idle,
    sockets: Vec<Socket>,
    scratch: Vec<u8>,
    text: String,
    next: u64,
    open: Vec<Option<Open>>,
    under_way: usize,
    ended: Vec<(Open, bool)>,
}

impl<'a> Load<'a> {
    /// So many sockets to a server.
    pub fn connect(server: &'a Process, sockets: usize) -> Self {
        Self::of(vec![server], sockets, Idle::Spin)
    }

    /// So many sockets, each at the next one of servers that use every core.
    pub fn spread(servers: &[&'a Process], sockets: usize) -> Self {
        Self::of(servers.to_vec(), sockets, Idle::Sleep)
    }

    fn of(servers: Vec<&'a Process>, sockets: usize, idle: Idle) -> Self {
        let places = servers.iter().cycle().take(sockets);
        Self {
            sockets: places.map(|server| Socket::connect(server.clients)).collect(),
            servers,
            idle,
            scratch: scratch(),
            text: String::new(),
            next: 0,
            open: vec![None; MOST],
            under_way: 0,
            ended: Vec::new(),
        }
    }

    /// How many commands were asked so far.
    pub fn asked(&self) -> u64 {
        self.next
    }

    /// Processor time of the servers so far.
    fn cpu(&self) -> Duration {
        self.servers.iter().map(|server| server.cpu()).sum()
    }

    fn ask(&mut self, slot: usize, round: u64, since: Instant, ask: Ask<'_>) {
        let number = self.next;
        self.next += 1;
        self.text.clear();
        ask(&mut self.text, &Wanted { number, slot, round });
        let sockets = self.sockets.len();
        self.sockets[slot % sockets].queue(&self.text);
        let place = &mut self.open[usize::try_from(number).unwrap() % MOST];
        assert!(place.is_none(), "a command has not ended while {MOST} others were asked");
        *place = Some(Open { number, slot, round, since });
        self.under_way += 1;
    }

    /// Sends what waits and takes what came. What ended is in `ended` then.
    fn turn(&mut self, figures: &mut Figures) {
        let mut any = false;
        for socket in &mut self.sockets {
            socket.send();
            any |= socket.receive(&mut self.scratch, |message| {
                figures.messages += 1;
                if figures.complaint.is_none() && complains(message) {
                    figures.complaint = Some(String::from_utf8_lossy(message).into_owned());
                }
                let Some((number, ended)) = told(message) else { return };
                let place = &mut self.open[usize::try_from(number).unwrap() % MOST];
                let Some(open) = place.take_if(|open| open.number == number) else {
                    // A refusal may hide a command that began.
                    assert!(
                        figures.complaint.is_some(),
                        "an end of something that is not under way"
                    );
                    return;
                };
                self.under_way -= 1;
                self.ended.push((open, ended));
            });
        }
        if !any {
            match self.idle {
                // Whatever plays the stack may run on this core too.
                Idle::Spin => std::thread::yield_now(),
                Idle::Sleep => std::thread::sleep(NAP),
            }
        }
    }

    /// Keeps so many commands under way on each socket. `watch` is told about every second how
    /// many are done.
    pub fn closed(
        &mut self,
        in_flight: usize,
        until: Until,
        ask: Ask<'_>,
        watch: &mut dyn FnMut(Duration, u64),
    ) -> Figures {
        let mut figures = Figures::default();
        let began = Instant::now();
        for slot in 0..self.sockets.len() * in_flight {
            self.ask(slot, 0, began, ask);
        }
        if let Until::Elapsed { warm_up, .. } = until {
            while began.elapsed() < warm_up {
                self.turn(&mut figures);
                self.again(Instant::now(), ask, &mut figures);
            }
            figures = Figures::default();
        }
        let (began, cpu) = (Instant::now(), self.cpu());
        let mut looked = began;
        loop {
            self.turn(&mut figures);
            let now = Instant::now();
            let over = match until {
                Until::Elapsed { run, .. } => now - began >= run,
                Until::Done(commands) => figures.commands >= commands,
            };
            if over {
                break;
            }
            self.again(now, ask, &mut figures);
            if now - looked >= Duration::from_secs(1) {
                looked = now;
                watch(now - began, figures.commands);
            }
        }
        figures.took = began.elapsed();
        figures.cpu = self.cpu() - cpu;
        self.drain();
        figures
    }

    /// Counts what ended, and asks the next of each.
    fn again(&mut self, now: Instant, ask: Ask<'_>, figures: &mut Figures) {
        for (open, good) in std::mem::take(&mut self.ended) {
            count(figures, &open, good, now);
            self.ask(open.slot, open.round + 1, now, ask);
        }
    }

    /// Asks so many commands a second, as long as one of the slots is free. A command's time
    /// counts from when it was to be asked.
    pub fn paced(
        &mut self,
        pace: Pace,
        slots: usize,
        ask: Ask<'_>,
        watch: &mut dyn FnMut(Duration, u64),
    ) -> Figures {
        let mut figures = Figures::default();
        let gap = Duration::from_secs(1) / pace.a_second;
        let (began, cpu) = (Instant::now(), self.cpu());
        let mut looked = began;
        let mut free: VecDeque<(usize, u64)> = (0..slots).map(|slot| (slot, 0)).collect();
        let mut asked = 0_u32;
        while asked < pace.commands {
            let due = began + gap * asked;
            if due <= Instant::now()
                && let Some((slot, round)) = free.pop_front()
            {
                self.ask(slot, round, due, ask);
                asked += 1;
                continue;
            }
            self.turn(&mut figures);
            let now = Instant::now();
            for (open, good) in std::mem::take(&mut self.ended) {
                count(&mut figures, &open, good, now);
                free.push_back((open.slot, open.round + 1));
            }
            if now - looked >= Duration::from_secs(1) {
                looked = now;
                watch(now - began, figures.commands);
            }
        }
        figures.took = began.elapsed();
        figures.cpu = self.cpu() - cpu;
        self.drain();
        figures
    }

    fn drain(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.under_way > 0 {
            self.turn(&mut Figures::default());
            assert!(Instant::now() < deadline, "{} commands did not end", self.under_way);
        }
        self.ended.clear();
    }
}

fn count(figures: &mut Figures, open: &Open, good: bool, now: Instant) {
    figures.commands += 1;
    figures.failed += u64::from(!good);
    // A soak would fill the memory with them.
    if figures.latencies.len() < 4_000_000 {
        figures.latencies.push(now - open.since);
    }
}

/// What stands in the answer to a command that is refused.
const REFUSED: &[u8] = br#""error":{"code":-32"#;

/// Whether a message says that something went wrong.
fn complains(message: &[u8]) -> bool {
    find(message, br#""event":"Error""#).is_some() || find(message, REFUSED).is_some()
}

/// The number of the command that a message ends, and whether well; `None` for its other
/// messages.
fn told(message: &[u8]) -> Option<(u64, bool)> {
    let unexpected = || panic!("unexpected: {}", String::from_utf8_lossy(message));
    let name = br#""cmd_id":""#;
    let Some(at) = find(message, name) else { unexpected() };
    let after = &message[at + name.len()..];
    // Refused: its `cmd_id` may be that of the command in its way. The request has the same number.
    if find(message, REFUSED).is_some() {
        let id = br#""id":"#;
        let Some(at) = find(message, id) else { unexpected() };
        return Some((leading_number(&message[at + id.len()..]).0, false));
    }
    let (number, digits) = leading_number(after);
    let Some(event) = after[digits..].strip_prefix(br#"","event":""#) else { unexpected() };
    if !event.starts_with(b"Ended") {
        return None;
    }
    Some((number, find(event, br#""outcome":"success""#).is_some()))
}

/// The number that a text begins with, and how many digits it has.
fn leading_number(text: &[u8]) -> (u64, usize) {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (std::str::from_utf8(&text[..digits]).unwrap().parse().unwrap(), digits)
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// An Echo of ten bytes.
pub fn echo(text: &mut String, wanted: &Wanted) {
    let n = wanted.number;
    write!(
        text,
        r#"{{"jsonrpc":"2.0","id":{n},"method":"Echo","params":{{"cmd_id":"{n}","data":"0123456789"}}}}"#
    )
    .unwrap();
}

/// Holds the call of the slot, then takes it back, then holds it again. The slots' calls are
/// counted from this one.
pub fn hold(first: usize) -> impl FnMut(&mut String, &Wanted) {
    move |text, wanted| {
        let (n, call) = (wanted.number, first + wanted.slot);
        let method = if wanted.round.is_multiple_of(2) { "CallHold" } else { "CallUnhold" };
        write!(
            text,
            r#"{{"jsonrpc":"2.0","id":{n},"method":"{method}","params":{{"cmd_id":"{n}","callid":"call-{call}"}}}}"#
        )
        .unwrap();
    }
}
