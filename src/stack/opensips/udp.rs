//! The Management Interface over UDP: one connected socket, many calls under way.
//!
//! OpenSIPS answers in any order (trace `uac_concurrent`), so replies are matched by id and by
//! nothing else. Ids are 31 bit and start at random: a reply to a former process on the same port
//! answers nobody. A call costs no task and no thread.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use socket2::SockRef;
use tokio::net::{UdpSocket, lookup_host};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::stack::mi::{MAX_ID, Mi, MiAnswer, MiFailure, MiReply, MiRequest};

/// OpenSIPS reads a request into a buffer of 65457 bytes; a longer one is cut and not parsed.
const LONGEST: usize = 65_000;

/// Receive buffer asked for: the replies to all requests under way must fit while the reader waits
/// for its turn. The system's usual 208 KiB hold about 90 lists of one call; what is lost is told
/// only at the operation's limit (measured: 209 of 800 holds at a time hung).
const RECEIVE_BUFFER: usize = 4 << 20;

/// The demultiplexer of one stack.
pub struct UdpMi {
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    follower: JoinHandle<()>,
}

struct Shared {
    /// `host:port`, looked up again when nobody answers there any more.
    address: String,
    /// Another one takes its place when the stack moves to the other family of addresses.
    socket: RwLock<Arc<UdpSocket>>,
    replaced: Notify,
    /// The name has led somewhere once.
    found: CancellationToken,
    table: Mutex<Table>,
}

struct Table {
    /// Where the name leads; `None`: nowhere yet.
    peer: Option<SocketAddr>,
    next: u32,
    waiting: HashMap<u32, Waiting>,
    /// When a call that had been sent was last given up.
    given_up: Option<Instant>,
    /// Since the last look at it: something was sent, something came back.
    traffic: (bool, bool),
}

/// How often it is looked whether the stack still answers where its name led.
const LOST_SIGHT: Duration = Duration::from_secs(5);

/// How often a name is looked up that has led nowhere yet.
const NOWHERE: Duration = Duration::from_secs(1);

/// How long opening waits for the name.
const FIRST_LOOK: Duration = Duration::from_secs(1);

struct Waiting {
    tell: oneshot::Sender<Result<MiAnswer, MiFailure>>,
    sent: bool,
}

/// A network's word about a datagram comes within its round trip; after this, whose it was does
/// not matter any more.
const ECHO: Duration = Duration::from_secs(2);

/// So many words about earlier datagrams may stand before one that is sent.
const EARLIER: usize = 8;

impl UdpMi {
    /// Opens the socket and points it at the stack. Nothing is sent. A name that leads nowhere, or
    /// not soon, is looked up again and again: until then nothing can be sent.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub async fn open(address: &str) -> io::Result<Self> {
        let peer = first_look(address, look_up(address)).await;
        Self::at(address, peer).await
    }

    /// The same where it is known what a first look at the name has found.
    pub(super) async fn at(address: &str, peer: Option<SocketAddr>) -> io::Result<Self> {
        let socket = match peer {
            Some(peer) => socket_to(peer).await?,
            None => UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?,
        };
        let found = CancellationToken::new();
        if peer.is_some() {
            found.cancel();
        }
        let table = Table {
            peer,
            next: random_id(),
            waiting: HashMap::new(),
            given_up: None,
            traffic: (false, false),
        };
        let address = address.to_owned();
        let shared = Arc::new(Shared {
            address,
            socket: RwLock::new(Arc::new(socket)),
            replaced: Notify::new(),
            found,
            table: Mutex::new(table),
        });
        let reader = tokio::spawn(read(Arc::clone(&shared)));
        // Apart from the reader: a slow lookup must not keep replies waiting.
        let follower = tokio::spawn(follow(Arc::clone(&shared)));
        Ok(Self { shared, reader, follower })
    }

    /// Returns once the stack's name has led somewhere.
    pub async fn found(&self) {
        self.shared.found.cancelled().await;
    }

    /// Our own address, as the stack sees it where no translation is between.
    ///
    /// # Errors
    /// When the socket is broken, or nobody knows yet where the stack is.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        if self.shared.found.is_cancelled() {
            self.shared.socket().local_addr()
        } else {
            Err(io::ErrorKind::NotConnected.into())
        }
    }

    /// How many calls are waiting for their reply.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }
}

impl Drop for UdpMi {
    fn drop(&mut self) {
        self.reader.abort();
        self.follower.abort();
    }
}

impl Mi for UdpMi {
    async fn call(&self, request: MiRequest, timeout: Duration) -> Result<MiAnswer, MiFailure> {
        let (id, reply) = self.shared.enter();
        // Gives the id back whatever happens, also when this future is dropped.
        let _place = Place { shared: &self.shared, id };
        let mut text = String::with_capacity(512);
        request.encode(id, &mut text);
        if text.len() > LONGEST {
            return Err(MiFailure::TooLong);
        }
        // At once or not at all: whoever asks has just looked at the clock, and a request that waits
        // for room would leave after its time.
        self.shared.send(id, text.as_bytes())?;
        // The sender side lives in the table until it is answered.
        let answer = tokio::time::timeout(timeout, reply).await;
        answer.unwrap_or(Ok(Err(MiFailure::Silent))).unwrap_or(Err(MiFailure::Silent))
    }
}

/// A place in the table.
struct Place<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        if table.waiting.remove(&self.id).is_some_and(|waiting| waiting.sent) {
            table.given_up = Some(Instant::now());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self) -> Arc<UdpSocket> {
        Arc::clone(&self.socket.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn enter(&self) -> (u32, oneshot::Receiver<Result<MiAnswer, MiFailure>>) {
        let (tell, reply) = oneshot::channel();
        let mut table = self.lock();
        let mut id = table.next;
        while table.waiting.contains_key(&id) {
            id = after(id);
        }
        table.next = after(id);
        table.waiting.insert(id, Waiting { tell, sent: false });
        (id, reply)
    }

    /// Sends one datagram. An ICMP "port unreachable" comes back as an error of the socket; who
    /// it was about is not said. On the loopback interface it is there when `send` returns, so
    /// what is found then is about this datagram; the lock keeps the reader from taking it away.
    ///
    /// An error says why it has not left.
    fn send(&self, id: u32, datagram: &[u8]) -> Result<(), MiFailure> {
        let not_sent = |reason| Err(MiFailure::NotSent { reason });
        let mut table = self.lock();
        let Some(peer) = table.peer else { return not_sent("no address") };
        let socket = self.socket();
        if let Ok(Some(error)) = socket.take_error() {
            table.trouble(&error);
        }
        // Not tokio's: that one refuses until its own view of the socket is up to date.
        let plain = SockRef::from(&*socket);
        let mut earlier = 0;
        while let Err(error) = plain.send(datagram) {
            match error.kind() {
                io::ErrorKind::WouldBlock => return Err(MiFailure::NoRoom),
                io::ErrorKind::ConnectionRefused if earlier < EARLIER => {
                    // About an earlier datagram; this one has not left.
                    table.trouble(&error);
                    earlier += 1;
                }
                io::ErrorKind::ConnectionRefused => return not_sent("refused"),
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                    return not_sent("no route");
                }
                _ => return not_sent("socket"),
            }
        }
        table.traffic.0 = true;
        if let Some(waiting) = table.waiting.get_mut(&id) {
            waiting.sent = true;
        }
        match socket.take_error() {
            Ok(Some(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if peer.ip().is_loopback() {
                    return not_sent("refused");
                }
                table.trouble(&error);
                Ok(())
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Follows the stack's name if it leads elsewhere by now and nobody answers where it led.
    async fn follow(&self) {
        let (was, (sent, heard)) = {
            let mut table = self.lock();
            (table.peer, std::mem::take(&mut table.traffic))
        };
        if was.is_some() && (!sent || heard) {
            return;
        }
        let Ok(found) = all(&self.address).await else { return };
        let Some(peer) = next(&found, was).filter(|peer| was != Some(*peer)) else { return };
        // Of its own for each place: a socket keeps the source address of its first connect.
        let Ok(socket) = socket_to(peer).await else { return };
        *self.socket.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(socket);
        self.replaced.notify_one();
        self.lock().peer = Some(peer);
        self.found.cancel();
        tracing::info!(address = %self.address, %peer, "the stack's name leads elsewhere now");
    }

    fn answered(&self, datagram: &[u8]) {
        let reply = MiReply::decode(datagram);
        let mut table = self.lock();
        table.traffic.1 = true;
        match reply {
            MiReply::Answer { id: Some(id), answer } => match table.waiting.remove(&id) {
                // Whoever waited may have just given up.
                Some(waiting) => drop(waiting.tell.send(Ok(answer))),
                None => tracing::trace!(id, "a late reply"),
            },
            MiReply::Answer { id: None, .. } => tracing::debug!("a reply to nobody"),
            MiReply::Plain(plain) => table.tell_only_one(MiFailure::Plain(plain)),
            MiReply::Garbled => table.tell_only_one(MiFailure::Garbled),
        }
    }
}

impl Table {
    /// Something without an id came back: it can only be given to a call that is alone. With
    /// several under way each waits for its own reply or its deadline.
    fn tell_only_one(&mut self, failure: MiFailure) {
        let alone = self.waiting.values().filter(|waiting| waiting.sent).count() == 1
            && self.given_up.is_none_or(|at| at.elapsed() > ECHO);
        let id = self.waiting.iter().find(|(_, waiting)| waiting.sent).map(|(id, _)| *id);
        if let Some(waiting) = id.filter(|_| alone).and_then(|id| self.waiting.remove(&id)) {
            drop(waiting.tell.send(Err(failure)));
        } else {
            tracing::debug!(?failure, waiting = self.waiting.len(), "a reply that names nobody");
        }
    }

    /// The network says that a datagram was not delivered, not which.
    fn trouble(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.tell_only_one(MiFailure::NotSent { reason: "refused" });
        } else {
            tracing::debug!(%error, "the management socket");
        }
    }
}

/// Looks after the stack's name for ever.
async fn follow(shared: Arc<Shared>) {
    loop {
        let wait = if shared.found.is_cancelled() { LOST_SIGHT } else { NOWHERE };
        tokio::time::sleep(wait).await;
        shared.follow().await;
    }
}

/// Reads replies for ever.
async fn read(shared: Arc<Shared>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let socket = shared.socket();
        tokio::select! {
            ready = socket.readable() => if ready.is_err() { return },
            () = shared.replaced.notified() => continue,
        }
        loop {
            let table = shared.lock();
            let got = socket.try_recv(&mut buffer);
            drop(table);
            match got {
                Ok(length) => shared.answered(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => shared.lock().trouble(&error),
            }
        }
    }
}

/// A socket of the peer's family that hears nobody else.
async fn socket_to(peer: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match peer {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    // The system may give less; that only loses replies sooner.
    let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
    socket.connect(peer).await?;
    Ok(socket)
}

/// Where the name leads, if that is known soon.
pub(super) async fn first_look(
    address: &str,
    look_up: impl Future<Output = io::Result<SocketAddr>>,
) -> Option<SocketAddr> {
    match tokio::time::timeout(FIRST_LOOK, look_up).await {
        Ok(Ok(peer)) => Some(peer),
        Ok(Err(error)) => {
            tracing::warn!(address, %error, "the stack's name leads nowhere yet");
            None
        }
        Err(_) => {
            tracing::warn!(address, "the stack's name is being looked up");
            None
        }
    }
}

/// Asks the system where a `host:port` leads.
///
/// # Errors
/// When it leads nowhere.
pub async fn look_up(address: &str) -> io::Result<SocketAddr> {
    let found = all(address).await?;
    next(&found, None).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))
}

/// All of them, IPv4 first: the address from which a stack is reached is usually the one that its
/// events come to, and OpenSIPS sends them over IPv4 only (fact W12).
async fn all(address: &str) -> io::Result<Vec<SocketAddr>> {
    let mut found: Vec<_> = lookup_host(address).await?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    Ok(found)
}

/// The one to take where nobody answers at `was`: another one, if there is any.
fn next(found: &[SocketAddr], was: Option<SocketAddr>) -> Option<SocketAddr> {
    let known = found.iter().position(|at| Some(*at) == was);
    let rest = known.and_then(|at| found.get(at + 1));
    rest.or(found.first()).copied()
}

fn random_id() -> u32 {
    let mut four = [0; 4];
    // Without randomness the ids start at 0, which is only less unlikely to meet a late reply.
    let _ = SystemRandom::new().fill(&mut four);
    u32::from_be_bytes(four) & MAX_ID
}

fn after(id: u32) -> u32 {
    if id >= MAX_ID { 0 } else { id + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stack_whose_name_leads_nowhere_yet_is_found_later() {
        let stack = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = stack.local_addr().unwrap().to_string();
        let mi = UdpMi::at(&address, None).await.unwrap();
        assert!(mi.local_addr().is_err());
        let long = Duration::from_secs(20);
        let early = mi.call(MiRequest::new("uptime"), long).await;
        assert_eq!(early, Err(MiFailure::NotSent { reason: "no address" }));
        tokio::time::timeout(long, mi.found()).await.unwrap();
        assert!(mi.local_addr().unwrap().ip().is_loopback());
        let answering = async {
            let mut buffer = [0; 1000];
            let (length, from) = stack.recv_from(&mut buffer).await.unwrap();
            let request: serde_json::Value = serde_json::from_slice(&buffer[..length]).unwrap();
            let reply = format!(r#"{{"jsonrpc":"2.0","result":"OK","id":{}}}"#, request["id"]);
            stack.send_to(reply.as_bytes(), from).await.unwrap();
        };
        let (asked, ()) = tokio::join!(mi.call(MiRequest::new("uptime"), long), answering);
        assert_eq!(asked, Ok(MiAnswer::Result("OK".into())));
    }

    #[test]
    fn of_several_addresses_a_silent_one_gives_way_to_the_next() {
        let [one, two, three] = [1, 2, 3].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let found = [one, two];
        assert_eq!(next(&found, None), Some(one));
        assert_eq!(next(&found, Some(one)), Some(two));
        assert_eq!(next(&found, Some(two)), Some(one));
        assert_eq!(next(&found, Some(three)), Some(one));
        assert_eq!((next(&[one], Some(one)), next(&[], Some(one))), (Some(one), None));
    }

    #[test]
    fn ids_stay_within_31_bits() {
        assert_eq!(after(MAX_ID), 0);
        assert_eq!(after(MAX_ID - 1), MAX_ID);
        assert!(random_id() <= MAX_ID);
    }
}
