//! callplane: a control plane for SIP calls, as one process that steers OpenSIPS.
//!
//! Clients open a WebSocket and speak JSON-RPC 2.0; callplane steers a SIP proxy through its
//! management interface and streams back what really happened. It never touches SIP or media.
//!
//! # Layout
//!
//! Data flows one way, and the folders are that flow:
//!
//! ```text
//! client frame -> client -> rpc -> engine -> store, stack
//! stack events -> events -> engine
//! committed notices -> store -> bus -> client -> frame
//! ```
//!
//! * [`core`] is pure: the command machines, their inputs and what they ask for. No IO, no clock.
//! * [`rpc`] is pure: JSON-RPC frames, methods, error codes, the OpenRPC document.
//! * [`client`] holds the sockets of clients: sessions, limits, close codes.
//! * [`engine`] is the one loop: load, step, commit, act.
//! * [`store`], [`bus`], [`stack`], [`leadership`] and [`clock`] are small traits with their
//!   adapters; adapters never see each other.
//! * [`events`] carries what the stacks report to the engine.
//! * [`telemetry`] is the log, [`metrics`] what is counted, [`traces`] what became of each command.
//! * [`app`] is the only place that knows every adapter; [`cli`] turns arguments into exit codes.
//!
//! The arrows are held by `tests/architecture.rs`. Start reading at [`core::command`]. Facts (`F4`,
//! `W9`) are those of `docs/opensips/facts.md`, rows those of `docs/outcomes.md`.

pub mod admin;
pub mod app;
pub mod bus;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod core;
pub mod engine;
pub mod events;
pub mod leadership;
pub mod metrics;
pub mod rpc;
pub mod stack;
pub mod store;
pub mod telemetry;
pub mod traces;
