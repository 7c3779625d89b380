//! How the servers of one store and its bus are reached, and what is known about where they are.
//!
//! Nothing here knows what is kept there, or how it is asked for.
//!
//! The files: [`settings`] (what is configured), [`access`] (passwords, keys and certificates), [`dial`] (one
//! physical connection), [`connection`] (to use one that comes back by itself), [`keeper`] (to keep it),
//! [`about`] (what a server says of itself), [`failed`] (what came of an attempt), [`sentinel`] (one Sentinel)
//! and [`whereabouts`] (what the word of several is), [`seldom`] (what is not told each time).

mod about;
mod access;
mod connection;
mod dial;
mod failed;
mod keeper;
mod seldom;
mod sentinel;
mod settings;
mod whereabouts;

use std::collections::HashSet;
use std::mem::Discriminant;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::about::About;
pub use self::access::{BadFile, Purpose, Unusable};
pub(in crate::store::redis) use self::connection::{CALL, Connection, Live, reaches};
use self::dial::NoConnection;
pub(in crate::store::redis) use self::failed::Failed;
pub(in crate::store::redis) use self::seldom::Seldom;
use self::sentinel::{Board, Sentinel};
pub use self::settings::{
    Access, Address, BadAddress, BadSettings, Identity, Servers, Settings, Tls,
};
use self::whereabouts::{Whereabouts, Words};

/// A server that refuses all calls is told of this often.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// Shared by all connections of a process, so that each Sentinel is asked once.
pub(in crate::store::redis) struct Reach {
    pub(in crate::store::redis) settings: Settings,
    master: watch::Receiver<Whereabouts>,
    /// Trouble that was told since somebody was connected last.
    told: Mutex<HashSet<Discriminant<NoConnection>>>,
    /// The last of it.
    last: Mutex<Option<String>>,
    /// When a refusal is to be told of.
    refused: Seldom,
    /// Where nobody has to be asked, it never changes.
    _fixed: Option<watch::Sender<Whereabouts>>,
    /// They end with it.
    _sentinels: JoinSet<()>,
}

impl Reach {
    /// Begins to ask the Sentinels, if there are any. Must be called inside a tokio runtime.
    pub(in crate::store::redis) fn start(settings: Settings) -> Result<Arc<Self>, BadSettings> {
        settings.check()?;
        let mut sentinels = JoinSet::new();
        let (master, fixed) = match &settings.servers {
            Servers::One(address) => {
                let (fixed, master) = watch::channel(Ok(address.clone()));
                (master, Some(fixed))
            }
            Servers::Sentinels { of, master } => {
                let board = Arc::new(Board::new(Words::none(master.clone(), of.len())));
                for (who, address) in of.iter().enumerate() {
                    let sentinel = Sentinel {
                        board: Arc::clone(&board),
                        who,
                        address: address.clone(),
                        access: settings.access_of_sentinels().clone(),
                        name: master.clone(),
                    };
                    sentinels.spawn(sentinel.run());
                }
                (board.whereabouts(), None)
            }
        };
        Ok(Arc::new(Self {
            settings,
            master,
            told: Mutex::default(),
            last: Mutex::default(),
            refused: Seldom::every(REFUSED_AGAIN),
            _fixed: fixed,
            _sentinels: sentinels,
        }))
    }

    /// Where the master is.
    fn master(&self) -> watch::Receiver<Whereabouts> {
        self.master.clone()
    }

    /// Tells the operator why there is no connection: each kind of trouble once.
    fn complain(&self, error: &NoConnection) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(error.kind()) {
            tracing::warn!(%error, "redis: no connection");
        } else {
            tracing::debug!(%error, "redis: no connection");
        }
    }

    /// Why nobody was connected when that was tried last.
    pub(in crate::store::redis) fn trouble(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells the operator that the server does not do what it is asked, now and then.
    pub(in crate::store::redis) fn refused(&self, why: &str) {
        if self.refused.is_due() {
            tracing::warn!(why, "redis refuses");
        } else {
            tracing::debug!(why, "redis refuses");
        }
    }

    /// Somebody is connected: what goes wrong from now on is news.
    fn connected(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
