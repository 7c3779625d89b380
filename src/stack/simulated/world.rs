//! The simulated OpenSIPS and its phones as one value in virtual time.
//!
//! No socket, no clock, no thread, no randomness but the seed's: whoever holds a [`World`] says
//! what time it is, hands requests in and takes outputs out. The same seed, configuration and
//! inputs give the same outputs.
//!
//! ```
//! use std::time::Duration;
//! use callplane::stack::mi::MiRequest;
//! use callplane::stack::simulated::{Asker, Output, World, WorldConfig};
//!
//! let mut world = World::new(1, WorldConfig::default());
//! let now = Duration::ZERO;
//! world.request(now, Asker::process(7), &MiRequest::new("uptime"));
//! assert!(matches!(world.take(), Some(Output::Answer { .. })));
//! world.place_call(now, "alice", "bob").unwrap();
//! while let Some(due) = world.due().filter(|due| *due < Duration::from_secs(5)) {
//!     world.advance(due);
//! }
//! assert_eq!(world.calls()[0].state, 4);
//! ```

use std::cmp::Ordering;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::cache::Cache;
use super::commands::Asker;
use super::config::{Script, WorldConfig};
use super::dialogs::{CallKey, Calls, Leg, Party, Setup, Side, State};
use super::events::{self, Subscriptions};
use super::faults::Faults;
use super::phones::Phone;
use super::random::Random;
use super::sip_text;
use super::transfer::Refer;
use crate::stack::mi::{MiAnswer, MiEvent};

/// What leaves the world.
#[derive(Debug, Clone)]
pub enum Output {
    /// An answer for whoever asked.
    Answer {
        /// Who asked.
        asker: Asker,
        /// What is said.
        answer: MiAnswer,
    },
    /// A reply in plain text, without id (`400 Parse_error`).
    Plain {
        /// Who sent it.
        ticket: u64,
        /// The text.
        text: &'static str,
    },
    /// An event for one subscriber.
    Event {
        /// The socket as subscribed, e.g. `udp:127.0.0.1:22200`.
        socket: Arc<str>,
        /// The event.
        event: Arc<MiEvent>,
    },
    /// The process died or is restarting: sockets close, nothing is answered.
    Down,
    /// The process is there again.
    Up,
}

/// What happens at some later time.
#[derive(Debug, Clone)]
pub(super) enum Task {
    /// The INVITE reaches the script.
    Invite(CallKey),
    /// The callee's 180 reaches the proxy.
    Ring(CallKey),
    /// The callee's final answer reaches the proxy.
    Answered(CallKey, u16),
    /// Nobody has answered the INVITE at all.
    InviteSilent(CallKey),
    /// The callee rings for too long.
    InviteTooLong(CallKey),
    /// The callee reacts to a CANCEL.
    Cancelled(CallKey),
    /// The ACK passes the proxy.
    Ack(CallKey),
    /// A challenged phone sends its INVITE again, with credentials.
    InviteAgain(CallKey),
    /// A phone hangs up.
    HangUp(CallKey, Side),
    /// A BYE reaches a phone.
    Bye(CallKey, Side),
    /// An ended dialog leaves the table.
    Forget(CallKey),
    /// A REFER reaches a phone, is answered, is not answered, is obeyed.
    ReferArrives(Box<Refer>),
    ReferAnswered(Box<Refer>, u16),
    ReferUnanswered(Box<Refer>),
    Follow(Box<Refer>),
    /// A NOTIFY of this phone reaches the proxy.
    Notify(CallKey, Side, String),
    /// A request in a call reaches a phone, is answered, is not answered.
    RequestArrives(Box<super::hold::InCall>),
    RequestAnswered(Box<super::hold::InCall>, u16),
    RequestUnanswered(Box<super::hold::InCall>),
    /// A delayed answer or event leaves.
    Send(Box<Output>),
    /// The process starts again.
    Boot,
}

#[derive(Debug, Clone)]
struct Scheduled {
    at: Duration,
    seq: u64,
    boot: u64,
    task: Task,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, so that it is on top of the heap.
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (other.at, other.seq).cmp(&(self.at, self.seq))
    }
}

/// The simulated OpenSIPS and its phones.
#[derive(Debug, Clone)]
pub struct World {
    pub(super) config: WorldConfig,
    pub(super) random: Random,
    pub(super) now: Duration,
    /// When the process started, and for the how manieth time.
    pub(super) since: Duration,
    boot: u64,
    up: bool,
    queue: BinaryHeap<Scheduled>,
    seq: u64,
    pub(super) phones: Vec<Phone>,
    phone_by_name: HashMap<String, usize>,
    pub(super) calls: Calls,
    pub(super) subscriptions: Subscriptions,
    pub(super) cache: Cache,
    /// When which dialog times out. Apart from the queue: most calls end long before.
    timeouts: BTreeSet<(Duration, CallKey)>,
    faults: Faults,
    outputs: VecDeque<Output>,
    pub(super) witness: Option<Vec<super::witness::Saw>>,
    /// The part of `t_uac_dlg` tags that is the same for the life of the process.
    pub(super) uac_tag: String,
    pub(super) domain: Arc<str>,
    pub(super) callplane_socket: Arc<str>,
}

/// A phone as [`World::phones`] tells it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PhoneView {
    /// Its name.
    pub name: String,
    /// Its address.
    pub uri: String,
    /// It can be called.
    pub registered: bool,
    /// Calls that ring at it or are up, by Call-ID.
    pub calls: Vec<String>,
    /// What it does.
    pub behaviour: super::phones::Behaviour,
}

/// A call as [`World::calls`] tells it: the proxy's view and that of the two phones.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct CallView {
    /// Its Call-ID.
    pub callid: String,
    /// Dialog id; empty if the proxy has no dialog.
    pub dialog: String,
    /// Dialog state 1 to 5; 0 if the proxy has no dialog.
    pub state: u8,
    /// Who called.
    pub from: String,
    /// Who was called.
    pub to: String,
    /// The tag of the caller's end.
    pub caller_tag: String,
    /// The tag of the callee's end; empty until a phone has the call.
    pub callee_tag: String,
    /// The caller's phone has it up.
    pub caller_up: bool,
    /// The callee's phone has it up.
    pub callee_up: bool,
    /// The media direction last offered to the caller's phone.
    pub caller_offered: super::sip_text::Direction,
    /// The media direction last offered to the callee's phone.
    pub callee_offered: super::sip_text::Direction,
}

impl World {
    /// A world at virtual time zero.
    pub fn new(seed: u64, config: WorldConfig) -> World {
        let mut random = Random::new(seed);
        let epoch = config.unix_epoch;
        let phones: Vec<Phone> = config
            .phones
            .iter()
            .map(|p| Phone::new(p.clone(), &config.domain, epoch, random.next()))
            .collect();
        let phone_by_name = phones.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        let uac_tag = format!("{}{}", random.hex(16), random.hex(16));
        let mut world = World {
            subscriptions: Subscriptions::new(config.version, config.script),
            domain: config.domain.as_str().into(),
            callplane_socket: config.callplane_socket.as_str().into(),
            config,
            random,
            now: Duration::ZERO,
            since: Duration::ZERO,
            boot: 0,
            up: true,
            queue: BinaryHeap::new(),
            seq: 0,
            phones,
            phone_by_name,
            calls: Calls::default(),
            cache: Cache::default(),
            timeouts: BTreeSet::new(),
            faults: Faults::default(),
            outputs: VecDeque::new(),
            witness: None,
            uac_tag,
        };
        world.fill_cache();
        world
    }

    /// The configuration.
    pub fn config(&self) -> &WorldConfig {
        &self.config
    }

    /// The process is there.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// When something will happen by itself; `None`: never.
    pub fn due(&self) -> Option<Duration> {
        let queued = self.queue.peek().map(|s| s.at);
        let timeout = self.timeouts.first().map(|(at, _)| *at);
        match (queued, timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Lets everything happen that is due at `now`, in order. Time never goes back.
    pub fn advance(&mut self, now: Duration) {
        while let Some(due) = self.due().filter(|due| *due <= now) {
            self.now = self.now.max(due);
            let expired = self.timeouts.first().copied().filter(|(at, _)| *at <= due);
            if let Some(expired) = expired {
                self.timeouts.remove(&expired);
                self.dialog_expires(expired.1);
                continue;
            }
            let Some(next) = self.queue.pop() else { break };
            let of_this_process = next.boot == self.boot && self.up;
            if of_this_process || matches!(next.task, Task::Boot | Task::HangUp(..)) {
                self.perform(next.task);
            }
        }
        self.now = self.now.max(now);
    }

    /// The next output, oldest first.
    pub fn take(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The knobs that make the network and the process bad.
    pub fn faults(&mut self) -> &mut Faults {
        &mut self.faults
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Invite(key) => self.invite_arrives(key),
            Task::Ring(key) => self.rings(key),
            Task::Answered(key, code) => self.phone_answers(key, code),
            Task::InviteSilent(key) => self.invite_silent(key),
            Task::InviteTooLong(key) => self.invite_too_long(key),
            Task::Cancelled(key) => self.cancelled(key),
            Task::Ack(key) => self.acked(key),
            Task::InviteAgain(key) => self.invite_again(key),
            Task::HangUp(key, side) => self.phone_hangs_up(key, side),
            Task::Bye(key, side) => self.bye_arrives(key, side),
            Task::Forget(key) => self.calls.drop_dialog(key),
            Task::ReferArrives(refer) => self.refer_arrives(refer),
            Task::ReferAnswered(refer, code) => self.refer_answered(refer, code),
            Task::ReferUnanswered(refer) => self.refer_unanswered(&refer),
            Task::Follow(refer) => self.follow(&refer),
            Task::Notify(key, side, body) => self.notified(key, side, &body),
            Task::RequestArrives(request) => self.request_arrives(request),
            Task::RequestAnswered(request, code) => self.request_answered(&request, code),
            Task::RequestUnanswered(request) => self.request_unanswered(&request),
            Task::Send(output) => self.outputs.push_back(*output),
            Task::Boot => self.boot(),
        }
    }

    pub(super) fn later(&mut self, after: Duration, task: Task) {
        self.seq += 1;
        self.queue.push(Scheduled {
            at: self.now.saturating_add(after),
            seq: self.seq,
            boot: self.boot,
            task,
        });
    }

    pub(super) fn hop(&self) -> Duration {
        self.config.hop
    }

    /// The wall clock, seconds since 1970.
    pub(super) fn unix(&self) -> u64 {
        self.config.unix_epoch + self.now.as_secs()
    }

    pub(super) fn reference(&self) -> bool {
        match self.config.script {
            Script::Reference => true,
            Script::Stock => false,
        }
    }

    /// Whether what is sent to this URI comes to the proxy itself: its domain, which is taken to
    /// lead there, or its other socket.
    pub(super) fn is_own(&self, uri: &str) -> bool {
        sip_text::host(uri).is_some_and(|host| {
            [&self.domain, &self.callplane_socket]
                .into_iter()
                .any(|own| sip_text::is_same_place(host, own))
        })
    }

    pub(super) fn phone_number(&self, name: &str) -> Option<usize> {
        self.phone_by_name.get(name).copied()
    }

    pub(super) fn party_phone(&self, party: Party) -> Option<&Phone> {
        match party {
            Party::Phone(i) => self.phones.get(i),
            Party::Uac | Party::Nobody => None,
        }
    }

    /// Sends an answer, unless the network loses it.
    pub(super) fn answer(&mut self, asker: Asker, answer: MiAnswer) {
        if !asker.wants_answer || self.faults.loses_reply(&mut self.random) {
            return;
        }
        let delay = self.faults.reply_delay(&mut self.random);
        self.send(delay, Output::Answer { asker, answer });
    }

    pub(super) fn answer_plain(&mut self, ticket: u64, text: &'static str) {
        if !self.faults.loses_reply(&mut self.random) {
            let delay = self.faults.reply_delay(&mut self.random);
            self.send(delay, Output::Plain { ticket, text });
        }
    }

    /// True if this request gets lost on its way to the process, or the process is not there.
    pub(super) fn loses_request(&mut self) -> bool {
        !self.up || self.faults.silent || self.faults.loses_request(&mut self.random)
    }

    fn send(&mut self, delay: Duration, output: Output) {
        if delay.is_zero() {
            self.outputs.push_back(output);
        } else {
            self.later(delay, Task::Send(Box::new(output)));
        }
    }

    /// Raises an event: one datagram for each subscriber, each with its own fate.
    pub(super) fn raise(&mut self, event: MiEvent) {
        let now = self.unix();
        let shared = Arc::new(event);
        let mut sends: Vec<(Arc<str>, Arc<MiEvent>)> = Vec::new();
        for (socket, method) in self.subscriptions.receivers(&shared.name, now) {
            let event = match method {
                Some(name) => {
                    Arc::new(MiEvent { name: name.clone().into(), params: shared.params.clone() })
                }
                None => Arc::clone(&shared),
            };
            sends.push((socket.clone(), event));
        }
        for (socket, event) in sends {
            if self.faults.silent || self.faults.loses_event(&mut self.random) {
                continue;
            }
            let copies = 1 + u8::from(self.faults.doubles_event(&mut self.random));
            for _ in 0..copies {
                let delay = self.faults.event_delay(&mut self.random);
                let (socket, event) = (socket.clone(), event.clone());
                self.send(delay, Output::Event { socket, event });
            }
        }
    }

    /// Sets a dialog's state and says so.
    pub(super) fn set_state(&mut self, key: CallKey, state: State) {
        let (now, timeout) = (self.unix(), self.timeout_of(key));
        let Some(call) = self.calls.get_mut(key) else { return };
        let Some(dialog) = call.dialog.as_mut() else { return };
        let old = dialog.state;
        if old == state {
            return;
        }
        dialog.state = state;
        match state {
            State::Unconfirmed | State::Early => {}
            State::Answered | State::Confirmed => {
                if dialog.started == 0 {
                    dialog.started = now;
                    dialog.times_out = now + timeout.as_secs();
                    dialog.ends_at = self.now.saturating_add(timeout);
                    self.timeouts.insert((dialog.ends_at, key));
                }
            }
            State::Deleted => {
                dialog.times_out = 0;
                self.timeouts.remove(&(dialog.ends_at, key));
            }
        }
        let event = match call.dialog.as_ref() {
            Some(dialog) => events::state_changed(call, dialog, old),
            None => return,
        };
        self.raise(event);
        if state == State::Deleted {
            self.later(self.config.linger, Task::Forget(key));
        }
    }

    /// How long this dialog may last.
    pub(super) fn timeout_of(&self, key: CallKey) -> Duration {
        let setup =
            self.reference() && self.calls.get(key).is_some_and(|c| c.callid.starts_with("cp-"));
        if setup { self.config.dead_man } else { self.config.dialog_timeout }
    }

    /// The process dies now and, if `back_after` says so, starts again.
    pub fn restart(&mut self, now: Duration, back_after: Option<Duration>) {
        self.advance(now);
        self.go_down(back_after);
    }

    fn go_down(&mut self, back_after: Option<Duration>) {
        if !self.up {
            return;
        }
        self.up = false;
        self.boot += 1;
        self.outputs.push_back(Output::Down);
        self.subscriptions.clear();
        self.cache.clear();
        self.timeouts.clear();
        let persists = self.config.persist_dialogs;
        for key in self.calls.keys() {
            let Some(call) = self.calls.get_mut(key) else { continue };
            match call.setup {
                Setup::Calling | Setup::Ringing | Setup::Cancelling => {
                    call.setup = Setup::Failed;
                    call.caller.leg = Leg::Over;
                    call.callee.leg = Leg::Over;
                }
                Setup::Answered | Setup::Failed => {}
            }
            for end in [&mut call.caller, &mut call.callee] {
                // What the proxy itself held up is gone with it.
                if end.party == Party::Uac {
                    end.leg = Leg::Over;
                }
            }
            let live = call.state().is_some_and(|s| s == State::Confirmed || s == State::Answered);
            if let Some(uac) = call.uac.as_mut() {
                uac.asker = None;
            }
            if !(persists && live) {
                self.calls.drop_dialog(key);
            }
        }
        if !self.config.phones_register_again {
            self.phones.iter_mut().for_each(|p| p.registered = false);
        }
        if let Some(after) = back_after {
            self.later(after, Task::Boot);
        }
    }

    /// The process crashes, and comes back if it is supervised.
    pub(super) fn crash(&mut self) {
        self.go_down(self.config.supervised);
    }

    /// Starts the process if it is not there.
    pub fn start(&mut self, now: Duration) {
        self.advance(now);
        self.boot();
    }

    fn boot(&mut self) {
        if self.up {
            return;
        }
        self.up = true;
        self.since = self.now;
        self.uac_tag = format!("{}{}", self.random.hex(16), self.random.hex(16));
        self.fill_cache();
        // Persisted dialogs time out as before.
        let persisted =
            self.calls.iter().filter_map(|(k, c)| Some((c.dialog.as_ref()?.ends_at, k)));
        self.timeouts = persisted.collect();
        self.outputs.push_back(Output::Up);
    }

    /// Every phone, in the order of the configuration.
    pub fn phones(&self) -> Vec<PhoneView> {
        let mut views: Vec<PhoneView> = self
            .phones
            .iter()
            .map(|p| PhoneView {
                name: p.name.clone(),
                uri: p.aor.clone(),
                registered: p.registered,
                calls: Vec::new(),
                behaviour: p.behaviour.clone(),
            })
            .collect();
        for (_, call) in self.calls.iter() {
            for end in [&call.caller, &call.callee] {
                if let (Party::Phone(i), Leg::Ringing | Leg::Up) = (end.party, end.leg)
                    && let Some(view) = views.get_mut(i)
                {
                    view.calls.push(call.callid.to_string());
                }
            }
        }
        views
    }

    /// Every call the proxy or a phone knows of, oldest first.
    pub fn calls(&self) -> Vec<CallView> {
        self.calls
            .iter()
            .map(|(_, c)| CallView {
                callid: c.callid.to_string(),
                dialog: c.dialog.as_ref().map(|d| d.id.to_string()).unwrap_or_default(),
                state: c.state().map_or(0, |s| s as u8),
                from: c.from_uri.to_string(),
                to: c.to_uri.to_string(),
                caller_tag: c.caller.tag.clone(),
                callee_tag: c.callee.tag.clone(),
                caller_up: c.caller.leg == Leg::Up,
                callee_up: c.callee.leg == Leg::Up,
                caller_offered: c.caller.offered,
                callee_offered: c.callee.offered,
            })
            .collect()
    }
}
