//! What is published reaches the processes late, twice, out of order, or not at all; the end at each
//! process makes the product's promise of it, as the bus over Redis does: the next entry is told, a gap
//! is read from the stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callplane::bus::Listener;
use callplane::core::ids::{Epoch, SessionId, TenantId};
use callplane::core::record::{Entry, Position};
use callplane::store::{Away, Store as _, Unreadable};

use super::bug::Bug;
use super::executor::{Executor, Group};
use super::network::{Network, Place};
use super::store::Client;

/// How many entries are read at once.
const PAGE: usize = 64;

/// All streams are looked at so often.
const SWEEP: Duration = Duration::from_secs(5);

/// Tells every process.
pub struct Publisher {
    executor: Executor,
    network: Arc<Network>,
    /// By number of the pod.
    ears: Mutex<BTreeMap<usize, (Group, Arc<Ear>)>>,
    bug: Option<Bug>,
    /// Who was told something last, by tenant.
    sessions: Mutex<BTreeMap<TenantId, SessionId>>,
}

impl Publisher {
    pub fn new(executor: Executor, network: Arc<Network>, bug: Option<Bug>) -> Arc<Self> {
        let (ears, sessions) = (Mutex::default(), Mutex::default());
        Arc::new(Self { executor, network, ears, bug, sessions })
    }

    pub fn subscribe(&self, pod: usize, group: Group, ear: Arc<Ear>) {
        self.ears.lock().unwrap().insert(pod, (group, ear));
    }

    /// What a bug makes of entries.
    fn spoiled(&self, tenant: &TenantId, mut entries: Vec<Arc<Entry>>) -> Vec<Arc<Entry>> {
        if self.bug != Some(Bug::OtherTenant) {
            return entries;
        }
        let Some(first) = entries.first_mut() else { return entries };
        let mut sessions = self.sessions.lock().unwrap();
        sessions.insert(tenant.clone(), first.session.clone());
        if let Some((_, session)) = sessions.iter().find(|(other, _)| *other != tenant) {
            *first = Arc::new(Entry { session: session.clone(), ..Entry::clone(first) });
        }
        entries
    }

    pub fn forget(&self, pod: usize) {
        self.ears.lock().unwrap().remove(&pod);
    }

    pub fn publish(&self, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        let entries = self.spoiled(tenant, entries.to_vec());
        let told = Arc::new((tenant.clone(), epoch.clone(), entries));
        for (pod, (group, ear)) in self.ears.lock().unwrap().iter() {
            let fate = self.network.send(Place::Bus, Place::Pod(*pod));
            for wait in fate.first.into_iter().chain(fate.double) {
                let (ear, told) = (Arc::clone(ear), Arc::clone(&told));
                self.executor.after(wait, *group, move || {
                    let (tenant, epoch, entries) = &*told;
                    ear.heard(tenant, epoch, entries);
                });
            }
        }
    }
}

/// One process's end.
pub struct Ear {
    executor: Executor,
    group: Group,
    store: Client,
    listener: Arc<dyn Listener>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    told: BTreeMap<TenantId, Position>,
    reading: bool,
    again: bool,
}

impl Ear {
    /// Begins at the head of each stream: what comes later is told.
    pub async fn open(
        executor: Executor,
        group: Group,
        store: Client,
        tenants: &[TenantId],
        listener: Arc<dyn Listener>,
        publisher: &Publisher,
    ) -> Result<Arc<Self>, Away> {
        let ear = Arc::new(Self { executor, group, store, listener, state: Mutex::default() });
        publisher.subscribe(ear.store.pod, group, Arc::clone(&ear));
        ear.state.lock().unwrap().reading = true;
        for tenant in tenants {
            let head = ear.store.head(tenant).await?;
            ear.listener.skipped(tenant, &head);
            ear.state.lock().unwrap().told.insert(tenant.clone(), head);
        }
        ear.state.lock().unwrap().reading = false;
        let sweeping = Arc::clone(&ear);
        ear.executor.spawn(group, async move {
            loop {
                sweeping.catch_up();
                sweeping.executor.sleep(SWEEP).await;
            }
        });
        Ok(ear)
    }

    fn heard(self: &Arc<Self>, tenant: &TenantId, epoch: &Epoch, entries: &[Arc<Entry>]) {
        let mut state = self.state.lock().unwrap();
        let Some(first) = entries.first() else { return };
        if !state.reading
            && let Some(told) = state.told.get_mut(tenant)
            && told.epoch == *epoch
            && first.seq <= told.seq + 1
        {
            let old = entries.partition_point(|entry| entry.seq <= told.seq);
            let new = &entries[old..];
            if let Some(newest) = new.last() {
                told.seq = newest.seq;
                self.listener.entries(tenant, epoch, new);
            }
            return;
        }
        drop(state);
        self.catch_up();
    }

    /// Reads what was not told.
    fn catch_up(self: &Arc<Self>) {
        let mut state = self.state.lock().unwrap();
        if std::mem::replace(&mut state.reading, true) {
            state.again = true;
            return;
        }
        drop(state);
        let ear = Arc::clone(self);
        self.executor.spawn(self.group, async move { ear.read().await });
    }

    async fn read(self: Arc<Self>) {
        loop {
            let tenants: Vec<_> = self.state.lock().unwrap().told.clone().into_iter().collect();
            let mut behind = false;
            for (tenant, told) in tenants {
                behind |= self.read_one(&tenant, told).await.is_err();
            }
            if self.is_done(behind) {
                return;
            }
            if behind {
                self.executor.sleep(Duration::from_secs(1)).await;
            }
        }
    }

    fn is_done(&self, behind: bool) -> bool {
        let mut state = self.state.lock().unwrap();
        let done = !std::mem::take(&mut state.again) && !behind;
        state.reading = !done;
        done
    }

    async fn read_one(&self, tenant: &TenantId, mut told: Position) -> Result<(), Away> {
        loop {
            match self.store.read(tenant, &told, PAGE, None).await {
                Ok(page) => {
                    let Some(last) = page.entries.last() else { return Ok(()) };
                    told.seq = last.seq;
                    self.state.lock().unwrap().told.insert(tenant.clone(), told.clone());
                    self.listener.entries(tenant, &told.epoch, &page.entries);
                    if told.seq >= page.head.seq {
                        return Ok(());
                    }
                }
                Err(Unreadable::Away(Away)) => return Err(Away),
                Err(Unreadable::EpochChanged | Unreadable::Ahead) => {
                    told = self.store.base(tenant).await?;
                    self.state.lock().unwrap().told.insert(tenant.clone(), told.clone());
                    self.listener.skipped(tenant, &told);
                }
                Err(Unreadable::Trimmed) => {
                    told = self.store.head(tenant).await?;
                    self.state.lock().unwrap().told.insert(tenant.clone(), told.clone());
                    self.listener.skipped(tenant, &told);
                }
            }
        }
    }
}
