//! tmp
pub mod close;
pub mod commands;
pub mod feed;
pub mod origin;
pub mod outbox;
pub mod session;
