//! The store and the bus of several processes, before a real Redis. Its time passes by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use callplane::core::ids::Install;
use callplane::core::time::StoreTime;
use callplane::store::Limits;
use callplane::store::redis::{RedisBus, RedisStore};

use crate::DEADLINE;
use crate::commits::{Bounds, ENTRIES_FOR, Stand};
use crate::redis_server::RedisServer;

/// An installation of its own in a Redis that all tests share.
pub struct Redis {
    store: Arc<RedisStore>,
    bus: RedisBus,
    _server: Arc<RedisServer>,
}

/// The server that runs for whoever needs one now; it ends with the last of them.
fn server() -> Arc<RedisServer> {
    static RUNNING: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(server) = running.upgrade() {
        return server;
    }
    let server = Arc::new(RedisServer::start());
    *running = Arc::downgrade(&server);
    server
}

/// A server, and the name of an installation that nobody else has in it.
pub async fn installation() -> (Arc<RedisServer>, Install) {
    static COUNTED: AtomicU64 = AtomicU64::new(1);
    let server = tokio::task::spawn_blocking(server).await.unwrap();
    let number = COUNTED.fetch_add(1, Ordering::SeqCst);
    (server, Install::parse(&format!("t{number}")).unwrap())
}

impl Stand for Redis {
    type Store = RedisStore;
    type Bus = RedisBus;

    async fn fresh(bounds: Bounds) -> Self {
        let (server, install) = installation().await;
        let limits = Limits {
            entries_for: ENTRIES_FOR,
            entries_bytes: bounds.entries_bytes,
            ended: bounds.ended,
        };
        let (store, bus) = server.connect(install, limits).await;
        Self { store, bus, _server: server }
    }

    fn store(&self) -> &RedisStore {
        &self.store
    }

    fn bus(&self) -> &RedisBus {
        &self.bus
    }

    async fn now(&self) -> StoreTime {
        self.store.now().await.unwrap()
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
