//! The composition root: the only place that knows every adapter.

mod backing;
mod delivery;
mod descriptors;
mod desk;
mod host;
mod meter;
mod observe;
mod parts;
mod probe;
mod running;
mod server;
pub mod settings;
mod stacks;
mod watch;

pub use delivery::FeedListener;
pub use descriptors::raise as raise_descriptors;
pub use desk::Desk;
pub use host::TokioHost;
pub use probe::{Finding, Trouble, look_at_leases, probe, probe_redis, probe_stack};
pub use server::{Server, StartError};
pub use stacks::StackError;
