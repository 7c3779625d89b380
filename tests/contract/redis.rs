//! The store and the bus of several processes, before a real Redis. Its time passes by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use callplane::clock::{Clock as _, SystemClock};
use callplane::core::ids::Install;
use callplane::core::time::StoreTime;
use callplane::store::Limits;
use callplane::store::redis::{RedisBus, RedisStore, Settings};

use crate::DEADLINE;
use crate::commits::{Bounds, ENTRIES_FOR, Stand};
use crate::redis_server::certificates::Certificates;
use crate::redis_server::sentinels::Guarded;
use crate::redis_server::{RedisServer, connect};

/// Servers that all tests share.
pub trait Servers: Sized + Send + Sync + 'static {
    fn start() -> Self;

    fn settings(&self) -> Settings;

    /// Those that run for whoever needs them now; they end with the last of them.
    fn running() -> &'static Mutex<Weak<Self>>;

    fn shared() -> Arc<Self> {
        let running = Self::running().lock();
        let mut running = running.unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(servers) = running.upgrade() {
            return servers;
        }
        let servers = Arc::new(Self::start());
        *running = Arc::downgrade(&servers);
        servers
    }
}

/// One server, reached as simply as can be.
pub struct Plain(pub RedisServer);

impl Servers for Plain {
    fn start() -> Self {
        Self(RedisServer::start())
    }

    fn settings(&self) -> Settings {
        self.0.settings()
    }

    fn running() -> &'static Mutex<Weak<Self>> {
        static RUNNING: Mutex<Weak<Plain>> = Mutex::new(Weak::new());
        &RUNNING
    }
}

/// One server that speaks TLS, with an authority of its own, to a user of few rights.
pub struct Encrypted {
    server: RedisServer,
    _certificates: Certificates,
}

impl Servers for Encrypted {
    fn start() -> Self {
        let certificates = Certificates::made();
        let server = RedisServer::start_encrypted(&certificates);
        Self { server, _certificates: certificates }
    }

    fn settings(&self) -> Settings {
        self.server.settings()
    }

    fn running() -> &'static Mutex<Weak<Self>> {
        static RUNNING: Mutex<Weak<Encrypted>> = Mutex::new(Weak::new());
        &RUNNING
    }
}

/// A master with a replica, named by Sentinels.
impl Servers for Guarded {
    fn start() -> Self {
        // A busy machine must not make them choose another one.
        Self::start_with(DEADLINE)
    }

    fn settings(&self) -> Settings {
        Settings { replicas: 1, ..self.settings() }
    }

    fn running() -> &'static Mutex<Weak<Self>> {
        static RUNNING: Mutex<Weak<Guarded>> = Mutex::new(Weak::new());
        &RUNNING
    }
}

/// An installation of its own in servers that all tests share.
pub struct Redis<S: Servers> {
    store: Arc<RedisStore>,
    bus: RedisBus,
    _servers: Arc<S>,
}

/// Servers, and the name of an installation that nobody else has in them.
pub async fn installation<S: Servers>() -> (Arc<S>, Install) {
    static COUNTED: AtomicU64 = AtomicU64::new(1);
    let servers = tokio::task::spawn_blocking(S::shared).await.unwrap();
    let number = COUNTED.fetch_add(1, Ordering::SeqCst);
    (servers, Install::parse(&format!("t{number}")).unwrap())
}

impl<S: Servers> Stand for Redis<S> {
    type Store = RedisStore;
    type Bus = RedisBus;

    async fn fresh(bounds: Bounds) -> Self {
        let (servers, install) = installation::<S>().await;
        let limits = Limits {
            entries_for: ENTRIES_FOR,
            entries_bytes: bounds.entries_bytes,
            ended: bounds.ended,
        };
        let (store, bus) = connect(servers.settings(), install, limits).await;
        Self { store, bus, _servers: servers }
    }

    fn store(&self) -> &RedisStore {
        &self.store
    }

    fn bus(&self) -> &RedisBus {
        &self.bus
    }

    async fn now(&self) -> StoreTime {
        // Its machine is this one.
        SystemClock::new().now()
    }

    async fn pass(&self, time: Duration) {
        let until = self.now().await.after(time);
        let passed = async {
            loop {
                let now = self.now().await;
                if now >= until {
                    return;
                }
                tokio::time::sleep(now.until(until)).await;
            }
        };
        tokio::time::timeout(DEADLINE, passed).await.expect("the store's time stands still");
    }
}
