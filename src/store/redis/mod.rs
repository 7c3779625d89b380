//! The store of several processes, in one Redis.
//!
//! A commit is one script in one round trip; what it writes is in one partition. Each physical
//! connection knows the server's run id, and each partition's head the one that its epoch belongs
//! to: where they differ, or there is no head, the memory may have lost something, and an epoch
//! begins.
//!
//! Each asking ends within about a second, with [`Away`](crate::store::Away) where the server did not answer.
//!
//! The files: `reach` (how servers are reached), `store` (what is asked of them), `replicas` (whether others
//! have what was written), `bus` (what is published), `leadership` (leases), `terms`
//! (what decides between leaders that are elected elsewhere); and what they ask with: `keys`
//! (names), `script` (the scripts beside it), `wire` (what travels), `ways` (from what a stack reports to
//! who listens), `illegible` (what a later version wrote).

mod bus;
mod illegible;
mod keys;
mod leadership;
mod reach;
mod replicas;
mod script;
mod store;
mod terms;
mod ways;
mod wire;

pub use self::bus::RedisBus;
pub use self::leadership::RedisLeadership;
pub use self::reach::{
    About, Access, Address, BadAddress, BadFile, BadSettings, Identity, Purpose, Servers, Settings,
    Tls, Unusable,
};
pub use self::store::RedisStore;
