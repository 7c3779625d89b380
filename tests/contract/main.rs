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

/// Runs every test of a suite against every stand.
macro_rules! instances {
    ($($name:ident: $stand:ty),+ => $tests:tt) => { $(instances!(@one $name, $stand, $tests);)+ };
    (@one $name:ident, $stand:ty, { $($test:ident)+ }) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    super::$test::<$stand>().await;
                }
            )+
        }
    };
}

mod bus;
mod clock;
mod commits;
mod leadership;
mod store;

use std::time::Duration;

/// Nothing here takes this long.
const DEADLINE: Duration = Duration::from_secs(20);
