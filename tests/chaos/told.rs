//! What the store committed, read beside the processes.

use std::sync::Arc;
use std::time::Duration;

use callplane::core::ids::{Epoch, TenantId};
use callplane::core::notice::Notice;
use callplane::core::record::{Entry, Position};
use callplane::store::redis::RedisStore;
use callplane::store::{Store as _, Unreadable};

use super::history::What;
use super::record::Recorder;

/// Entries of one page.
const PAGE: usize = 2000;

/// Reads a tenant's stream as it grows.
pub struct Reader {
    store: Arc<RedisStore>,
    at: Option<Position>,
    /// Where the epoch before ended, as far as it could be read.
    before: Option<Position>,
}

impl Reader {
    pub fn new(store: Arc<RedisStore>) -> Self {
        Self { store, at: None, before: None }
    }

    /// Notes what is new; returns whether the store could be read to its head.
    pub async fn note(&mut self, recorder: &Recorder) -> bool {
        let tenant = TenantId::default();
        loop {
            let at = match &self.at {
                Some(at) => at.clone(),
                None => match self.store.head(&tenant).await {
                    Ok(head) => Position { seq: 0, ..head },
                    Err(_) => return false,
                },
            };
            match self.store.read(&tenant, &at, PAGE, None).await {
                Ok(page) => {
                    for (place, entry) in (at.seq + 1..).zip(&page.entries) {
                        assert_eq!(entry.seq, place, "the stream of {:?} has a hole", at.epoch);
                        recorder.note(told(&at.epoch, entry));
                        // A server that kept its memory goes on with the stream in a new epoch. What
                        // was last told in the old one is only to be seen there.
                        if let Some(before) = &self.before
                            && place > before.seq
                        {
                            recorder.note(told(&before.epoch, entry));
                        }
                    }
                    let more = page.through < page.head.seq;
                    self.at = Some(Position { seq: page.through, ..at });
                    if !more {
                        self.before = None;
                        return true;
                    }
                }
                Err(Unreadable::Away(_)) => return false,
                Err(Unreadable::EpochChanged) => self.before = self.at.take(),
                Err(why @ (Unreadable::Trimmed | Unreadable::Ahead)) => {
                    panic!("the stream can't be read at {at:?}: {why}")
                }
            }
        }
    }

    /// Reads on until the recorder is not there any more.
    pub async fn follow(
        mut self,
        recorder: Arc<Recorder>,
        stop: tokio::sync::oneshot::Receiver<()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        loop {
            self.note(&recorder).await;
            let pause = tokio::time::sleep(Duration::from_millis(300));
            tokio::select! {
                () = pause => {}
                _ = &mut stop => break,
            }
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !self.note(&recorder).await {
            assert!(tokio::time::Instant::now() < deadline, "the stream can't be read to its end");
        }
    }
}

fn told(epoch: &Epoch, entry: &Entry) -> What {
    let event = match &entry.notice {
        Notice::Started { .. } => "Started",
        Notice::Progress { event, .. } => event.as_str(),
        Notice::Error(_) => "Error",
        Notice::Ended { .. } => "Ended",
    };
    What::Told {
        tenant: "default".to_owned(),
        cmd_id: entry.key.id.as_str().to_owned(),
        epoch: epoch.as_str().to_owned(),
        seq: entry.seq,
        event: event.to_owned(),
    }
}
