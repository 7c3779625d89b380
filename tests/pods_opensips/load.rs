//! Twenty phones at each of two OpenSIPS, one with each script; clients that ask for whatever they
//! like; and every two seconds a process dies.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::PODS;
use super::random::Random;
use super::report::Report;
use super::round::{self, Settings};

/// About a minute of them.
const KILLS: u64 = 30;

const CLIENTS: usize = 6;

/// Between two things that one client does, on average.
const PAUSE: Duration = Duration::from_millis(900);

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn of_the_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub async fn play() {
    let seed = number("PODS_SEED").unwrap_or_else(of_the_clock);
    let kills = usize::try_from(number("PODS_KILLS").unwrap_or(KILLS)).unwrap();
    println!("PODS_SEED={seed} PODS_KILLS={kills}");
    let temporary = tempfile::tempdir().unwrap();
    let keep = std::env::var_os("PODS_KEEP").map(|keep| PathBuf::from(keep).join("load"));
    let folder = keep.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder).unwrap();
    let seed_of_round = Random::new(seed).next();
    let settings = Settings {
        seed: seed_of_round,
        pods: PODS,
        kills,
        guarded: false,
        by_lease: false,
        rolls: 0,
        other: None,
        clients: CLIENTS,
        pause: PAUSE,
        kinds: Vec::new(),
    };
    let played = round::play(&settings, &folder).await;
    if keep.is_some() {
        played.keep(&folder);
    }
    let mut report = Report::new(seed);
    report.add(&played);
    println!("{}", report.of_round(&played));
    println!("{report}");
    report.assert_kept();
}
