//! What the store committed, read beside the processes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use callplane::core::ids::{Epoch, TenantId};
use callplane::core::notice::Notice;
use callplane::core::record::{Entry, Position};
use callplane::store::redis::RedisStore;
use callplane::store::{Store as _, Unreadable};
use serde_json::Value;

use super::history::{Event, Fault, History, What};
use super::record::Recorder;

/// Entries of one page.
const PAGE: usize = 2000;

/// Reads a tenant's stream as it grows.
pub struct Reader {
    store: Arc<RedisStore>,
    at: Option<Position>,
}

impl Reader {
    pub fn new(store: Arc<RedisStore>) -> Self {
        Self { store, at: None }
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
                    }
                    let more = page.through < page.head.seq;
                    self.at = Some(Position { seq: page.through, ..at });
                    if !more {
                        return true;
                    }
                }
                Err(Unreadable::Away(_)) => return false,
                Err(Unreadable::EpochChanged) => self.at = None,
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

/// Adds what could not be read in time: the end of an epoch. A server that kept its memory goes on
/// with the stream in a new epoch, where it is to be seen under the same number; one that forgot it
/// shows it nowhere.
pub fn complete(history: &mut History) {
    let forgot = history
        .events
        .iter()
        .any(|event| matches!(event.what, What::Fault { kind: Fault::StoreLost, .. }));
    let mut read: BTreeMap<String, u64> = BTreeMap::new();
    let mut known: BTreeSet<(u64, String, String)> = BTreeSet::new();
    for event in &history.events {
        let What::Told { cmd_id, epoch, seq, event, .. } = &event.what else { continue };
        let last = read.entry(epoch.clone()).or_default();
        *last = (*last).max(*seq);
        known.insert((*seq, cmd_id.clone(), event.clone()));
    }
    let mut added = BTreeSet::new();
    let mut more = Vec::new();
    for Event { at, what } in &history.events {
        let What::Received { text, .. } = what else { continue };
        let frame: Value = serde_json::from_str(text).unwrap();
        let told = if frame["result"].is_object() { &frame["result"] } else { &frame["params"] };
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        let (epoch, Some(seq)) = (text("epoch"), told["seq"].as_u64()) else { continue };
        let (cmd_id, event) = (text("cmd_id"), text("event"));
        let is_read = read.get(&epoch).is_some_and(|last| seq <= *last);
        let is_kept = known.contains(&(seq, cmd_id.clone(), event.clone()));
        if is_read || event.is_empty() || told["repeated"] == true || !(forgot || is_kept) {
            continue;
        }
        if added.insert((epoch.clone(), seq)) {
            let tenant = "default".to_owned();
            more.push(Event { at: *at, what: What::Told { tenant, cmd_id, epoch, seq, event } });
        }
    }
    history.events.extend(more);
}
