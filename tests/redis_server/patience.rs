//! How long a call to Redis may take, whatever becomes of the server.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callplane::core::ids::Install;
use callplane::store::Limits;
use callplane::store::redis::{RedisStore, Settings};

pub use super::DEADLINE;

/// A call ends within a second; the rest is for a busy machine.
pub const IN_TIME: Duration = Duration::from_millis(1300);

/// A call to a server that is known to be away.
pub const AT_ONCE: Duration = Duration::from_millis(100);

/// A store that begins to connect.
pub fn started(settings: Settings) -> Arc<RedisStore> {
    Arc::new(RedisStore::start(settings, Install::default(), Limits::default()).unwrap())
}

/// Fails where it takes longer.
pub async fn within<T>(limit: Duration, what: &str, does: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let done = tokio::time::timeout(DEADLINE, does).await;
    let done = done.unwrap_or_else(|_| panic!("{what} does not end"));
    assert!(begun.elapsed() <= limit, "{what} took {:?}", begun.elapsed());
    done
}
