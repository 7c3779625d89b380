//! Keeps one connection: makes it anew whenever it breaks.
//!
//! Only a master is connected to, and only as long as it is one: it is asked each second, and left as
//! soon as the Sentinels name another.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use redis::aio::{AsyncPushSender, SendError};
use redis::{Pipeline, PushInfo, PushKind};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::Reach;
use super::about::Server;
use super::connection::{Live, Pushes, State, break_off, reaches};
use super::dial::{Dialer, NoConnection};
use super::settings::Address;
use super::whereabouts::Whereabouts;
use crate::clock::{Nonces as _, SystemNonces};

/// How long a connection may take to be made: lookup, TLS and the server's first answers included.
const CONNECT: Duration = Duration::from_millis(500);

/// How often the server is asked whether it is still the one.
const CHECK: Duration = Duration::from_secs(1);

/// Between two attempts to connect: the first and the longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Keeps one connection.
pub(super) struct Keeper {
    pub(super) reach: Arc<Reach>,
    pub(super) dialer: Dialer,
    pub(super) opening: Arc<Pipeline>,
    pub(super) pushes: Option<Pushes>,
    pub(super) state: watch::Sender<State>,
    pub(super) broken: watch::Sender<u64>,
}

impl Keeper {
    pub(super) async fn run(mut self) {
        let nonces = SystemNonces::new();
        let mut master = self.reach.master();
        let (shortest, longest) = PAUSES;
        let mut pause = shortest;
        let mut number = 0;
        loop {
            number += 1;
            let begun = Instant::now();
            match self.open_in_time(number, &mut master).await {
                Ok((address, live)) => {
                    tracing::info!(%address, run_id = %live.run_id, "redis: connected");
                    self.reach.connected();
                    let live = Arc::new(live);
                    self.state.send_replace(State::Up(Arc::clone(&live)));
                    let why = self.watch_over(&live, &address, &mut master).await;
                    if break_off(&self.broken, number) {
                        tracing::info!(%address, why, "redis: the connection is given up");
                    }
                    // One that says nothing is not made anew at once, and nobody is to wait for it.
                    let next = if live.is_silent() { State::Away } else { State::Making };
                    self.state.send_replace(next);
                    if begun.elapsed() > longest {
                        pause = shortest;
                        continue;
                    }
                }
                Err(error) => {
                    self.reach.complain(&error);
                    self.state.send_replace(State::Away);
                }
            }
            // Processes that lost it together do not come back together.
            let part = u32::try_from(nonces.nonce().0 % 512).unwrap_or_default();
            let pausing = sleep(pause / 2 + pause * part / 1024);
            tokio::select! {
                () = pausing => pause = (pause * 2).min(longest),
                () = changes(&mut master) => pause = shortest,
            }
        }
    }

    async fn open_in_time(
        &mut self,
        number: u64,
        master: &mut watch::Receiver<Whereabouts>,
    ) -> Result<(Address, Live), NoConnection> {
        let until = Instant::now() + CONNECT;
        // The Sentinels may be about to say it.
        let named = timeout_at(until, master.wait_for(Result::is_ok)).await;
        drop(named);
        let address = master.borrow_and_update().clone();
        let address = address.map_err(|error| NoConnection::NoMaster(error.to_string()))?;
        let Ok(opened) = timeout_at(until, self.open(number, &address, until)).await else {
            return Err(NoConnection::TooSlow { address, within: CONNECT });
        };
        Ok((address, opened?))
    }

    async fn open(
        &mut self,
        number: u64,
        address: &Address,
        until: Instant,
    ) -> Result<Live, NoConnection> {
        let pushes = Receiver { pushes: self.pushes.clone(), broken: self.broken.clone(), number };
        let settings = &self.reach.settings;
        let line =
            self.dialer.dial(address, &settings.access, settings.database, pushes, until).await?;
        let said = |error| NoConnection::said(address, error);
        let mut connection = line.connection.clone();
        let told = Server::asked().query_async(&mut connection).await.map_err(said)?;
        let server = Server::told(told).map_err(said)?;
        if !server.is_master {
            return Err(NoConnection::NotTheMaster(address.clone()));
        }
        // Who asks nothing is answered nothing.
        let opened = match self.opening.len() {
            0 => Vec::new(),
            _ => self.opening.query_async(&mut connection).await.map_err(said)?,
        };
        let silent = AtomicBool::new(false);
        Ok(Live { line, run_id: Arc::from(server.run_id), opened, number, silent })
    }

    /// Waits until this connection is of no use any more, and says why.
    async fn watch_over(
        &self,
        live: &Live,
        address: &Address,
        master: &mut watch::Receiver<Whereabouts>,
    ) -> &'static str {
        let mut broken = self.broken.subscribe();
        tokio::select! {
            () = reaches(&mut broken, live.number) => "it broke",
            () = moves(master, address) => "another server is the master",
            why = turns_out_wrong(live) => why,
        }
    }
}

/// Waits until another server is named.
async fn moves(master: &mut watch::Receiver<Whereabouts>, from: &Address) {
    let elsewhere = |named: &Whereabouts| named.as_ref().is_ok_and(|named| named != from);
    let told = master.wait_for(elsewhere).await.is_ok();
    if !told {
        nothing_more().await;
    }
}

/// Waits until anything is said about where the master is.
async fn changes(master: &mut watch::Receiver<Whereabouts>) {
    let told = master.changed().await.is_ok();
    if !told {
        nothing_more().await;
    }
}

/// Where nobody will say anything any more.
async fn nothing_more() {
    std::future::pending().await
}

/// Asks now and then whether this is still the server that it was, until it is not.
async fn turns_out_wrong(live: &Live) -> &'static str {
    let mut check = interval(CHECK);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    check.reset();
    loop {
        check.tick().await;
        let Ok(values) = live.ask(&Server::asked()).await else {
            return "it does not answer";
        };
        match Server::told(values) {
            Ok(server) if !server.is_master => return "it is not the master any more",
            Ok(server) if *server.run_id != *live.run_id => return "it is another server",
            Ok(_) => {}
            Err(_) => return "it does not say what it is",
        }
    }
}

/// What the server sends over one connection, and that the connection broke.
struct Receiver {
    pushes: Option<Pushes>,
    broken: watch::Sender<u64>,
    number: u64,
}

impl AsyncPushSender for Receiver {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        if push.kind == PushKind::Disconnection {
            break_off(&self.broken, self.number);
        }
        if let Some(pushes) = &self.pushes {
            pushes(push);
        }
        Ok(())
    }
}
