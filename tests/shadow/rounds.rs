//! All of it, so often as asked for, one test at a time.

use std::sync::{Mutex, PoisonError};

use callplane::stack::simulated::Script;

use super::play::{self, Played, Takeover};
use super::{api_server, redis_server};

/// One test at a time: each needs the whole machine.
static ALONE: Mutex<()> = Mutex::new(());

/// So often it is begun anew where the machine had no time for it.
const ATTEMPTS: usize = 4;

fn rounds() -> usize {
    let text = std::env::var("SHADOW_ROUNDS").unwrap_or_else(|_| "1".to_owned());
    text.parse().unwrap_or_else(|_| panic!("SHADOW_ROUNDS={text} is no number"))
}

/// Who elects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elects {
    Redis,
    ApiServer,
}

/// Plays it. What is broken fails it at once; a run that measured nothing is played again.
pub fn run(test: &str, script: Script, elects: Elects, takeovers: &[Takeover]) {
    let by_lease = elects == Elects::ApiServer;
    if !redis_server::is_here(test) || by_lease && !api_server::is_here(test) {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build();
    let runtime = runtime.unwrap();
    for round in 1..=rounds() {
        let once = |attempt| match runtime.block_on(play::play(test, script, elects, takeovers)) {
            Played::Well(report) => Some(report),
            Played::Broken(report) => panic!("{test}: {report}"),
            Played::NotMeasured(why) => {
                println!("{test}: attempt {attempt} of {ATTEMPTS} measured nothing: {why}");
                None
            }
        };
        let report = (1..=ATTEMPTS).find_map(once);
        let report = report.unwrap_or_else(|| panic!("{test}: this machine is too slow for it"));
        println!("{test}, round {round}: {report}");
    }
}
