//! Who has a Lease: the rules, without IO and without a clock of their own.
//!
//! In client-go's manner. A Lease counts as alive for as long as its holder keeps changing it, and that
//! is measured from when the change was seen here, never by the times that are written in it: clocks
//! differ. A holder renews well before others may take it.
//!
//! The Lease only says who may try. The term that the store draws decides, and fences whoever was late.
//! So whoever leads goes on while the API server is away, as long as the store knows of no higher term.

use std::time::Duration;

/// How long a Lease that was written by others may ask to be respected.
const LONGEST: Duration = Duration::from_secs(60);

/// How often a leader asks the store for the newest term.
const CHECK: Duration = Duration::from_secs(1);

/// Whoever can't ask the store for this long is of no use as a leader, and others may be: it gives the
/// Lease back. As long as a failover of the store takes, and shorter than others keep what they heard.
const USELESS: Duration = Duration::from_secs(8);

/// After a store that was away.
const STORE_AGAIN: Duration = Duration::from_millis(250);

/// After the API server was away, for those who wait for the Lease; doubled each time.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_AT_MOST: Duration = Duration::from_secs(4);

/// How fast an election is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Without a change for this long a Lease is free.
    pub lease: Duration,
    /// How much longer this process waits than others, so that not all try at once.
    pub jitter: Duration,
}

impl Timing {
    /// How often a holder renews.
    #[must_use]
    pub fn renew(self) -> Duration {
        self.lease / 4
    }

    /// Without a word of the API server for this long, only the store's word counts.
    #[must_use]
    pub fn deadline(self) -> Duration {
        self.lease * 3 / 4
    }

    /// A holder that was cut off together with us gets this long to renew.
    fn grace(self) -> Duration {
        self.lease / 2
    }

    /// An answer that took longer tells of an API server that is in trouble.
    fn slow(self) -> Duration {
        self.lease / 4
    }

    /// Whoever began so lately has not heard all that its predecessor may have left.
    fn young(self) -> Duration {
        self.lease * 4
    }

    /// So much longer the young ones wait than all others.
    fn deference(self) -> Duration {
        self.lease / 8
    }

    /// How long those who see a Lease given back let others go first.
    fn courtesy(self) -> Duration {
        self.jitter / 4
    }
}

/// Which Lease, and which state of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// The object's `uid`: another one after it was deleted.
    pub uid: String,
    /// The object's `resourceVersion`.
    pub revision: String,
}

impl Version {
    /// Whether it is certainly older. Revisions are numbers that grow over all objects of a kind, so
    /// that one of a former life is older, too; what is no number is never older.
    pub(super) fn is_before(&self, other: &Version) -> bool {
        let number = |version: &Version| version.revision.parse::<u128>().ok();
        matches!((number(self), number(other)), (Some(one), Some(two)) if one < two)
    }
}

/// A Lease, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Who has it; nobody: it was given back.
    pub holder: Option<String>,
    /// How long its holder asks others to wait.
    pub lasts: Duration,
    /// How often it has changed hands.
    pub transitions: u32,
    /// Which state of it this is.
    pub version: Version,
}

/// What is asked of the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// How it stands.
    Read,
    /// To have this written.
    Write(Draft),
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Who has it then.
    pub holder: Option<String>,
    /// How often it has changed hands then.
    pub transitions: u32,
    /// Whether it changes hands by this.
    pub taken: bool,
    /// The state that it is written over; `None`: there is no such Lease.
    pub over: Option<Version>,
}

/// What the API server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// So it stands, or there is none.
    Read(Option<Lease>),
    /// It was written.
    Written(Lease),
    /// Somebody else has written it meanwhile.
    Lost,
    /// It did not do it, or did not say so.
    Failed,
}

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// New terms: the Lease is ours.
    Draw,
    /// Whether our terms are the newest.
    Check,
}

/// What the store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Terms were drawn.
    Drawn,
    /// Ours are the newest.
    Newest,
    /// Its memory is another one: terms belong to one.
    Forgot,
    /// Somebody has drawn a higher one.
    Outdone,
    /// It can't be asked.
    Away,
}

/// One process and one Lease. Times are since it began.
#[derive(Debug)]
pub struct Election {
    me: String,
    timing: Timing,
    seen: Option<Seen>,
    hold: Hold,
    /// The API server was away since the Lease was seen last.
    blind: bool,
    /// When it was asked what it has not answered yet.
    asked: Option<Duration>,
    /// What the last write was to be written over.
    over: Option<Version>,
    /// Over what a write was lost last.
    lost: Option<Version>,
    ask_at: Duration,
    failures: u32,
    store_asked: Option<Duration>,
    store_at: Duration,
    /// Since when the store has not answered who has the Lease.
    away: Option<Duration>,
    /// The Lease is being given back, since the store does not answer.
    yielding: bool,
    leaving: bool,
}

/// The newest state that is known.
#[derive(Debug)]
struct Seen {
    lease: Option<Lease>,
    /// When it was seen first.
    at: Duration,
    /// It was read again after its time had run out.
    read: bool,
    /// Its holder was given more time.
    graced: bool,
}

/// Whether we have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Somebody else has it, or nobody.
    Not,
    /// We do, and the API server said so last then.
    Held { confirmed: Duration, lead: Lead },
}

/// Whether we lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// Terms are to be drawn, once the Lease has been confirmed after this.
    Undrawn { after: Duration },
    /// They are drawn, and the store said last then that they are the newest.
    Drawn { vouched: Duration, fresh: bool },
}

impl Election {
    /// Contends as `me`, a name that no other process ever had or has.
    #[must_use]
    pub fn new(me: impl Into<String>, timing: Timing) -> Self {
        Self {
            me: me.into(),
            timing,
            seen: None,
            hold: Hold::Not,
            blind: false,
            asked: None,
            over: None,
            lost: None,
            ask_at: Duration::ZERO,
            failures: 0,
            store_asked: None,
            store_at: Duration::ZERO,
            away: None,
            yielding: false,
            leaving: false,
        }
    }

    /// Whether this process leads.
    #[must_use]
    pub fn leads(&self, now: Duration) -> bool {
        match self.hold {
            Hold::Held { confirmed, lead: Lead::Drawn { vouched, .. } } => {
                !self.leaving && now < confirmed.max(vouched) + self.timing.deadline()
            }
            Hold::Held { lead: Lead::Undrawn { .. }, .. } | Hold::Not => false,
        }
    }

    /// Whether it leads by the store's word alone, since the API server says nothing.
    #[must_use]
    pub fn is_unconfirmed(&self, now: Duration) -> bool {
        match self.hold {
            Hold::Held { confirmed, .. } => {
                self.leads(now) && now >= confirmed + self.timing.deadline()
            }
            Hold::Not => false,
        }
    }

    /// The Lease as it was seen last.
    #[must_use]
    pub fn lease(&self) -> Option<&Lease> {
        self.seen.as_ref().and_then(|seen| seen.lease.as_ref())
    }

    /// Who else has it, as far as is known: one that was not seen to renew it in time may be dead.
    #[must_use]
    pub fn other(&self, now: Duration) -> Option<&str> {
        let seen = self.seen.as_ref()?;
        let holder = seen.lease.as_ref()?.holder.as_deref()?;
        (holder != self.me && now < self.free_at(seen)).then_some(holder)
    }

    /// Gives the Lease back, and contends no more.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.ask_at = Duration::ZERO;
    }

    /// Whether nothing is left to do after [`Self::leave`].
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.leaving && self.asked.is_none() && self.hold == Hold::Not
    }

    /// The Lease was seen to be so.
    pub fn seen(&mut self, now: Duration, lease: Option<Lease>) {
        let known = self.seen.as_ref().map(|seen| seen.lease.as_ref());
        if let (Some(Some(known)), Some(lease)) = (known, &lease)
            && (lease.version == known.version || lease.version.is_before(&known.version))
        {
            return;
        }
        if known == Some(None) && lease.is_none() {
            return;
        }
        self.blind = false;
        let ours = lease.as_ref().map(|_| self.is_mine(lease.as_ref()));
        let nobody_s = lease.as_ref().is_none_or(|lease| lease.holder.is_none());
        let version = lease.as_ref().map(|lease| &lease.version);
        let is_refused = version.is_some() && version == self.lost.as_ref();
        self.hold = match (self.hold, ours) {
            // A write over this very state was refused: that it stands confirms nothing.
            (held @ Hold::Held { .. }, Some(true)) if is_refused => held,
            // Who has it finds it so by a write of its own, even by one that it heard nothing of.
            (Hold::Held { lead, .. }, Some(true)) => Hold::Held { confirmed: now, lead },
            (Hold::Not, Some(true)) => {
                self.away = None;
                Hold::Held { confirmed: now, lead: Lead::Undrawn { after: Duration::ZERO } }
            }
            // It was deleted, or emptied by hand: nobody else has it, so it is written again.
            (held @ Hold::Held { .. }, _) if nobody_s && !self.leaving && !self.yielding => {
                self.ask_at = now;
                held
            }
            (_, Some(false) | None) => Hold::Not,
        };
        if !nobody_s && ours == Some(false) {
            self.failures = 0;
        }
        self.seen = Some(Seen { lease, at: now, read: false, graced: false });
    }

    fn is_mine(&self, lease: Option<&Lease>) -> bool {
        lease.is_some_and(|lease| lease.holder.as_deref() == Some(&*self.me))
    }

    /// The API server can't be watched: what happens at the Lease is not seen.
    pub fn blinded(&mut self) {
        self.blind = true;
    }

    /// What is to be asked of the API server now. It is under way from then on.
    pub fn ask(&mut self, now: Duration) -> Option<Ask> {
        if self.asked.is_some() || self.ask_due().is_none_or(|due| now < due) {
            return None;
        }
        self.asked = Some(now);
        let Some(seen) = &self.seen else { return Some(Ask::Read) };
        let over = seen.lease.as_ref().map(|lease| lease.version.clone());
        self.over.clone_from(&over);
        let transitions = seen.lease.as_ref().map_or(0, |lease| lease.transitions);
        let is_ours = self.is_mine(seen.lease.as_ref());
        self.yielding =
            self.hold != Hold::Not && self.away.is_some_and(|since| now >= since + USELESS);
        Some(match self.hold {
            Hold::Held { .. } if self.leaving || self.yielding => {
                Ask::Write(Draft { holder: None, transitions, taken: false, over })
            }
            Hold::Held { .. } => {
                let (me, taken) = (Some(self.me.clone()), !is_ours);
                Ask::Write(Draft { holder: me, transitions, taken, over })
            }
            Hold::Not if self.blind || seen.has_holder() && !seen.read => Ask::Read,
            Hold::Not => Ask::Write(Draft {
                holder: Some(self.me.clone()),
                transitions: transitions.saturating_add(u32::from(over.is_some())),
                taken: true,
                over,
            }),
        })
    }

    /// When something is to be asked of the API server; `None`: not before something else happens.
    fn ask_due(&self) -> Option<Duration> {
        let Some(seen) = &self.seen else {
            let idle = self.leaving && self.hold == Hold::Not;
            return (!idle).then_some(self.ask_at);
        };
        match self.hold {
            Hold::Held { .. } => Some(self.ask_at),
            Hold::Not if self.leaving => None,
            Hold::Not => Some(self.ask_at.max(self.free_at(seen))),
        }
    }

    /// When a Lease of others may be taken. After a leader's death whoever has heard the stacks for long
    /// goes first, since it knows what was not applied any more.
    fn free_at(&self, seen: &Seen) -> Duration {
        let Some(lease) = seen.lease.as_ref().filter(|_| seen.has_holder()) else {
            return seen.at + self.timing.courtesy();
        };
        let lasts = lease.lasts.clamp(self.timing.lease, LONGEST.max(self.timing.lease));
        let at = seen.at + lasts + self.timing.jitter;
        if at < self.timing.young() { at + self.timing.deference() } else { at }
    }

    /// The API server has answered what [`Self::ask`] told.
    pub fn answered(&mut self, now: Duration, answer: Answer) {
        let asked = self.asked.take().unwrap_or(now);
        let took = now.saturating_sub(asked);
        match answer {
            Answer::Read(lease) => {
                let troubled = std::mem::take(&mut self.blind) || took > self.timing.slow();
                let is_kept = self.is_mine(lease.as_ref()) && !self.leaving;
                self.ask_at = if is_kept { now + self.timing.renew() } else { now };
                self.seen(now, lease);
                self.has_read(asked, now, troubled);
            }
            Answer::Written(lease) => {
                self.failures = 0;
                self.seen(now, Some(lease));
                self.ask_at = if self.leaving { now } else { now + self.timing.renew() };
            }
            Answer::Lost => {
                self.lost = self.over.take();
                // Whatever is known is old. Who loses again and again does not ask without a pause.
                self.seen = None;
                self.ask_at = if self.failures == 0 { now } else { now + self.pause() };
                self.failures = self.failures.saturating_add(1);
            }
            Answer::Failed => {
                self.blind = true;
                self.failures = self.failures.saturating_add(1);
                self.ask_at = now + self.pause();
            }
        }
    }

    /// How long until the next try after one that failed. A holder goes on as it does otherwise; one
    /// that leaves is waited for.
    fn pause(&self) -> Duration {
        match self.hold {
            Hold::Held { .. } if self.leaving => self.timing.renew() / 4,
            Hold::Held { .. } => self.timing.renew(),
            Hold::Not => {
                let doubled = 1 << self.failures.saturating_sub(1).min(3);
                (AGAIN * doubled).min(AGAIN_AT_MOST) + self.timing.jitter
            }
        }
    }

    /// The Lease was read. If that was asked after its time had run out, it may be taken now. Where the
    /// API server had been in trouble its holder may not have come through either: it gets a little
    /// time, once.
    fn has_read(&mut self, asked: Duration, now: Duration, troubled: bool) {
        let free_at = self.seen.as_ref().map(|seen| self.free_at(seen));
        let Some(seen) = &mut self.seen else { return };
        seen.read = free_at.is_some_and(|free_at| asked >= free_at);
        if seen.read && troubled && !seen.graced {
            seen.graced = true;
            seen.read = false;
            self.ask_at = now + self.timing.grace();
        }
    }

    /// What is to be asked of the store now. It is under way from then on.
    pub fn store_ask(&mut self, now: Duration) -> Option<Word> {
        if self.store_asked.is_some() || self.store_due(now).is_none_or(|due| now < due) {
            return None;
        }
        self.store_asked = Some(now);
        match self.hold {
            Hold::Held { lead: Lead::Drawn { fresh: true, .. }, .. } => Some(Word::Check),
            Hold::Held { .. } | Hold::Not => Some(Word::Draw),
        }
    }

    fn store_due(&self, now: Duration) -> Option<Duration> {
        match self.hold {
            Hold::Not => None,
            Hold::Held { .. } if self.leaving => None,
            Hold::Held { confirmed, lead: Lead::Undrawn { after } } => {
                let sure = confirmed >= after && now < confirmed + self.timing.deadline();
                sure.then_some(self.store_at)
            }
            Hold::Held { lead: Lead::Drawn { .. }, .. } => Some(self.store_at),
        }
    }

    /// The store has answered what [`Self::store_ask`] told. Terms that are drawn when the Lease is gone
    /// again are not used.
    pub fn store_said(&mut self, now: Duration, said: Said) {
        let asked = self.store_asked.take().unwrap_or(now);
        let Hold::Held { lead, .. } = &mut self.hold else { return };
        self.away = (said == Said::Away).then(|| self.away.unwrap_or(asked));
        self.store_at = now + CHECK;
        match (said, &mut *lead) {
            (Said::Drawn, lead) => *lead = Lead::Drawn { vouched: asked, fresh: true },
            (Said::Newest, Lead::Drawn { vouched, .. }) => *vouched = asked,
            (Said::Forgot, Lead::Drawn { fresh, .. }) => {
                *fresh = false;
                self.store_at = now;
            }
            (Said::Outdone, lead) => {
                *lead = Lead::Undrawn { after: now };
                self.ask_at = self.ask_at.min(now);
            }
            (Said::Newest | Said::Forgot, Lead::Undrawn { .. }) => {}
            (Said::Away, _) => self.store_at = now + STORE_AGAIN,
        }
    }

    /// When something changes by itself, and this is to be asked again.
    #[must_use]
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let ask = if self.asked.is_none() { self.ask_due() } else { None };
        let store = if self.store_asked.is_none() { self.store_due(now) } else { None };
        let ends = match self.hold {
            Hold::Held { confirmed, lead: Lead::Drawn { vouched, .. } } if self.leads(now) => {
                let unconfirmed = confirmed + self.timing.deadline();
                let over = confirmed.max(vouched) + self.timing.deadline();
                Some(if now < unconfirmed { unconfirmed } else { over })
            }
            Hold::Held { .. } | Hold::Not => None,
        };
        [ask, store, ends].into_iter().flatten().min()
    }
}

impl Seen {
    fn has_holder(&self) -> bool {
        self.lease.as_ref().is_some_and(|lease| lease.holder.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(4);
    const JITTER: Duration = Duration::from_millis(100);

    /// When a Lease that was seen at first, and not again, may be taken by one that has only begun.
    const FREE: Duration = Duration::from_millis(1 + 4_000 + 100 + 500);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn lease(holder: Option<&str>, revision: u64) -> Lease {
        let version = Version { uid: "u".to_owned(), revision: revision.to_string() };
        Lease { holder: holder.map(str::to_owned), lasts: LEASE, transitions: 0, version }
    }

    fn of_another_life(lease: Lease) -> Lease {
        let version = Version { uid: "another".to_owned(), ..lease.version };
        Lease { version, ..lease }
    }

    fn election() -> Election {
        Election::new("me", Timing { lease: LEASE, jitter: JITTER })
    }

    /// One that has seen another's Lease at 0.
    fn follower() -> Election {
        let mut election = election();
        assert_eq!(election.ask(ms(0)), Some(Ask::Read));
        election.answered(ms(1), Answer::Read(Some(lease(Some("other"), 1))));
        election
    }

    /// One that leads, confirmed and vouched for at 0.
    fn leader() -> Election {
        let mut election = election();
        election.ask(ms(0));
        election.answered(ms(0), Answer::Read(None));
        let at = ms(25);
        assert!(matches!(election.ask(at), Some(Ask::Write(Draft { over: None, .. }))));
        election.answered(at, Answer::Written(lease(Some("me"), 1)));
        assert!(!election.leads(at), "no term is drawn");
        assert_eq!(election.store_ask(at), Some(Word::Draw));
        election.store_said(at, Said::Drawn);
        assert!(election.leads(at));
        election
    }

    #[test]
    fn one_that_is_renewed_is_left_alone() {
        let mut election = follower();
        for second in 1..60 {
            election.seen(ms(second * 1000), Some(lease(Some("other"), 1 + second)));
            assert_eq!(election.ask(ms(second * 1000 + 999)), None);
        }
    }

    #[test]
    fn one_that_is_not_renewed_is_read_again_and_then_taken() {
        let mut election = follower();
        let free = FREE;
        assert_eq!(election.ask(free - ms(1)), None);
        assert_eq!(election.next(ms(2)), Some(free));
        assert_eq!(election.ask(free), Some(Ask::Read));
        election.answered(free + ms(3), Answer::Read(Some(lease(Some("other"), 1))));
        let Some(Ask::Write(draft)) = election.ask(free + ms(3)) else { panic!("it is not taken") };
        assert_eq!(draft.holder.as_deref(), Some("me"));
        assert_eq!((draft.transitions, draft.taken), (1, true));
        assert_eq!(draft.over, Some(lease(None, 1).version));
    }

    #[test]
    fn times_that_are_written_in_a_lease_are_not_believed_for_more_than_a_minute() {
        for (lasts, waits) in [(0, 4_500), (30, 30_000), (86_400, 60_000)] {
            let mut election = election();
            election.ask(ms(0));
            let lasts = Duration::from_secs(lasts);
            let theirs = Lease { lasts, ..lease(Some("other"), 1) };
            election.answered(ms(0), Answer::Read(Some(theirs)));
            assert_eq!(election.next(ms(0)), Some(ms(waits) + JITTER));
        }
    }

    #[test]
    fn after_a_death_whoever_has_heard_for_long_goes_first() {
        let mut old = follower();
        old.seen(ms(60_000), Some(lease(Some("other"), 2)));
        assert_eq!(old.next(ms(60_000)), Some(ms(60_000) + LEASE + JITTER));
        let young = follower();
        assert_eq!(young.next(ms(1)), Some(ms(1) + LEASE + JITTER + LEASE / 8));
    }

    #[test]
    fn one_that_is_given_back_is_taken_at_once() {
        let mut election = follower();
        election.seen(ms(500), Some(lease(None, 2)));
        assert_eq!(election.next(ms(500)), Some(ms(525)));
        assert!(matches!(election.ask(ms(525)), Some(Ask::Write(_))));
    }

    #[test]
    fn what_is_older_than_what_is_known_is_not_news() {
        let mut election = leader();
        election.answered_renewal(1_100, 5);
        election.seen(ms(1_200), Some(lease(Some("me"), 4)));
        election.seen(ms(1_200), Some(lease(Some("other"), 3)));
        // Nor what it was before it was deleted and written again.
        election.seen(ms(1_200), Some(of_another_life(lease(Some("other"), 4))));
        assert!(election.leads(ms(1_300)));
        assert_eq!(election.lease().unwrap().version.revision, "5");
        election.seen(ms(1_200), Some(of_another_life(lease(Some("other"), 6))));
        assert!(!election.leads(ms(1_300)));
    }

    impl Election {
        /// Renews when that is due, and is answered at once.
        fn answered_renewal(&mut self, at: u64, revision: u64) {
            assert!(matches!(self.ask(ms(at)), Some(Ask::Write(_))), "no renewal is due");
            self.answered(ms(at), Answer::Written(lease(Some("me"), revision)));
        }

        /// Is asked whether it wants to know, and told this.
        fn told(&mut self, at: u64, word: Word, said: Said) {
            assert_eq!(self.store_ask(ms(at)), Some(word));
            self.store_said(ms(at), said);
        }
    }

    #[test]
    fn a_leader_renews_four_times_in_a_lease() {
        let mut election = leader();
        assert_eq!(election.ask(ms(1_024)), None);
        election.answered_renewal(1_025, 2);
        assert_eq!(election.ask(ms(2_024)), None);
        election.answered_renewal(2_025, 3);
    }

    #[test]
    fn without_the_api_server_a_leader_goes_on_by_the_word_of_the_store() {
        let mut election = leader();
        assert!(election.ask(ms(1_025)).is_some());
        election.answered(ms(1_030), Answer::Failed);
        for second in 1..=60 {
            election.told(second * 1000 + 25, Word::Check, Said::Newest);
            assert!(election.leads(ms(second * 1000 + 900)), "at {second} s");
        }
        assert!(election.is_unconfirmed(ms(60_900)));
        // It asks each second, and is confirmed by the first answer.
        assert!(election.ask(ms(61_000)).is_some());
        election.answered(ms(61_001), Answer::Written(lease(Some("me"), 2)));
        assert!(election.leads(ms(61_001)) && !election.is_unconfirmed(ms(61_001)));
    }

    #[test]
    fn without_both_it_leads_no_more_and_goes_on_once_either_is_back() {
        let mut election = leader();
        election.ask(ms(1_025));
        election.told(1_025, Word::Check, Said::Away);
        let over = ms(25) + LEASE * 3 / 4;
        assert!(election.leads(over - ms(1)) && !election.leads(over));
        // The store still knows of no other term.
        election.told(9_000, Word::Check, Said::Newest);
        assert!(election.leads(ms(9_001)));
    }

    #[test]
    fn who_alone_does_not_reach_the_store_gives_the_lease_to_others() {
        let mut election = leader();
        let mut refused = 0;
        for at in (25..9_025).step_by(50).map(ms) {
            if election.store_ask(at).is_some() {
                election.store_said(at, Said::Newest);
            }
            match election.ask(at) {
                Some(Ask::Write(_)) => {
                    election.answered(at, Answer::Lost);
                    refused += 1;
                }
                // Nobody else has written it, and the watch shows the same.
                Some(Ask::Read) => {
                    election.answered(at, Answer::Read(Some(lease(Some("me"), 1))));
                    election.seen(at, Some(lease(Some("me"), 1)));
                }
                None => {}
            }
            assert!(election.leads(at), "{at:?}");
            assert_eq!(election.is_unconfirmed(at), at >= ms(3_025), "{at:?}");
        }
        assert!(refused > 3, "{refused}");
        // It is written again: by the last try, of which nothing was heard.
        let at = ms(9_100);
        election.seen(at, Some(lease(Some("me"), 2)));
        assert!(election.leads(at) && !election.is_unconfirmed(at));
    }

    #[test]
    fn who_else_has_it_is_known_as_long_as_it_is_renewed_in_time() {
        let mut election = follower();
        assert_eq!(election.other(ms(4_000)), Some("other"));
        election.seen(ms(4_000), Some(lease(Some("other"), 2)));
        assert_eq!(election.other(ms(8_000)), Some("other"));
        let free = election.next(ms(8_000)).unwrap();
        assert_eq!(election.other(free), None, "it may be dead");
        assert_eq!(leader().other(ms(30)), None, "nobody else");
    }

    #[test]
    fn who_leaves_and_is_not_heard_tries_again_soon() {
        let mut election = leader();
        election.leave();
        assert!(election.ask(ms(30)).is_some());
        election.answered(ms(31), Answer::Failed);
        assert_eq!(election.next(ms(31)), Some(ms(281)));
        assert!(election.ask(ms(281)).is_some());
        election.answered(ms(282), Answer::Lost);
        assert_eq!(election.next(ms(282)), Some(ms(532)), "not without a pause");
        assert_eq!(election.ask(ms(532)), Some(Ask::Read));
        election.answered(ms(533), Answer::Read(Some(lease(Some("me"), 1))));
        assert!(matches!(election.ask(ms(533)), Some(Ask::Write(Draft { holder: None, .. }))));
    }

    #[test]
    fn who_leaves_in_the_middle_of_taking_it_gives_it_back() {
        let mut election = follower();
        let free = FREE;
        election.ask(free);
        election.answered(free, Answer::Read(Some(lease(Some("other"), 1))));
        assert!(matches!(election.ask(free), Some(Ask::Write(_))));
        election.leave();
        assert!(!election.has_left());
        election.answered(free, Answer::Written(lease(Some("me"), 2)));
        assert!(matches!(election.ask(free), Some(Ask::Write(Draft { holder: None, .. }))));
        election.answered(free, Answer::Lost);
        assert_eq!(election.ask(free), Some(Ask::Read));
        election.answered(free, Answer::Read(Some(lease(Some("other"), 3))));
        assert!(election.has_left());
    }
}
