//! What is done with the phones of all proxies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::history::What;
use super::random::Random;
use super::record::Recorder;
use super::stack::{PHONES, Stack};

/// A setup leg of nobody's is ended after 10 s, and twice that at the worst.
const ORPHANS: Duration = Duration::from_secs(30);

/// Calls that are up before anybody asks for anything.
pub async fn given(
    stacks: &[Stack],
    recorder: &Recorder,
    random: &mut Random,
) -> Vec<(usize, String)> {
    let mut given = Vec::new();
    for stack in stacks {
        let some = PHONES / 5;
        for at in 0..some {
            let call = stack.place_call(at, at + some + random.index(some)).await;
            recorder.note(What::Given { stack: stack.number, call: call.clone() });
            given.push((stack.number, call));
        }
    }
    given
}

/// Notes what phones saw, until it is dropped.
pub async fn watch_phones(stacks: Arc<[Stack]>, recorder: Arc<Recorder>) {
    loop {
        for stack in stacks.iter() {
            stack.note_seen(&recorder).await;
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Waits until no setup leg is up.
pub async fn clear(stacks: &[Stack]) {
    let deadline = Instant::now() + ORPHANS;
    loop {
        let mut setup = 0;
        for stack in stacks {
            let calls = stack.calls_of_phones().await;
            setup += calls.iter().filter(|call| call.starts_with("cp-")).count();
        }
        if setup == 0 || Instant::now() > deadline {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
