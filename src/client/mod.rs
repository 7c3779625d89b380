//! tmp
pub mod close;
pub mod commands;
pub mod console;
pub mod feed;
pub mod origin;
pub mod outbox;
pub mod session;
