//! Where a stack's events come in: one long-lived socket, read by a task that only reads.
//!
//! Events have no sequence and are not repeated: what does not fit the kernel's buffer is lost in
//! silence (trace `udp_burst`: with the usual 212,992 bytes 256 of 5,000 survived a pause, with
//! an always reading task all did). What does not fit our own queue is counted, and the keeper
//! has everything checked again.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};

use super::settings::{EventSettings, EventTransport};
use super::stream::Objects;
use super::told::Told;

/// So many events may wait to be understood, usually about 10 MB of them.
const QUEUE: usize = 32_768;

/// A longer one is no event of ours: at most what a phone's sipfrag may grow to. It bounds the queue.
const LONGEST: usize = 16 * 1024;

/// A host that vanished is noticed after about this time of silence, and half of it again.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Most connections at a time; OpenSIPS makes one.
const CONNECTIONS: usize = 16;

/// The socket that events come in at.
pub struct Sink {
    /// The events' text, in the order read.
    pub(super) events: mpsc::Receiver<Bytes>,
    pub(super) gaps: Arc<Gaps>,
    told: Told,
    local: SocketAddr,
    buffer: Option<usize>,
    /// Nobody reads for a sink that is fed by hand.
    reader: Option<JoinHandle<()>>,
}

/// What has been missed.
#[derive(Default)]
pub(super) struct Gaps {
    /// Events that found the queue full.
    lost: AtomicU64,
    /// A connection ended.
    ended: AtomicBool,
    /// Wakes whoever looks after gaps.
    pub noticed: Notify,
}

impl Gaps {
    fn lost_one(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.noticed.notify_one();
    }

    fn connection_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.noticed.notify_one();
    }

    /// Whether a connection has ended since the last question.
    pub fn take_ended(&self) -> bool {
        self.ended.swap(false, Ordering::Relaxed)
    }

    /// How many events were lost since the last question.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Sink {
    /// Listens. `reached_from` is our own address as the stack sees it.
    ///
    /// # Errors
    /// When the address can't be looked up or bound.
    pub async fn open(settings: &EventSettings, reached_from: IpAddr) -> io::Result<Self> {
        let at = match &settings.listen {
            Some(address) => tokio::net::lookup_host(address)
                .await?
                .next()
                .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no address"))?,
            None => SocketAddr::new(reached_from, 0),
        };
        let (queue, events) = mpsc::channel(QUEUE);
        let gaps = Arc::new(Gaps::default());
        let (local, buffer, reader) = match settings.transport {
            EventTransport::Udp => {
                let (socket, given) = bind_udp(at, settings.receive_buffer)?;
                let local = socket.local_addr()?;
                let reader = tokio::spawn(read_datagrams(socket, queue, Arc::clone(&gaps)));
                (local, Some(given), reader)
            }
            EventTransport::Tcp => {
                let listener = TcpListener::bind(at).await?;
                let local = listener.local_addr()?;
                let reader = tokio::spawn(accept(listener, queue, Arc::clone(&gaps)));
                (local, None, reader)
            }
        };
        let reached = if local.ip().is_unspecified() {
            SocketAddr::new(reached_from, local.port())
        } else {
            local
        };
        let told = match &settings.advertise {
            Some(text) => Told::advertised(settings.transport, text),
            // Of a port that the system chose there is hardly another one.
            None => Told::address(settings.transport, reached, at.port() != 0),
        };
        Ok(Self { events, gaps, told, local, buffer, reader: Some(reader) })
    }

    /// A sink that is fed by hand: the simulated stack in the same process. `socket` is what the
    /// stack is told.
    #[must_use]
    pub fn by_hand(socket: impl Into<String>) -> (Self, HandFeed) {
        let (queue, events) = mpsc::channel(QUEUE);
        let gaps = Arc::new(Gaps::default());
        let feed = HandFeed { queue, gaps: Arc::clone(&gaps) };
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let told = Told::as_it_is(socket.into());
        (Self { events, gaps, told, local, buffer: None, reader: None }, feed)
    }

    /// What the stack is told to send to, as people write it: `udp:10.0.0.5:9000`.
    #[must_use]
    pub fn socket(&self) -> &str {
        self.told.plain()
    }

    /// What the stack is told to send to, in its words.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The receive buffer that the kernel gave, in bytes; only UDP has one that matters.
    #[must_use]
    pub fn buffer(&self) -> Option<usize> {
        self.buffer
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

/// Puts events into a sink by hand.
#[derive(Clone)]
pub struct HandFeed {
    queue: mpsc::Sender<Bytes>,
    gaps: Arc<Gaps>,
}

impl HandFeed {
    /// Hands over the text of one event. Never blocks.
    pub fn feed(&self, text: impl Into<Bytes>) {
        if self.queue.try_send(text.into()).is_err() {
            self.gaps.lost_one();
        }
    }
}

/// Binds and asks for a large receive buffer. Also says what the kernel gave.
fn bind_udp(at: SocketAddr, wanted: usize) -> io::Result<(UdpSocket, usize)> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Err(error) = socket.set_recv_buffer_size(wanted) {
        tracing::warn!(%error, "the event socket's receive buffer could not be set");
    }
    socket.bind(&at.into())?;
    let socket = UdpSocket::from_std(socket.into())?;
    // Linux gives and shows twice what was asked for: the other half is for its own use.
    let shown = SockRef::from(&socket).recv_buffer_size()?;
    let given = if cfg!(target_os = "linux") { shown / 2 } else { shown };
    if given < wanted {
        tracing::warn!(
            asked = wanted,
            given,
            "events may be lost in bursts: the kernel gave less receive buffer than asked for; raise the sysctl net.core.rmem_max"
        );
    }
    Ok((socket, given))
}

/// Only reads: everything else would leave the kernel's buffer to fill up.
async fn read_datagrams(socket: UdpSocket, queue: mpsc::Sender<Bytes>, gaps: Arc<Gaps>) {
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(length) => {
                let text = bounded(buffer.get(..length).unwrap_or_default());
                if queue.try_send(text).is_err() {
                    gaps.lost_one();
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the event socket");
                // An unconnected socket has no errors that last; give others a turn all the same.
                tokio::task::yield_now().await;
            }
        }
        if queue.is_closed() {
            return;
        }
    }
}

async fn accept(listener: TcpListener, queue: mpsc::Sender<Bytes>, gaps: Arc<Gaps>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, peer) = match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, most likely: to try again at once would only spin.
                        tracing::warn!(%error, "an event connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                keep_alive(&stream);
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    tracing::warn!(%peer, "too many event connections");
                    continue;
                };
                let (queue, gaps) = (queue.clone(), Arc::clone(&gaps));
                connections.spawn(async move {
                    read_stream(stream, &queue, &gaps).await;
                    // It ends with OpenSIPS, or because we were too slow: look which.
                    gaps.connection_ended();
                    drop(place);
                });
            }
            Some(_) = connections.join_next() => {}
        }
        if queue.is_closed() {
            return;
        }
    }
}

/// A host that vanishes without a word would hold its place for ever.
fn keep_alive(stream: &TcpStream) {
    let probes = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 6);
    let probes = probes.with_retries(3);
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&probes) {
        tracing::debug!(%error, "no keepalive on an event connection");
    }
}

/// The text of an event; nothing, which is counted as malformed, where it is too long.
fn bounded(text: &[u8]) -> Bytes {
    if text.len() > LONGEST { Bytes::new() } else { Bytes::copy_from_slice(text) }
}

async fn read_stream(mut stream: TcpStream, queue: &mpsc::Sender<Bytes>, gaps: &Gaps) {
    let mut buffer = vec![0; 65_536];
    let mut objects = Objects::default();
    loop {
        let length = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => length,
        };
        let mut answers = String::new();
        let read = buffer.get(..length).unwrap_or_default();
        let cut = objects.push(read, |object| {
            answer(object, &mut answers);
            if queue.try_send(bounded(object)).is_err() {
                gaps.lost_one();
            }
        });
        if cut.is_err() {
            tracing::warn!("an event stream made no sense");
            return;
        }
        // Never waited for: an answer that does not fit is only a job that OpenSIPS drops later,
        // a reader that stalls costs everybody's events (trace `stream_stuck`).
        if !answers.is_empty()
            && let Err(error) = stream.try_write(answers.as_bytes())
        {
            tracing::debug!(%error, "an event stream takes no answers");
        }
    }
}

/// With `reliable_mode` an event is a request that wants an answer.
fn answer(object: &[u8], out: &mut String) {
    #[derive(Deserialize)]
    struct Id<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
    }
    if let Ok(Id { id: Some(id) }) = serde_json::from_slice(object) {
        out.push_str("{\"jsonrpc\":\"2.0\",\"result\":\"ok\",\"id\":");
        out.push_str(id.get());
        out.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_event_with_an_id_is_answered() {
        let mut out = String::new();
        answer(br#"{"jsonrpc":"2.0","method":"E","params":{}}"#, &mut out);
        answer(b"{nonsense", &mut out);
        assert_eq!(out, "");
        answer(br#"{"method":"E","id":77,"params":{}}"#, &mut out);
        assert_eq!(out, r#"{"jsonrpc":"2.0","result":"ok","id":77}"#);
    }
}
