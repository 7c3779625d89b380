//! JSON-RPC 2.0, pure: text in, typed calls out; facts in, text out.
//!
//! In: one frame of a client ([`frame::parse`]), which becomes requests, and each request a
//! checked [`method::Call`] or a [`error::Refusal`]. Out: responses and notifications, written
//! by [`wire`] into a buffer that the caller keeps. Nothing here does IO, reads a clock or knows
//! a socket. Sources: the JSON-RPC 2.0 specification of 2013-01-04 and the recorded wire of the
//! OpenSIPS Call API, whose shapes old clients rely on.

pub mod error;
pub mod frame;
pub mod method;
pub mod openrpc;
pub mod params;
pub mod wire;
