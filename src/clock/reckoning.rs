//! What another machine's clock shows, reckoned from one's own.

use crate::core::time::StoreTime;

/// Two clocks drift apart by less than one in this many.
const DRIFT: i64 = 1000;

/// How another clock is reckoned from this one: from its word, which says little when it was long
/// under way.
///
/// The reckoning follows a clock that jumps ahead. Behind one that falls back it goes on at half speed,
/// until that has caught up: what was once told is never taken back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reckoning {
    word: Option<Word>,
    /// It is not behind half the time since then.
    floor: Floor,
}

/// All of it in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Word {
    /// The other clock is ahead by so much,
    ahead: i64,
    /// give or take this,
    within: i64,
    /// at this time of one's own clock.
    at: i64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Floor {
    told: StoreTime,
    at: StoreTime,
}

impl Reckoning {
    /// Takes what the other clock said, asked and answered at these times of one's own. Returns how
    /// far it is ahead of what was reckoned, in milliseconds; the first word puts a guess right,
    /// and is no news.
    pub fn learn(&mut self, asked: StoreTime, answered: StoreTime, said: StoreTime) -> i64 {
        let (from, to, said) = (milliseconds(asked), milliseconds(answered), milliseconds(said));
        let half = (to - from) / 2;
        let middle = said - from - half;
        let fresh = Word { ahead: middle, within: half, at: to };
        let Some(known) = self.word else {
            // What was told before was a guess.
            (self.word, self.floor) = (Some(fresh), Floor::default());
            return 0;
        };
        // It said so at some time in between; milliseconds are whole.
        let (least, most) = (said - to - 1, said - from + 1);
        let drifted = known.within + (to - known.at) / DRIFT;
        let next = if half <= drifted {
            fresh
        } else if known.ahead < least {
            Word { ahead: least, within: most - least, at: to }
        } else if known.ahead > most {
            Word { ahead: most, within: most - least, at: to }
        } else {
            known
        };
        self.floor = Floor { told: self.at(answered), at: answered };
        self.word = Some(next);
        next.ahead - known.ahead
    }

    /// What the other clock shows at this time of one's own.
    #[must_use]
    pub fn at(&self, own: StoreTime) -> StoreTime {
        let Some(word) = self.word else { return own };
        let half = self.floor.at.until(own) / 2;
        StoreTime(own.0.saturating_add_signed(word.ahead)).max(self.floor.told.after(half))
    }
}

fn milliseconds(time: StoreTime) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The other clock is asked at a time of one's own, answers so late, and is ahead by so much
    /// when it does so after this part of the way.
    fn ask(reckoning: &mut Reckoning, at: u64, takes: u64, ahead: i64, part: u64) -> i64 {
        let said = StoreTime((at + takes * part / 100).saturating_add_signed(ahead));
        reckoning.learn(StoreTime(at), StoreTime(at + takes), said)
    }

    fn off(reckoning: &Reckoning, at: u64, ahead: i64) -> u64 {
        let shows = at.saturating_add_signed(ahead);
        reckoning.at(StoreTime(at)).0.abs_diff(shows)
    }

    #[test]
    fn a_clock_that_fell_behind_is_waited_for_at_half_speed() {
        let mut reckoning = Reckoning::default();
        ask(&mut reckoning, 9_000, 0, 0, 0);
        assert_eq!(ask(&mut reckoning, 10_000, 0, -4_000, 0), -4_000);
        for (at, shows) in [(10_000, 10_000), (14_000, 12_000), (18_000, 14_000), (20_000, 16_000)]
        {
            assert_eq!(reckoning.at(StoreTime(at)), StoreTime(shows), "at {at}");
        }
    }

    #[test]
    fn it_is_waited_for_no_longer_though_it_is_asked_each_second() {
        let mut reckoning = Reckoning::default();
        ask(&mut reckoning, 9_000, 0, 0, 0);
        let mut last = reckoning.at(StoreTime(10_000));
        for at in 10_000..=20_000 {
            if at % 1_000 == 0 {
                ask(&mut reckoning, at, 0, -4_000, 0);
            }
            let now = reckoning.at(StoreTime(at));
            assert!(now >= last, "it went back");
            last = now;
        }
        assert_eq!(last, StoreTime(16_000));
    }

    #[test]
    fn a_clock_that_is_ahead_is_followed_at_once() {
        let mut reckoning = Reckoning::default();
        ask(&mut reckoning, 9_000, 0, 0, 0);
        assert_eq!(ask(&mut reckoning, 10_000, 0, 4_000, 0), 4_000);
        assert_eq!(reckoning.at(StoreTime(10_001)), StoreTime(14_001));
    }

    #[test]
    fn who_always_answers_late_is_listened_to() {
        let mut reckoning = Reckoning::default();
        // The first word was long under way, all of it on the way back.
        ask(&mut reckoning, 10_000, 1_000, 0, 0);
        assert!(off(&reckoning, 11_000, 0) >= 499, "{reckoning:?}");
        for at in (11_000..20_000).step_by(1_000) {
            ask(&mut reckoning, at, 100, 0, 0);
        }
        assert!(off(&reckoning, 20_000, 0) <= 51, "{reckoning:?}");
        // And another one answers from now on.
        for at in (20_000..25_000).step_by(1_000) {
            ask(&mut reckoning, at, 100, 30_000, 100);
        }
        assert!(off(&reckoning, 25_000, 30_000) <= 51, "{reckoning:?}");
    }

    #[test]
    fn a_word_that_was_long_under_way_says_little() {
        let mut reckoning = Reckoning::default();
        ask(&mut reckoning, 10_000, 2, 0, 50);
        for at in (11_000..20_000).step_by(1_000) {
            ask(&mut reckoning, at, 800, 0, 0);
            assert!(off(&reckoning, at + 800, 0) <= 1, "{reckoning:?}");
        }
    }

    #[test]
    fn clocks_may_drift() {
        let mut reckoning = Reckoning::default();
        let mut ahead = 0;
        for at in (10_000..1_000_000).step_by(1_000) {
            ask(&mut reckoning, at, 30, ahead, 0);
            assert!(off(&reckoning, at + 30, ahead) <= 32, "at {at}: {reckoning:?}");
            ahead += i64::from(at % 2_000 == 0);
        }
    }
}
