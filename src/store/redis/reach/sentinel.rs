//! One Sentinel: asked each second where the master is, and listened to for what it tells by itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{AsyncPushSender, ConnectionLike as _, SendError};
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::dial::{Dialer, Line, NoConnection};
use super::settings::{Access, Address};
use super::whereabouts::{Whereabouts, Word, Words};

/// How long a connection to a Sentinel may take to be made.
const CONNECT: Duration = Duration::from_millis(500);

/// How long a Sentinel may take to answer.
const ANSWER: Duration = Duration::from_millis(500);

/// How often it is asked.
const ASK: Duration = Duration::from_secs(1);

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(500);

/// Most messages that wait. What does not fit is answered by the next question.
const WAITING: usize = 64;

/// Where all Sentinels' words come together.
pub(super) struct Board {
    words: Mutex<Words>,
    told: watch::Sender<Whereabouts>,
}

impl Board {
    pub(super) fn new(mut words: Words) -> Self {
        let nothing = words.master(Instant::now());
        Self { words: Mutex::new(words), told: watch::Sender::new(nothing) }
    }

    /// Where the master is, as they say.
    pub(super) fn whereabouts(&self) -> watch::Receiver<Whereabouts> {
        self.told.subscribe()
    }

    fn note(&self, hears: impl FnOnce(&mut Words, Instant)) {
        let now = Instant::now();
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        hears(&mut words, now);
        let master = words.master(now);
        self.told.send_if_modified(|told| {
            let news = *told != master;
            if let (true, Ok(address)) = (news, &master) {
                tracing::info!(%address, "redis: the Sentinels name the master");
            }
            *told = master;
            news
        });
    }
}

/// A task that asks one of them.
pub(super) struct Sentinel {
    pub(super) board: Arc<Board>,
    /// Its place among them.
    pub(super) who: usize,
    pub(super) address: Address,
    pub(super) access: Access,
    /// What it calls the master.
    pub(super) name: String,
}

impl Sentinel {
    pub(super) async fn run(self) {
        let mut dialer = Dialer::default();
        let mut said = None;
        loop {
            let (sender, mut pushes) = mpsc::channel(WAITING);
            match timeout(CONNECT, self.join(&mut dialer, sender)).await {
                Ok(Ok(line)) => {
                    if said.take().is_some() {
                        tracing::info!(sentinel = %self.address, "redis: the Sentinel is back");
                    }
                    let error = self.listen(&line, &mut pushes).await;
                    tracing::warn!(sentinel = %self.address, %error, "redis: the Sentinel is lost");
                    said = Some(error.kind());
                }
                Ok(Err(error)) => self.complain(&error, &mut said),
                Err(_) => {
                    let (address, within) = (self.address.clone(), CONNECT);
                    self.complain(&NoConnection::TooSlow { address, within }, &mut said);
                }
            }
            self.board.note(|words, _| words.lost(self.who));
            sleep(PAUSE).await;
        }
    }

    /// The same trouble is told once.
    fn complain(
        &self,
        error: &NoConnection,
        said: &mut Option<std::mem::Discriminant<NoConnection>>,
    ) {
        if said.replace(error.kind()) != Some(error.kind()) {
            tracing::warn!(sentinel = %self.address, %error, "redis: the Sentinel can't be asked");
        }
    }

    async fn join(
        &self,
        dialer: &mut Dialer,
        pushes: mpsc::Sender<PushInfo>,
    ) -> Result<Line, NoConnection> {
        let until = Instant::now() + CONNECT;
        let pushes = Pushes(pushes);
        let mut line = dialer.dial(&self.address, &self.access, 0, pushes, until).await?;
        // The second one tells sooner, and only one of them.
        let subscribed = line.connection.subscribe(&["+switch-master", "+promoted-slave"]).await;
        subscribed.map_err(|error| NoConnection::said(&self.address, error))?;
        Ok(line)
    }

    /// Asks and listens until it can't be.
    async fn listen(&self, line: &Line, pushes: &mut mpsc::Receiver<PushInfo>) -> NoConnection {
        let mut ask = interval(ASK);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                push = pushes.recv() => match push {
                    Some(PushInfo { kind: PushKind::Message, data }) => {
                        if let Some(to) = switched(&self.name, data) {
                            self.board.note(|words, now| words.switched(self.who, to, now));
                        }
                        ask.reset_immediately();
                    }
                    Some(PushInfo { kind: PushKind::Disconnection, .. }) | None => {
                        let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                        return NoConnection::said(&self.address, error.into());
                    }
                    Some(_) => {}
                },
                _ = ask.tick() => match timeout(ANSWER, self.ask(line)).await {
                    Ok(Ok(word)) => self.board.note(|words, _| words.says(self.who, word)),
                    Ok(Err(error)) => return NoConnection::said(&self.address, error),
                    Err(_) => {
                        let (address, within) = (self.address.clone(), ANSWER);
                        return NoConnection::TooSlow { address, within };
                    }
                }
            }
        }
    }

    async fn ask(&self, line: &Line) -> Result<Word, RedisError> {
        let mut pipeline = redis::pipe();
        // While it changes masters, this is the one that will be it.
        pipeline.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        pipeline.cmd("SENTINEL").arg("MASTER").arg(&self.name);
        let mut connection = line.connection.clone();
        let answers = connection.req_packed_commands(&pipeline, 0, pipeline.len()).await?;
        let mut answers = answers.into_iter();
        let address = answers.next().unwrap_or_default();
        if let Value::ServerError(error) = address {
            return Err(error.into());
        }
        let Some((host, port)) = redis::from_redis_value::<Option<(String, u16)>>(address)? else {
            return Ok(Word { master: None, number: 0 });
        };
        let number = match answers.next().unwrap_or_default() {
            Value::ServerError(error) => return Err(error.into()),
            properties => number(properties)?,
        };
        Ok(Word { master: Some(Address { host, port }), number })
    }
}

fn number(properties: Value) -> Result<u64, RedisError> {
    let properties: std::collections::HashMap<String, String> =
        redis::from_redis_value(properties)?;
    let number = properties.get("config-epoch").and_then(|number| number.parse().ok());
    number.ok_or_else(|| {
        RedisError::from((
            redis::ErrorKind::UnexpectedReturnType,
            "SENTINEL MASTER has no config-epoch",
        ))
    })
}

/// The new master, where this tells that it changed.
fn switched(name: &str, data: Vec<Value>) -> Option<Address> {
    let mut data = data.into_iter();
    let channel: String = redis::from_redis_value(data.next()?).ok()?;
    let payload: String = redis::from_redis_value(data.next()?).ok()?;
    if channel != "+switch-master" {
        return None;
    }
    // Its name, where it was, where it is.
    let mut words = payload.split(' ');
    if words.next() != Some(name) {
        return None;
    }
    let host = words.nth(2)?.to_owned();
    Some(Address { host, port: words.next()?.parse().ok()? })
}

/// What it tells by itself.
struct Pushes(mpsc::Sender<PushInfo>);

impl AsyncPushSender for Pushes {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        // One that finds no room is made good by the next question.
        let _ = self.0.try_send(push);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_told_of_one_master() {
        let told = |channel: &str, payload: &str| {
            let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
            switched("calls", vec![text(channel), text(payload)])
        };
        let new = Address { host: "10.0.0.2".to_owned(), port: 6380 };
        assert_eq!(told("+switch-master", "calls 10.0.0.1 6379 10.0.0.2 6380"), Some(new));
        assert_eq!(told("+switch-master", "other 10.0.0.1 6379 10.0.0.2 6380"), None);
        assert_eq!(told("+promoted-slave", "calls 10.0.0.1 6379 10.0.0.2 6380"), None);
        assert_eq!(told("+switch-master", "calls 10.0.0.1 6379 10.0.0.2"), None);
        assert_eq!(told("+switch-master", "calls"), None);
    }
}
