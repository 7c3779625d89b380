//! How the servers of one store and its bus are reached, and what is known about where they are.

use std::collections::HashSet;
use std::mem::Discriminant;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::dial::NoConnection;
use super::sentinel::{Board, Sentinel};
use super::settings::{BadSettings, Servers, Settings};
use super::whereabouts::{Whereabouts, Words};

/// Shared by all connections of a process, so that each Sentinel is asked once.
pub(super) struct Reach {
    pub(super) settings: Settings,
    master: watch::Receiver<Whereabouts>,
    /// Trouble that was told since somebody was connected last.
    told: Mutex<HashSet<Discriminant<NoConnection>>>,
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
        let told = Mutex::default();
        Ok(Arc::new(Self { settings, master, told, _fixed: fixed, _sentinels: sentinels }))
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

    /// Somebody is connected: what goes wrong from now on is news.
    pub(super) fn connected(&self) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
