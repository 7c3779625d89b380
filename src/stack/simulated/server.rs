//! The simulated stack on the network: MI over UDP and HTTP, events over UDP and TCP, and a
//! control interface for its phones, calls and faults.
//!
//! One task owns the [`World`]; sockets and control only talk to it. Real time drives it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::commands::Channel;
use super::config::WorldConfig;
use super::control;
use super::delivery::Delivery;
use super::http;
use super::wire::reply_text;
use super::world::{Output, World};

/// Datagrams taken in one go before anything else gets its turn.
const BATCH: usize = 256;

/// Receive buffer asked for: bursts of requests wait there.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Where the simulated stack listens and what it is. Port 0 takes any free port.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulateConfig {
    /// MI over UDP.
    pub mi_udp: SocketAddr,
    /// MI over HTTP: `POST /mi`.
    pub mi_http: Option<SocketAddr>,
    /// The control interface (see [`super::control`]).
    pub control: Option<SocketAddr>,
    /// Seed of everything random.
    pub seed: u64,
    /// The stack and its phones. `unix_epoch` is set to the present when it starts.
    pub world: WorldConfig,
}

impl Default for SimulateConfig {
    fn default() -> SimulateConfig {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        SimulateConfig {
            mi_udp: loopback(8080),
            mi_http: Some(loopback(8888)),
            control: Some(loopback(8089)),
            seed: 1,
            world: WorldConfig::default(),
        }
    }
}

/// Why the simulated stack can't start.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub struct CannotListen {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

/// Something done with the world at the present time.
pub(super) type Change = Box<dyn FnOnce(&mut World, Duration) + Send>;

/// What the owner of the world is asked.
pub(super) enum Ask {
    /// An HTTP request for MI; the reply's text comes back, or never.
    Mi(Vec<u8>, oneshot::Sender<String>),
    /// Anything else.
    Do(Change),
}

/// A simulated stack that listens, but does not run yet.
pub struct Simulated {
    mi_udp: UdpSocket,
    mi_http: Option<TcpListener>,
    control: Option<TcpListener>,
    addresses: Addresses,
    world: World,
}

/// Where it listens, as bound.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// MI over UDP.
    pub mi_udp: SocketAddr,
    /// MI over HTTP.
    pub mi_http: Option<SocketAddr>,
    /// Control.
    pub control: Option<SocketAddr>,
}

/// Runs a simulated stack until `shutdown` is ready.
///
/// # Errors
/// [`CannotListen`] if an address can't be bound.
pub async fn serve(
    config: SimulateConfig,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), CannotListen> {
    Simulated::bind(config).await?.run(shutdown).await;
    Ok(())
}

impl Simulated {
    /// Binds the sockets.
    ///
    /// # Errors
    /// [`CannotListen`] if an address can't be bound.
    pub async fn bind(mut config: SimulateConfig) -> Result<Simulated, CannotListen> {
        let udp = bind_udp(config.mi_udp)
            .map_err(|source| CannotListen { address: config.mi_udp, source })?;
        let mi_http = bind_tcp(config.mi_http).await?;
        let control = bind_tcp(config.control).await?;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        config.world.unix_epoch = since_1970.as_secs();
        let bound = |l: &Option<TcpListener>| l.as_ref().and_then(|l| l.local_addr().ok());
        let addresses = Addresses {
            mi_udp: udp.local_addr().unwrap_or(config.mi_udp),
            mi_http: bound(&mi_http),
            control: bound(&control),
        };
        let world = World::new(config.seed, config.world);
        Ok(Simulated { mi_udp: udp, mi_http, control, addresses, world })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Runs until `shutdown` is ready; then every socket is closed.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let (asks, asked) = mpsc::channel(1024);
        let mut owner = Owner {
            world: self.world,
            started: Instant::now(),
            udp: Some(self.mi_udp),
            udp_address: self.addresses.mi_udp,
            http: http::Listening::new(self.mi_http, self.addresses.mi_http, asks.clone()),
            peers: HashMap::new(),
            peer_list: Vec::new(),
            http_replies: HashMap::new(),
            next_http: HTTP_TICKETS,
            delivery: Delivery::new(),
        };
        let control = control::serve(self.control, asks);
        tokio::select! {
            () = owner.run(asked) => {}
            () = control => {}
            () = shutdown => {}
        }
    }
}

/// Tickets from here on are HTTP requests; below, numbers of UDP peers.
const HTTP_TICKETS: u64 = 1 << 63;

/// The task that owns the world.
struct Owner {
    world: World,
    started: Instant,
    /// `None` while the process is down: then the system refuses datagrams, as for a real one.
    udp: Option<UdpSocket>,
    udp_address: SocketAddr,
    http: http::Listening,
    peers: HashMap<SocketAddr, u64>,
    peer_list: Vec<SocketAddr>,
    http_replies: HashMap<u64, oneshot::Sender<String>>,
    next_http: u64,
    delivery: Delivery,
}

impl Owner {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn run(&mut self, mut asked: mpsc::Receiver<Ask>) {
        let mut buffer = vec![0_u8; 65_536];
        loop {
            let due = self.world.due();
            let sleep = due.map(|due| tokio::time::sleep_until(self.started + due));
            tokio::select! {
                biased;
                ask = asked.recv() => match ask {
                    Some(ask) => self.asked(ask),
                    None => return,
                },
                () = async { if let Some(sleep) = sleep { sleep.await } }, if due.is_some() => {}
                () = readable(self.udp.as_ref()) => self.take_datagrams(&mut buffer),
            }
            let now = self.now();
            self.world.advance(now);
            self.send_outputs().await;
        }
    }

    fn asked(&mut self, ask: Ask) {
        let now = self.now();
        match ask {
            Ask::Mi(body, reply) => {
                let ticket = self.next_http;
                self.next_http += 1;
                self.http_replies.insert(ticket, reply);
                self.world.receive(now, ticket, Channel::Http, &body);
                // Whoever gave up waiting is forgotten.
                self.http_replies.retain(|_, reply| !reply.is_closed());
            }
            Ask::Do(change) => change(&mut self.world, now),
        }
    }

    fn take_datagrams(&mut self, buffer: &mut [u8]) {
        let now = self.now();
        for _ in 0..BATCH {
            let Some(socket) = self.udp.as_ref() else { return };
            match socket.try_recv_from(buffer) {
                Ok((length, peer)) => {
                    let ticket = self.ticket_of(peer);
                    let datagram = buffer.get(..length).unwrap_or_default();
                    self.world.receive(now, ticket, Channel::Datagram, datagram);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The refusal of an earlier reply; nothing of ours.
                Err(_) => {}
            }
        }
    }

    fn ticket_of(&mut self, peer: SocketAddr) -> u64 {
        let next = self.peer_list.len() as u64;
        let ticket = *self.peers.entry(peer).or_insert(next);
        if ticket == next {
            self.peer_list.push(peer);
        }
        ticket
    }

    async fn send_outputs(&mut self) {
        while let Some(output) = self.world.take() {
            match output {
                Output::Answer { asker, answer } => {
                    self.reply(asker.ticket, reply_text(&asker, &answer));
                }
                Output::Plain { ticket, text } => self.reply(ticket, text.to_owned()),
                Output::Event { socket, event } => self.delivery.send(&socket, &event),
                Output::Down => {
                    self.udp = None;
                    self.http.close();
                    self.http_replies.clear();
                    self.delivery.close();
                }
                Output::Up => {
                    // The port may still be on its way out.
                    self.udp = bind_udp(self.udp_address).ok();
                    self.http.open().await;
                }
            }
        }
    }

    fn reply(&mut self, ticket: u64, text: String) {
        if ticket >= HTTP_TICKETS {
            if let Some(waiting) = self.http_replies.remove(&ticket) {
                let _ = waiting.send(text);
            }
            return;
        }
        let peer = usize::try_from(ticket).ok().and_then(|i| self.peer_list.get(i));
        if let (Some(peer), Some(socket)) = (peer, self.udp.as_ref()) {
            // A full buffer loses the reply, as it does for OpenSIPS.
            let _ = socket.try_send_to(text.as_bytes(), *peer);
        }
    }
}

async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        Some(socket) => {
            let _ = socket.readable().await;
        }
        None => std::future::pending().await,
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::DGRAM,
        Some(socket2::Protocol::UDP),
    )?;
    // The system may give less; that only loses datagrams sooner.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

async fn bind_tcp(address: Option<SocketAddr>) -> Result<Option<TcpListener>, CannotListen> {
    match address {
        None => Ok(None),
        Some(address) => match TcpListener::bind(address).await {
            Ok(listener) => Ok(Some(listener)),
            Err(source) => Err(CannotListen { address, source }),
        },
    }
}
