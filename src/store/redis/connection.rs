//! One connection to Redis that comes back by itself.
//!
//! The crate's own retries are not used: they hang a call for seconds while the server is away. A
//! task of ours keeps the connection; a call uses what is there and ends within its deadline. What
//! timed out may have been done: all that is asked here may be asked again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::aio::{AsyncPushSender, ConnectionLike as _, MultiplexedConnection, SendError};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo as _,
    Pipeline, ProtocolVersion, PushInfo, PushKind, RedisError, RedisResult, ServerError,
    ServerErrorKind, Value,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::script::Script;
use crate::clock::{Nonces as _, SystemNonces};
use crate::store::Away;

/// How long a connection may take to be made, the server's first answers included.
const CONNECT: Duration = Duration::from_millis(200);

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(250);

/// How long a call may take in all, repeats and waiting for a connection included.
const CALL: Duration = Duration::from_secs(1);

/// Between two attempts to connect: the first and the longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A connection that says nothing to this many calls one after the other is given up.
const SILENT: u32 = 3;

/// Takes what the server sends without being asked. Must not block.
pub(super) type Pushes = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// Where the server is.
#[derive(Debug, Clone)]
pub struct Address(ConnectionInfo);

/// Why a text is no address of a Redis server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadAddress(String);

impl Address {
    /// Takes `redis://user:password@host:port/db`.
    ///
    /// # Errors
    /// [`BadAddress`] says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, BadAddress> {
        let info = url.into_connection_info().map_err(|error| BadAddress(error.to_string()))?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = TcpSettings::default().set_nodelay(true);
        Ok(Self(info.set_redis_settings(settings).set_tcp_settings(tcp)))
    }
}

/// A connection that is made anew whenever it breaks.
pub(super) struct Connection {
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
    connection: MultiplexedConnection,
    /// Which life of which server this is.
    pub(super) run_id: Arc<str>,
    hashes: Vec<String>,
    /// Counts connections, from 1.
    pub(super) number: u64,
    /// Calls in a row that it did not answer.
    silent: AtomicU32,
}

impl Live {
    /// The beginning of a call of this script.
    pub(super) fn script(&self, script: Script) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.hashes.get(script.place()).map_or("", String::as_str));
        command
    }

    /// Has messages of these channels sent.
    pub(super) async fn subscribe(&self, channels: Vec<String>) -> Result<(), Away> {
        let mut connection = self.connection.clone();
        match timeout(ATTEMPT, connection.subscribe(channels)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Away),
        }
    }

    /// Whether the server answers.
    pub(super) async fn ping(&self) -> Result<(), Away> {
        let mut ping = redis::pipe();
        ping.cmd("PING");
        self.ask(&ping).await.map(|_| ()).map_err(|_| Away)
    }

    /// Asks once.
    async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failed> {
        let mut connection = self.connection.clone();
        let asked = connection.req_packed_commands(pipeline, 0, pipeline.len());
        let values = match timeout(ATTEMPT, asked).await {
            Ok(Ok(values)) => values,
            Ok(Err(error)) => return Err(Failed::of(&error)),
            Err(_) => return Err(Failed::Silent),
        };
        self.silent.store(0, Ordering::Relaxed);
        for value in &values {
            if let Value::ServerError(error) = value {
                return Err(Failed::said(error.clone()));
            }
        }
        Ok(values)
    }
}

/// What came of an attempt.
#[derive(Debug)]
enum Failed {
    /// No answer in time: done or not.
    Silent,
    /// The connection broke: done or not.
    Broken(String),
    /// The server does not know a script (any more).
    NoScript,
    /// The server refused, and would refuse again.
    Refused(String),
}

impl Failed {
    fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::NoScript,
            // Another server may be the master by now.
            ErrorKind::Server(
                ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::BusyLoading,
            )
            | ErrorKind::Io => Self::Broken(error.to_string()),
            _ if error.is_unrecoverable_error() => Self::Broken(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }

    fn said(error: ServerError) -> Self {
        Self::of(&RedisError::from(error))
    }
}

impl Connection {
    /// Starts to connect. `pushes` gets what the server sends by itself.
    pub(super) fn start(address: Address, pushes: Option<Pushes>) -> Self {
        let (state, seen) = watch::channel(State::Making);
        let broken = watch::Sender::new(0);
        let keeper = Keeper { address, pushes, state, broken: broken.clone() };
        let keeper = tokio::spawn(keeper.run());
        Self { state: seen, broken, keeper }
    }

    /// Asks until there is an answer, at most for a second. All of the pipeline may be asked, and
    /// done, more than once.
    pub(super) async fn call(
        &self,
        ask: impl Fn(&Live) -> Pipeline + Send + Sync,
    ) -> Result<(Arc<Live>, Vec<Value>), Away> {
        let until = Instant::now() + CALL;
        let asked = async {
            loop {
                let live = self.live().await?;
                match live.ask(&ask(&live)).await {
                    Ok(values) => return Ok((live, values)),
                    Err(Failed::Silent) => {
                        if live.silent.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT {
                            self.give_up(&live, "it does not answer");
                        }
                    }
                    Err(Failed::Broken(why)) => self.give_up(&live, &why),
                    Err(Failed::NoScript) => {
                        if let Err(failed) = live.ask(&Script::load_all()).await {
                            tracing::debug!(?failed, "redis: scripts could not be loaded");
                        }
                    }
                    Err(Failed::Refused(why)) => {
                        tracing::warn!(why, "redis refuses");
                        return Err(Away);
                    }
                }
            }
        };
        timeout_at(until, asked).await.unwrap_or(Err(Away))
    }

    /// The connection, once it is there; away as soon as it is known not to be.
    pub(super) async fn live(&self) -> Result<Arc<Live>, Away> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Making)).await;
        match settled.as_deref() {
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
    address: Address,
    pushes: Option<Pushes>,
    state: watch::Sender<State>,
    broken: watch::Sender<u64>,
}

impl Keeper {
    async fn run(self) {
        let nonces = SystemNonces::new();
        let mut broken = self.broken.subscribe();
        let (shortest, longest) = PAUSES;
        let mut pause = shortest;
        let mut number = 0;
        loop {
            number += 1;
            let begun = Instant::now();
            match timeout(CONNECT, self.open(number)).await {
                Ok(Ok(live)) => {
                    tracing::info!(run_id = %live.run_id, "redis: connected");
                    self.state.send_replace(State::Up(Arc::new(live)));
                    if broken.wait_for(|newest| *newest >= number).await.is_err() {
                        return;
                    }
                    self.state.send_replace(State::Making);
                    if begun.elapsed() > longest {
                        pause = shortest;
                        continue;
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "redis: no connection");
                    self.state.send_replace(State::Away);
                }
                Err(_) => {
                    self.state.send_replace(State::Away);
                }
            }
            // Processes that lost it together do not come back together.
            let part = u32::try_from(nonces.nonce().0 % 512).unwrap_or_default();
            sleep(pause / 2 + pause * part / 1024).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn open(&self, number: u64) -> RedisResult<Live> {
        let pushes = Receiver { pushes: self.pushes.clone(), broken: self.broken.clone(), number };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(pushes);
        let client = Client::open(self.address.0.clone())?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut ask = redis::pipe();
        ask.cmd("INFO").arg("server").cmd("INFO").arg("replication");
        let (server, replication): (String, String) = ask.query_async(&mut connection).await?;
        if line(&replication, "role:") != Some("master") {
            return Err(RedisError::from((ErrorKind::Client, "it is not the master")));
        }
        let Some(run_id) = line(&server, "run_id:") else {
            return Err(RedisError::from((ErrorKind::UnexpectedReturnType, "INFO has no run_id")));
        };
        let hashes = Script::load_all().query_async(&mut connection).await?;
        let silent = AtomicU32::new(0);
        Ok(Live { connection, run_id: Arc::from(run_id), hashes, number, silent })
    }
}

fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
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
