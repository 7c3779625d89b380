//! What the store committed, read beside the processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use callplane::core::ids::{Epoch, TenantId};
use callplane::core::notice::Notice;
use callplane::core::record::Position;
use callplane::store::redis::RedisStore;
use callplane::store::{Store as _, Unreadable};
use serde_json::Value;

use super::history::{Event, Fault, History, Time, What};
use super::record::Recorder;

/// Entries of one page.
const PAGE: usize = 2000;

/// Reads a tenant's stream as it grows.
pub struct Reader {
    store: Arc<RedisStore>,
    at: Option<Position>,
    /// What was noted last under each number. A server that kept its memory shows it again in a new
    /// epoch.
    noted: BTreeMap<u64, (String, &'static str)>,
}

impl Reader {
    pub fn new(store: Arc<RedisStore>) -> Self {
        Self { store, at: None, noted: BTreeMap::new() }
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
                        let told = (entry.key.id.as_str().to_owned(), name(&entry.notice));
                        if self.noted.get(&entry.seq) != Some(&told) {
                            recorder.note(what(&at.epoch, entry.seq, &told));
                            self.noted.insert(entry.seq, told);
                        }
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

fn name(notice: &Notice) -> &'static str {
    match notice {
        Notice::Started { .. } => "Started",
        Notice::Progress { event, .. } => event.as_str(),
        Notice::Error(_) => "Error",
        Notice::Ended { .. } => "Ended",
    }
}

fn what(epoch: &Epoch, seq: u64, (cmd_id, event): &(String, &'static str)) -> What {
    What::Told {
        tenant: "default".to_owned(),
        cmd_id: cmd_id.clone(),
        epoch: epoch.as_str().to_owned(),
        seq,
        event: (*event).to_owned(),
    }
}

/// What a client received: epoch, number, command, event.
type Received = (String, u64, String, String);

fn received(text: &str) -> Option<Received> {
    let frame: Value = serde_json::from_str(text).unwrap();
    let told = if frame["result"].is_object() { &frame["result"] } else { &frame["params"] };
    let text = |name: &str| told[name].as_str().map(str::to_owned);
    if told["repeated"] == true {
        return None;
    }
    Some((text("epoch")?, told["seq"].as_u64()?, text("cmd_id")?, text("event")?))
}

/// Puts what was read later than it was committed to its time, as far as that can be seen; and adds
/// what could not be read in time, the end of an epoch. A server that kept its memory shows that under
/// the same number in the next epoch; one that forgot it shows it nowhere.
pub fn complete(history: &mut History) {
    let is_loss = |event: &Event| matches!(event.what, What::Fault { kind: Fault::StoreLost, .. });
    let forgot = history.events.iter().any(is_loss);
    let mut asked: BTreeMap<String, Time> = BTreeMap::new();
    let mut came: BTreeMap<Received, Time> = BTreeMap::new();
    for Event { at, what } in &history.events {
        match what {
            What::Sent { text, .. } if text.contains("\"method\":\"Call") => {
                let frame: Value = serde_json::from_str(text).unwrap();
                let id = frame["params"]["cmd_id"].as_str().unwrap_or_default();
                asked.entry(id.to_owned()).or_insert(*at);
            }
            What::Received { text, .. } => {
                if let Some(received) = received(text) {
                    came.entry(received).or_insert(*at);
                }
            }
            _ => {}
        }
    }
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut known: BTreeMap<(u64, String, String), Time> = BTreeMap::new();
    for Event { at, what } in &mut history.events {
        let What::Told { cmd_id, epoch, seq, event, .. } = what else { continue };
        let received = (epoch.clone(), *seq, cmd_id.clone(), event.clone());
        let begun = asked.get(cmd_id).filter(|_| event == "Started");
        let seen = came.remove(&received).into_iter().chain(begun.copied());
        *at = seen.fold(*at, Time::min);
        let last = last.entry(epoch.clone()).or_default();
        *last = (*last).max(*seq);
        known.insert((*seq, cmd_id.clone(), event.clone()), *at);
    }
    for ((epoch, seq, cmd_id, event), at) in came {
        let before = known.get(&(seq, cmd_id.clone(), event.clone())).copied();
        let unread = forgot && last.get(&epoch).is_none_or(|last| seq > *last);
        let at = match before {
            Some(before) => before,
            None if unread => at,
            None => continue,
        };
        let tenant = "default".to_owned();
        let what = What::Told { tenant, cmd_id, epoch, seq, event };
        history.events.push(Event { at, what });
    }
    history.events.sort_by_key(|event| event.at);
}
