//! How the servers of one store and its bus are reached, and what is known about where they are.

use std::collections::HashSet;
use std::mem::Discriminant;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::dial::NoConnection;
use super::seldom::Seldom;
use super::sentinel::{Board, Sentinel};
use super::settings::{BadSettings, Servers, Settings};
use super::whereabouts::{Whereabouts, Words};

/// A server that refuses all calls is told of this often.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// Shared by all connections of a process, so that each Sentinel is asked once.
pub(super) struct Reach {
    pub(super) settings: Settings,
    master: watch::Receiver<Whereabouts>,
    /// Trouble that was told since somebody was connected last.
    told: Mutex<HashSet<Discriminant<NoConnection>>>,
    /// When a refusal is to be told of.
    refused: Seldom,
    /// Where nobody has to be asked, it never changes.
    _fixed: Option<watch::Sender<Whereabouts>>,
    /// They end with it.
    _sentinels: JoinSet<()>,
}

impl Reach {
    /// Begins to ask the Sentinels, if there are any. Must be called inside a tokio runtime.
    pub(super) fn start(settings: Settings) -> Result<Arc<Self>, BadSettings> {
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
            refused: Seldom::every(REFUSED_AGAIN),
            _fixed: fixed,
            _sentinels: sentinels,
        }))
    }

    /// Where the master is.
    pub(super) fn master(&self) -> watch::Receiver<Whereabouts> {
        self.master.clone()
    }

    /// Tells the operator why there is no connection: each kind of trouble once.
    pub(super) fn complain(&self, error: &NoConnection) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert(error.kind()) {
            tracing::warn!(%error, "redis: no connection");
        } else {
            tracing::debug!(%error, "redis: no connection");
        }
    }

    /// Tells the operator that the server does not do what it is asked, now and then.
    pub(super) fn refused(&self, why: &str) {
        if self.refused.is_due() {
            tracing::warn!(why, "redis refuses");
        } else {
            tracing::debug!(why, "redis refuses");
        }
    }

    /// Somebody is connected: what goes wrong from now on is news.
    pub(super) fn connected(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
