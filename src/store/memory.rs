//! The store of a process that is alone. Its memory is one epoch: it ends with the process.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{
    ALIVE, Away, Beat, Commit, Find, Life, Limits, Page, Pulse, SILENT, Store, Unfound, Unreadable,
    Verdict,
};
use crate::bus::Listener;
use crate::clock::Clock;
use crate::core::command::{Claim, Taking};
use crate::core::ids::{Epoch, Nonce, PodId, SessionId, StackId, TenantId, Term};
use crate::core::notice::Notice;
use crate::core::record::{Entry, Key, Position, Record};
use crate::core::stack_event::Watch;
use crate::core::time::StoreTime;

/// Everything in memory, behind one lock that is never held across an await.
pub struct MemoryStore<C> {
    clock: C,
    bus: Arc<dyn Listener>,
    limits: Limits,
    inner: Mutex<Inner>,
}

/// All that a store remembers, at one moment: what a simulated server has on its disk.
#[derive(Clone)]
pub struct Memory(Inner);

#[derive(Clone)]
struct Inner {
    epoch: Epoch,
    streams: BTreeMap<TenantId, Stream>,
    records: HashMap<Key, Kept>,
    claims: HashMap<Place, Held>,
    watches: HashMap<(StackId, Watch), BTreeSet<Key>>,
    performed_by: HashMap<PodId, BTreeSet<Key>>,
    due: BTreeSet<(StoreTime, Key)>,
    /// Ended commands whose last commits may be repeated until then; about in that order.
    repeatable: VecDeque<(StoreTime, Key)>,
    /// The newest term that a writer had, by stack.
    terms: HashMap<StackId, Term>,
    /// The newest term that was drawn, by stack.
    drawn: HashMap<StackId, Term>,
    /// When each process was last heard of.
    beats: BTreeMap<PodId, StoreTime>,
    /// Up to when leaders have applied what stacks reported.
    applied: BTreeMap<StackId, StoreTime>,
}

impl Inner {
    fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            streams: BTreeMap::new(),
            records: HashMap::new(),
            claims: HashMap::new(),
            watches: HashMap::new(),
            performed_by: HashMap::new(),
            due: BTreeSet::new(),
            repeatable: VecDeque::new(),
            terms: HashMap::new(),
            drawn: HashMap::new(),
            beats: BTreeMap::new(),
            applied: BTreeMap::new(),
        }
    }
}

/// Where a claim is: tenants don't see each other's.
type Place = (TenantId, StackId, Claim);

#[derive(Clone)]
struct Kept {
    record: Arc<Record>,
    /// What the record has in the indexes, to be taken out with the next version.
    claims: Vec<Claim>,
    watches: Vec<Watch>,
    performers: Vec<PodId>,
    due: Option<StoreTime>,
    expires: Option<StoreTime>,
    /// Commits that may still be repeated.
    applied: Vec<Applied>,
}

/// A commit that was applied.
#[derive(Clone)]
struct Applied {
    nonce: Nonce,
    not_after: StoreTime,
    first_seq: u64,
    at: StoreTime,
    overtaken: Vec<Key>,
}

#[derive(Clone)]
struct Held {
    by: Key,
    /// An ended command's claim holds until then; `None` while it runs.
    until: Option<StoreTime>,
}

#[derive(Clone, Default)]
struct Stream {
    /// The newest sequence number.
    seq: u64,
    entries: VecDeque<(StoreTime, Arc<Entry>)>,
    bytes: usize,
    running: usize,
    ended: Ended,
}

/// Ended commands of a tenant, by when they are forgotten.
#[derive(Clone, Default)]
struct Ended {
    /// Holds and ends. To repeat one places no call, so they go first where there are too many.
    others: BTreeSet<(StoreTime, Key)>,
    /// Starts and transfers.
    calls: BTreeSet<(StoreTime, Key)>,
}

impl<C: Clock> MemoryStore<C> {
    /// An empty store of a new epoch. The bus is told every entry inside its commit.
    pub fn new(clock: C, bus: Arc<impl Listener>, epoch: Epoch, limits: Limits) -> Self {
        Self { clock, bus, limits, inner: Mutex::new(Inner::new(epoch)) }
    }

    /// What it remembers now.
    pub fn remember(&self) -> Memory {
        Memory(self.lock().clone())
    }

    /// Goes back to what it remembered then, or to nothing, and begins an epoch: what a server
    /// does that lost the end of what it acknowledged. Terms are void.
    pub fn forget_since(&self, then: Option<Memory>, epoch: Epoch) {
        let mut inner = self.lock();
        *inner = then.map_or_else(|| Inner::new(epoch.clone()), |Memory(then)| then);
        inner.epoch = epoch;
        inner.terms.clear();
        for (tenant, stream) in &inner.streams {
            let to = Position { epoch: inner.epoch.clone(), seq: stream.seq };
            self.bus.skipped(tenant, &to);
        }
    }

    /// How much is in memory now: running commands, kept records, entries, bytes of entries.
    pub fn size(&self) -> Size {
        let inner = self.lock();
        let mut size = Size { kept: inner.records.len(), ..Size::default() };
        for stream in inner.streams.values() {
            size.running += stream.running;
            size.entries += stream.entries.len();
            size.entry_bytes += stream.bytes;
        }
        size
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, commit: Commit) -> Verdict {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.expire(&commit.record.key.tenant, now, &self.limits);
        if let Some(kept) = inner.records.get(&commit.record.key)
            && let Some(before) = kept.applied.iter().find(|before| before.nonce == commit.nonce)
        {
            return Verdict::Applied {
                first_seq: before.first_seq,
                now: before.at,
                overtaken: before.overtaken.clone(),
                record: Arc::clone(&kept.record),
                durable: true,
            };
        }
        if commit.epoch != inner.epoch {
            return Verdict::EpochChanged(inner.epoch.clone());
        }
        if now > commit.not_after {
            return Verdict::Late;
        }
        let newest = inner.terms.get(&commit.record.state.plan.stack).copied().unwrap_or_default();
        if commit.term.is_some_and(|term| term < newest) {
            return Verdict::Fenced(newest);
        }
        let mut record = commit.record;
        let known = inner.records.get(&record.key).map(|kept| Arc::clone(&kept.record));
        match (&known, record.version) {
            (Some(known), 1) => return Verdict::Exists(Arc::clone(known)),
            (None, 1) => {}
            (None, _) => return Verdict::Gone,
            (Some(known), version) if known.version + 1 != version => {
                return Verdict::Stale(Arc::clone(known));
            }
            (Some(_), _) => {}
        }
        let stack = record.state.plan.stack.clone();
        let mut claims = record.state.claims();
        let still: Vec<Claim> = claims.iter().map(|(claim, _)| claim.clone()).collect();
        if let Some(kept) = inner.records.get(&record.key) {
            // What it had before it has, or has lost to an overtaker for good.
            claims.retain(|(claim, _)| !kept.claims.contains(claim));
        }
        if let Some((claim, held)) = inner.taken(&stack, &record.key, &claims, now) {
            let (by, until) = (held.by.id.clone(), held.until);
            return Verdict::Busy { claim, by, until };
        }
        let running = inner.streams.get(&record.key.tenant).map_or(0, |stream| stream.running);
        if let (None, Some(quota)) = (&known, commit.quota)
            && running >= quota.running
        {
            return Verdict::Over { limit: quota.running };
        }

        // Nothing below can fail, and nothing was written above.
        if let Some(term) = commit.term {
            inner.terms.insert(stack.clone(), term);
        }
        let stream = inner.streams.entry(record.key.tenant.clone()).or_default();
        let first_seq = stream.seq + 1;
        if known.is_none() {
            record.first_seq = first_seq;
            stream.running += 1;
        }
        let ended = record.state.outcome().is_some();
        if ended && known.as_ref().is_none_or(|known| known.state.outcome().is_none()) {
            stream.running = stream.running.saturating_sub(1);
        }
        let entries = stream.append(&record, commit.notices, now);
        let record = Arc::new(record);
        // Also as long as this commit may be repeated: it must be recognised then.
        let forget = now.after(commit.keep).max(commit.not_after.after(Duration::from_millis(1)));
        let overtaken = inner.index(&stack, &record, &still, claims, forget);
        if ended {
            inner.repeatable.push_back((commit.not_after, record.key.clone()));
        }
        if let Some(kept) = inner.records.get_mut(&record.key) {
            let (nonce, not_after) = (commit.nonce, commit.not_after);
            let overtaken = overtaken.clone();
            kept.applied.retain(|before| before.not_after >= now);
            kept.applied.push(Applied { nonce, not_after, first_seq, at: now, overtaken });
        }
        // Inside the lock: the bus must see entries in the order of their positions.
        if !entries.is_empty() {
            self.bus.entries(&record.key.tenant, &inner.epoch, &entries);
        }
        Verdict::Applied { first_seq, now, overtaken, record, durable: true }
    }
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Commands that run.
    pub running: usize,
    /// Records, ended ones included.
    pub kept: usize,
    /// Entries of all streams.
    pub entries: usize,
    /// Their estimated bytes.
    pub entry_bytes: usize,
}

impl Stream {
    fn append(&mut self, record: &Record, notices: Vec<Notice>, now: StoreTime) -> Vec<Arc<Entry>> {
        let mut entries = Vec::with_capacity(notices.len());
        for notice in notices {
            self.seq += 1;
            let entry = Arc::new(Entry::of(record, self.seq, notice));
            self.bytes += weight(&entry);
            self.entries.push_back((now, Arc::clone(&entry)));
            entries.push(entry);
        }
        entries
    }

    fn ended_of(&mut self, record: &Record) -> &mut BTreeSet<(StoreTime, Key)> {
        if record.state.method.places_calls() {
            &mut self.ended.calls
        } else {
            &mut self.ended.others
        }
    }

    /// Takes a command that is to be forgotten: its time has come, or there are too many.
    fn take_forgotten(&mut self, now: StoreTime, limits: &Limits) -> Option<Key> {
        let Ended { others, calls } = &mut self.ended;
        let too_many = others.len() + calls.len() > limits.ended;
        for ended in [others, calls] {
            if ended.first().is_some_and(|(at, _)| *at <= now || too_many) {
                return ended.pop_first().map(|(_, key)| key);
            }
        }
        None
    }

    fn trim(&mut self, now: StoreTime, limits: &Limits) {
        while let Some((written, entry)) = self.entries.front() {
            let old = written.after(limits.entries_for) <= now;
            if !old && self.bytes <= limits.entries_bytes {
                return;
            }
            self.bytes = self.bytes.saturating_sub(weight(entry));
            self.entries.pop_front();
        }
    }
}

/// An entry's share of the byte cap: its own size, and about what its texts take.
fn weight(entry: &Entry) -> usize {
    let texts = match &entry.notice {
        Notice::Started { .. } | Notice::Ended { .. } => 0,
        Notice::Progress { data, .. } => [
            data.callee.as_ref().map_or(0, |t| t.len()),
            data.caller.as_ref().map_or(0, |t| t.len()),
            data.destination.as_ref().map_or(0, |t| t.len()),
            data.callid.as_ref().map_or(0, |t| t.as_str().len()),
        ]
        .iter()
        .sum(),
        Notice::Error(failure) => failure.text.len(),
    };
    size_of::<Entry>() + texts
}

impl Inner {
    /// Forgets what a tenant has had long enough. Ended records and old entries both come off the
    /// front of an ordered queue, so this costs what it removes.
    fn expire(&mut self, tenant: &TenantId, now: StoreTime, limits: &Limits) {
        while self.repeatable.front().is_some_and(|(until, _)| *until < now) {
            if let Some((_, key)) = self.repeatable.pop_front()
                && let Some(kept) = self.records.get_mut(&key)
            {
                kept.applied = Vec::new();
            }
        }
        let Some(stream) = self.streams.get_mut(tenant) else { return };
        stream.trim(now, limits);
        while let Some(key) =
            self.streams.get_mut(tenant).and_then(|stream| stream.take_forgotten(now, limits))
        {
            if let Some(kept) = self.records.remove(&key) {
                let stack = kept.record.state.plan.stack.clone();
                for claim in kept.claims {
                    self.release(&stack, claim, &key);
                }
            }
        }
    }

    fn release(&mut self, stack: &StackId, claim: Claim, by: &Key) {
        let place = (by.tenant.clone(), stack.clone(), claim);
        if self.claims.get(&place).is_some_and(|held| held.by == *by) {
            self.claims.remove(&place);
        }
    }

    /// The first claim that somebody else has and keeps.
    fn taken(
        &self,
        stack: &StackId,
        key: &Key,
        claims: &[(Claim, Taking)],
        now: StoreTime,
    ) -> Option<(Claim, &Held)> {
        claims.iter().find_map(|(claim, taking)| {
            let place = (key.tenant.clone(), stack.clone(), claim.clone());
            let held = self.claims.get(&place)?;
            let lingering = held.until.is_none_or(|until| until > now);
            let asks = *taking == Taking::Ask;
            (held.by != *key && lingering && asks).then(|| (claim.clone(), held))
        })
    }

    /// Replaces what the record has in every index. `claims` are all of it, `new_claims` those that
    /// the version before did not have.
    fn index(
        &mut self,
        stack: &StackId,
        record: &Arc<Record>,
        claims: &[Claim],
        new_claims: Vec<(Claim, Taking)>,
        expires: StoreTime,
    ) -> Vec<Key> {
        let key = &record.key;
        let before = self.records.remove(key);
        let (old_claims, old_watches, old_performers, old_due, old_expires, applied) = match before
        {
            Some(kept) => {
                let Kept { claims, watches, performers, due, expires, applied, record: _ } = kept;
                (claims, watches, performers, due, expires, applied)
            }
            None => (Vec::new(), Vec::new(), Vec::new(), None, None, Vec::new()),
        };
        let mut overtaken = Vec::new();
        let mut now_claimed = Vec::with_capacity(new_claims.len() + old_claims.len());
        for (claim, _) in new_claims {
            let held = Held { by: key.clone(), until: None };
            let place = (key.tenant.clone(), stack.clone(), claim.clone());
            if let Some(previous) = self.claims.insert(place, held)
                && previous.by != *key
                && previous.until.is_none()
            {
                overtaken.push(previous.by);
            }
            now_claimed.push(claim);
        }
        let linger = record.state.claims_linger();
        for claim in old_claims {
            if claims.contains(&claim) {
                now_claimed.push(claim);
                continue;
            }
            let place = (key.tenant.clone(), stack.clone(), claim.clone());
            let linger = match &claim {
                Claim::Call(_) => linger,
                Claim::Caller(_) => None,
            };
            match (linger, self.claims.get_mut(&place)) {
                (Some(until), Some(held)) if held.by == *key => {
                    held.until = Some(until);
                    now_claimed.push(claim);
                }
                (_, _) => self.release(stack, claim, key),
            }
        }
        let watches = record.state.watches();
        let at_stack = |watch: &Watch| (stack.clone(), watch.clone());
        change(&mut self.watches, &old_watches, &watches, key, at_stack);
        let performers = record.state.performers();
        change(&mut self.performed_by, &old_performers, &performers, key, PodId::clone);
        let due = record.state.due();
        if due != old_due {
            if let Some(old) = old_due {
                self.due.remove(&(old, key.clone()));
            }
            if let Some(new) = due {
                self.due.insert((new, key.clone()));
            }
        }
        let ended = self.streams.entry(key.tenant.clone()).or_default().ended_of(record);
        if let Some(old) = old_expires {
            ended.remove(&(old, key.clone()));
        }
        // Claims go with their record, so it stays as long as they linger.
        let expires = record.state.outcome().map(|_| linger.map_or(expires, |at| expires.max(at)));
        if let Some(at) = expires {
            ended.insert((at, key.clone()));
        }
        let kept = Kept {
            record: Arc::clone(record),
            claims: now_claimed,
            watches,
            performers,
            due,
            expires,
            applied,
        };
        self.records.insert(key.clone(), kept);
        overtaken
    }

    fn of_keys<'a>(&'a self, keys: impl Iterator<Item = &'a Key>) -> Vec<Arc<Record>> {
        keys.filter_map(|key| self.records.get(key)).map(|kept| Arc::clone(&kept.record)).collect()
    }
}

/// Takes a record out of the index where it was, and puts it in where it is.
fn change<T: PartialEq, P: Eq + std::hash::Hash>(
    index: &mut HashMap<P, BTreeSet<Key>>,
    before: &[T],
    now: &[T],
    key: &Key,
    place: impl Fn(&T) -> P,
) {
    for gone in before.iter().filter(|item| !now.contains(item)) {
        let place = place(gone);
        if let Some(keys) = index.get_mut(&place) {
            keys.remove(key);
            if keys.is_empty() {
                index.remove(&place);
            }
        }
    }
    for new in now.iter().filter(|item| !before.contains(item)) {
        index.entry(place(new)).or_default().insert(key.clone());
    }
}

impl<C: Clock> Store for MemoryStore<C> {
    async fn commit(&self, commit: Commit) -> Result<Verdict, Away> {
        Ok(self.apply(commit))
    }

    async fn find(&self, by: Find) -> Result<Vec<Arc<Record>>, Unfound> {
        let now = self.clock.now();
        let mut inner = self.lock();
        if matches!(by, Find::DueBy(_)) {
            // The regular sweep: tenants that do nothing any more are swept as well.
            let tenants: Vec<TenantId> = inner.streams.keys().cloned().collect();
            for tenant in tenants {
                inner.expire(&tenant, now, &self.limits);
            }
        }
        Ok(match by {
            Find::Key(key) => inner
                .records
                .get(&key)
                .filter(|kept| kept.expires.is_none_or(|at| at > now))
                .map(|kept| Arc::clone(&kept.record))
                .into_iter()
                .collect(),
            Find::Watching(stack, watches) => {
                let mut found = BTreeSet::new();
                for watch in watches {
                    found.extend(inner.watches.get(&(stack.clone(), watch)).into_iter().flatten());
                }
                inner.of_keys(found.into_iter())
            }
            Find::PerformedBy(pod) => inner
                .performed_by
                .get(&pod)
                .map_or_else(Vec::new, |keys| inner.of_keys(keys.iter())),
            Find::AtStack(stack) => {
                // Every running command has a due time, so this is all of them, in order.
                let mut records = inner.of_keys(inner.due.iter().map(|(_, key)| key));
                records.retain(|record| record.state.plan.stack == stack);
                records
            }
            Find::DueBy(time) => {
                let due = inner.due.iter().take_while(|(at, _)| *at <= time);
                inner.of_keys(due.map(|(_, key)| key))
            }
        })
    }

    async fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
        of: Option<&SessionId>,
    ) -> Result<Page, Unreadable> {
        let now = self.clock.now();
        let mut inner = self.lock();
        if after.epoch != inner.epoch {
            return Err(Unreadable::EpochChanged);
        }
        inner.expire(tenant, now, &self.limits);
        let head = |seq| Position { epoch: inner.epoch.clone(), seq };
        let Some(stream) = inner.streams.get(tenant) else {
            return if after.seq == 0 {
                Ok(Page { entries: Vec::new(), through: 0, head: head(0) })
            } else {
                Err(Unreadable::Ahead)
            };
        };
        if after.seq > stream.seq {
            return Err(Unreadable::Ahead);
        }
        let oldest = stream.entries.front().map_or(stream.seq + 1, |(_, entry)| entry.seq);
        if after.seq + 1 < oldest {
            return Err(Unreadable::Trimmed);
        }
        // Dense sequence numbers make the place in the queue a subtraction.
        let skip = usize::try_from(after.seq + 1 - oldest).unwrap_or(usize::MAX);
        let (mut entries, mut through) = (Vec::new(), after.seq);
        for (_, entry) in stream.entries.iter().skip(skip) {
            if entries.len() == max {
                break;
            }
            through = entry.seq;
            if of.is_none_or(|of| entry.session == *of) {
                entries.push(Arc::clone(entry));
            }
        }
        Ok(Page { entries, through, head: head(stream.seq) })
    }

    async fn head(&self, tenant: &TenantId) -> Result<Position, Away> {
        let inner = self.lock();
        let seq = inner.streams.get(tenant).map_or(0, |stream| stream.seq);
        Ok(Position { epoch: inner.epoch.clone(), seq })
    }

    async fn beat(&self, beat: &Beat) -> Result<Pulse, Away> {
        let now = self.clock.now();
        let mut inner = self.lock();
        match beat.life {
            Life::Lives => inner.beats.insert(beat.pod.clone(), now),
            Life::Over => inner.beats.remove(&beat.pod),
            Life::Left => inner.beats.insert(beat.pod.clone(), now.before(ALIVE)),
        };
        // Told when the clock was ahead of what it is: who died then is to be missed in time.
        inner.beats.values_mut().for_each(|at| *at = now.min(*at));
        inner.beats.retain(|_, at| at.after(SILENT) > now);
        for (stack, at) in &beat.applied {
            let applied = inner.applied.entry(stack.clone()).or_default();
            *applied = (*applied).max(*at);
        }
        let (mut alive, mut silent) = (BTreeSet::new(), BTreeSet::new());
        for (pod, at) in &inner.beats {
            let side = if at.after(ALIVE) > now { &mut alive } else { &mut silent };
            side.insert(pod.clone());
        }
        let (epoch, applied) = (inner.epoch.clone(), inner.applied.clone());
        Ok(Pulse { epoch, now, alive, silent, applied })
    }

    async fn lead(&self, stack: &StackId) -> Result<Term, Away> {
        let now = self.clock.now();
        let mut inner = self.lock();
        let drawn = inner.drawn.entry(stack.clone()).or_default();
        // By the time, so that it is the highest also where the number before is forgotten.
        *drawn = Term(now.0.max(drawn.0 + 1));
        let term = *drawn;
        inner.terms.insert(stack.clone(), term);
        Ok(term)
    }
}
