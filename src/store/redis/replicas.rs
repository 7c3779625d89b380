//! Whether enough replicas have what was committed, so that it outlives its server.
//!
//! `WAIT` holds up whatever is behind it on its connection, so it has one of its own. There a mark is
//! written behind the commits in question: replicas take all writes in order, so those that have the
//! mark have the commits, too. One mark serves all who wait for one at the moment; and a commit is
//! applied and told of at once, however long the replicas take.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::reach::{Connection, Failed, Live, Reach};
use crate::store::Away;

/// How long one mark waits for replicas.
const WAIT: Duration = Duration::from_millis(200);

/// How long the server may take with that.
const ANSWER: Duration = Duration::from_millis(400);

/// Before another try.
const PAUSE: Duration = Duration::from_millis(20);

/// Most that wait to be asked for.
const WAITING: usize = 4096;

/// Asks for acknowledgements.
pub(super) struct Replicas {
    asks: mpsc::Sender<Ask>,
    _worker: AbortOnDropHandle<()>,
}

/// Someone who wants to know of all that this server has written until now.
struct Ask {
    run_id: Arc<str>,
    answer: oneshot::Sender<Answer>,
}

enum Answer {
    /// Enough have it.
    Kept,
    /// Too few have it as yet, or it is not known.
    NotYet,
    /// Too few have had anything for a while: no need to wait.
    Lacking,
}

impl Replicas {
    /// Begins; `mark` is a key for this purpose alone.
    pub(super) fn start(reach: Arc<Reach>, wanted: usize, mark: String) -> Self {
        let (asks, asked) = mpsc::channel(WAITING);
        let connection = Connection::start(Arc::clone(&reach), redis::pipe(), None);
        let worker = Worker { reach, connection, wanted, mark, asked, lacking: false };
        Self { asks, _worker: AbortOnDropHandle::new(tokio::spawn(worker.run())) }
    }

    /// Whether as many replicas as are wanted have all that was written over this connection. Asked
    /// again until then; `false` may only mean that it is not known.
    pub(super) async fn have(&self, live: &Live, until: Instant) -> bool {
        let asked = async {
            loop {
                let (answer, is_there) = oneshot::channel();
                let ask = Ask { run_id: Arc::clone(&live.run_id), answer };
                if self.asks.send(ask).await.is_err() {
                    return false;
                }
                match is_there.await {
                    Ok(Answer::Kept) => return true,
                    Ok(Answer::NotYet) => sleep(PAUSE).await,
                    Ok(Answer::Lacking) | Err(_) => return false,
                }
            }
        };
        timeout_at(until, asked).await.unwrap_or(false)
    }
}

struct Worker {
    reach: Arc<Reach>,
    connection: Connection,
    wanted: usize,
    mark: String,
    asked: mpsc::Receiver<Ask>,
    /// Too few had it the last time.
    lacking: bool,
}

impl Worker {
    async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.asked.recv_many(&mut waiting, WAITING).await > 0 {
            let marked = self.mark().await;
            let (run_id, have) = match &marked {
                Ok((live, have)) => (Some(&live.run_id), *have),
                Err(Away) => (None, 0),
            };
            for Ask { run_id: of, answer } in waiting.drain(..) {
                let told = match (run_id == Some(&of), have >= self.wanted) {
                    (true, true) => Answer::Kept,
                    (true, false) if self.lacking => Answer::Lacking,
                    (_, _) => Answer::NotYet,
                };
                // Whoever asked may have given up.
                let _ = answer.send(told);
            }
            if run_id.is_some() {
                self.tell(have);
            }
        }
    }

    /// Writes the mark, and says how many replicas have it.
    async fn mark(&self) -> Result<(Arc<Live>, usize), Away> {
        let live = self.connection.live().await?;
        let mut ask = redis::pipe();
        ask.cmd("SET").arg(&self.mark).arg(1);
        let wait = u64::try_from(WAIT.as_millis()).unwrap_or(u64::MAX);
        ask.cmd("WAIT").arg(self.wanted).arg(wait);
        let why = match live.ask_within(ANSWER, &ask).await {
            Ok(mut values) => {
                let have = values.pop().unwrap_or(Value::Nil);
                return Ok((live, redis::from_redis_value(have).unwrap_or(0)));
            }
            Err(Failed::Refused(why)) => {
                self.reach.refused(&why);
                return Err(Away);
            }
            Err(Failed::Broken(why)) => why,
            Err(Failed::Silent | Failed::Forgotten) => "it does not answer".to_owned(),
        };
        self.connection.give_up(&live, &why);
        Err(Away)
    }

    fn tell(&mut self, have: usize) {
        let lacking = have < self.wanted;
        if lacking != self.lacking {
            let wanted = self.wanted;
            if lacking {
                tracing::warn!(have, wanted, "redis: too few replicas have what was committed");
            } else {
                tracing::info!(have, wanted, "redis: enough replicas have what was committed");
            }
            self.lacking = lacking;
        }
    }
}
