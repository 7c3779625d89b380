//! The connector to OpenSIPS (3.1 to 4.0; measured on 3.6.8 and 4.0.1).
//!
//! One [`Act`] becomes a few requests to the Management Interface and one [`Reply`]; events become
//! [`StackEvent`]s. No state of calls or commands is kept
//! here. The old command names are used: they work on every version.
//!
//! * Requests: [`udp`] (one socket, many calls), [`http`] (large lists), `gate` (deadlines,
//!   breaker, limit), `lists` (one full list per second, shared), `dialog` (what a list shows).
//! * Acts: `invite`, `refer`, `reinvite`, `look` (look, end, mark, revoke).
//! * Events: [`sink`] (UDP, TCP), [`stream`] (JSON without framing), [`event`] (their meaning),
//!   [`keeper`] (refresh, verify, notice restarts), `subscription`, `trial` (whether events find their
//!   way), [`told`] (where a stack sends them), `named` (calls heard of lately).
//! * [`settings`], [`script`] (the grade of the proxy's script), [`concerns`] (what does not go
//!   together), [`meter`] (what is counted).
//!
//! Known killers are never sent: no batch, no request without a method, no `call_hold` unless
//! configured (facts W1 and W5).

pub mod concerns;
mod dialog;
pub mod event;
mod gate;
pub mod http;
mod invite;
pub mod keeper;
mod lists;
mod look;
pub mod meter;
mod named;
mod refer;
mod reinvite;
pub mod script;
pub mod settings;
pub mod sink;
pub mod stream;
mod subscription;
pub mod told;
mod trial;
pub mod udp;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use self::gate::{Answer, Failed, Gate, Limits};
use self::http::{HttpMi, ListMi};
use self::lists::Lists;
use self::meter::Meter;
use self::named::Named;
use self::script::Script;
use self::settings::StackSettings;
use self::udp::UdpMi;
use super::mi::{Mi, MiAnswer, MiEvent, MiRequest};
use super::{Away, SipStack, Snapshot};
use crate::clock::Clock;
pub use crate::clock::Timer;
use crate::core::act::{Act, NotSent, Op, Refuser, Reply};
use crate::core::ids::{Boot, StackId};
use crate::core::plan::Capabilities;
use crate::core::script::Grade;
use crate::core::stack_event::{StackEvent, Uptime};
use crate::core::time::StoreTime;

/// A list may take this long when nobody waits for an operation's reply.
const WHOLE_LIST: Duration = Duration::from_secs(10);

/// A stack that has been up for less may not have told its grade yet.
const YOUNG: Duration = Duration::from_secs(2);

/// How soon it is asked for it again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long a command waits for the grade of a stack that does not answer.
const INTRODUCTION: Duration = Duration::from_millis(400);

/// One OpenSIPS. `M` carries requests, `L` large lists.
pub struct OpenSips<M, L = M> {
    settings: StackSettings,
    gate: Gate<M>,
    lists: Lists<L>,
    named: Named,
    known: RwLock<Known>,
    /// Held while the stack is asked who it is.
    connecting: Mutex<()>,
    /// Its events flow, or have flowed.
    joined: CancellationToken,
}

/// What was learned of the stack.
struct Known {
    capabilities: Capabilities,
    script: Option<Script>,
    uptime: Option<Uptime>,
    /// Whether `script` was asked for in this life of the stack.
    graded: bool,
    /// What has been warned of.
    warned: BTreeSet<String>,
}

/// What a connector runs on, beside its transports.
#[derive(Clone)]
pub struct Surroundings {
    /// The store's time: operations carry their limits in it.
    pub clock: Arc<dyn Clock>,
    /// Lets time pass.
    pub timer: Arc<dyn Timer>,
    /// Takes counts.
    pub meter: Arc<dyn Meter>,
}

/// What connecting told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// Which life of the stack this is.
    pub uptime: Uptime,
    /// Its release, such as (3, 6).
    pub release: Option<(u32, u32)>,
    /// The reference script's word; `None`: a stock script.
    pub script: Option<Script>,
}

/// Why a connector could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The socket to the Management Interface.
    #[error("mi: {0}")]
    Mi(#[source] io::Error),
    /// The URL of the Management Interface over HTTP.
    #[error("mi_http: {0}")]
    MiHttp(#[source] hyper::http::uri::InvalidUri),
}

/// A connector over the real transports.
pub type RealOpenSips = OpenSips<UdpMi, ListMi>;

/// Opens the sockets to a stack. Nothing is sent yet, and the stack need not be there.
///
/// # Errors
/// [`OpenError`] when no socket can be made.
pub async fn open(
    settings: StackSettings,
    surroundings: Surroundings,
) -> Result<RealOpenSips, OpenError> {
    let address = settings.mi.clone();
    open_by(settings, surroundings, udp::look_up(&address)).await
}

/// The same with another way to find out where its name leads. It is asked once, for at most a
/// second.
///
/// # Errors
/// [`OpenError`] when no socket can be made.
pub async fn open_by(
    settings: StackSettings,
    surroundings: Surroundings,
    look_up: impl Future<Output = io::Result<SocketAddr>>,
) -> Result<RealOpenSips, OpenError> {
    let peer = udp::first_look(&settings.mi, look_up).await;
    let udp = UdpMi::at(&settings.mi, peer).await.map_err(OpenError::Mi)?;
    let for_lists = UdpMi::at(&settings.mi, peer).await.map_err(OpenError::Mi)?;
    let http = settings.mi_http.as_deref().map(HttpMi::new).transpose();
    let lists = ListMi::new(http.map_err(OpenError::MiHttp)?, for_lists);
    Ok(OpenSips::new(settings, udp, lists, surroundings))
}

impl<M: Mi, L: Mi> OpenSips<M, L> {
    /// A connector over these transports.
    #[must_use]
    pub fn new(settings: StackSettings, mi: M, lists: L, surroundings: Surroundings) -> Self {
        let Surroundings { clock, timer, meter } = surroundings;
        let known = Known {
            // What nobody has confirmed is not promised.
            capabilities: script::capabilities(&settings, None),
            script: None,
            uptime: None,
            graded: settings.grade == Grade::Stock,
            warned: BTreeSet::new(),
        };
        Self {
            gate: Gate::new(mi, &settings, clock, timer, meter),
            lists: Lists::new(lists),
            named: Named::default(),
            known: RwLock::new(known),
            connecting: Mutex::new(()),
            joined: CancellationToken::new(),
            settings,
        }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &StackId {
        &self.settings.id
    }

    /// Its configuration.
    #[must_use]
    pub fn settings(&self) -> &StackSettings {
        &self.settings
    }

    /// Who counts.
    #[must_use]
    pub fn meter(&self) -> &dyn Meter {
        &*self.gate.meter
    }

    /// Whether it answers, as far as is known: requests pass.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.gate.is_open()
    }

    /// What the reference script said of itself; `None` before connecting and on a stock script.
    #[must_use]
    pub fn script(&self) -> Option<Script> {
        self.known().script.clone()
    }

    /// The requests' transport.
    #[must_use]
    pub fn mi(&self) -> &M {
        self.gate.mi()
    }

    /// Asks the stack who it is; its capabilities follow from the answer. Safe to repeat.
    ///
    /// # Errors
    /// [`Away`] when it does not answer.
    pub async fn connect(&self) -> Result<Connected, Away> {
        let _turn = self.connecting.lock().await;
        self.introduce().await
    }

    /// Returns once its events have been subscribed to for the first time.
    pub async fn joined(&self) {
        self.joined.cancelled().await;
    }

    async fn introduce(&self) -> Result<Connected, Away> {
        let uptime = self.up_since().await?;
        self.forget_grade_of_another_life(&uptime.boot);
        let release = match self.ask_own(MiRequest::new("version")).await? {
            MiAnswer::Result(answer) => script::release(&answer),
            MiAnswer::Error { .. } => None,
        };
        let mut found = self.ask_script().await?;
        while found.is_none() && self.settings.grade != Grade::Stock && self.is_young().await? {
            self.gate.timer.sleep(ASK_AGAIN).await;
            found = self.ask_script().await?;
        }
        self.warn(release, found.as_ref());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.capabilities = script::capabilities(&self.settings, found.as_ref());
        known.script.clone_from(&found);
        known.uptime.get_or_insert_with(|| uptime.clone());
        known.graded = true;
        drop(known);
        Ok(Connected { uptime, release, script: found })
    }

    /// After a restart another script may run.
    fn forget_grade_of_another_life(&self, boot: &Boot) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if self.settings.grade != Grade::Stock
            && known.uptime.as_ref().is_none_or(|known| known.boot != *boot)
        {
            known.graded = false;
        }
    }

    /// Waits until the grade is known: an INVITE of the wrong grade goes around the one worker
    /// that keeps OpenSIPS alive (fact F1), and carries no mark.
    async fn graded(&self) -> Result<(), Away> {
        if self.known().graded {
            return Ok(());
        }
        let _turn = self.connecting.lock().await;
        if self.known().graded {
            return Ok(());
        }
        if self.gate.is_shut() {
            return Err(Away::Unreachable);
        }
        self.introduce().await.map(drop)
    }

    /// The same, as far as there is time.
    async fn graded_before(&self, at: StoreTime) -> Result<(), Away> {
        if self.known().graded {
            return Ok(());
        }
        let left = self.gate.timer.sleep(self.gate.now().until(at));
        match select(pin!(self.graded()), left).await {
            Either::Left((graded, _)) => graded,
            Either::Right(((), _)) => Err(Away::Unreachable),
        }
    }

    /// What the script says of itself.
    async fn ask_script(&self) -> Result<Option<Script>, Away> {
        let request =
            MiRequest::new("cache_fetch").text("system", "local").text("attr", "cp_cfg_version");
        match self.settings.grade {
            Grade::Stock => Ok(None),
            Grade::Auto | Grade::Reference => {
                match self.ask_own(request).await? {
                    MiAnswer::Result(answer) => Ok(Script::of_answer(&answer)),
                    // No such value, no such cache, no such command: a stock script.
                    MiAnswer::Error { .. } => Ok(None),
                }
            }
        }
    }

    /// Whether the stack may still be running its `startup_route`: another process of it answers
    /// already (seen on 3.6.8).
    async fn is_young(&self) -> Result<bool, Away> {
        match self.ask_own(MiRequest::new("uptime")).await? {
            MiAnswer::Result(answer) => Ok(script::up_time(&answer).is_some_and(|up| up < YOUNG)),
            MiAnswer::Error { .. } => Ok(false),
        }
    }

    /// Says what does not go together, once: a stack is asked who it is again and again.
    fn warn(&self, release: Option<(u32, u32)>, script: Option<&Script>) {
        let stack = &self.settings.id;
        for concern in concerns::concerns(&self.settings, release, script) {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.warned.insert(concern.clone()) {
                tracing::warn!(%stack, "{concern}");
            }
        }
    }

    /// Asks how long the stack has been up, whatever the breaker says, and lets the breaker know.
    ///
    /// # Errors
    /// [`Away`] when it does not answer.
    pub async fn check(&self) -> Result<Boot, Away> {
        self.up_since().await.map(|uptime| uptime.boot)
    }

    async fn up_since(&self) -> Result<Uptime, Away> {
        match self.gate.check(MiRequest::new("uptime")).await {
            Ok(MiAnswer::Result(answer)) => {
                script::uptime(&answer, self.gate.now()).ok_or(Away::Unreachable)
            }
            Ok(MiAnswer::Error { .. }) => Err(Away::Unreachable),
            Err(failed) => Err(away(failed)),
        }
    }

    /// Takes an event in: remembers the calls that it names, and says what it means.
    pub fn heard(&self, event: &MiEvent) -> event::Meaning {
        let meaning = event::meaning(event);
        if let event::Meaning::Fact(fact) = &meaning {
            let now = self.gate.now();
            for watch in fact.names() {
                if let crate::core::stack_event::Watch::Call(call) = watch {
                    self.named.note(&call, now);
                }
            }
        }
        meaning
    }

    /// Notes that the stack runs since another moment. Says whether that is news.
    fn has_restarted(&self, connected: &Connected) -> Option<StackEvent> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let before = known.uptime.replace(connected.uptime.clone());
        drop(known);
        let restarted = before.is_some_and(|before| before.boot != connected.uptime.boot);
        restarted.then(|| StackEvent::Restarted(connected.uptime.clone()))
    }

    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of the connector's own.
    async fn ask_own(&self, request: MiRequest) -> Result<MiAnswer, Away> {
        let limits = self.gate.own_limits();
        self.gate.ask(request, Answer::StackAgain, limits).await.map_err(away)
    }

    async fn act(&self, op: &Op) -> Reply {
        let limits = Limits::of(op);
        if goes_by_grade(&op.act) {
            match self.graded_before(limits.send_before).await {
                Ok(()) => {}
                Err(Away::Unreachable | Away::Incomplete) => {
                    return Reply::NotSent(NotSent::Unreachable);
                }
                Err(Away::NoRoom) => return Reply::NotSent(NotSent::Overloaded),
            }
        }
        match &op.act {
            Act::Invite { .. } => self.invite(op, limits).await,
            Act::CancelInvite { call } => self.cancel_invite(call, limits).await,
            Act::Refer { call, leg, to } => self.refer(op, call, *leg, to, limits).await,
            Act::ReInvite { call, leg, offer } => {
                self.reinvite(op, call, *leg, *offer, limits).await
            }
            Act::StackHold { call, offer } => self.stack_hold(call, *offer, limits).await,
            Act::Mark { call, held } => self.mark(call, *held, limits).await,
            Act::End { call } => self.end(call, limits).await,
            Act::Revoke { token } => self.revoke(token, limits).await,
            Act::Look { call, referred_by, sent } => {
                self.look(call, referred_by.as_ref(), sent.as_ref(), limits).await
            }
        }
    }
}

impl<M: Mi, L: Mi> SipStack for OpenSips<M, L> {
    fn capabilities(&self) -> Capabilities {
        self.known().capabilities
    }

    fn fr_timeout(&self) -> Option<Duration> {
        self.known().script.as_ref().map(|script| script.fr_timeout)
    }

    async fn introduced(&self) {
        if self.known().graded {
            return;
        }
        let graded = pin!(self.graded());
        match select(graded, self.gate.timer.sleep(INTRODUCTION)).await {
            // It answers, but has not told its grade yet.
            Either::Right(((), graded)) if self.is_reachable() => {
                select(graded, self.gate.timer.sleep(YOUNG)).await;
            }
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    async fn perform(&self, op: &Op) -> Reply {
        let left = self.gate.now().until(op.reply_by);
        match select(pin!(self.act(op)), self.gate.timer.sleep(left)).await {
            Either::Left((reply, _)) => reply,
            Either::Right(((), _)) => Reply::Silent,
        }
    }

    fn uptime(&self) -> Option<Uptime> {
        self.known().uptime.clone()
    }

    async fn ask_uptime(&self) -> Option<Uptime> {
        self.up_since().await.ok()
    }

    async fn list(&self) -> Result<Snapshot, Away> {
        let list = self.lists.full(&self.gate, WHOLE_LIST).await?;
        Ok(Snapshot::clone(&list))
    }
}

/// Whether the script decides what is sent. The others are the same on every script, and a call
/// must be ended also while nobody knows which one it is.
fn goes_by_grade(act: &Act) -> bool {
    match act {
        Act::Invite { .. } | Act::Refer { .. } | Act::ReInvite { .. } | Act::Revoke { .. } => true,
        Act::CancelInvite { .. }
        | Act::StackHold { .. }
        | Act::Mark { .. }
        | Act::End { .. }
        | Act::Look { .. } => false,
    }
}

/// What the failure of a request of the connector's own says of the stack.
fn away(failed: Failed) -> Away {
    match failed {
        Failed::NotSent(NotSent::Overloaded) => Away::NoRoom,
        Failed::NotSent(NotSent::Unreachable | NotSent::TooLate | NotSent::NotKept)
        | Failed::NotParsed
        | Failed::TooLarge
        | Failed::Silent => Away::Unreachable,
    }
}

/// What an error answer of the Management Interface amounts to.
fn refused_by_stack(code: i64, message: &str) -> Reply {
    let code = match code {
        -32_602 => 400,
        -32_601 => 501,
        other => u16::try_from(other).unwrap_or(500),
    };
    Reply::Refused { by: Refuser::Stack, code, reason: message.into() }
}

/// What a request that was the act's last, and brought no answer, amounts to.
fn last_failed(failed: Failed) -> Reply {
    match failed {
        Failed::NotSent(why) => Reply::NotSent(why),
        Failed::NotParsed => refused_by_stack(400, "Parse error"),
        Failed::TooLarge | Failed::Silent => Reply::Silent,
    }
}

/// What a request before the act's last amounts to: the last was never sent.
fn preparing_failed(failed: Failed) -> Reply {
    match failed {
        Failed::NotSent(why) => Reply::NotSent(why),
        Failed::NotParsed => refused_by_stack(400, "Parse error"),
        Failed::TooLarge | Failed::Silent => Reply::NotSent(NotSent::Unreachable),
    }
}
