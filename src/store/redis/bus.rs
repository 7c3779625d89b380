//! The bus of several processes: what their commits publish, and the streams for what got lost.
//!
//! Redis forgets what it published. So a message is told when it is the next one of its tenant, and
//! is else only a hint to read the stream; the streams are also read after each (re)subscription, and
//! now and then.
//!
//! It stands with the store: it shares its names, and reads it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::reach::{Connection, Failed, Live, reaches};
use super::store::RedisStore;
use super::wire::{self, Unintelligible};
use crate::bus::{Bus, Listener};
use crate::core::ids::{Epoch, TenantId};
use crate::core::partition::Partition;
use crate::core::record::{Entry, Position};
use crate::store::{Away, Store as _, Unreadable};

/// Most messages that wait to be told. What does not fit is read from the streams.
const WAITING: usize = 16_384;

/// How often what could not be read is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// All streams are looked at each time that this many of those have passed.
const SWEEP: u32 = 5;

/// How many entries are read at once.
const PAGE: usize = 1024;

/// How long the bus may take to be ready.
const READY: Duration = Duration::from_secs(2);

/// Carries what any process of the installation commits.
pub struct RedisBus {
    store: Arc<RedisStore>,
    ears: Arc<Ears>,
    carrier: tokio::task::JoinHandle<()>,
}

impl RedisBus {
    /// Subscribes, where the store is. Whatever is committed once this has returned is told to whoever
    /// is attached.
    ///
    /// # Errors
    /// [`Away`] when Redis is not there within two seconds.
    pub async fn start(store: Arc<RedisStore>) -> Result<Self, Away> {
        let (sender, pushes) = mpsc::channel(WAITING);
        let send = move |push: PushInfo| {
            // One that finds no room leaves a gap, which is noticed.
            let _ = sender.try_send(push);
        };
        let connection =
            Connection::start(Arc::clone(store.reach()), redis::pipe(), Some(Arc::new(send)));
        let ears = Arc::new(Ears::default());
        let (ready, is_ready) = oneshot::channel();
        let carrier = Carrier {
            store: Arc::clone(&store),
            ears: Arc::clone(&ears),
            connection,
            pushes,
            told: None,
            behind: false,
        };
        let bus = Self { store, ears, carrier: tokio::spawn(carrier.run(ready)) };
        match timeout(READY, is_ready).await {
            Ok(Ok(())) => Ok(bus),
            Ok(Err(_)) | Err(_) => Err(Away),
        }
    }
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

impl Bus for RedisBus {
    fn attach(&self, listener: Arc<dyn Listener>) {
        // What this process knows to be committed is from before, also where it is still under way.
        let mut ears = self.ears.lock();
        ears.push(Ear { listener, not_before: self.store.all_seen() });
    }
}

/// Who listens.
#[derive(Default)]
struct Ears(Mutex<Vec<Ear>>);

struct Ear {
    listener: Arc<dyn Listener>,
    /// Positions that were reached when it came.
    not_before: HashMap<TenantId, Position>,
}

impl Ears {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Ear>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        for ear in self.lock().iter_mut() {
            let new = match ear.not_before.get(tenant) {
                Some(reached) if reached.epoch == *epoch => {
                    let old = entries.partition_point(|entry| entry.seq <= reached.seq);
                    entries.get(old..).unwrap_or_default()
                }
                Some(_) | None => entries,
            };
            if !new.is_empty() {
                ear.not_before.remove(tenant);
                ear.listener.entries(tenant, epoch, new);
            }
        }
    }

    fn skip(&self, tenant: &TenantId, to: &Position) {
        for ear in self.lock().iter() {
            ear.listener.skipped(tenant, to);
        }
    }
}

/// One epoch of a partition, and the last position of each tenant that was told.
struct Life {
    epoch: Epoch,
    last: HashMap<TenantId, u64>,
}

/// What was published.
struct Published {
    partition: Partition,
    epoch: Epoch,
    /// The position of the first and the last entry.
    from: u64,
    to: u64,
    /// Those that can be read.
    entries: Vec<Arc<Entry>>,
}

/// The task that listens to Redis.
struct Carrier {
    store: Arc<RedisStore>,
    ears: Arc<Ears>,
    connection: Connection,
    pushes: mpsc::Receiver<PushInfo>,
    /// `None` until the first subscription.
    told: Option<HashMap<Partition, Life>>,
    /// A stream could not be read.
    behind: bool,
}

impl Carrier {
    async fn run(mut self, ready: oneshot::Sender<()>) {
        let mut ready = Some(ready);
        let mut number = 0;
        let mut again = interval(AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Ok(live) = self.newer(number, &mut again).await {
            number = live.number;
            if let Err(why) = self.join(&live).await {
                self.connection.give_up(&live, why);
                continue;
            }
            if let Some(ready) = ready.take() {
                // Whoever waited for it may have given up.
                let _ = ready.send(());
            }
            self.carry(&live, &mut again).await;
        }
    }

    /// Waits for a connection that is newer than this one. While it can't be made, though the store's
    /// own is there, the streams are looked at.
    async fn newer(&mut self, than: u64, again: &mut Interval) -> Result<Arc<Live>, Away> {
        loop {
            tokio::select! {
                live = self.connection.newer(than) => return live,
                _ = again.tick() => if self.told.is_some() { self.look().await },
            }
        }
    }

    async fn join(&mut self, live: &Live) -> Result<(), &'static str> {
        let channels = Partition::all().map(|partition| self.store.keys().channel(partition));
        live.subscribe(channels.collect()).await.map_err(|failed| {
            if let Failed::Refused(why) = failed {
                self.store.reach().refused(&why);
            }
            "it takes no subscription"
        })?;
        self.sweep().await.map_err(|Away| "the streams can't be read")
    }

    /// Looks at all streams. What could not be read is looked at again soon.
    async fn look(&mut self) {
        self.behind = false;
        let looked = self.sweep().await;
        // It may have come upon something itself.
        self.behind |= looked.is_err();
    }

    /// Tells what is published over this connection until it breaks.
    async fn carry(&mut self, live: &Live, again: &mut Interval) {
        let mut broken = self.connection.breaks();
        let mut epoch = self.store.epochs();
        let mut passed = 0_u32;
        loop {
            tokio::select! {
                push = self.pushes.recv() => match push {
                    Some(PushInfo { kind: PushKind::Message, data }) => self.heard(data).await,
                    Some(_) => {}
                    None => return,
                },
                () = reaches(&mut broken, live.number) => return,
                // Whoever waits for something that is lost should not wait for the next message.
                Ok(()) = epoch.changed() => self.look().await,
                _ = again.tick() => {
                    passed = passed.wrapping_add(1);
                    if self.behind || passed.is_multiple_of(SWEEP) {
                        self.look().await;
                    }
                }
            }
        }
    }

    async fn heard(&mut self, data: Vec<Value>) {
        let published = match self.published(data) {
            Ok(Some(published)) => published,
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "redis: a message can't be read");
                self.behind = true;
                return;
            }
        };
        let Published { partition, epoch, from, to, entries } = published;
        let life = self.told.as_mut().and_then(|told| told.get_mut(&partition));
        // Where none can be read it is not known whose they are: the stream says it.
        if let Some(first) = entries.first()
            && let Some(life) = life.filter(|life| life.epoch == epoch)
        {
            let tenant = first.key.tenant.clone();
            let last = life.last.entry(tenant.clone()).or_default();
            if from <= *last + 1 {
                let old = entries.partition_point(|entry| entry.seq <= *last);
                *last = to.max(*last);
                self.ears.tell(&tenant, &epoch, entries.get(old..).unwrap_or_default());
                return;
            }
        }
        self.behind |= self.catch_up([partition].into()).await.is_err();
    }

    fn published(&self, data: Vec<Value>) -> Result<Option<Published>, Unintelligible> {
        let mut data = data.into_iter();
        let channel: String = redis::from_redis_value(data.next().unwrap_or_default())?;
        let payload: String = redis::from_redis_value(data.next().unwrap_or_default())?;
        let Some(partition) = self.store.keys().partition_of_channel(&channel) else {
            return Ok(None);
        };
        let mut lines = payload.split('\n');
        let head = lines.next().unwrap_or_default();
        let (epoch, from) = head.split_once(' ').unwrap_or_default();
        let (epoch, from) = (wire::epoch(epoch)?, from.parse::<u64>()?);
        let mut published = Published { partition, epoch, from, to: from, entries: Vec::new() };
        for (json, seq) in lines.zip(from..) {
            published.to = seq;
            let read = wire::entry(json.as_bytes(), seq);
            published.entries.extend(self.store.illegible().pass_over(read));
        }
        Ok(Some(published))
    }

    /// Looks at all streams.
    async fn sweep(&mut self) -> Result<(), Away> {
        let used = self.store.used().await?;
        self.catch_up(used.clone()).await?;
        self.bury(&used);
        Ok(())
    }

    /// Partitions that are not in use any more: the memory is another one and knows nothing of them.
    fn bury(&mut self, used: &BTreeSet<Partition>) {
        let Some(told) = &mut self.told else { return };
        let Some(epoch) =
            used.iter().find_map(|partition| Some(told.get(partition)?.epoch.clone()))
        else {
            return;
        };
        told.retain(|partition, life| {
            let stays = used.contains(partition) || life.epoch == epoch;
            if !stays {
                for tenant in life.last.keys() {
                    self.ears.skip(tenant, &Position { epoch: epoch.clone(), seq: 0 });
                }
            }
            stays
        });
    }

    /// Tells what the streams have and was not told. The very first time that is nothing: it is
    /// where the bus begins.
    async fn catch_up(&mut self, partitions: BTreeSet<Partition>) -> Result<(), Away> {
        let heads = self.store.heads(&partitions).await?;
        let begins = self.told.is_none();
        let told = self.told.get_or_insert_default();
        for (partition, head) in heads {
            if !self.store.heard_epoch(&head.epoch).await {
                self.behind = true;
                continue;
            }
            let life = told
                .entry(partition)
                .or_insert_with(|| Life { epoch: head.epoch.clone(), last: HashMap::new() });
            if life.epoch != head.epoch {
                let last = head.streams.iter().map(|(tenant, base, _)| (tenant.clone(), *base));
                let next = Life { epoch: head.epoch.clone(), last: last.collect() };
                let before = std::mem::replace(life, next);
                for tenant in before.last.into_keys() {
                    let seq = life.last.get(&tenant).copied().unwrap_or_default();
                    self.ears.skip(&tenant, &Position { epoch: head.epoch.clone(), seq });
                }
            }
            for (tenant, base, newest) in head.streams {
                let last = life.last.entry(tenant.clone()).or_default();
                *last = base.max(*last);
                if begins {
                    *last = newest;
                }
                while *last < newest {
                    let after = Position { epoch: head.epoch.clone(), seq: *last };
                    match self.store.read(&tenant, &after, PAGE, None).await {
                        Ok(page) => {
                            if page.through <= *last {
                                break;
                            }
                            *last = page.through;
                            self.ears.tell(&tenant, &head.epoch, &page.entries);
                        }
                        Err(Unreadable::Trimmed) => {
                            tracing::warn!(%tenant, from = *last, "redis: cut off for too long, entries are lost");
                            *last = newest;
                            let to = Position { epoch: head.epoch.clone(), seq: newest };
                            self.ears.skip(&tenant, &to);
                        }
                        // Its head is another one by now, and is looked at again.
                        Err(Unreadable::EpochChanged | Unreadable::Ahead) => {
                            self.behind = true;
                            break;
                        }
                        Err(Unreadable::Away(Away)) => return Err(Away),
                    }
                }
            }
        }
        Ok(())
    }
}
