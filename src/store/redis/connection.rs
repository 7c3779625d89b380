//! One connection to Redis that comes back by itself.
//!
//! The crate's own retries are not used: they hang a call for seconds while the server is away. A
//! task of ours keeps the connection; a call uses what is there and ends within its deadline. What
//! timed out may have been done: all that is asked here may be asked again.
//!
//! It is asked once over a connection: the server answers in order, so a second asking could not be
//! answered before the first, and would only be more work for one that is slow already.
//!
//! Only a master is connected to, and only as long as it is one: it is asked each second, and left as
//! soon as the Sentinels name another. What a server answers that is left by then does not count: it
//! may have been the old master's word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{AsyncPushSender, ConnectionLike as _, SendError};
use redis::{Cmd, Pipeline, PushInfo, PushKind, RedisError, Value};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};

use super::dial::{Dialer, Line, NoConnection};
use super::failed::Failed;
use super::reach::Reach;
use super::script::Script;
use super::settings::Address;
use super::whereabouts::Whereabouts;
use crate::clock::{Nonces as _, SystemNonces};
use crate::store::Away;

/// How long a connection may take to be made: lookup, TLS and the server's first answers included.
const CONNECT: Duration = Duration::from_millis(500);

/// How long a call may take in all, repeats and waiting for a connection included.
pub(super) const CALL: Duration = Duration::from_secs(1);

/// How often the server is asked whether it is still the one.
const CHECK: Duration = Duration::from_secs(1);

/// Between two attempts to connect: the first and the longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How long an answer is waited for; a connection that is silent for longer is given up. A server that
/// writes to its disk or forks may take a part of it.
const SILENCE: Duration = Duration::from_millis(700);

/// Takes what the server sends without being asked. Must not block.
pub(super) type Pushes = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection that is made anew whenever it breaks.
pub(super) struct Connection {
    reach: Arc<Reach>,
    state: watch::Receiver<State>,
    /// Connections up to this number are of no use any more.
    broken: watch::Sender<u64>,
    keeper: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
enum State {
    /// Being made; nothing is known against it.
    Making,
    Up(Arc<Live>),
    /// The last attempt failed.
    Away,
}

/// One physical connection.
pub(super) struct Live {
    line: Line,
    /// Which life of which server this is.
    pub(super) run_id: Arc<str>,
    hashes: Vec<String>,
    /// Counts connections, from 1.
    pub(super) number: u64,
    /// Something was not answered in time.
    silent: AtomicBool,
}

impl Live {
    /// The beginning of a call of this script.
    pub(super) fn script(&self, script: Script) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.hashes.get(script.place()).map_or("", String::as_str));
        command
    }

    /// Has messages of these channels sent.
    pub(super) async fn subscribe(&self, channels: Vec<String>) -> Result<(), Failed> {
        let mut connection = self.line.connection.clone();
        match timeout(SILENCE, connection.subscribe(channels)).await {
            Ok(subscribed) => subscribed.map_err(|error| Failed::of(&error)),
            Err(_) => Err(self.said_nothing()),
        }
    }

    /// Asks, and waits as long as an answer is worth waiting for.
    async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failed> {
        self.ask_within(SILENCE, pipeline).await
    }

    /// The same, with another patience.
    pub(super) async fn ask_within(
        &self,
        patience: Duration,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, Failed> {
        let mut connection = self.line.connection.clone();
        let asked = connection.req_packed_commands(pipeline, 0, pipeline.len());
        let values = match timeout(patience, asked).await {
            Ok(Ok(values)) => values,
            Ok(Err(error)) => return Err(Failed::of(&error)),
            Err(_) => return Err(self.said_nothing()),
        };
        for value in &values {
            if let Value::ServerError(error) = value {
                return Err(Failed::of(&RedisError::from(error.clone())));
            }
        }
        Ok(values)
    }

    fn said_nothing(&self) -> Failed {
        self.silent.store(true, Ordering::Relaxed);
        Failed::Silent
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// Starts to connect. `pushes` gets what the server sends by itself.
    pub(super) fn start(reach: Arc<Reach>, pushes: Option<Pushes>) -> Self {
        let (state, seen) = watch::channel(State::Making);
        let broken = watch::Sender::new(0);
        let keeper = Keeper {
            reach: Arc::clone(&reach),
            dialer: Dialer::default(),
            pushes,
            state,
            broken: broken.clone(),
        };
        let keeper = tokio::spawn(keeper.run());
        Self { reach, state: seen, broken, keeper }
    }

    /// Asks until there is an answer, at most for a second: once over each connection. So all of the
    /// pipeline may be asked, and done, more than once.
    pub(super) async fn call(
        &self,
        ask: impl Fn(&Live) -> Pipeline + Send + Sync,
    ) -> Result<(Arc<Live>, Vec<Value>), Away> {
        let until = Instant::now() + CALL;
        let asked = async {
            loop {
                let live = self.live().await?;
                match self.ask_over(&live, &ask(&live)).await {
                    // It may be the old master, which was answering late.
                    Ok(_) if self.is_given_up(&live) => {}
                    Ok(values) => return Ok((live, values)),
                    Err(Failed::Silent) => self.give_up(&live, "it does not answer"),
                    Err(Failed::Broken(why)) => self.give_up(&live, &why),
                    Err(Failed::NoScript) => {
                        self.reach.refused("scripts are forgotten as soon as they are loaded");
                        return Err(Away);
                    }
                    Err(Failed::Refused(why)) => {
                        self.reach.refused(&why);
                        return Err(Away);
                    }
                }
            }
        };
        timeout_at(until, asked).await.unwrap_or(Err(Away))
    }

    /// Asks over one connection, with the scripts loaded again where they were forgotten. One that is
    /// given up meanwhile is not waited for.
    async fn ask_over(&self, live: &Live, ask: &Pipeline) -> Result<Vec<Value>, Failed> {
        let mut broken = self.broken.subscribe();
        let asked = async {
            match live.ask(ask).await {
                Err(Failed::NoScript) => {
                    live.ask(&Script::load_all()).await?;
                    live.ask(ask).await
                }
                answered => answered,
            }
        };
        tokio::select! {
            answered = asked => answered,
            () = reaches(&mut broken, live.number) => Err(Failed::Broken("it broke".to_owned())),
        }
    }

    /// The connection, once it is there; away as soon as it is known not to be.
    pub(super) async fn live(&self) -> Result<Arc<Live>, Away> {
        let mut state = self.state.clone();
        let is_settled = |state: &State| match state {
            State::Making => false,
            State::Up(live) => !self.is_given_up(live),
            State::Away => true,
        };
        match state.wait_for(is_settled).await.as_deref() {
            Ok(State::Up(live)) => Ok(Arc::clone(live)),
            Ok(State::Making | State::Away) | Err(_) => Err(Away),
        }
    }

    /// Waits for a connection that is newer than this one.
    pub(super) async fn newer(&self, than: u64) -> Result<Arc<Live>, Away> {
        let mut state = self.state.clone();
        let newer = |state: &State| matches!(state, State::Up(live) if live.number > than);
        match state.wait_for(newer).await.as_deref() {
            Ok(State::Up(live)) => Ok(Arc::clone(live)),
            Ok(State::Making | State::Away) | Err(_) => Err(Away),
        }
    }

    /// The number of the newest connection that is of no use any more.
    pub(super) fn breaks(&self) -> watch::Receiver<u64> {
        self.broken.subscribe()
    }

    fn is_given_up(&self, live: &Live) -> bool {
        *self.broken.borrow() >= live.number
    }

    /// Has another connection made.
    pub(super) fn give_up(&self, live: &Live, why: &str) {
        let news = break_off(&self.broken, live.number);
        if news {
            tracing::info!(why, "redis: the connection is given up");
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn break_off(broken: &watch::Sender<u64>, number: u64) -> bool {
    broken.send_if_modified(|newest| {
        let news = number > *newest;
        *newest = number.max(*newest);
        news
    })
}

/// Keeps one connection.
struct Keeper {
    reach: Arc<Reach>,
    dialer: Dialer,
    pushes: Option<Pushes>,
    state: watch::Sender<State>,
    broken: watch::Sender<u64>,
}

impl Keeper {
    async fn run(mut self) {
        let nonces = SystemNonces::new();
        let mut master = self.reach.master();
        let (shortest, longest) = PAUSES;
        let mut pause = shortest;
        let mut number = 0;
        loop {
            number += 1;
            let begun = Instant::now();
            match self.open_in_time(number, &mut master).await {
                Ok((address, live)) => {
                    tracing::info!(%address, run_id = %live.run_id, "redis: connected");
                    self.reach.connected();
                    let live = Arc::new(live);
                    self.state.send_replace(State::Up(Arc::clone(&live)));
                    let why = self.watch_over(&live, &address, &mut master).await;
                    if break_off(&self.broken, number) {
                        tracing::info!(%address, why, "redis: the connection is given up");
                    }
                    // One that says nothing is not made anew at once, and nobody is to wait for it.
                    let next = if live.is_silent() { State::Away } else { State::Making };
                    self.state.send_replace(next);
                    if begun.elapsed() > longest {
                        pause = shortest;
                        continue;
                    }
                }
                Err(error) => {
                    self.reach.complain(&error);
                    self.state.send_replace(State::Away);
                }
            }
            // Processes that lost it together do not come back together.
            let part = u32::try_from(nonces.nonce().0 % 512).unwrap_or_default();
            let pausing = sleep(pause / 2 + pause * part / 1024);
            tokio::select! {
                () = pausing => pause = (pause * 2).min(longest),
                () = changes(&mut master) => pause = shortest,
            }
        }
    }

    async fn open_in_time(
        &mut self,
        number: u64,
        master: &mut watch::Receiver<Whereabouts>,
    ) -> Result<(Address, Live), NoConnection> {
        let until = Instant::now() + CONNECT;
        // The Sentinels may be about to say it.
        let named = timeout_at(until, master.wait_for(Result::is_ok)).await;
        drop(named);
        let address = master.borrow_and_update().clone();
        let address = address.map_err(|error| NoConnection::NoMaster(error.to_string()))?;
        let Ok(opened) = timeout_at(until, self.open(number, &address, until)).await else {
            return Err(NoConnection::TooSlow { address, within: CONNECT });
        };
        Ok((address, opened?))
    }

    async fn open(
        &mut self,
        number: u64,
        address: &Address,
        until: Instant,
    ) -> Result<Live, NoConnection> {
        let pushes = Receiver { pushes: self.pushes.clone(), broken: self.broken.clone(), number };
        let settings = &self.reach.settings;
        let line =
            self.dialer.dial(address, &settings.access, settings.database, pushes, until).await?;
        let said = |error| NoConnection::said(address, error);
        let mut connection = line.connection.clone();
        let told = Server::asked().query_async(&mut connection).await.map_err(said)?;
        let server = Server::told(told).map_err(said)?;
        if !server.is_master {
            return Err(NoConnection::NotTheMaster(address.clone()));
        }
        let hashes = Script::load_all().query_async(&mut connection).await.map_err(said)?;
        let silent = AtomicBool::new(false);
        Ok(Live { line, run_id: Arc::from(server.run_id), hashes, number, silent })
    }

    /// Waits until this connection is of no use any more, and says why.
    async fn watch_over(
        &self,
        live: &Live,
        address: &Address,
        master: &mut watch::Receiver<Whereabouts>,
    ) -> &'static str {
        let mut broken = self.broken.subscribe();
        tokio::select! {
            () = reaches(&mut broken, live.number) => "it broke",
            () = moves(master, address) => "another server is the master",
            why = turns_out_wrong(live) => why,
        }
    }
}

/// Waits until connections up to this number are of no use any more.
pub(super) async fn reaches(newest: &mut watch::Receiver<u64>, number: u64) {
    // Where nobody tells any more it is over as well.
    let _ = newest.wait_for(|newest| *newest >= number).await;
}

/// Waits until another server is named.
async fn moves(master: &mut watch::Receiver<Whereabouts>, from: &Address) {
    let elsewhere = |named: &Whereabouts| named.as_ref().is_ok_and(|named| named != from);
    let told = master.wait_for(elsewhere).await.is_ok();
    if !told {
        nothing_more().await;
    }
}

/// Waits until anything is said about where the master is.
async fn changes(master: &mut watch::Receiver<Whereabouts>) {
    let told = master.changed().await.is_ok();
    if !told {
        nothing_more().await;
    }
}

/// Where nobody will say anything any more.
async fn nothing_more() {
    std::future::pending().await
}

/// Asks now and then whether this is still the server that it was, until it is not.
async fn turns_out_wrong(live: &Live) -> &'static str {
    let mut check = interval(CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    check.reset();
    loop {
        check.tick().await;
        let Ok(values) = live.ask(&Server::asked()).await else {
            return "it does not answer";
        };
        match Server::told(values) {
            Ok(server) if !server.is_master => return "it is not the master any more",
            Ok(server) if *server.run_id != *live.run_id => return "it is another server",
            Ok(_) => {}
            Err(_) => return "it does not say what it is",
        }
    }
}

/// What a server says about itself.
struct Server {
    is_master: bool,
    run_id: String,
}

impl Server {
    fn asked() -> Pipeline {
        let mut ask = redis::pipe();
        ask.cmd("INFO").arg("server").cmd("INFO").arg("replication");
        ask
    }

    fn told(values: Vec<Value>) -> Result<Self, RedisError> {
        let (server, replication): (String, String) =
            redis::from_redis_value(Value::Array(values))?;
        let Some(run_id) = line(&server, "run_id:").map(str::to_owned) else {
            let missing = (redis::ErrorKind::UnexpectedReturnType, "INFO has no run_id");
            return Err(missing.into());
        };
        Ok(Self { is_master: line(&replication, "role:") == Some("master"), run_id })
    }
}

pub(super) fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// What the server sends over one connection, and that the connection broke.
struct Receiver {
    pushes: Option<Pushes>,
    broken: watch::Sender<u64>,
    number: u64,
}

impl AsyncPushSender for Receiver {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        if push.kind == PushKind::Disconnection {
            break_off(&self.broken, self.number);
        }
        if let Some(pushes) = &self.pushes {
            pushes(push);
        }
        Ok(())
    }
}
