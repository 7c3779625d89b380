//! The truth table, row by row: what each situation of a call makes callplane tell, and which calls
//! are up afterwards.
//!
//! The server is the real one, with a WebSocket client before it. Every row is played on the
//! simulated stack with both grades of script, and on a real OpenSIPS with both where `OPENSIPS_BIN`
//! names one. Rows that only one kind of stage can tell say why.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

/// Declares one row: a module of its name with a test per kind of stage. The simulated stack plays
/// its grades side by side: most of a row is waiting.
macro_rules! row {
    (everywhere, $name:ident, $setup:expr, $play:expr) => {
        mod $name {
            use super::*;
            row!(@test simulated, $name, Simulated, [Stock, Reference], $setup, $play);
            row!(@test opensips_stock, $name, OpenSips, [Stock], $setup, $play);
            row!(@test opensips_reference, $name, OpenSips, [Reference], $setup, $play);
        }
    };
    (stock, $name:ident, $setup:expr, $play:expr) => {
        mod $name {
            use super::*;
            row!(@test simulated, $name, Simulated, [Stock], $setup, $play);
            row!(@test opensips_stock, $name, OpenSips, [Stock], $setup, $play);
        }
    };
    (reference, $name:ident, $setup:expr, $play:expr) => {
        mod $name {
            use super::*;
            row!(@test simulated, $name, Simulated, [Reference], $setup, $play);
            row!(@test opensips_reference, $name, OpenSips, [Reference], $setup, $play);
        }
    };
    (simulated, $name:ident, $setup:expr, $play:expr) => {
        mod $name {
            use super::*;
            row!(@test simulated, $name, Simulated, [Stock, Reference], $setup, $play);
        }
    };
    (@test $stage:ident, $name:ident, $kind:ident, [$($grade:ident),*], $setup:expr, $play:expr) => {
        #[test]
        fn $stage() {
            let name = concat!(stringify!($name), "::", stringify!($stage));
            let grades = [$(crate::stage::Grade::$grade),*];
            crate::stage::play(name, crate::stage::Kind::$kind, &grades, $setup, $play);
        }
    };
}

mod end;
mod hold;
#[path = "../site/mod.rs"]
mod site;
mod stack;
mod stage;
mod start;
mod story;
#[path = "../support/mod.rs"]
mod support;
mod transfer;
