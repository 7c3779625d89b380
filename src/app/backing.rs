//! What stands behind a process: its own memory, or a Redis that it shares with others.

use std::sync::Arc;
use std::time::Duration;

use super::settings;
use crate::bus::{Bus, Listener, MemoryBus};
use crate::clock::{Clock, Nonces as _, SystemClock, SystemNonces};
use crate::config::{self, Config};
use crate::core::ids::{Epoch, PodId, SessionId, StackId, TenantId, Term};
use crate::core::record::{Position, Record};
use crate::leadership::contest::Meter;
use crate::leadership::kubernetes::{KubernetesLeadership, NoAccess};
use crate::leadership::{Leader, Leadership, Standalone};
use crate::store::memory::{MemoryStore, Size};
use crate::store::redis::{BadSettings, RedisBus, RedisLeadership, RedisStore};
use crate::store::{
    Away, Beat, Commit, Find, Limits, Page, Pulse, Store, Unfound, Unreadable, Verdict,
};

/// Between two tries to reach the store, each of which takes seconds where nobody answers: who starts
/// while it is away serves as soon as it is back.
const AGAIN: Duration = Duration::from_millis(100);

/// Store, bus and clock, which belong together, and who elects with them.
pub struct Backing {
    /// Where commands live.
    pub store: Arc<AnyStore>,
    /// The store's time.
    pub clock: Arc<dyn Clock>,
    bus: AnyBus,
}

/// One of the stores.
pub enum AnyStore {
    /// This process is alone.
    Memory(Arc<MemoryStore<Arc<SystemClock>>>),
    /// It is one of several.
    Redis(Arc<RedisStore>),
}

enum AnyBus {
    Memory(Arc<MemoryBus>),
    Redis(RedisBus),
}

/// One of the elections.
pub enum AnyLeadership {
    /// This process, always.
    Standalone(Standalone),
    /// Whoever has the lease in Redis.
    Redis(RedisLeadership),
    /// Whoever has the Lease at the API server.
    Kubernetes(KubernetesLeadership),
}

/// Why there is nothing to stand on.
#[derive(Debug, thiserror::Error)]
pub enum NoBacking {
    /// Something that is named for Redis can't be used.
    #[error("redis: {0}")]
    Redis(#[from] BadSettings),
    /// Leadership is to be Kubernetes', and there is no way to it.
    #[error("leadership: kubernetes: {0}")]
    Kubernetes(#[from] NoAccess),
}

impl Backing {
    /// What the configuration asks for. Waits for a Redis that is not there yet.
    ///
    /// # Errors
    /// [`NoBacking`] when a file that is named for it can't be used.
    pub async fn of(config: &Config, limits: Limits) -> Result<Self, NoBacking> {
        let Some(redis) = settings::redis(&config.redis) else { return Ok(Self::alone(limits)) };
        let store = Arc::new(RedisStore::start(redis, config.install.clone(), limits)?);
        let mut told = false;
        let bus = loop {
            match RedisBus::start(Arc::clone(&store)).await {
                Ok(bus) => break bus,
                Err(Away) if told => {}
                Err(Away) => {
                    told = true;
                    tracing::warn!("redis does not answer: waiting for it");
                }
            }
            tokio::time::sleep(AGAIN).await;
        };
        if let Ok(about) = store.about().await {
            for concern in about.concerns(config.redis.replicas) {
                tracing::warn!(release = about.version, "redis: {concern}");
            }
        }
        Ok(Self {
            clock: store.clock(),
            store: Arc::new(AnyStore::Redis(store)),
            bus: AnyBus::Redis(bus),
        })
    }

    /// Contends from now on for the events of these stacks.
    ///
    /// # Errors
    /// [`NoBacking`] when whoever elects can't be asked at all.
    pub fn contend(
        &self,
        config: &Config,
        pod: &PodId,
        stacks: &[StackId],
        meter: Arc<dyn Meter>,
    ) -> Result<AnyLeadership, NoBacking> {
        let store = match &*self.store {
            AnyStore::Memory(_) => return Ok(AnyLeadership::Standalone(Standalone)),
            AnyStore::Redis(store) => store,
        };
        Ok(match config.leadership {
            Some(config::Leadership::Kubernetes) => {
                let [chance, ..] = SystemNonces::new().nonce().0.to_be_bytes();
                let settings = settings::kubernetes(&config.kubernetes, pod, chance);
                let terms = Arc::clone(store);
                let leadership = KubernetesLeadership::start(&settings, terms, stacks, meter)?;
                AnyLeadership::Kubernetes(leadership)
            }
            Some(config::Leadership::Redis | config::Leadership::Standalone) | None => {
                AnyLeadership::Redis(RedisLeadership::start(store, pod, stacks))
            }
        })
    }

    fn alone(limits: Limits) -> Self {
        let clock = Arc::new(SystemClock::new());
        let bus = Arc::new(MemoryBus::default());
        let epoch = Epoch::derive(SystemNonces::new().nonce());
        let store = MemoryStore::new(Arc::clone(&clock), Arc::clone(&bus), epoch, limits);
        Self { store: Arc::new(AnyStore::Memory(Arc::new(store))), clock, bus: AnyBus::Memory(bus) }
    }

    /// Has committed entries told to this listener.
    pub fn attach(&self, listener: Arc<dyn Listener>) {
        match &self.bus {
            AnyBus::Memory(bus) => bus.attach(listener),
            AnyBus::Redis(bus) => bus.attach(listener),
        }
    }

    /// Whether other processes share it, and go on with what this one leaves.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        match *self.store {
            AnyStore::Memory(_) => false,
            AnyStore::Redis(_) => true,
        }
    }

    /// Where a tenant's stream stands. Waits for a store that is away; nothing once `stopped` is
    /// there.
    pub async fn head(
        &self,
        tenant: &TenantId,
        stopped: impl Future<Output = ()>,
    ) -> Option<Position> {
        let head = async {
            loop {
                match self.store.head(tenant).await {
                    Ok(head) => return head,
                    Err(Away) => tokio::time::sleep(Duration::from_millis(250)).await,
                }
            }
        };
        tokio::select! {
            head = head => Some(head),
            () = stopped => None,
        }
    }
}

impl AnyStore {
    /// What a store in memory holds; nothing is counted elsewhere.
    #[must_use]
    pub fn size(&self) -> Option<Size> {
        match self {
            Self::Memory(store) => Some(store.size()),
            Self::Redis(_) => None,
        }
    }
}

impl AnyLeadership {
    /// Gives every lead up, for whoever else wants it.
    pub async fn resign(&self) {
        match self {
            Self::Standalone(Standalone) => {}
            Self::Redis(leadership) => leadership.resign().await,
            Self::Kubernetes(leadership) => leadership.resign().await,
        }
    }
}

impl Store for AnyStore {
    async fn commit(&self, commit: Commit) -> Result<Verdict, Away> {
        match self {
            Self::Memory(store) => store.commit(commit).await,
            Self::Redis(store) => store.commit(commit).await,
        }
    }

    async fn find(&self, by: Find) -> Result<Vec<Arc<Record>>, Unfound> {
        match self {
            Self::Memory(store) => store.find(by).await,
            Self::Redis(store) => store.find(by).await,
        }
    }

    async fn read(
        &self,
        tenant: &TenantId,
        after: &Position,
        max: usize,
        of: Option<&SessionId>,
    ) -> Result<Page, Unreadable> {
        match self {
            Self::Memory(store) => store.read(tenant, after, max, of).await,
            Self::Redis(store) => store.read(tenant, after, max, of).await,
        }
    }

    async fn head(&self, tenant: &TenantId) -> Result<Position, Away> {
        match self {
            Self::Memory(store) => store.head(tenant).await,
            Self::Redis(store) => store.head(tenant).await,
        }
    }

    async fn beat(&self, beat: &Beat) -> Result<Pulse, Away> {
        match self {
            Self::Memory(store) => store.beat(beat).await,
            Self::Redis(store) => store.beat(beat).await,
        }
    }

    async fn lead(&self, stack: &StackId) -> Result<Term, Away> {
        match self {
            Self::Memory(store) => store.lead(stack).await,
            Self::Redis(store) => store.lead(stack).await,
        }
    }
}

impl Leadership for AnyLeadership {
    fn term(&self, stack: &StackId) -> Option<Term> {
        match self {
            Self::Standalone(leadership) => leadership.term(stack),
            Self::Redis(leadership) => leadership.term(stack),
            Self::Kubernetes(leadership) => leadership.term(stack),
        }
    }

    fn leader(&self, stack: &StackId) -> Leader {
        match self {
            Self::Standalone(leadership) => leadership.leader(stack),
            Self::Redis(leadership) => leadership.leader(stack),
            Self::Kubernetes(leadership) => leadership.leader(stack),
        }
    }

    fn trouble(&self, stack: &StackId) -> Option<String> {
        match self {
            Self::Standalone(leadership) => leadership.trouble(stack),
            Self::Redis(leadership) => leadership.trouble(stack),
            Self::Kubernetes(leadership) => leadership.trouble(stack),
        }
    }

    async fn changed(&self, stack: &StackId, from: Option<Term>) -> Option<Term> {
        match self {
            Self::Standalone(leadership) => leadership.changed(stack, from).await,
            Self::Redis(leadership) => leadership.changed(stack, from).await,
            Self::Kubernetes(leadership) => leadership.changed(stack, from).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_told_to_stop_does_not_wait_for_the_store() {
        let text = "redis: {address: \"127.0.0.1:1\"}";
        let config = crate::config::parse(text, None, []).unwrap().config;
        let redis = settings::redis(&config.redis).unwrap();
        let store = RedisStore::start(redis, config.install.clone(), Limits::default()).unwrap();
        let nobody_answers = AnyStore::Redis(Arc::new(store));
        let backing =
            Backing { store: Arc::new(nobody_answers), ..Backing::alone(Limits::default()) };
        let tenant = TenantId::default();
        let head = backing.head(&tenant, tokio::time::sleep(Duration::from_millis(1)));
        let head = tokio::time::timeout(Duration::from_secs(20), head).await;
        assert_eq!(head.expect("it waits on"), None);
    }
}
