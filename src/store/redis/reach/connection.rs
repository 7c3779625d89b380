//! One connection to Redis that comes back by itself.
//!
//! The crate's own retries are not used: they hang a call for seconds while the server is away. A
//! task of ours keeps the connection; a call uses what is there and ends within its deadline. What
//! timed out may have been done: all that is asked here may be asked again.
//!
//! It is asked once over a connection: the server answers in order, so a second asking could not be
//! answered before the first, and would only be more work for one that is slow already.
//!
//! What a server answers over a connection that was left by then does not count: it may have been the
//! old master's word.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::ConnectionLike as _;
use redis::{Pipeline, PushInfo, RedisError, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::Reach;
use super::dial::{Dialer, Line};
use super::failed::Failed;
use super::keeper::Keeper;
use crate::store::Away;

/// How long a call may take in all, repeats and waiting for a connection included.
pub(in crate::store::redis) const CALL: Duration = Duration::from_secs(1);

/// How long an answer is waited for; a connection that is silent for longer is given up. A server that
/// writes to its disk or forks may take a part of it.
const SILENCE: Duration = Duration::from_millis(700);

/// Takes what the server sends without being asked. Must not block.
pub(in crate::store::redis) type Pushes = Arc<dyn Fn(PushInfo) + Send + Sync>;

/// A connection that is made anew whenever it breaks.
pub(in crate::store::redis) struct Connection {
    reach: Arc<Reach>,
    /// What is asked first over each.
    opening: Arc<Pipeline>,
    state: watch::Receiver<State>,
    /// Connections up to this number are of no use any more.
    broken: watch::Sender<u64>,
    keeper: tokio::task::JoinHandle<()>,
}

#[derive(Clone)]
pub(super) enum State {
    /// Being made; nothing is known against it.
    Making,
    Up(Arc<Live>),
    /// The last attempt failed.
    Away,
}

/// One physical connection.
pub(in crate::store::redis) struct Live {
    pub(super) line: Line,
    /// Which life of which server this is.
    pub(in crate::store::redis) run_id: Arc<str>,
    /// What the server answered to what it was asked first.
    pub(in crate::store::redis) opened: Vec<Value>,
    /// Counts connections, from 1.
    pub(in crate::store::redis) number: u64,
    /// Something was not answered in time.
    pub(super) silent: AtomicBool,
}

impl Live {
    /// Has messages of these channels sent.
    pub(in crate::store::redis) async fn subscribe(
        &self,
        channels: Vec<String>,
    ) -> Result<(), Failed> {
        let mut connection = self.line.connection.clone();
        match timeout(SILENCE, connection.subscribe(channels)).await {
            Ok(subscribed) => subscribed.map_err(|error| Failed::of(&error)),
            Err(_) => Err(self.said_nothing()),
        }
    }

    /// Asks, and waits as long as an answer is worth waiting for.
    pub(super) async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Failed> {
        self.ask_within(SILENCE, pipeline).await
    }

    /// The same, with another patience.
    pub(in crate::store::redis) async fn ask_within(
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

    pub(super) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }
}

impl Connection {
    /// Starts to connect. `opening` is asked first over each connection, and once more where the server
    /// forgot what it was told; `pushes` gets what the server sends by itself.
    pub(in crate::store::redis) fn start(
        reach: Arc<Reach>,
        opening: Pipeline,
        pushes: Option<Pushes>,
    ) -> Self {
        let (state, seen) = watch::channel(State::Making);
        let broken = watch::Sender::new(0);
        let opening = Arc::new(opening);
        let keeper = Keeper {
            reach: Arc::clone(&reach),
            dialer: Dialer::default(),
            opening: Arc::clone(&opening),
            pushes,
            state,
            broken: broken.clone(),
        };
        let keeper = tokio::spawn(keeper.run());
        Self { reach, opening, state: seen, broken, keeper }
    }

    /// Asks until there is an answer, at most for a second: once over each connection. So all of the
    /// pipeline may be asked, and done, more than once.
    pub(in crate::store::redis) async fn call(
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
                    Err(Failed::Forgotten) => {
                        self.reach.refused("it forgets at once what it is told");
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

    /// Asks over one connection, with the opening once more where that was forgotten. One that is given
    /// up meanwhile is not waited for.
    async fn ask_over(&self, live: &Live, ask: &Pipeline) -> Result<Vec<Value>, Failed> {
        let mut broken = self.broken.subscribe();
        let asked = async {
            match live.ask(ask).await {
                Err(Failed::Forgotten) => {
                    live.ask(&self.opening).await?;
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
    pub(in crate::store::redis) async fn live(&self) -> Result<Arc<Live>, Away> {
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
    pub(in crate::store::redis) async fn newer(&self, than: u64) -> Result<Arc<Live>, Away> {
        let mut state = self.state.clone();
        let newer = |state: &State| matches!(state, State::Up(live) if live.number > than);
        match state.wait_for(newer).await.as_deref() {
            Ok(State::Up(live)) => Ok(Arc::clone(live)),
            Ok(State::Making | State::Away) | Err(_) => Err(Away),
        }
    }

    /// The number of the newest connection that is of no use any more.
    pub(in crate::store::redis) fn breaks(&self) -> watch::Receiver<u64> {
        self.broken.subscribe()
    }

    fn is_given_up(&self, live: &Live) -> bool {
        *self.broken.borrow() >= live.number
    }

    /// Has another connection made.
    pub(in crate::store::redis) fn give_up(&self, live: &Live, why: &str) {
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

pub(super) fn break_off(broken: &watch::Sender<u64>, number: u64) -> bool {
    broken.send_if_modified(|newest| {
        let news = number > *newest;
        *newest = number.max(*newest);
        news
    })
}

/// Waits until connections up to this number are of no use any more.
pub(in crate::store::redis) async fn reaches(newest: &mut watch::Receiver<u64>, number: u64) {
    // Where nobody tells any more it is over as well.
    let _ = newest.wait_for(|newest| *newest >= number).await;
}
