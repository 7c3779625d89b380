//! A scripted SIP phone: UDP on loopback, one thread, no media.
//!
//! It registers, answers, refuses, calls, hangs up, obeys a REFER (RFC 3515) or not, honours
//! Replaces (RFC 3891) or not, answers re-INVITEs. Every reaction is a field of [`Behaviour`] and can
//! be changed at any time. It keeps every message, and notes what a real phone would choke on
//! ([`Phone::violations`]): CSeqs that don't grow, an ACK for another INVITE, a 2xx nobody ACKed, an
//! offer whose `o=` version doesn't grow.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::DEADLINE;
use super::sip::{Direction, Message, Sdp, address_uri, destination, parameter, reason, unescape};

/// RFC 3261 17.1.1.1: the first retransmission interval of a 2xx, and its cap.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);

/// What the phone reports of a call it was told to place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// 100, every provisional, the final status.
    All,
    Final,
    None,
}

/// What the phone does with an INVITE that has a Replaces header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces {
    /// RFC 3891: takes the call in place of the named one; 481 if that one is not up.
    Strict,
    /// As `Strict`, but an unknown dialog makes it an ordinary call.
    Lenient,
    /// Never heard of it: an ordinary call beside the old one.
    Ignored,
}

/// When the phone's user hangs up on a call that gets a REFER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUp {
    Never,
    /// BYE goes out while the REFER is pending.
    BeforeTheAnswer,
    /// BYE directly after the answer, before the new INVITE.
    AfterTheAnswer,
    /// BYE when the new call is up.
    WhenReferredIsUp,
}

/// How the phone reacts. `None` as a status means: no answer at all.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Reads everything, reacts to nothing: registered and gone.
    pub dead: bool,
    /// Sends 180 at once.
    pub ring: bool,
    /// Between the INVITE and its final answer.
    pub ring_for: Duration,
    /// The final answer to a new INVITE; `None` rings on.
    pub answer: Option<u16>,
    /// Header fields added to the final answer (Contact of a 302, a challenge...).
    pub answer_headers: Vec<(String, String)>,
    /// The answer to CANCEL's INVITE; 487 unless a race is wanted: 200 answers after the CANCEL.
    pub cancelled: u16,
    pub allow: Option<String>,
    pub refer: Option<u16>,
    pub refer_after: Duration,
    pub hang_up: HangUp,
    /// Places the call a REFER asks for.
    pub follow: bool,
    pub follow_after: Duration,
    /// Gives the referred call up this long after its INVITE.
    pub give_up_after: Option<Duration>,
    /// Copies URI parameters of Refer-To into the new Request-URI.
    pub copies_parameters: bool,
    /// Copies Referred-By into the new INVITE.
    pub copies_referred_by: bool,
    pub notify: Notify,
    /// The 100 NOTIFY goes out before the new INVITE.
    pub notify_early: bool,
    /// A sipfrag to send in place of the true one.
    pub notify_body: Option<String>,
    pub replaces: Replaces,
    pub reinvite: Option<u16>,
    pub reinvite_after: Duration,
    pub bye: Option<u16>,
    /// INFO, UPDATE, OPTIONS, NOTIFY, MESSAGE.
    pub other: Option<u16>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            dead: false,
            ring: true,
            ring_for: Duration::ZERO,
            answer: Some(200),
            answer_headers: Vec::new(),
            cancelled: 487,
            allow: Some(
                "INVITE, ACK, CANCEL, BYE, REFER, NOTIFY, INFO, UPDATE, OPTIONS".to_owned(),
            ),
            refer: Some(202),
            refer_after: Duration::ZERO,
            hang_up: HangUp::Never,
            follow: true,
            follow_after: Duration::ZERO,
            give_up_after: None,
            copies_parameters: true,
            copies_referred_by: true,
            notify: Notify::All,
            notify_early: true,
            notify_body: None,
            replaces: Replaces::Strict,
            reinvite: Some(200),
            reinvite_after: Duration::ZERO,
            bye: Some(200),
            other: Some(200),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Caller,
    Callee,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Early,
    Up,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    Us,
    Them,
    /// Never came up.
    Refused(u16),
}

/// One call as this phone sees it.
#[derive(Clone, Debug)]
pub struct Dialog {
    pub call_id: String,
    pub role: Role,
    pub phase: Phase,
    pub ended_by: Option<EndedBy>,
    pub local_uri: String,
    pub remote_uri: String,
    pub local_tag: String,
    pub remote_tag: Option<String>,
    /// The Call-ID of the call whose REFER this one obeys.
    pub referred_by_call: Option<String>,
    /// Every offer received, the first INVITE's included.
    pub offers: Vec<Sdp>,
    /// What this phone said last about its media.
    pub direction: Direction,
    target: String,
    routes: Vec<String>,
    local_cseq: u32,
    remote_cseq: u32,
    sdp_version: u64,
    branch: String,
    /// The INVITE that made this call, if it came in.
    invite: Option<Message>,
    /// The INVITE whose 2xx nobody has acknowledged yet.
    pub awaiting_ack: Option<u32>,
    cancelling: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

/// One message that the phone received or sent.
#[derive(Clone, Debug)]
pub struct Entry {
    pub at: Duration,
    pub way: Way,
    /// It was seen before, byte for byte the same transaction.
    pub again: bool,
    pub message: Message,
}

/// What waits for its time.
enum Todo {
    Answer { call_id: String, local_tag: String },
    Send { bytes: Vec<u8>, to: SocketAddr },
    Follow { call_id: String, refer: Box<Message> },
    AcceptReinvite { call_id: String, invite: Box<Message>, status: u16 },
    Cancel { call_id: String },
    HangUp { call_id: String },
    NotifyTrying { call_id: String },
    RepeatAnswer { call_id: String, cseq: u32, bytes: Vec<u8>, to: SocketAddr, wait: Duration },
}

/// What was answered, and where to; nothing for a phone that stays silent.
type Answer = Option<(Vec<u8>, SocketAddr)>;

struct State {
    behaviour: Behaviour,
    dialogs: Vec<Dialog>,
    log: Vec<Entry>,
    /// The answer to every request already handled, `None` for silence: retransmissions get the same.
    answered: HashMap<(String, String, u32), Answer>,
    timers: Vec<(Instant, Todo)>,
    registrations: u32,
    registered: bool,
    violations: Vec<String>,
}

struct Shared {
    user: String,
    address: SocketAddr,
    proxy: SocketAddr,
    /// What the phone's own address of record ends in: the proxy, as `host:port`.
    domain: String,
    socket: UdpSocket,
    born: Instant,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

/// A running phone; it stops when dropped.
pub struct Phone {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A piece of text that no other phone of this machine draws.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{:x}x{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Phone {
    /// A phone of `user` whose outbound proxy and domain is `proxy`. It is not registered yet.
    pub fn start(user: &str, proxy: SocketAddr) -> Phone {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback port");
        let address = socket.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            user: user.to_owned(),
            address,
            proxy,
            domain: proxy.to_string(),
            socket,
            born: Instant::now(),
            state: Mutex::new(State {
                behaviour: Behaviour::default(),
                dialogs: Vec::new(),
                log: Vec::new(),
                answered: HashMap::new(),
                timers: Vec::new(),
                registrations: 0,
                registered: false,
                violations: Vec::new(),
            }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("phone {user}"))
            .spawn(move || worker.run())
            .expect("a thread");
        Phone { shared, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// The address of record: what others call.
    pub fn aor(&self) -> String {
        self.shared.aor()
    }

    /// Where this very phone is.
    pub fn contact(&self) -> String {
        self.shared.contact()
    }

    /// Changes how the phone reacts from now on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.lock().behaviour);
    }

    /// Registers and waits for the 200.
    pub fn register(&self) {
        self.shared.register(3600);
        self.wait("200 to REGISTER", |view| view.registered.then_some(()));
    }

    /// Takes the registration back.
    pub fn unregister(&self) {
        self.shared.register(0);
        self.wait("200 to the un-REGISTER", |view| (!view.registered).then_some(()));
    }

    /// Sends an INVITE and gives its Call-ID at once.
    pub fn call(&self, to: &str) -> String {
        self.call_with(to, &[])
    }

    /// As [`Phone::call`], with header fields of the caller's choice.
    pub fn call_with(&self, to: &str, headers: &[(&str, &str)]) -> String {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut state = self.shared.lock();
        self.shared.invite(&mut state, to, headers, None)
    }

    /// Calls and waits until both see the call up.
    pub fn talk_to(&self, other: &Phone) -> String {
        let call_id = self.call(&other.aor());
        self.wait_phase(&call_id, Phase::Up);
        other.wait_phase(&call_id, Phase::Up);
        call_id
    }

    /// Sends BYE.
    pub fn hang_up(&self, call_id: &str) {
        let mut state = self.shared.lock();
        self.shared.bye(&mut state, call_id);
    }

    /// Cancels an INVITE of ours that rings.
    pub fn cancel(&self, call_id: &str) {
        let mut state = self.shared.lock();
        self.shared.cancel(&mut state, call_id);
    }

    /// Answers a call that rings for ever.
    pub fn pick_up(&self, call_id: &str) {
        let mut state = self.shared.lock();
        state.behaviour.answer = Some(200);
        let tag = state.dialog(call_id).map(|d| d.local_tag.clone()).expect("a call to answer");
        self.shared.answer_invite(&mut state, call_id, &tag);
    }

    /// Sends a re-INVITE with this direction.
    pub fn reinvite(&self, call_id: &str, direction: Direction) {
        let mut state = self.shared.lock();
        self.shared.reinvite(&mut state, call_id, direction);
    }

    /// Sends any request inside a call.
    pub fn send_in_dialog(
        &self,
        call_id: &str,
        method: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut state = self.shared.lock();
        self.shared.request(&mut state, call_id, method, headers, body);
    }

    /// What the phone knows now.
    pub fn view(&self) -> View {
        self.shared.view(&self.shared.lock())
    }

    /// What was logged behind the first so many messages.
    pub fn log_since(&self, known: usize) -> Vec<Entry> {
        self.shared.lock().log.get(known..).unwrap_or_default().to_vec()
    }

    /// How long ago that was, by the phone's own clock.
    pub fn ago(&self, at: Duration) -> Duration {
        self.shared.born.elapsed().saturating_sub(at)
    }

    pub fn dialog(&self, call_id: &str) -> Option<Dialog> {
        self.view().dialog(call_id).cloned()
    }

    /// The calls that are not over.
    pub fn live(&self) -> Vec<Dialog> {
        self.view().dialogs.into_iter().filter(|d| d.phase != Phase::Ended).collect()
    }

    /// How many different requests of this method came in, retransmissions not counted.
    pub fn received(&self, method: &str) -> usize {
        self.view().received(method).len()
    }

    /// Waits until `probe` gives a value; panics with the phone's log after the deadline.
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut(&View) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        let mut state = self.shared.lock();
        loop {
            let view = self.shared.view(&state);
            if let Some(value) = probe(&view) {
                return value;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{} waited in vain: {what}\n{}",
                self.shared.user,
                view.transcript()
            );
            state = self.shared.changed.wait_timeout(state, left).expect("no panic inside").0;
        }
    }

    /// Waits until this call is in this phase.
    pub fn wait_phase(&self, call_id: &str, phase: Phase) -> Dialog {
        self.wait(&format!("{call_id} {phase:?}"), |view| {
            view.dialog(call_id).filter(|d| d.phase == phase).cloned()
        })
    }

    /// Waits until every call is over.
    pub fn wait_idle(&self) {
        self.wait("no call left", |view| {
            view.dialogs.iter().all(|d| d.phase == Phase::Ended).then_some(())
        });
    }

    /// Waits for the newest live call that is not among `known`.
    pub fn wait_new_call(&self, known: &[&str], phase: Phase) -> Dialog {
        self.wait(&format!("a new call {phase:?}"), |view| {
            let new = |d: &&Dialog| d.phase == phase && !known.contains(&d.call_id.as_str());
            view.dialogs.iter().rev().find(new).cloned()
        })
    }

    /// What would have hurt a real phone. Call it when the calls are over.
    pub fn violations(&self) -> Vec<String> {
        let state = self.shared.lock();
        let mut found = state.violations.clone();
        for dialog in &state.dialogs {
            if let Some(cseq) = dialog.awaiting_ack
                && dialog.ended_by != Some(EndedBy::Them)
            {
                found.push(format!("{}: the 2xx of INVITE {cseq} was never ACKed", dialog.call_id));
            }
        }
        found
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A consistent copy of what a phone knows.
#[derive(Clone, Debug)]
pub struct View {
    pub registered: bool,
    pub dialogs: Vec<Dialog>,
    pub log: Vec<Entry>,
}

impl View {
    pub fn dialog(&self, call_id: &str) -> Option<&Dialog> {
        self.dialogs.iter().rev().find(|d| d.call_id == call_id)
    }

    /// The requests of this method that came in, each once.
    pub fn received(&self, method: &str) -> Vec<&Message> {
        self.requests(Way::In, method)
    }

    /// The requests of this method that went out.
    pub fn sent(&self, method: &str) -> Vec<&Message> {
        self.requests(Way::Out, method)
    }

    fn requests(&self, way: Way, method: &str) -> Vec<&Message> {
        self.log
            .iter()
            .filter(|e| e.way == way && !e.again && !e.message.is_response())
            .map(|e| &e.message)
            .filter(|m| m.method() == method)
            .collect()
    }

    /// The final answers that came in to requests of this method.
    pub fn answers(&self, method: &str) -> Vec<u16> {
        self.log
            .iter()
            .filter(|e| e.way == Way::In && e.message.is_response())
            .filter(|e| e.message.method() == method && e.message.status() >= 200)
            .map(|e| e.message.status())
            .collect()
    }

    /// One line per message, for a failing test.
    pub fn transcript(&self) -> String {
        let mut text = String::new();
        for entry in &self.log {
            let arrow = if entry.way == Way::In { "<-" } else { "->" };
            let again = if entry.again { " (again)" } else { "" };
            text.push_str(&format!(
                "  {:8.3} {arrow} {} [{} {}]{again}\n",
                entry.at.as_secs_f64(),
                entry.message.start,
                entry.message.call_id(),
                entry.message.header("cseq").unwrap_or("")
            ));
        }
        text
    }
}

impl State {
    fn dialog(&self, call_id: &str) -> Option<&Dialog> {
        self.dialogs.iter().rev().find(|d| d.call_id == call_id)
    }

    fn dialog_mut(&mut self, call_id: &str) -> Option<&mut Dialog> {
        self.dialogs.iter_mut().rev().find(|d| d.call_id == call_id)
    }

    /// The dialog a request inside a call belongs to.
    fn dialog_of(&mut self, message: &Message) -> Option<&mut Dialog> {
        let tag = message.tag("to")?.to_owned();
        let call_id = message.call_id().to_owned();
        self.dialogs.iter_mut().rev().find(|d| d.call_id == call_id && d.local_tag == tag)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic inside")
    }

    fn aor(&self) -> String {
        format!("sip:{}@{}", self.user, self.domain)
    }

    fn contact(&self) -> String {
        format!("sip:{}@{}", self.user, self.address)
    }

    fn view(&self, state: &State) -> View {
        View {
            registered: state.registered,
            dialogs: state.dialogs.clone(),
            log: state.log.clone(),
        }
    }

    /// Makes the loop look at its timers again.
    fn wake(&self) {
        let _sent = self.socket.send_to(b"wake", self.address);
    }

    fn later(&self, state: &mut State, wait: Duration, todo: Todo) {
        state.timers.push((Instant::now() + wait, todo));
        self.wake();
    }

    // ---- the loop ----------------------------------------------------------------------------

    fn run(&self) {
        let mut buffer = vec![0u8; 65_536];
        while !self.stop.load(Ordering::Relaxed) {
            let wait = self.due();
            self.socket.set_read_timeout(Some(wait)).expect("a timeout above zero");
            if let Ok((length, from)) = self.socket.recv_from(&mut buffer)
                && let Some(message) = Message::parse(&buffer[..length])
            {
                let mut state = self.lock();
                self.receive(&mut state, message, from);
                drop(state);
                self.changed.notify_all();
            }
        }
    }

    /// Does what is due; gives the time until the next is.
    fn due(&self) -> Duration {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let next = state.timers.iter().enumerate().min_by_key(|(_, (at, _))| *at);
            let Some((index, (at, _))) = next else { return Duration::from_secs(60) };
            if *at > now {
                return (*at - now).max(Duration::from_millis(1));
            }
            let (_, todo) = state.timers.remove(index);
            self.perform(&mut state, todo);
            self.changed.notify_all();
        }
    }

    fn perform(&self, state: &mut State, todo: Todo) {
        match todo {
            Todo::Answer { call_id, local_tag } => self.answer_invite(state, &call_id, &local_tag),
            Todo::Send { bytes, to } => self.send(state, &bytes, to),
            Todo::Follow { call_id, refer } => self.follow(state, &call_id, &refer),
            Todo::AcceptReinvite { call_id, invite, status } => {
                self.accept_reinvite(state, &call_id, &invite, status);
            }
            Todo::Cancel { call_id } => self.cancel(state, &call_id),
            Todo::HangUp { call_id } => self.bye(state, &call_id),
            Todo::NotifyTrying { call_id } => self.notify(state, &call_id, "100 Trying", false),
            Todo::RepeatAnswer { call_id, cseq, bytes, to, wait } => {
                let waiting = state.dialog(&call_id).is_some_and(|d| d.awaiting_ack == Some(cseq));
                if waiting {
                    self.send(state, &bytes, to);
                    let wait = (wait * 2).min(T2);
                    self.later(state, wait, Todo::RepeatAnswer { call_id, cseq, bytes, to, wait });
                }
            }
        }
    }

    // ---- sending -----------------------------------------------------------------------------

    fn send(&self, state: &mut State, bytes: &[u8], to: SocketAddr) {
        if let Some(message) = Message::parse(bytes) {
            let again = message.method() != "ACK"
                && state.log.iter().any(|e| {
                    e.way == Way::Out
                        && e.message.start == message.start
                        && e.message.branch() == message.branch()
                        && e.message.header("cseq") == message.header("cseq")
                });
            state.log.push(Entry { at: self.born.elapsed(), way: Way::Out, again, message });
        }
        let _sent = self.socket.send_to(bytes, to);
    }

    fn via(&self, branch: &str) -> (String, String) {
        ("Via".to_owned(), format!("SIP/2.0/UDP {};branch={branch};rport", self.address))
    }

    fn new_branch() -> String {
        format!("z9hG4bK{}", unique())
    }

    /// Where requests of this dialog go first.
    fn next_hop(&self, dialog: &Dialog) -> SocketAddr {
        dialog
            .routes
            .first()
            .map(|route| address_uri(route))
            .or(Some(dialog.target.as_str()))
            .and_then(destination)
            .unwrap_or(self.proxy)
    }

    fn request(
        &self,
        state: &mut State,
        call_id: &str,
        method: &str,
        extra: Vec<(String, String)>,
        body: &str,
    ) {
        let Some(dialog) = state.dialog_mut(call_id) else { return };
        if method != "ACK" {
            dialog.local_cseq += 1;
        }
        let cseq = dialog.local_cseq;
        let message = self.in_dialog(dialog, method, cseq, extra, body);
        let to = self.next_hop(dialog);
        self.send(state, &message.to_bytes(), to);
    }

    fn in_dialog(
        &self,
        dialog: &Dialog,
        method: &str,
        cseq: u32,
        extra: Vec<(String, String)>,
        body: &str,
    ) -> Message {
        let mut headers = vec![self.via(&Self::new_branch()), field("Max-Forwards", "70")];
        headers.extend(dialog.routes.iter().map(|route| field("Route", route)));
        headers.push(field("From", &format!("<{}>;tag={}", dialog.local_uri, dialog.local_tag)));
        let tag = dialog.remote_tag.as_ref().map(|t| format!(";tag={t}")).unwrap_or_default();
        headers.push(field("To", &format!("<{}>{tag}", dialog.remote_uri)));
        headers.push(field("Call-ID", &dialog.call_id));
        headers.push(field("CSeq", &format!("{cseq} {method}")));
        if method != "ACK" {
            headers.push(field("Contact", &format!("<{}>", self.contact())));
        }
        headers.extend(extra);
        Message {
            start: format!("{method} {} SIP/2.0", dialog.target),
            headers,
            body: body.to_owned(),
        }
    }

    fn answer(
        &self,
        state: &mut State,
        request: &Message,
        status: u16,
        local_tag: &str,
        extra: Vec<(String, String)>,
        body: &str,
    ) -> Option<(Vec<u8>, SocketAddr)> {
        let mut headers: Vec<_> = request.all("via").iter().map(|via| field("Via", via)).collect();
        headers.extend(request.all("record-route").iter().map(|r| field("Record-Route", r)));
        headers.push(field("From", request.header("from")?));
        let to = request.header("to")?;
        let tagged = if request.tag("to").is_some() || status == 100 {
            to.to_owned()
        } else {
            format!("{to};tag={local_tag}")
        };
        headers.push(field("To", &tagged));
        headers.push(field("Call-ID", request.call_id()));
        headers.push(field("CSeq", request.header("cseq")?));
        if status > 100 && status < 300 {
            headers.push(field("Contact", &format!("<{}>", self.contact())));
            if let Some(allow) = &state.behaviour.allow {
                headers.push(field("Allow", allow));
            }
        }
        headers.extend(extra);
        let message = Message {
            start: format!("SIP/2.0 {status} {}", reason(status)),
            headers,
            body: body.to_owned(),
        };
        let bytes = message.to_bytes();
        // RFC 3581: back to where the top Via says it came from.
        let to = request.header("via").and_then(via_address).unwrap_or(self.proxy);
        if status >= 200 {
            let key = transaction(request);
            state.answered.insert(key, Some((bytes.clone(), to)));
        }
        self.send(state, &bytes, to);
        Some((bytes, to))
    }

    fn sdp(&self, version: u64, direction: Direction) -> String {
        format!(
            "v=0\r\no={} 7 {version} IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na={}\r\n",
            self.user,
            self.address.port(),
            direction.name()
        )
    }

    fn register(&self, expires: u32) {
        let mut state = self.lock();
        state.registrations += 1;
        let headers = vec![
            self.via(&Self::new_branch()),
            field("Max-Forwards", "70"),
            field("From", &format!("<{}>;tag={}", self.aor(), unique())),
            field("To", &format!("<{}>", self.aor())),
            field("Call-ID", &format!("register-{}", self.address.port())),
            field("CSeq", &format!("{} REGISTER", state.registrations)),
            field("Contact", &format!("<{}>", self.contact())),
            field("Expires", &expires.to_string()),
        ];
        let start = format!("REGISTER sip:{} SIP/2.0", self.domain);
        let bytes = Message { start, headers, body: String::new() }.to_bytes();
        self.send(&mut state, &bytes, self.proxy);
    }

    fn invite(
        &self,
        state: &mut State,
        to: &str,
        extra: Vec<(String, String)>,
        referred_by_call: Option<String>,
    ) -> String {
        let call_id = format!("{}-{}", self.user, unique());
        let remote_uri = to.split([';', '?']).next().unwrap_or(to).to_owned();
        let dialog = Dialog {
            call_id: call_id.clone(),
            role: Role::Caller,
            phase: Phase::Early,
            ended_by: None,
            local_uri: self.aor(),
            remote_uri,
            local_tag: unique(),
            remote_tag: None,
            referred_by_call,
            offers: Vec::new(),
            direction: Direction::SendRecv,
            target: to.to_owned(),
            routes: Vec::new(),
            local_cseq: 1,
            remote_cseq: 0,
            sdp_version: 1,
            branch: Self::new_branch(),
            invite: None,
            awaiting_ack: None,
            cancelling: false,
        };
        let mut message =
            self.in_dialog(&dialog, "INVITE", 1, extra, &self.sdp(1, dialog.direction));
        message.headers[0] = self.via(&dialog.branch);
        message.headers.push(field("Content-Type", "application/sdp"));
        state.dialogs.push(dialog);
        self.send(state, &message.to_bytes(), self.proxy);
        call_id
    }

    /// An ACK or CANCEL belongs to the INVITE's own hop: same branch, no Route.
    fn beside_invite(&self, dialog: &Dialog, method: &str, to: Option<&str>) -> Message {
        let mut message = self.in_dialog(dialog, method, 1, Vec::new(), "");
        message.headers[0] = self.via(&dialog.branch);
        message.headers.retain(|(name, _)| name != "Route" && name != "Contact");
        for (name, value) in &mut message.headers {
            if name == "To" {
                *value = to.map_or_else(|| format!("<{}>", dialog.remote_uri), str::to_owned);
            }
        }
        message
    }

    fn cancel(&self, state: &mut State, call_id: &str) {
        let Some(dialog) = state.dialog_mut(call_id) else { return };
        if dialog.phase != Phase::Early || dialog.role != Role::Caller {
            return;
        }
        dialog.cancelling = true;
        let message = self.beside_invite(dialog, "CANCEL", None);
        self.send(state, &message.to_bytes(), self.proxy);
    }

    fn bye(&self, state: &mut State, call_id: &str) {
        let Some(dialog) = state.dialog_mut(call_id) else { return };
        if dialog.phase == Phase::Ended {
            return;
        }
        dialog.phase = Phase::Ended;
        dialog.ended_by = Some(EndedBy::Us);
        self.request(state, call_id, "BYE", Vec::new(), "");
    }

    fn reinvite(&self, state: &mut State, call_id: &str, direction: Direction) {
        let Some(dialog) = state.dialog_mut(call_id) else { return };
        dialog.sdp_version += 1;
        dialog.direction = direction;
        let body = self.sdp(dialog.sdp_version, direction);
        self.request(
            state,
            call_id,
            "INVITE",
            vec![field("Content-Type", "application/sdp")],
            &body,
        );
    }

    fn notify(&self, state: &mut State, call_id: &str, status_line: &str, last: bool) {
        let body = state
            .behaviour
            .notify_body
            .clone()
            .unwrap_or_else(|| format!("SIP/2.0 {status_line}\r\n"));
        let subscription = if last { "terminated;reason=noresource" } else { "active;expires=60" };
        let headers = vec![
            field("Event", "refer"),
            field("Subscription-State", subscription),
            field("Content-Type", "message/sipfrag;version=2.0"),
        ];
        self.request(state, call_id, "NOTIFY", headers, &body);
    }

    // ---- receiving ---------------------------------------------------------------------------

    fn receive(&self, state: &mut State, message: Message, from: SocketAddr) {
        let again = !message.is_response()
            && message.method() != "ACK"
            && state.answered.contains_key(&transaction(&message));
        state.log.push(Entry {
            at: self.born.elapsed(),
            way: Way::In,
            again,
            message: message.clone(),
        });
        if state.behaviour.dead {
            return;
        }
        if message.is_response() {
            self.on_response(state, &message);
        } else if again {
            if let Some(Some((bytes, to))) = state.answered.get(&transaction(&message)).cloned() {
                self.send(state, &bytes, to);
            }
        } else {
            self.on_request(state, message, from);
        }
    }

    fn on_request(&self, state: &mut State, message: Message, _from: SocketAddr) {
        // Until it is answered it counts as handled: a retransmission meanwhile starts nothing.
        if message.method() != "ACK" {
            state.answered.insert(transaction(&message), None);
        }
        let in_dialog = message.tag("to").is_some();
        if in_dialog && !matches!(message.method(), "ACK" | "CANCEL") {
            self.check_cseq(state, &message);
        }
        match message.method() {
            "ACK" => self.on_ack(state, &message),
            "CANCEL" => self.on_cancel(state, &message),
            "INVITE" if in_dialog => self.on_reinvite(state, &message),
            "INVITE" => self.on_invite(state, message),
            "BYE" => self.on_bye(state, &message),
            "REFER" => self.on_refer(state, &message),
            _ => {
                let status = match (in_dialog, state.dialog_of(&message).is_some()) {
                    (true, false) => Some(481),
                    (true, true) | (false, _) => state.behaviour.other,
                };
                if let Some(status) = status {
                    self.answer(state, &message, status, &unique(), Vec::new(), "");
                }
            }
        }
    }

    fn check_cseq(&self, state: &mut State, message: &Message) {
        let (number, method) = message.cseq();
        let Some(dialog) = state.dialog_of(message) else { return };
        let known = dialog.remote_cseq;
        if number > known {
            dialog.remote_cseq = number;
            return;
        }
        let text = format!("{}: {method} with CSeq {number} after {known}", message.call_id());
        state.violations.push(text);
    }

    fn on_ack(&self, state: &mut State, message: &Message) {
        let number = message.cseq().0;
        let Some(dialog) = state.dialog_of(message) else { return };
        match dialog.awaiting_ack {
            Some(waiting) if waiting == number => {
                dialog.awaiting_ack = None;
                if dialog.phase == Phase::Early {
                    dialog.phase = Phase::Up;
                }
            }
            Some(waiting) => {
                let text = format!("{}: ACK {number} while {waiting} waits", message.call_id());
                state.violations.push(text);
            }
            None => {}
        }
    }

    fn on_cancel(&self, state: &mut State, message: &Message) {
        self.answer(state, message, 200, &unique(), Vec::new(), "");
        let status = state.behaviour.cancelled;
        let Some(dialog) = state.dialog_mut(message.call_id()) else { return };
        if dialog.phase != Phase::Early || dialog.awaiting_ack.is_some() {
            return;
        }
        let (tag, invite) = (dialog.local_tag.clone(), dialog.invite.clone());
        if status < 300 {
            state.behaviour.answer = Some(status);
            self.answer_invite(state, message.call_id(), &tag);
            return;
        }
        dialog.phase = Phase::Ended;
        dialog.ended_by = Some(EndedBy::Them);
        if let Some(invite) = invite {
            self.answer(state, &invite, status, &tag, Vec::new(), "");
        }
    }

    fn on_bye(&self, state: &mut State, message: &Message) {
        let status = match state.dialog_of(message) {
            Some(dialog) => {
                if dialog.phase != Phase::Ended {
                    dialog.phase = Phase::Ended;
                    dialog.ended_by = Some(EndedBy::Them);
                    dialog.awaiting_ack = None;
                }
                state.behaviour.bye
            }
            None => Some(481),
        };
        if let Some(status) = status {
            self.answer(state, message, status, &unique(), Vec::new(), "");
        }
    }

    fn on_invite(&self, state: &mut State, message: Message) {
        let mut dialog = Dialog {
            call_id: message.call_id().to_owned(),
            role: Role::Callee,
            phase: Phase::Early,
            ended_by: None,
            local_uri: address_uri(message.header("to").unwrap_or("")).to_owned(),
            remote_uri: address_uri(message.header("from").unwrap_or("")).to_owned(),
            local_tag: unique(),
            remote_tag: message.tag("from").map(str::to_owned),
            referred_by_call: None,
            offers: Vec::new(),
            direction: Direction::SendRecv,
            target: address_uri(message.header("contact").unwrap_or("")).to_owned(),
            routes: message.list("record-route"),
            local_cseq: 0,
            remote_cseq: message.cseq().0,
            sdp_version: 1,
            branch: String::new(),
            invite: None,
            awaiting_ack: None,
            cancelling: false,
        };
        if let Some(offer) = message.sdp() {
            dialog.direction = offer.direction.answer();
            dialog.offers.push(offer);
        }
        dialog.invite = Some(message.clone());
        let (call_id, tag) = (dialog.call_id.clone(), dialog.local_tag.clone());
        state.dialogs.push(dialog);
        if state.behaviour.ring {
            self.answer(state, &message, 180, &tag, Vec::new(), "");
        }
        if state.behaviour.answer.is_some() {
            let wait = state.behaviour.ring_for;
            if wait.is_zero() {
                self.answer_invite(state, &call_id, &tag);
            } else {
                self.later(state, wait, Todo::Answer { call_id, local_tag: tag });
            }
        }
    }

    /// The final answer to a new INVITE.
    fn answer_invite(&self, state: &mut State, call_id: &str, tag: &str) {
        let Some(dialog) = state.dialog(call_id).filter(|d| d.local_tag == tag) else { return };
        if dialog.phase != Phase::Early || dialog.awaiting_ack.is_some() {
            return;
        }
        let (Some(invite), Some(mut status)) = (dialog.invite.clone(), state.behaviour.answer)
        else {
            return;
        };
        let body = self.sdp(dialog.sdp_version, dialog.direction);
        let replaced = invite.header("replaces").map(str::to_owned);
        let replaced = match (replaced, state.behaviour.replaces, status < 300) {
            (Some(value), Replaces::Strict | Replaces::Lenient, true) => {
                let named = named_dialog(state, &value);
                if named.is_none() && state.behaviour.replaces == Replaces::Strict {
                    status = 481;
                }
                named
            }
            (_, _, _) => None,
        };
        let mut extra = state.behaviour.answer_headers.clone();
        if status >= 300 {
            if let Some(dialog) = state.dialog_mut(call_id) {
                dialog.phase = Phase::Ended;
                dialog.ended_by = Some(EndedBy::Refused(status));
            }
            self.answer(state, &invite, status, tag, extra, "");
            return;
        }
        extra.push(field("Content-Type", "application/sdp"));
        self.accept(state, call_id, &invite, status, tag, extra, &body);
        if let Some(old) = replaced {
            self.bye(state, &old);
        }
    }

    /// A 2xx to an INVITE: repeated until its ACK comes (RFC 3261 13.3.1.4).
    #[allow(clippy::too_many_arguments, reason = "one call, all of it needed")]
    fn accept(
        &self,
        state: &mut State,
        call_id: &str,
        invite: &Message,
        status: u16,
        tag: &str,
        extra: Vec<(String, String)>,
        body: &str,
    ) {
        let cseq = invite.cseq().0;
        if let Some(dialog) = state.dialog_mut(call_id) {
            dialog.awaiting_ack = Some(cseq);
        }
        if let Some((bytes, to)) = self.answer(state, invite, status, tag, extra, body) {
            let call_id = call_id.to_owned();
            self.later(state, T1, Todo::RepeatAnswer { call_id, cseq, bytes, to, wait: T1 });
        }
    }

    fn on_reinvite(&self, state: &mut State, message: &Message) {
        let behaviour = state.behaviour.clone();
        let Some(dialog) = state.dialog_of(message).filter(|d| d.phase != Phase::Ended) else {
            self.answer(state, message, 481, &unique(), Vec::new(), "");
            return;
        };
        if let Some(contact) = message.header("contact") {
            dialog.target = address_uri(contact).to_owned();
        }
        let mut violation = None;
        let offer = message.sdp();
        if let Some(offer) = &offer {
            let before = dialog.offers.last();
            if before.is_some_and(|b| b.session == offer.session && b.version >= offer.version) {
                violation = Some(format!(
                    "{}: offer o= version {} after {:?}",
                    message.call_id(),
                    offer.version,
                    before.map(|b| b.version)
                ));
            }
            dialog.offers.push(offer.clone());
        }
        let (call_id, tag) = (dialog.call_id.clone(), dialog.local_tag.clone());
        let Some(status) = behaviour.reinvite else {
            state.violations.extend(violation);
            return;
        };
        state.violations.extend(violation);
        if status >= 300 {
            if behaviour.reinvite_after.is_zero() {
                self.answer(state, message, status, &tag, Vec::new(), "");
            } else if let Some((bytes, to)) = self.prepare(message, status, &tag) {
                self.later(state, behaviour.reinvite_after, Todo::Send { bytes, to });
            }
        } else if behaviour.reinvite_after.is_zero() {
            self.accept_reinvite(state, &call_id, message, status);
        } else {
            self.answer(state, message, 100, &tag, Vec::new(), "");
            let invite = Box::new(message.clone());
            let todo = Todo::AcceptReinvite { call_id, invite, status };
            self.later(state, behaviour.reinvite_after, todo);
        }
    }

    fn accept_reinvite(&self, state: &mut State, call_id: &str, invite: &Message, status: u16) {
        let Some(dialog) = state.dialog_mut(call_id).filter(|d| d.phase != Phase::Ended) else {
            return;
        };
        let direction = invite.sdp().map_or(Direction::SendRecv, |o| o.direction.answer());
        if dialog.direction != direction {
            dialog.sdp_version += 1;
            dialog.direction = direction;
        }
        let (tag, body) = (dialog.local_tag.clone(), self.sdp(dialog.sdp_version, direction));
        let extra = vec![field("Content-Type", "application/sdp")];
        self.accept(state, call_id, invite, status, &tag, extra, &body);
    }

    /// A bare answer for later.
    fn prepare(&self, request: &Message, status: u16, tag: &str) -> Option<(Vec<u8>, SocketAddr)> {
        let mut headers: Vec<_> = request.all("via").iter().map(|via| field("Via", via)).collect();
        headers.push(field("From", request.header("from")?));
        let to = request.header("to")?;
        let to =
            if request.tag("to").is_some() { to.to_owned() } else { format!("{to};tag={tag}") };
        headers.push(field("To", &to));
        headers.push(field("Call-ID", request.call_id()));
        headers.push(field("CSeq", request.header("cseq")?));
        headers.push(field("Contact", &format!("<{}>", self.contact())));
        let start = format!("SIP/2.0 {status} {}", reason(status));
        let message = Message { start, headers, body: String::new() };
        Some((message.to_bytes(), request.header("via").and_then(via_address)?))
    }

    fn on_refer(&self, state: &mut State, message: &Message) {
        let behaviour = state.behaviour.clone();
        let Some(dialog) = state.dialog_of(message).filter(|d| d.phase != Phase::Ended) else {
            self.answer(state, message, 481, &unique(), Vec::new(), "");
            return;
        };
        let (call_id, tag) = (dialog.call_id.clone(), dialog.local_tag.clone());
        if behaviour.hang_up == HangUp::BeforeTheAnswer {
            self.bye(state, &call_id);
        }
        let Some(status) = behaviour.refer else { return };
        if behaviour.refer_after.is_zero() {
            self.answer(state, message, status, &tag, Vec::new(), "");
        } else if let Some((bytes, to)) = self.prepare(message, status, &tag) {
            self.later(state, behaviour.refer_after, Todo::Send { bytes, to });
        }
        if !(200..300).contains(&status) {
            return;
        }
        if behaviour.hang_up == HangUp::AfterTheAnswer {
            self.bye(state, &call_id);
        }
        if behaviour.follow {
            let wait = behaviour.refer_after + behaviour.follow_after;
            if wait.is_zero() {
                self.follow(state, &call_id, message);
            } else {
                let refer = Box::new(message.clone());
                self.later(state, wait, Todo::Follow { call_id, refer });
            }
        }
    }

    /// Places the call that a REFER asks for and reports on it.
    fn follow(&self, state: &mut State, call_id: &str, refer: &Message) {
        let behaviour = state.behaviour.clone();
        let target = address_uri(refer.header("refer-to").unwrap_or("")).to_owned();
        let (uri, escaped) = target.split_once('?').unwrap_or((&target, ""));
        let uri = if behaviour.copies_parameters {
            uri.to_owned()
        } else {
            uri.split(';').next().unwrap_or(uri).to_owned()
        };
        let mut headers = Vec::new();
        if behaviour.copies_referred_by
            && let Some(referrer) = refer.header("referred-by")
        {
            headers.push(field("Referred-By", referrer));
        }
        for part in escaped.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            headers.push(field(&unescape(name), &unescape(value)));
        }
        let all = behaviour.notify == Notify::All;
        if all && behaviour.notify_early {
            self.notify(state, call_id, "100 Trying", false);
        }
        let new = self.invite(state, &uri, headers, Some(call_id.to_owned()));
        if all && !behaviour.notify_early {
            let call_id = call_id.to_owned();
            self.later(state, Duration::from_millis(100), Todo::NotifyTrying { call_id });
        }
        if let Some(wait) = behaviour.give_up_after {
            self.later(state, wait, Todo::Cancel { call_id: new });
        }
    }

    fn on_response(&self, state: &mut State, message: &Message) {
        let status = message.status();
        match message.method() {
            "REGISTER" if (200..300).contains(&status) => {
                let current = state.registrations == message.cseq().0;
                let bound = message.all("contact").iter().any(|c| c.contains(&self.contact()));
                if current {
                    state.registered = bound;
                }
            }
            "INVITE" => self.on_invite_response(state, message),
            _ => {}
        }
    }

    fn on_invite_response(&self, state: &mut State, message: &Message) {
        let status = message.status();
        let notify = state.behaviour.notify;
        let hang_up = state.behaviour.hang_up;
        let Some(dialog) = state.dialog_mut(message.call_id()) else { return };
        if message.tag("from") != Some(dialog.local_tag.as_str()) {
            return;
        }
        let first = dialog.role == Role::Caller && message.cseq().0 == 1;
        let early = dialog.phase == Phase::Early;
        let (call_id, old) = (dialog.call_id.clone(), dialog.referred_by_call.clone());
        let line = message.status_line().to_owned();
        if status < 200 {
            if let Some(old) = old
                && early
                && status > 100
                && notify == Notify::All
            {
                self.notify(state, &old, &line, false);
            }
            return;
        }
        if status >= 300 {
            if first {
                dialog.phase = Phase::Ended;
                dialog.ended_by = Some(EndedBy::Refused(status));
                let ack = self.beside_invite(dialog, "ACK", message.header("to"));
                self.send(state, &ack.to_bytes(), self.proxy);
            } else {
                self.ack_refusal(state, message);
            }
        } else {
            let mut unwanted = false;
            if first {
                if early {
                    dialog.remote_tag = message.tag("to").map(str::to_owned);
                    dialog.routes = message.list("record-route").into_iter().rev().collect();
                    dialog.phase = Phase::Up;
                    unwanted = dialog.cancelling;
                }
                if let Some(contact) = message.header("contact") {
                    dialog.target = address_uri(contact).to_owned();
                }
            }
            let ack = self.in_dialog(dialog, "ACK", message.cseq().0, Vec::new(), "");
            let to = self.next_hop(dialog);
            self.send(state, &ack.to_bytes(), to);
            if unwanted {
                self.bye(state, &call_id);
            }
        }
        if let Some(old) = old
            && early
            && first
        {
            if notify != Notify::None {
                self.notify(state, &old, &line, true);
            }
            if hang_up == HangUp::WhenReferredIsUp && status < 300 {
                self.later(state, Duration::from_millis(50), Todo::HangUp { call_id: old });
            }
        }
    }

    /// The ACK of a refused re-INVITE: on the INVITE's own branch.
    fn ack_refusal(&self, state: &mut State, response: &Message) {
        let branch = response.branch().to_owned();
        let Some(dialog) = state.dialog_mut(response.call_id()) else { return };
        let mut ack = self.in_dialog(dialog, "ACK", response.cseq().0, Vec::new(), "");
        ack.headers[0] = self.via(&branch);
        let to = self.next_hop(dialog);
        self.send(state, &ack.to_bytes(), to);
    }
}

fn field(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// What tells a retransmission: branch, method, CSeq.
fn transaction(request: &Message) -> (String, String, u32) {
    (request.branch().to_owned(), request.method().to_owned(), request.cseq().0)
}

/// Where the sender of this Via expects the answer.
fn via_address(via: &str) -> Option<SocketAddr> {
    let sent_by = via.split(' ').nth(1)?.split(';').next()?.trim();
    let address: SocketAddr = if sent_by.contains(':') {
        sent_by.parse().ok()?
    } else {
        format!("{sent_by}:5060").parse().ok()?
    };
    let port = parameter(via, "rport").and_then(|port| port.parse().ok());
    Some(SocketAddr::new(address.ip(), port.unwrap_or(address.port())))
}

/// The live call that a Replaces header names: its to-tag is ours (RFC 3891 section 3).
fn named_dialog(state: &State, value: &str) -> Option<String> {
    let call_id = value.split(';').next()?.trim();
    let (to_tag, from_tag) = (parameter(value, "to-tag")?, parameter(value, "from-tag")?);
    state
        .dialogs
        .iter()
        .find(|d| {
            d.call_id == call_id
                && d.phase != Phase::Ended
                && d.local_tag == to_tag
                && d.remote_tag.as_deref() == Some(from_tag)
        })
        .map(|d| d.call_id.clone())
}
