//! What every clock and every source of randomness promises.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use callplane::clock::{Clock, Nonces, SystemClock, SystemNonces};
use callplane::core::time::StoreTime;

use crate::DEADLINE;

instances!(system: SystemClock => {
    time_goes_on
    time_passes_as_on_the_machine
    time_counts_from_1970
    no_thread_sees_time_run_backwards
});

instances!(system_nonces: SystemNonces => {
    no_nonce_comes_twice
    no_nonce_comes_twice_to_several_threads_or_sources
    every_bit_is_drawn
});

/// Makes what is tested.
trait Fresh: Sized {
    fn fresh() -> Self;
}

impl Fresh for SystemClock {
    fn fresh() -> Self {
        Self::new()
    }
}

impl Fresh for SystemNonces {
    fn fresh() -> Self {
        Self::new()
    }
}

/// Reads until this much has passed.
fn pass(clock: &impl Clock, time: Duration) {
    let (begun, until) = (Instant::now(), clock.now().after(time));
    while clock.now() < until {
        assert!(begun.elapsed() < DEADLINE, "time stands still");
        std::hint::spin_loop();
    }
}

async fn time_goes_on<C: Clock + Fresh>() {
    pass(&C::fresh(), Duration::from_millis(30));
}

async fn time_passes_as_on_the_machine<C: Clock + Fresh>() {
    let clock = C::fresh();
    let outside = Instant::now();
    let from = clock.now();
    let inside = Instant::now();
    pass(&clock, Duration::from_millis(50));
    let least = inside.elapsed();
    let passed = from.until(clock.now());
    let most = outside.elapsed();
    // Whole milliseconds: one may be cut off at each end.
    let slack = Duration::from_millis(1);
    assert!(least <= passed + slack && passed <= most + slack, "{least:?} {passed:?} {most:?}");
}

async fn time_counts_from_1970<C: Clock + Fresh>() {
    let clock = C::fresh();
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let wall = StoreTime(u64::try_from(wall.as_millis()).unwrap());
    let off = clock.now().until(wall).max(wall.until(clock.now()));
    // A store's clock is another machine's.
    assert!(off < Duration::from_secs(600), "{off:?}");
}

async fn no_thread_sees_time_run_backwards<C: Clock + Fresh>() {
    let clock = C::fresh();
    let newest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let seen = newest.load(Ordering::SeqCst);
                    let now = clock.now().0;
                    assert!(now >= seen, "{now} after {seen}");
                    newest.fetch_max(now, Ordering::SeqCst);
                }
            });
        }
    });
}

async fn no_nonce_comes_twice<N: Nonces + Fresh>() {
    let nonces = N::fresh();
    let drawn: BTreeSet<_> = (0..10_000).map(|_| nonces.nonce()).collect();
    assert_eq!(drawn.len(), 10_000);
}

async fn no_nonce_comes_twice_to_several_threads_or_sources<N: Nonces + Fresh>() {
    let sources = [Arc::new(N::fresh()), Arc::new(N::fresh())];
    let threads = sources.iter().cycle().take(8).map(|nonces| {
        let nonces = Arc::clone(nonces);
        std::thread::spawn(move || (0..2_000).map(|_| nonces.nonce()).collect::<Vec<_>>())
    });
    let threads: Vec<_> = threads.collect();
    let drawn: BTreeSet<_> = threads.into_iter().flat_map(|one| one.join().unwrap()).collect();
    assert_eq!(drawn.len(), 16_000);
}

async fn every_bit_is_drawn<N: Nonces + Fresh>() {
    let nonces = N::fresh();
    let (mut set, mut unset) = (0, 0);
    for _ in 0..1_000 {
        let nonce = nonces.nonce().0;
        set |= nonce;
        unset |= !nonce;
    }
    // Of a fair bit this fails once in 2^999.
    assert_eq!((set, unset), (u128::MAX, u128::MAX));
}
