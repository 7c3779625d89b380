//! Commands, claims and streams in Redis.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use super::illegible::Illegible;
use super::keys::Keys;
use super::reach::{About, BadSettings, CALL, Connection, Live, Reach, Seldom, Settings};
use super::replicas::Replicas;
use super::script::Script;
use super::ways::{self, Way, Ways};
use super::wire::{self, Head, Parts, Unintelligible, Written, away, epoch, milliseconds, one};
use crate::clock::{Nonces as _, StoreClock, SystemNonces};
use crate::core::ids::{Epoch, Install, Nonce, SessionId, StackId, TenantId, Term};
use crate::core::partition::Partition;
use crate::core::record::{Position, Record};
use crate::core::stack_event::Watch;
use crate::core::time::StoreTime;
use crate::store::{
    ALIVE, Away, Beat, Commit, Find, Life, Limits, Page, Pulse, SILENT, Store, Unfound, Unreadable,
    Verdict,
};

/// Most entries of one page: one read must not hold up all commits.
const LONGEST_PAGE: usize = 4096;

/// Most records that are taken at once, for the same reason.
const AT_ONCE: usize = 256;

/// A leader whose every commit is fenced is told of this often.
const FENCED_AGAIN: Duration = Duration::from_secs(10);

/// So many epochs that ended are remembered.
const MOST_LEFT: usize = 64;

/// Several servers in a row for one call: then something is wrong.
const MOST_EPOCHS: usize = 3;

/// Commands, claims and streams in Redis.
pub struct RedisStore {
    reach: Arc<Reach>,
    connection: Connection,
    /// For what is read of streams: a storm of resumes holds up no commit.
    pages: Connection,
    /// `None`: none is waited for.
    replicas: Option<Replicas>,
    keys: Keys,
    limits: Limits,
    nonces: SystemNonces,
    clock: Arc<StoreClock>,
    ways: Ways,
    illegible: Illegible,
    /// When it is to be told of that a leader of ours is fenced.
    fenced: Seldom,
    /// Partitions that were in use when this process looked last. There are never fewer.
    used: Mutex<BTreeSet<Partition>>,
    /// The newest position of each tenant that this process has come to know.
    seen: Mutex<HashMap<TenantId, Position>>,
    /// The epoch, as this process heard of it last.
    epoch: watch::Sender<Option<Epoch>>,
    /// Epochs that this process saw end, the last ones.
    left: Mutex<VecDeque<Epoch>>,
}

impl RedisStore {
    /// A store of an installation. Must be called inside a tokio runtime; connects by itself, and
    /// is away until it is connected.
    ///
    /// # Errors
    /// [`BadSettings`] says what can't be used of them. That a server is not there is no error: it
    /// may come.
    pub fn start(
        settings: Settings,
        install: Install,
        limits: Limits,
    ) -> Result<Self, BadSettings> {
        let reach = Reach::start(settings)?;
        let keys = Keys::new(install);
        let wanted = reach.settings.replicas;
        let replicas =
            (wanted > 0).then(|| Replicas::start(Arc::clone(&reach), wanted, keys.mark()));
        Ok(Self {
            connection: Connection::start(Arc::clone(&reach), Script::load_all(), None),
            pages: Connection::start(Arc::clone(&reach), Script::load_all(), None),
            replicas,
            reach,
            keys,
            limits,
            nonces: SystemNonces::new(),
            clock: Arc::new(StoreClock::new()),
            ways: Ways::default(),
            illegible: Illegible::default(),
            fenced: Seldom::every(FENCED_AGAIN),
            used: Mutex::default(),
            seen: Mutex::default(),
            epoch: watch::Sender::new(None),
            left: Mutex::default(),
        })
    }

    /// The store's time, as this process keeps it. It is learnt with each beat; until the first one
    /// it is the system's.
    #[must_use]
    pub fn clock(&self) -> Arc<StoreClock> {
        Arc::clone(&self.clock)
    }

    /// What the server says of itself.
    ///
    /// # Errors
    /// [`Away`] when it does not answer.
    pub async fn about(&self) -> Result<About, Away> {
        let info: String = self.ask(|_| one(redis::cmd("INFO"))).await?;
        Ok(About::of(&info))
    }

    /// Why there is no connection, as far as one was tried.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.reach.trouble()
    }

    pub(super) fn reach(&self) -> &Arc<Reach> {
        &self.reach
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn illegible(&self) -> &Illegible {
        &self.illegible
    }

    pub(super) fn nonce(&self) -> Nonce {
        self.nonces.nonce()
    }

    /// The epoch, as this process heard of it last.
    pub(super) fn epochs(&self) -> watch::Receiver<Option<Epoch>> {
        self.epoch.subscribe()
    }

    /// The store's epoch is this one. False: it is one that had ended. A memory that comes back (an
    /// address that leads to the server before, a database that is swapped back) knows nothing of
    /// what was told since, so it is to be another epoch.
    pub(super) async fn heard_epoch(&self, epoch: &Epoch) -> bool {
        if self.goes_on(epoch) {
            return true;
        }
        if let Ok(used) = self.used().await {
            for partition in used {
                if self.open_epoch(partition, Some(epoch)).await.is_err() {
                    // Who hears of it next does it.
                    break;
                }
            }
        }
        false
    }

    /// Takes it for the present one, unless it had ended.
    fn goes_on(&self, epoch: &Epoch) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if left.contains(epoch) {
            return false;
        }
        self.epoch.send_if_modified(|known| {
            let news = known.as_ref() != Some(epoch);
            if let Some(before) = known.replace(epoch.clone()).filter(|_| news) {
                left.truncate(MOST_LEFT - 1);
                left.push_front(before);
            }
            news
        });
        true
    }

    /// The newest position of a tenant that this process has come to know.
    fn seen(&self, tenant: &TenantId, position: Position) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get_mut(tenant) {
            Some(newest) if newest.epoch == position.epoch => {
                newest.seq = newest.seq.max(position.seq);
            }
            Some(newest) => *newest = position,
            None => {
                seen.insert(tenant.clone(), position);
            }
        }
    }

    /// All of them.
    pub(super) fn all_seen(&self) -> HashMap<TenantId, Position> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The partitions in use.
    pub(super) async fn used(&self) -> Result<BTreeSet<Partition>, Away> {
        let mut members = redis::cmd("SMEMBERS");
        members.arg(self.keys.partitions());
        let (_, answer) = self.answer(|_| one(members.clone())).await?;
        self.in_use(answer)
    }

    /// The heads of these partitions, where they have one.
    pub(super) async fn heads(
        &self,
        of: &BTreeSet<Partition>,
    ) -> Result<Vec<(Partition, Head)>, Away> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let ask = |_: &Live| {
            let mut pipeline = redis::pipe();
            for partition in of {
                pipeline.cmd("HGETALL").arg(self.keys.head(*partition));
            }
            pipeline
        };
        let (_, values) = self.connection.call(ask).await?;
        let mut heads = Vec::with_capacity(of.len());
        for (partition, value) in of.iter().zip(values) {
            let fields = redis::from_redis_value(value).map_err(|error| away(&error.into()))?;
            if let Some(head) = Head::of(fields)? {
                heads.push((*partition, head));
            }
        }
        Ok(heads)
    }

    /// Asks one question.
    pub(super) async fn ask<T: redis::FromRedisValue>(
        &self,
        ask: impl Fn(&Live) -> Pipeline + Send + Sync,
    ) -> Result<T, Away> {
        let (_, value) = self.answer(ask).await?;
        redis::from_redis_value(value).map_err(|error| away(&error.into()))
    }

    /// The answer to the last of what is asked.
    async fn answer(
        &self,
        ask: impl Fn(&Live) -> Pipeline + Send + Sync,
    ) -> Result<(Arc<Live>, Value), Away> {
        Self::answer_over(&self.connection, ask).await
    }

    async fn answer_over(
        connection: &Connection,
        ask: impl Fn(&Live) -> Pipeline + Send + Sync,
    ) -> Result<(Arc<Live>, Value), Away> {
        let (live, mut values) = connection.call(ask).await?;
        Ok((live, values.pop().unwrap_or_default()))
    }

    /// Asks a script that wants to know the partition's epoch, and begins one where there is none.
    pub(super) async fn answer_of_epoch(
        &self,
        partition: Partition,
        ask: impl Fn(&Live) -> Pipeline + Send + Sync,
    ) -> Result<(Arc<Live>, Value), Away> {
        self.answer_of_epoch_over(&self.connection, partition, ask).await
    }

    async fn answer_of_epoch_over(
        &self,
        connection: &Connection,
        partition: Partition,
        ask: impl Fn(&Live) -> Pipeline + Send + Sync,
    ) -> Result<(Arc<Live>, Value), Away> {
        for _ in 0..MOST_EPOCHS {
            let (live, answer) = Self::answer_over(connection, &ask).await?;
            if !without_epoch(&answer) {
                return Ok((live, answer));
            }
            self.open_epoch(partition, None).await?;
        }
        Err(Away)
    }

    /// Begins an epoch of the memory of the server that is there now, unless somebody did so. `over`:
    /// one that is not to go on.
    async fn open_epoch(&self, partition: Partition, over: Option<&Epoch>) -> Result<(), Away> {
        let keys = [
            self.keys.head(partition),
            self.keys.epoch(),
            self.keys.partitions(),
            self.keys.terms(),
        ];
        let fresh = Epoch::derive(self.nonces.nonce());
        let (live, opened) = self
            .answer(|live| {
                let mut open = Script::OpenEpoch.over(live);
                open.arg(keys.len()).arg(&keys);
                open.arg(&*live.run_id).arg(fresh.as_str()).arg(partition.number());
                open.arg(over.map_or("", Epoch::as_str));
                one(open)
            })
            .await?;
        let opened: String = redis::from_redis_value(opened).map_err(|e| away(&e.into()))?;
        if opened == fresh.as_str() {
            tracing::info!(epoch = opened, run_id = %live.run_id, "redis: an epoch begins");
            if over.is_some() {
                tracing::warn!("redis: its memory was left for another one before, and is back");
            }
        }
        Ok(())
    }

    /// Running commands in an index that each partition has.
    async fn of_index(
        &self,
        index: impl Fn(Partition) -> String + Send + Sync,
        due_by: Option<StoreTime>,
    ) -> Result<Vec<Arc<Record>>, Away> {
        let due_by = due_by.map_or_else(String::new, |at| at.0.to_string());
        let (mut found, mut others) = (Vec::new(), Vec::new());
        let mut asked = BTreeSet::new();
        // Partitions that are in use for longer are asked in one go. That others have come into use
        // is told by the same answer.
        let mut next = self.known_used();
        loop {
            let ask = |live: &Live| {
                let mut pipeline = redis::pipe();
                pipeline.cmd("SMEMBERS").arg(self.keys.partitions());
                for partition in &next {
                    let mut find = Script::Find.over(live);
                    find.arg(1).arg(index(*partition)).arg(&due_by).arg(AT_ONCE);
                    pipeline.add_command(find);
                }
                pipeline
            };
            let (_, values) = self.connection.call(ask).await?;
            let mut values = values.into_iter();
            let used = self.in_use(values.next().unwrap_or_default())?;
            for answer in values {
                let (records, names) =
                    wire::found(answer, &self.illegible).map_err(|e| away(&e))?;
                found.extend(records);
                others.extend(names);
            }
            asked.append(&mut next);
            next = used.difference(&asked).copied().collect();
            if next.is_empty() {
                break;
            }
        }
        for names in others.chunks(AT_ONCE) {
            found.extend(self.named(names).await?);
        }
        Ok(found)
    }

    fn way(&self, commit: &Commit, to: Partition) -> Way {
        let stack = &commit.record.state.plan.stack;
        let watches = commit.record.state.watches();
        let names = watches.iter().map(|watch| self.keys.route(stack, watch)).collect();
        let left = commit.not_after.until(commit.record.state.deadline);
        Way::of(left, to, commit.epoch.clone(), names)
    }

    /// Running commands that listen to any of these.
    async fn watching(
        &self,
        stack: &StackId,
        watches: Vec<Watch>,
    ) -> Result<Vec<Arc<Record>>, Away> {
        if watches.is_empty() {
            return Ok(Vec::new());
        }
        let (_, answers) = self.connection.call(|_| ways::ask(&self.keys, stack, &watches)).await?;
        let places = ways::answered(watches, answers).map_err(|error| away(&error))?;
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let ask = |live: &Live| {
            let mut pipeline = redis::pipe();
            for (partition, watches) in &places {
                let mut find = Script::Find.over(live);
                find.arg(watches.len());
                for watch in watches {
                    find.arg(self.keys.watch(*partition, stack, watch));
                }
                find.arg("").arg(AT_ONCE);
                pipeline.add_command(find);
            }
            pipeline
        };
        let (_, answers) = self.connection.call(ask).await?;
        let mut found = Vec::new();
        for answer in answers {
            let (records, names) = wire::found(answer, &self.illegible).map_err(|e| away(&e))?;
            found.extend(records);
            for names in names.chunks(AT_ONCE) {
                found.extend(self.named(names).await?);
            }
        }
        Ok(found)
    }

    /// Those of these records whose commands run still.
    async fn named(&self, names: &[String]) -> Result<Vec<Arc<Record>>, Away> {
        let ask = |_: &Live| {
            let mut pipeline = redis::pipe();
            for name in names {
                pipeline.cmd("HMGET").arg(name).arg("record").arg("first_seq");
            }
            pipeline
        };
        let (_, values) = self.connection.call(ask).await?;
        let mut running = Vec::with_capacity(names.len());
        for value in values {
            let stored = wire::record(value).map_err(|error| away(&error))?;
            let record = stored.and_then(|stored| self.illegible.pass_over(stored));
            running.extend(record.filter(|record| record.state.outcome().is_none()));
        }
        Ok(running)
    }

    fn known_used(&self) -> BTreeSet<Partition> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The partitions in use, as Redis tells them.
    fn in_use(&self, members: Value) -> Result<BTreeSet<Partition>, Away> {
        let members: Vec<u8> =
            redis::from_redis_value(members).map_err(|error| away(&error.into()))?;
        let used: BTreeSet<_> = members.into_iter().filter_map(Partition::numbered).collect();
        self.used.lock().unwrap_or_else(PoisonError::into_inner).extend(&used);
        Ok(used)
    }
}

/// Whether a script found no epoch of this server's memory.
fn without_epoch(answer: &Value) -> bool {
    match answer {
        Value::Array(parts) => matches!(parts.first(), Some(Value::BulkString(w)) if w == b"HEAD"),
        _ => false,
    }
}

impl Store for RedisStore {
    async fn commit(&self, commit: Commit) -> Result<Verdict, Away> {
        let until = Instant::now() + CALL;
        let told = u64::try_from(commit.notices.len()).unwrap_or_default();
        let (tenant, epoch) = (commit.record.key.tenant.clone(), commit.epoch.clone());
        let leads = commit.term.map(|term| (commit.record.state.plan.stack.clone(), term));
        let replicas = self.replicas.as_ref().filter(|_| commit.durable);
        let partition = Partition::of(&tenant);
        let asked = std::time::Instant::now();
        let way = self.ways.unwritten(self.way(&commit, partition), asked);
        let written = Written::of(commit, &self.keys, &self.limits).map_err(|e| away(&e))?;
        let ask = |live: &Live| {
            let mut pipeline = redis::pipe();
            way.lead(&mut pipeline);
            pipeline.add_command(written.command(live));
            pipeline
        };
        let (live, answer) = self.answer_of_epoch(partition, ask).await?;
        let mut verdict =
            written.verdict(answer, &self.keys, &self.illegible).map_err(|e| away(&e))?;
        if let Verdict::EpochChanged(epoch) = &verdict {
            self.heard_epoch(epoch).await;
        }
        if let (Verdict::Fenced(newest), Some((stack, term))) = (&verdict, leads)
            && self.fenced.is_due()
        {
            let (term, newest) = (term.0, newest.0);
            tracing::warn!(%stack, term, newest, "fenced: what this leader hears is not applied");
        }
        if let Verdict::Applied { first_seq, durable, .. } = &mut verdict {
            self.ways.led(&way, asked);
            self.seen(&tenant, Position { epoch, seq: *first_seq + told - 1 });
            if let Some(replicas) = replicas {
                *durable = replicas.have(&live, until).await;
            }
        }
        Ok(verdict)
    }

    async fn find(&self, by: Find) -> Result<Vec<Arc<Record>>, Unfound> {
        match by {
            Find::Key(key) => {
                let mut get = redis::cmd("HMGET");
                get.arg(self.keys.record(&key)).arg("record").arg("first_seq");
                let (_, answer) = self.answer(|_| one(get.clone())).await?;
                match wire::record(answer).map_err(|error| away(&error))? {
                    None => Ok(Vec::new()),
                    Some(stored) => {
                        let record = self.illegible.pass_over(stored).ok_or(Unfound::Illegible)?;
                        Ok(vec![record])
                    }
                }
            }
            Find::Watching(stack, watches) => Ok(self.watching(&stack, watches).await?),
            Find::AtStack(stack) => {
                Ok(self.of_index(|partition| self.keys.at_stack(partition, &stack), None).await?)
            }
            Find::PerformedBy(pod) => {
                Ok(self.of_index(|partition| self.keys.performed_by(partition, &pod), None).await?)
            }
            Find::DueBy(time) => {
                Ok(self.of_index(|partition| self.keys.due(partition), Some(time)).await?)
            }
        }
    }

    async fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
        of: Option<&SessionId>,
    ) -> Result<Page, Unreadable> {
        let partition = Partition::of(tenant);
        let ask = |live: &Live| {
            let mut read = Script::Read.over(live);
            read.arg(2 + usize::from(of.is_some()));
            read.arg(self.keys.head(partition)).arg(self.keys.stream(tenant));
            if let Some(session) = of {
                read.arg(self.keys.session(tenant, session));
            }
            read.arg(&*live.run_id).arg(after.epoch.as_str()).arg(tenant.as_str());
            read.arg(after.seq).arg(max.min(LONGEST_PAGE));
            read.arg(self.limits.entries_for.as_millis().to_string());
            one(read)
        };
        let (at, answer) = self.answer_of_epoch_over(&self.pages, partition, ask).await?;
        let mut parts = Parts::of(answer).map_err(|error| away(&error))?;
        match parts.next::<String>().map_err(|error| away(&error))?.as_str() {
            "PAGE" => {
                let seq = parts.next().map_err(|error| away(&error))?;
                let through = parts.next().map_err(|error| away(&error))?;
                let entries = parts.entries(&self.illegible).map_err(|e| away(&e))?;
                let head = Position { epoch: after.epoch.clone(), seq };
                self.seen(tenant, head.clone());
                Ok(Page { entries, through, head })
            }
            // An address may lead to another server since, and this connection to the one before.
            "EPOCH" if self.connection.live().await?.run_id != at.run_id => {
                self.pages.give_up(&at, "commits go to another server");
                Err(Unreadable::Away(Away))
            }
            "EPOCH" => {
                // The bus is to know as well: whoever asked goes on from where that is.
                let told: String = parts.next().map_err(|error| away(&error))?;
                self.heard_epoch(&epoch(&told).map_err(|error| away(&error))?).await;
                Err(Unreadable::EpochChanged)
            }
            "AHEAD" => Err(Unreadable::Ahead),
            "TRIMMED" => Err(Unreadable::Trimmed),
            word => Err(away(&Unintelligible::Key(word.to_owned())).into()),
        }
    }

    async fn head(&self, tenant: &TenantId) -> Result<Position, Away> {
        let partition = Partition::of(tenant);
        let mut get = redis::cmd("HMGET");
        get.arg(self.keys.head(partition)).arg("run").arg("epoch").arg(format!("seq:{tenant}"));
        for _ in 0..MOST_EPOCHS {
            let (live, answer) = self.answer(|_| one(get.clone())).await?;
            let (run_id, known, seq): (Option<String>, Option<String>, Option<u64>) =
                redis::from_redis_value(answer).map_err(|error| away(&error.into()))?;
            match known {
                Some(known) if run_id.as_deref() == Some(&*live.run_id) => {
                    let epoch = epoch(&known).map_err(|error| away(&error))?;
                    let head = Position { epoch, seq: seq.unwrap_or_default() };
                    self.seen(tenant, head.clone());
                    return Ok(head);
                }
                Some(_) | None => self.open_epoch(partition, None).await?,
            }
        }
        Err(Away)
    }

    async fn beat(&self, beat: &Beat) -> Result<Pulse, Away> {
        let keys = [self.keys.pods(), self.keys.applied(), self.keys.epoch()];
        let ask = |live: &Live| {
            let mut told = Script::Beat.over(live);
            told.arg(keys.len()).arg(&keys).arg(&*live.run_id).arg(beat.pod.as_str());
            told.arg(milliseconds(ALIVE)).arg(milliseconds(SILENT)).arg(match beat.life {
                Life::Lives => "lives",
                Life::Over => "over",
                Life::Left => "left",
            });
            for (stack, until) in &beat.applied {
                told.arg(stack.as_str()).arg(until.0);
            }
            one(told)
        };
        let asked = self.clock.local();
        let (_, answer) = self.answer_of_epoch(Partition::of(&TenantId::default()), ask).await?;
        let pulse = wire::pulse(answer).map_err(|error| away(&error))?;
        self.heard_epoch(&pulse.epoch).await;
        self.clock.learn(asked, pulse.now);
        Ok(pulse)
    }

    async fn lead(&self, stack: &StackId) -> Result<Term, Away> {
        let terms = self.keys.terms();
        let drawn: u64 = self
            .ask(|live| {
                let mut lead = Script::Lead.over(live);
                lead.arg(1).arg(&terms).arg(stack.as_str());
                one(lead)
            })
            .await?;
        // Partitions that come into use from now on get it with their first head.
        let used = self.used().await?;
        let raise = |live: &Live| {
            let mut pipeline = redis::pipe();
            for partition in &used {
                let mut raise = Script::Raise.over(live);
                raise.arg(1).arg(self.keys.head(*partition)).arg(stack.as_str()).arg(drawn);
                pipeline.add_command(raise);
            }
            pipeline
        };
        if !used.is_empty() {
            self.connection.call(raise).await?;
        }
        Ok(Term(drawn))
    }
}
