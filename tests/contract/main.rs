//! What the traits promise, stated once for every implementation.
//!
//! Each suite is generic over a stand: what makes a fresh instance and moves its time. Another
//! implementation adds its stand and one line to the suite's [`instances!`], and changes nothing
//! else. Times in the suites are short, so that a stand may wait for them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

/// Runs every test of a suite against every stand; against one that needs something, `where` that
/// is here.
macro_rules! instances {
    ($($name:ident: $stand:ty $(where $here:path)?),+ => $tests:tt) => {
        $(instances!(@one $name, $stand, [$($here)?], $tests);)+
    };
    (@is_here [] $test:ident) => { true };
    (@is_here [$here:path] $test:ident) => {
        $here(concat!(module_path!(), "::", stringify!($test)))
    };
    (@one $name:ident, $stand:ty, $here:tt, { $($test:ident)+ }) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    if instances!(@is_here $here $test) {
                        super::$test::<$stand>().await;
                    }
                }
            )+
        }
    };
}

#[path = "../api_server/mod.rs"]
mod api_server;
mod bus;
mod clock;
mod commits;
mod differential;
mod leadership;
mod redis;
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod store;

use std::time::Duration;

/// Nothing here takes this long.
const DEADLINE: Duration = Duration::from_secs(20);
