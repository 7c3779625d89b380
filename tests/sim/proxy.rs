//! The SIP proxies with their phones, and each process's way to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use callplane::stack::mi::{Mi, MiAnswer, MiEvent, MiFailure, MiRequest, PlainReply};
use callplane::stack::opensips::sink::HandFeed;
use callplane::stack::simulated::witness::Seen;
use callplane::stack::simulated::{Asker, Output, World};

use super::bug::Bug;
use super::executor::{Answer, Executor, Group, WORLD};
use super::history::{Fault, What};
use super::network::{Network, Place};
use super::random::Random;
use super::record::Recorder;

type Told = Result<MiAnswer, MiFailure>;

/// One proxy.
pub struct Proxy {
    pub number: usize,
    executor: Executor,
    network: Arc<Network>,
    recorder: Arc<Recorder>,
    bug: Option<Bug>,
    state: Mutex<State>,
    due: AtomicU64,
    /// Where events go, by the subscribed socket.
    sinks: Mutex<BTreeMap<String, Sink>>,
}

struct State {
    world: World,
    tickets: u64,
    asking: BTreeMap<u64, Asking>,
    random: Random,
}

struct Asking {
    pod: usize,
    answer: Answer<Told>,
}

struct Sink {
    pod: usize,
    group: Group,
    feed: HandFeed,
}

impl Proxy {
    pub fn new(
        number: usize,
        world: World,
        executor: Executor,
        network: Arc<Network>,
        recorder: Arc<Recorder>,
        bug: Option<Bug>,
        random: Random,
    ) -> Arc<Self> {
        let state = State { world, tickets: 0, asking: BTreeMap::new(), random };
        let (state, sinks, due) = (Mutex::new(state), Mutex::default(), AtomicU64::new(u64::MAX));
        Arc::new(Self { number, executor, network, recorder, bug, state, due, sinks })
    }

    /// Looks at or changes the world.
    pub fn with<R>(&self, change: impl FnOnce(&mut World, Duration) -> R) -> R {
        let mut state = self.state.lock().unwrap();
        let now = self.executor.now();
        let result = change(&mut state.world, now);
        self.hand_on(&mut state);
        result
    }

    /// When something happens by itself, in microseconds; never: the greatest.
    pub fn due(&self) -> u64 {
        self.due.load(Ordering::Relaxed)
    }

    pub fn advance(&self) {
        self.with(|world, now| world.advance(now));
    }

    pub fn restart(&self, down: Duration) {
        let until = u64::try_from((self.executor.now() + down).as_millis()).unwrap();
        let kind = Fault::Restart { stack: self.number };
        self.recorder.note(What::Fault { kind, until });
        self.with(|world, now| world.restart(now, Some(down)));
    }

    /// Events for this socket go there.
    pub fn listen(&self, socket: &str, pod: usize, group: Group, feed: HandFeed) {
        self.sinks.lock().unwrap().insert(socket.to_owned(), Sink { pod, group, feed });
    }

    pub fn forget(&self, socket: &str) {
        self.sinks.lock().unwrap().remove(socket);
    }

    fn hand_on(&self, state: &mut State) {
        let due = state.world.due().map_or(u64::MAX, |due| {
            // Never before it is due.
            u64::try_from(due.as_nanos().div_ceil(1000)).unwrap()
        });
        self.due.store(due, Ordering::Relaxed);
        let here = Place::Stack(self.number);
        let mut written = None;
        while let Some(output) = state.world.take() {
            let (ticket, told) = match output {
                Output::Answer { asker, answer } => (asker.ticket, Ok(answer)),
                Output::Plain { ticket, text } => (ticket, Err(MiFailure::Plain(plain(text)))),
                Output::Event { socket, event } => {
                    self.send_event(&socket, event, &mut written);
                    continue;
                }
                Output::Down | Output::Up => continue,
            };
            let Some(Asking { pod, answer }) = state.asking.remove(&ticket) else { continue };
            if self.bug == Some(Bug::DeafToAnswers) && state.random.percent(5) {
                continue;
            }
            if let Some(wait) = self.network.send(here, Place::Pod(pod)).first {
                self.executor.after(wait, WORLD, move || answer.give(told));
            }
        }
        for saw in state.world.take_seen() {
            let (stack, call) = (self.number, saw.call);
            self.recorder.note(match saw.what {
                Seen::Invite { phone, from, asked, by_proxy } => {
                    What::Invite { stack, call, phone, from, asked, by_proxy }
                }
                Seen::Refer { phone, to } => What::Refer { stack, call, phone, to },
                Seen::Up => What::Up { stack, call },
                Seen::EndedByProxy => What::EndedByProxy { stack, call },
                Seen::EndedByPhone => What::EndedByPhone { stack, call },
            });
        }
    }

    fn draws(&self, percent: u64) -> bool {
        self.state.lock().unwrap().random.percent(percent)
    }

    /// An event goes to each process; it is written once.
    fn send_event(
        &self,
        socket: &str,
        event: Arc<MiEvent>,
        written: &mut Option<(Arc<MiEvent>, Bytes)>,
    ) {
        let sinks = self.sinks.lock().unwrap();
        let Some(sink) = sinks.get(socket) else { return };
        let text = match written {
            Some((last, text)) if Arc::ptr_eq(last, &event) => text.clone(),
            _ => {
                let mut text = String::with_capacity(256);
                event.encode(&mut text);
                let text = Bytes::from(text);
                *written = Some((event, text.clone()));
                text
            }
        };
        let fate = self.network.send(Place::Stack(self.number), Place::Pod(sink.pod));
        for wait in fate.first.into_iter().chain(fate.double) {
            let (feed, text) = (sink.feed.clone(), text.clone());
            self.executor.after(wait, sink.group, move || feed.feed(text));
        }
    }

    fn request(&self, pod: usize, request: &MiRequest, answer: Answer<Told>) {
        let mut state = self.state.lock().unwrap();
        let now = self.executor.now();
        state.world.advance(now);
        if !state.world.is_up() {
            self.hand_on(&mut state);
            drop(state);
            if let Some(wait) = self.network.send(Place::Stack(self.number), Place::Pod(pod)).first
            {
                let refused = Err(MiFailure::NotSent { reason: "refused" });
                self.executor.after(wait, WORLD, move || answer.give(refused));
            }
            return;
        }
        let twice = match self.bug {
            Some(Bug::SecondRefer) => asks_for(request, "REFER"),
            Some(Bug::SecondInvite) => asks_for(request, "INVITE") && state.random.percent(20),
            Some(_) | None => false,
        };
        if self.bug == Some(Bug::LeavesLegs) && ends_setup_leg(&state.world, request) {
            drop(state);
            return answer.give(Ok(MiAnswer::Result("OK".into())));
        }
        for _ in 0..1 + usize::from(twice) {
            state.tickets += 1;
            let ticket = state.tickets;
            state.asking.insert(ticket, Asking { pod, answer: answer.clone() });
            state.world.request(now, Asker::process(ticket), request);
        }
        self.hand_on(&mut state);
    }
}

fn plain(text: &str) -> PlainReply {
    let (code, reason) = text.split_once(' ').unwrap_or(("500", text));
    PlainReply { code: code.parse().unwrap_or(500), reason: reason.to_owned() }
}

fn asks_for(request: &MiRequest, method: &str) -> bool {
    request.params.text("method") == Some(method)
}

fn ends_setup_leg(world: &World, request: &MiRequest) -> bool {
    let Some(dialog) = request.params.text("dialog_id") else { return false };
    request.method == "dlg_end_dlg"
        && world.calls().iter().any(|call| {
            call.callid.starts_with("cp-") && (call.dialog == dialog || call.callid == dialog)
        })
}

/// One process's way to one proxy.
#[derive(Clone)]
pub struct Line {
    pub proxy: Arc<Proxy>,
    pub pod: usize,
}

impl Mi for Line {
    async fn call(&self, request: MiRequest, timeout: Duration) -> Result<MiAnswer, MiFailure> {
        let answer = Answer::new();
        let proxy = &self.proxy;
        let way = proxy.network.send(Place::Pod(self.pod), Place::Stack(proxy.number));
        let sends = asks_for(&request, "INVITE");
        if let Some(wait) = way.first {
            let (line, answer) = (self.clone(), answer.clone());
            proxy.executor.after(wait, WORLD, move || {
                line.proxy.request(line.pod, &request, answer);
            });
        }
        if proxy.bug == Some(Bug::DeniesSending) && sends && proxy.draws(20) {
            return Err(MiFailure::NotSent { reason: "refused" });
        }
        let mut patience = proxy.executor.sleep(timeout);
        std::future::poll_fn(|context| {
            if let Poll::Ready(told) = answer.poll_take(context) {
                return Poll::Ready(told);
            }
            std::pin::Pin::new(&mut patience).poll(context).map(|()| Err(MiFailure::Silent))
        })
        .await
    }
}
