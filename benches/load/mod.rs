//! What the benches of the whole server share: a server in a process and on a core of its own,
//! sockets that cost the client next to nothing, and the loops that load them.
//!
//! Figures are printed, not judged. What goes wrong on the way ends the bench.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    reason = "a bench ends where its ground is gone; every bench uses a part"
)]

pub mod figures;
pub mod process;
pub mod proxy;
pub mod rounds;
pub mod socket;
