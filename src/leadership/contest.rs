//! One process contends for one Lease: asks, watches, draws terms, and tells who leads.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

use super::Leader;
use super::election::{Answer, Ask, Election, Lease, Said, Timing, Word};
use super::leads::{Known, Leads};
use crate::clock::{Clock, Timer};
use crate::core::ids::{Epoch, StackId, Term};

/// Where a Lease is.
pub trait Leases: Send + Sync + 'static {
    /// Asks this; gives up after some time of its own.
    fn ask(&self, ask: Ask) -> impl Future<Output = Answer> + Send;
}

/// What is seen of a Lease by who watches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// So it stands, or there is none.
    Seen(Option<Lease>),
    /// It can't be watched at the moment.
    Blind,
}

/// Where terms are drawn.
pub trait Terms: Send + Sync + 'static {
    /// Draws a term that is higher than every one before, and fences those.
    ///
    /// # Errors
    /// [`Unheard`]: a term may have been drawn.
    fn draw(&self, stack: &StackId) -> impl Future<Output = Result<Term, Unheard>> + Send;

    /// The epoch of the store, and the highest term that was drawn in it.
    ///
    /// # Errors
    /// [`Unheard`].
    fn newest(
        &self,
        stack: &StackId,
    ) -> impl Future<Output = Result<(Epoch, Option<Term>), Unheard>> + Send;
}

/// Whoever draws terms can't be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody draws terms")]
pub struct Unheard;

/// Is told what is to be counted.
pub trait Meter: Send + Sync + 'static {
    /// The API server was asked `verb`; `result` is the kind of its answer.
    /// What had answered before, and broke off now, has no time.
    fn asked(&self, verb: &'static str, result: &'static str, took: Option<Duration>);
    /// This process leads by the store's word alone from now on, or no more. Told when it changes.
    fn unconfirmed(&self, unconfirmed: bool);
}

/// The clock tells whole milliseconds: after a part of one nothing would have changed.
fn whole(wait: Duration) -> Duration {
    Duration::from_millis(u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// Terms that were drawn, and the memory that they belong to.
#[derive(Debug, Clone)]
struct Drawn {
    epoch: Epoch,
    terms: BTreeMap<StackId, Term>,
}

/// All that one contest needs.
pub struct Contest<L, T> {
    /// Who contends; no other process ever had this name.
    pub me: String,
    /// How fast.
    pub timing: Timing,
    /// Where the Lease is.
    pub leases: Arc<L>,
    /// What is seen of it.
    pub sights: Receiver<Sight>,
    /// Where terms are drawn.
    pub terms: Arc<T>,
    /// The stacks that whoever has the Lease leads.
    pub stacks: Vec<StackId>,
    /// Where it is told.
    pub leads: Arc<Leads>,
    /// Counts.
    pub meter: Arc<dyn Meter>,
    /// A clock that only goes forward.
    pub clock: Arc<dyn Clock>,
    /// Lets time pass.
    pub timer: Arc<dyn Timer>,
    /// To give the Lease back, and to end.
    pub stop: CancellationToken,
}

impl<L: Leases, T: Terms> Contest<L, T> {
    /// Contends until it is stopped and the Lease is given back.
    pub async fn run(mut self) {
        let began = self.clock.now();
        let clock = Arc::clone(&self.clock);
        let now = || began.until(clock.now());
        let mut election = Election::new(self.me.clone(), self.timing);
        let mut drawn: Option<Drawn> = None;
        let mut told = Told::default();
        let mut asking: Option<BoxFuture<'static, Answer>> = None;
        let mut wording: Option<BoxFuture<'static, (Said, Option<Drawn>)>> = None;
        let (mut leaving, mut watched) = (false, true);
        loop {
            if self.stop.is_cancelled() && !leaving {
                leaving = true;
                election.leave();
            }
            let at = now();
            if asking.is_none()
                && let Some(ask) = election.ask(at)
            {
                let leases = Arc::clone(&self.leases);
                asking = Some(async move { leases.ask(ask).await }.boxed());
            }
            if wording.is_none()
                && let Some(word) = election.store_ask(at)
            {
                wording = Some(self.word(word, drawn.clone()));
            }
            self.tell(&election, at, drawn.as_ref(), &mut told);
            if election.has_left() {
                return;
            }
            let wait = election.next(at).map(|then| whole(then.saturating_sub(at)));
            let sleep = OptionFuture::from(wait.map(|wait| self.timer.sleep(wait)));
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !leaving => {}
                Some(answer) = OptionFuture::from(asking.as_mut()) => {
                    asking = None;
                    election.answered(now(), answer);
                }
                Some((said, terms)) = OptionFuture::from(wording.as_mut()) => {
                    wording = None;
                    drawn = terms.or(drawn);
                    election.store_said(now(), said);
                }
                sight = self.sights.recv(), if watched => match sight {
                    Some(Sight::Seen(lease)) => election.seen(now(), lease),
                    Some(Sight::Blind) => election.blinded(),
                    None => watched = false,
                },
                Some(()) = sleep => {}
            }
        }
    }

    /// Asks the store; of terms that are drawn also tells which.
    fn word(&self, word: Word, drawn: Option<Drawn>) -> BoxFuture<'static, (Said, Option<Drawn>)> {
        let (terms, stacks) = (Arc::clone(&self.terms), self.stacks.clone());
        async move {
            let said = match (word, drawn) {
                (Word::Check, Some(drawn)) => check(&*terms, &drawn).await.map(|said| (said, None)),
                (Word::Draw, _) | (Word::Check, None) => {
                    draw(&*terms, &stacks).await.map(|drawn| (Said::Drawn, Some(drawn)))
                }
            };
            said.unwrap_or((Said::Away, None))
        }
        .boxed()
    }

    /// Tells everybody what has changed.
    fn tell(&self, election: &Election, at: Duration, drawn: Option<&Drawn>, told: &mut Told) {
        let now = Told { leads: election.leads(at), unconfirmed: election.is_unconfirmed(at) };
        let other = election.other(at).map(str::to_owned);
        let other = other.map_or(Leader::Unknown, |holder| Leader::Another(Some(holder)));
        let known = Known { other, unconfirmed: now.unconfirmed };
        for stack in &self.stacks {
            let term = drawn.filter(|_| now.leads).and_then(|drawn| drawn.terms.get(stack));
            self.leads.set(stack, term.copied());
            self.leads.seen(stack, known.clone());
        }
        if now.unconfirmed != told.unconfirmed {
            self.meter.unconfirmed(now.unconfirmed);
            if now.unconfirmed {
                tracing::warn!(
                    "the API server does not renew the Lease: leading on, since the store knows of no later leader"
                );
            } else if now.leads {
                tracing::info!("the API server renews the Lease again");
            }
        }
        if told.leads && !now.leads && !self.stop.is_cancelled() {
            let holder = election.lease().and_then(|lease| lease.holder.as_deref());
            tracing::info!(
                holder = holder.unwrap_or("nobody"),
                "the Lease does not make this process lead any more"
            );
        }
        *told = now;
    }
}

/// What was told last.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    leads: bool,
    unconfirmed: bool,
}

async fn draw(terms: &impl Terms, stacks: &[StackId]) -> Result<Drawn, Unheard> {
    let mut drawn: Option<Drawn> = None;
    for stack in stacks {
        let (epoch, _) = terms.newest(stack).await?;
        let term = terms.draw(stack).await?;
        let all = drawn.get_or_insert_with(|| Drawn { epoch, terms: BTreeMap::new() });
        all.terms.insert(stack.clone(), term);
    }
    drawn.ok_or(Unheard)
}

/// Whether these are the newest terms, at every stack.
async fn check(terms: &impl Terms, drawn: &Drawn) -> Result<Said, Unheard> {
    for (stack, term) in &drawn.terms {
        let (epoch, newest) = terms.newest(stack).await?;
        if epoch != drawn.epoch {
            return Ok(Said::Forgot);
        }
        if newest.is_some_and(|newest| newest > *term) {
            return Ok(Said::Outdone);
        }
    }
    Ok(Said::Newest)
}
