//! The pure core: what commands are, how they advance, what they ask of a stack.
//!
//! Nothing here does IO, reads a clock, draws a random number or logs. Time and randomness come
//! in with [`time::Now`]. In: a [`command::Command`] and an [`command::Input`]. Out: the next
//! command and the [`notice::Notice`]s its client is owed. Everything that is to be *done* is a
//! function of the state ([`command::Command::open`]), so a crash between deciding and doing
//! loses nothing.

pub mod act;
pub mod command;
pub mod failure;
pub mod ids;
pub mod notice;
pub mod partition;
pub mod plan;
pub mod record;
pub mod request;
pub mod script;
pub mod sdp;
pub mod shown;
pub mod sip_address;
pub mod stack_event;
pub mod time;
