//! From the committed stream to the sockets of this process.
//!
//! Entries come in once per process, in stream order, and go to the inboxes of their session
//! only. Delivering never waits: an inbox that is full is marked, and its socket is closed with
//! a code that says resume.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::core::ids::{Epoch, SessionId, TenantId};
use crate::core::record::{Entry, Position};

/// A power of two, so that sessions of many sockets rarely meet on one lock.
const SHARDS: usize = 32;

/// Most entries that wait for one socket. Its task takes them at once unless the client reads
/// too slowly or a replay is under way.
pub const LONGEST_INBOX: usize = 4096;

/// In an order of its own: whom a skip reaches first is the same each time.
type Shard = BTreeMap<SessionId, Vec<Arc<Inbox>>>;

/// The one way for committed entries to reach sockets.
#[derive(Debug)]
pub struct Feed {
    shards: Vec<Mutex<Shard>>,
    heads: Mutex<HashMap<TenantId, Position>>,
    start: Position,
}

impl Feed {
    /// A feed at the head of the stream: the epoch, and the last entry that will not come.
    #[must_use]
    pub fn new(start: Position) -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Arc::new(Self { shards, heads: Mutex::default(), start })
    }

    /// Hands out committed entries of one epoch. Must be called in stream order; never waits.
    pub fn deliver(&self, epoch: &Epoch, entries: &[Arc<Entry>]) {
        for entry in entries {
            // First the head: whoever attaches in between gets the entry twice and knows it by
            // its seq, rather than not at all.
            self.advance(epoch, entry);
            let Some(shard) = self.shard(&entry.session) else {
                continue;
            };
            if let Some(inboxes) = shard.get(&entry.session) {
                for inbox in inboxes.iter().filter(|inbox| inbox.tenant == entry.key.tenant) {
                    inbox.push(epoch, entry);
                }
            }
        }
    }

    fn advance(&self, epoch: &Epoch, entry: &Entry) {
        let mut heads = lock(&self.heads);
        match heads.get_mut(&entry.key.tenant) {
            Some(head) => {
                if head.epoch != *epoch {
                    head.epoch = epoch.clone();
                }
                head.seq = entry.seq;
            }
            None => {
                let head = Position { epoch: epoch.clone(), seq: entry.seq };
                heads.insert(entry.key.tenant.clone(), head);
            }
        }
    }

    /// Clients begin at this position, unless something later was handed out: what stands before it
    /// may not come.
    pub fn begin(&self, tenant: &TenantId, at: Position) {
        lock(&self.heads).entry(tenant.clone()).or_insert(at);
    }

    /// The stream goes on behind this position; what stood before it and was not handed out never
    /// will be.
    pub fn skip(&self, tenant: &TenantId, to: &Position) {
        lock(&self.heads).insert(tenant.clone(), to.clone());
        for shard in &self.shards {
            let shard = lock(shard);
            for inbox in shard.values().flatten().filter(|inbox| inbox.tenant == *tenant) {
                inbox.skip(to);
            }
        }
    }

    /// The last position that was handed out.
    #[must_use]
    pub fn head(&self, tenant: &TenantId) -> Position {
        lock(&self.heads).get(tenant).cloned().unwrap_or_else(|| self.start.clone())
    }

    /// From now on a session's entries in this tenant's stream go to this inbox too, until the
    /// attachment is dropped.
    #[must_use]
    pub fn attach(self: &Arc<Self>, tenant: &TenantId, session: &SessionId) -> Attachment {
        let inbox = Arc::new(Inbox {
            tenant: tenant.clone(),
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
        });
        if let Some(mut shard) = self.shard(session) {
            shard.entry(session.clone()).or_default().push(Arc::clone(&inbox));
        }
        Attachment { feed: Arc::clone(self), session: session.clone(), inbox }
    }

    fn shard(&self, session: &SessionId) -> Option<MutexGuard<'_, Shard>> {
        // Session ids are uniformly random, so a few of their bytes spread well enough.
        let spread = session
            .as_str()
            .bytes()
            .rev()
            .take(8)
            .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
        self.shards.get(spread % SHARDS).map(lock)
    }
}

/// A poisoned lock means that another task panicked between two plain assignments; the map is
/// whole, and closing every socket for it would be worse.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One socket's place in the feed.
#[derive(Debug)]
pub struct Attachment {
    feed: Arc<Feed>,
    session: SessionId,
    inbox: Arc<Inbox>,
}

impl Attachment {
    /// The inbox.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Some(mut shard) = self.feed.shard(&self.session) else {
            return;
        };
        if let Some(inboxes) = shard.get_mut(&self.session) {
            inboxes.retain(|inbox| !Arc::ptr_eq(inbox, &self.inbox));
            if inboxes.is_empty() {
                shard.remove(&self.session);
            }
        }
    }
}

/// What waits for one socket.
#[derive(Debug)]
pub struct Inbox {
    /// Whose stream it takes from.
    tenant: TenantId,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Waits>,
    overflowed: bool,
}

#[derive(Debug)]
enum Waits {
    Entry(Epoch, Arc<Entry>),
    Skip(Box<Position>),
}

/// What an inbox held.
#[derive(Debug)]
pub enum Taken {
    /// The oldest entry.
    Entry(Epoch, Arc<Entry>),
    /// The stream goes on behind this position; entries before it may be missing for good.
    Skipped(Box<Position>),
    /// Entries were lost, since too many waited. The inbox is empty and goes on from here.
    Overflowed,
}

impl Inbox {
    fn push(&self, epoch: &Epoch, entry: &Arc<Entry>) {
        self.put(|| Waits::Entry(epoch.clone(), Arc::clone(entry)));
    }

    fn skip(&self, to: &Position) {
        self.put(|| Waits::Skip(Box::new(to.clone())));
    }

    fn put(&self, what: impl FnOnce() -> Waits) {
        {
            let mut queue = lock(&self.queue);
            if queue.overflowed {
                return;
            }
            if queue.entries.len() >= LONGEST_INBOX {
                queue.overflowed = true;
                queue.entries = VecDeque::new();
            } else {
                queue.entries.push_back(what());
            }
        }
        self.waker.wake();
    }

    /// Takes what is there, without waiting.
    #[must_use]
    pub fn take(&self) -> Option<Taken> {
        let mut queue = lock(&self.queue);
        if std::mem::take(&mut queue.overflowed) {
            return Some(Taken::Overflowed);
        }
        let taken = queue.entries.pop_front();
        if queue.entries.is_empty() && queue.entries.capacity() > 64 {
            // A burst must not stay in the memory of an idle socket.
            queue.entries = VecDeque::new();
        }
        taken.map(|waits| match waits {
            Waits::Entry(epoch, entry) => Taken::Entry(epoch, entry),
            Waits::Skip(to) => Taken::Skipped(to),
        })
    }

    /// Takes the oldest entry, or asks to be woken.
    pub fn poll_take(&self, context: &Context<'_>) -> Poll<Taken> {
        if let Some(taken) = self.take() {
            return Poll::Ready(taken);
        }
        self.waker.register(context.waker());
        self.take().map_or(Poll::Pending, Poll::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::{CommandId, Nonce, Scope};
    use crate::core::notice::Notice;
    use crate::core::record::Key;
    use crate::core::request::Method;

    fn tenant(name: &str) -> TenantId {
        serde_json::from_value(name.into()).unwrap()
    }

    /// Takes a place in the line when it is woken.
    struct Woken(u128, Arc<Mutex<Vec<u128>>>);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            lock(&self.1).push(self.0);
        }
    }

    #[test]
    fn a_skip_reaches_the_sessions_in_the_same_order_each_time() {
        let order = || {
            let (mine, epoch) = (tenant("mine"), Epoch::derive(Nonce(2)));
            let feed = Feed::new(Position { epoch: epoch.clone(), seq: 0 });
            let line = Arc::default();
            let attach = |number| {
                let attachment = feed.attach(&mine, &SessionId::derive(Nonce(number)));
                let waker = Arc::new(Woken(number, Arc::clone(&line))).into();
                assert!(attachment.inbox().poll_take(&Context::from_waker(&waker)).is_pending());
                attachment
            };
            let attachments: Vec<Attachment> = (0..200).map(attach).collect();
            feed.skip(&mine, &Position { epoch, seq: 6 });
            drop(attachments);
            std::mem::take(&mut *lock(&line))
        };
        assert_eq!(order().len(), 200);
        assert_eq!(order(), order());
    }

    #[test]
    fn clients_begin_where_the_stream_stood_once_it_was_listened_to() {
        let (tenant, epoch) = (tenant("mine"), Epoch::derive(Nonce(2)));
        let at = |seq| Position { epoch: epoch.clone(), seq };
        let feed = Feed::new(at(654));
        feed.begin(&tenant, at(656));
        assert_eq!(feed.head(&tenant), at(656));
        let feed = Feed::new(at(654));
        feed.skip(&tenant, &at(657));
        feed.begin(&tenant, at(656));
        assert_eq!(feed.head(&tenant), at(657), "it was told of more since");
    }

    #[test]
    fn a_tenants_stream_is_nothing_to_the_others() {
        let (mine, other) = (tenant("mine"), tenant("other"));
        let session = SessionId::derive(Nonce(1));
        let epoch = Epoch::derive(Nonce(2));
        let feed = Feed::new(Position { epoch: epoch.clone(), seq: 0 });
        let attachment = feed.attach(&mine, &session);
        feed.skip(&other, &Position { epoch: epoch.clone(), seq: 40 });
        let entry = |tenant: &TenantId| {
            Arc::new(Entry {
                seq: 7,
                session: session.clone(),
                key: Key {
                    tenant: tenant.clone(),
                    scope: Scope::Session(session.clone()),
                    id: CommandId::derive(Nonce(3)),
                },
                method: Method::CallEnd,
                external_id: None,
                asked: None,
                notice: Notice::Started { deadline_ms: 1 },
            })
        };
        feed.deliver(&epoch, &[entry(&other)]);
        assert!(attachment.inbox().take().is_none());
        feed.skip(&mine, &Position { epoch: epoch.clone(), seq: 6 });
        feed.deliver(&epoch, &[entry(&mine)]);
        assert!(matches!(attachment.inbox().take(), Some(Taken::Skipped(to)) if to.seq == 6));
        assert!(matches!(attachment.inbox().take(), Some(Taken::Entry(..))));
    }
}
