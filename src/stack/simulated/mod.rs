//! A simulated OpenSIPS that speaks the Management Interface and the Event Interface as recorded
//! from OpenSIPS 3.6.8 and 4.0.1, with phones around it whose behaviour can be chosen.
//!
//! * [`World`] is all of it as one deterministic value in virtual time: no IO, no clock.
//!   `dialogs`, `phones`, `calls`, `transfer`, `hold`, `events`, `uac`, `cache` and `commands`
//!   are its parts, by reason; `wire` is its text.
//! * [`faults::Faults`] loses, doubles, delays and reorders; [`World::restart`] restarts.
//!
//! * Two adapters make it a stack: [`server`] on UDP, HTTP and TCP with a [`control`] interface,
//!   and [`in_process`] behind the [`Mi`](crate::stack::mi::Mi) trait, without sockets.
//!
//! The recordings in `tests/traces` are replayed against it by `tests/simulated_traces.rs`.
//! What goes beyond them was measured on the same two versions.

mod cache;
mod calls;
mod commands;
mod config;
pub mod control;
mod delivery;
mod dialogs;
mod events;
pub mod faults;
mod hold;
mod http;
pub mod in_process;
mod phones;
mod random;
mod reference;
pub mod server;
mod sip_text;
mod time;
mod transfer;
mod uac;
mod wire;
pub mod witness;
mod world;

pub use commands::{Asker, Channel};
pub use config::{Script, Version, WorldConfig, demo_phones};
pub use phones::{Behaviour, Notify, PhoneConfig, Replaces};
pub use sip_text::Direction;
pub use wire::reply_text;
pub use world::{CallView, Output, PhoneView, World};
