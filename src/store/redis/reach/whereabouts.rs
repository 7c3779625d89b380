//! Which server is the master, from what the Sentinels say. Pure: no IO, no clock.
//!
//! Each answer carries the configuration's number (`config-epoch`), which most of the Sentinels have
//! to agree on before one of them may raise it. So the newest word counts, once most of them are
//! heard: those that lag behind still name the old master, for a second and longer.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Address;

/// The newest word is not forgotten for this long, though the one who said it may be gone. Later all
/// of them are believed again: Sentinels that lost their files begin to count anew.
const HOLD: Duration = Duration::from_secs(5);

/// Where the master is, or why that is not known.
pub(super) type Whereabouts = Result<Address, NoMaster>;

/// Why no server is known to be the master.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoMaster {
    #[error("{heard} of {of} Sentinels answer; it takes most of them")]
    Unheard { heard: usize, of: usize },
    #[error("the Sentinels know no master of the name {0}")]
    Unnamed(String),
}

/// What a Sentinel said last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// `None`: it knows no master of the name.
    pub(super) master: Option<Address>,
    /// The configuration's number.
    pub(super) number: u64,
}

/// What all of them said.
pub(super) struct Words {
    name: String,
    /// `None`: it does not answer.
    of: Vec<Option<Word>>,
    held: Option<Held>,
}

struct Held {
    master: Address,
    number: u64,
    by: usize,
    heard_at: Instant,
}

impl Words {
    /// Nobody has said anything of this master yet.
    pub(super) fn none(name: String, sentinels: usize) -> Self {
        Self { name, of: vec![None; sentinels], held: None }
    }

    /// One answered.
    pub(super) fn says(&mut self, who: usize, word: Word) {
        // The number of a switch was a guess until now.
        if let Some(held) = self.held.as_mut().filter(|held| held.by == who)
            && word.master.as_ref() == Some(&held.master)
        {
            held.number = word.number;
        }
        self.set(who, Some(word));
    }

    /// One told that the master is another one now.
    pub(super) fn switched(&mut self, who: usize, to: Address, now: Instant) {
        let number = match self.newest(now) {
            Some((master, number, _)) if *master == to => number,
            Some((_, number, _)) => number.saturating_add(1),
            None => 0,
        };
        self.set(who, Some(Word { master: Some(to), number }));
    }

    /// One does not answer.
    pub(super) fn lost(&mut self, who: usize) {
        self.set(who, None);
    }

    fn set(&mut self, who: usize, word: Option<Word>) {
        if let Some(place) = self.of.get_mut(who) {
            *place = word;
        }
    }

    /// Where the master is by all that.
    pub(super) fn master(&mut self, now: Instant) -> Whereabouts {
        let (heard, of) = (self.of.iter().flatten().count(), self.of.len());
        if heard * 2 <= of {
            return Err(NoMaster::Unheard { heard, of });
        }
        let Some((master, number, by)) = self.newest(now) else {
            return Err(NoMaster::Unnamed(self.name.clone()));
        };
        let master = master.clone();
        if let Some(by) = by {
            self.held = Some(Held { master: master.clone(), number, by, heard_at: now });
        }
        Ok(master)
    }

    /// The newest word; of several the one that most say. And who says it, if anybody still does.
    fn newest(&self, now: Instant) -> Option<(&Address, u64, Option<usize>)> {
        let said = self.of.iter().enumerate().filter_map(|(who, word)| {
            let word = word.as_ref()?;
            Some((word.master.as_ref()?, word.number, Some(who)))
        });
        let held = self.held.as_ref();
        let held = held.filter(|held| now.saturating_duration_since(held.heard_at) < HOLD);
        let of_held = held.map(|held| (&held.master, held.number, None));
        said.chain(of_held).max_by_key(|(master, number, by)| {
            let word = Some(Word { master: Some((*master).clone()), number: *number });
            let votes = self.of.iter().filter(|other| **other == word).count();
            let as_before = held.is_some_and(|held| held.master == **master);
            (*number, votes, as_before, by.is_some())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Address {
        Address { host: host.to_owned(), port: 6379 }
    }

    fn word(host: &str, number: u64) -> Word {
        Word { master: Some(at(host)), number }
    }

    fn three(now: Instant) -> Words {
        let mut words = Words::none("calls".to_owned(), 3);
        for who in 0..3 {
            words.says(who, word("old", 4));
        }
        assert_eq!(words.master(now), Ok(at("old")));
        words
    }

    #[test]
    fn most_of_them_have_to_be_heard() {
        let now = Instant::now();
        let mut words = Words::none("calls".to_owned(), 3);
        assert_eq!(words.master(now), Err(NoMaster::Unheard { heard: 0, of: 3 }));
        words.says(1, word("old", 4));
        assert_eq!(words.master(now), Err(NoMaster::Unheard { heard: 1, of: 3 }));
        words.says(2, word("old", 4));
        assert_eq!(words.master(now), Ok(at("old")));
        words.lost(1);
        assert_eq!(words.master(now), Err(NoMaster::Unheard { heard: 1, of: 3 }));
    }

    #[test]
    fn a_name_that_nobody_knows_is_said() {
        let now = Instant::now();
        let mut words = Words::none("calls".to_owned(), 1);
        words.says(0, Word { master: None, number: 0 });
        assert_eq!(words.master(now), Err(NoMaster::Unnamed("calls".to_owned())));
    }

    #[test]
    fn the_newest_word_counts_though_most_lag_behind() {
        let now = Instant::now();
        let mut words = three(now);
        words.says(2, word("new", 5));
        assert_eq!(words.master(now), Ok(at("new")));
        words.says(0, word("old", 4));
        words.says(1, word("old", 4));
        assert_eq!(words.master(now), Ok(at("new")));
    }

    #[test]
    fn a_switch_counts_before_its_number_is_known() {
        let now = Instant::now();
        let mut words = three(now);
        words.switched(0, at("new"), now);
        assert_eq!(words.master(now), Ok(at("new")));
        words.says(1, word("old", 4));
        assert_eq!(words.master(now), Ok(at("new")));
        // The others tell the same switch.
        words.says(0, word("new", 7));
        words.switched(1, at("new"), now);
        assert_eq!(words.master(now), Ok(at("new")));
        // The next switch is newer than all that, whoever tells it.
        words.says(2, word("newer", 8));
        assert_eq!(words.master(now), Ok(at("newer")));
    }

    #[test]
    fn the_newest_word_outlives_the_one_who_said_it_for_a_while() {
        let now = Instant::now();
        let mut words = three(now);
        words.switched(0, at("new"), now);
        assert_eq!(words.master(now), Ok(at("new")));
        words.lost(0);
        assert_eq!(words.master(now + HOLD / 2), Ok(at("new")));
        assert_eq!(words.master(now + HOLD), Ok(at("old")), "nobody else has heard of it");
    }

    #[test]
    fn sentinels_that_count_anew_are_believed_after_a_while() {
        let now = Instant::now();
        let mut words = three(now);
        for who in 0..3 {
            words.says(who, word("new", 0));
        }
        assert_eq!(words.master(now + HOLD / 2), Ok(at("old")));
        assert_eq!(words.master(now + HOLD), Ok(at("new")));
    }

    #[test]
    fn of_words_of_one_number_the_one_that_most_say_counts() {
        let now = Instant::now();
        let mut words = Words::none("calls".to_owned(), 3);
        words.says(0, word("b", 0));
        words.says(1, word("a", 0));
        words.says(2, word("a", 0));
        assert_eq!(words.master(now), Ok(at("a")));
        words.lost(2);
        assert_eq!(words.master(now), Ok(at("a")), "as before");
    }
}
