//! The task of one WebSocket: the only writer of its socket.
//!
//! Each turn takes what is ready (answers, entries, frames), and only when nothing more is ready
//! writes everything that came of it with one flush.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Sink as _, Stream as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::close::Close;
use super::commands::{Commands, Page, Unreadable, Wanted};
use super::feed::{Attachment, Taken};
use super::outbox::Outbox;
use super::session::{Answer, Ask, Loss, Session, Turn};
use super::{Client, SEND_TIMEOUT};
use crate::core::ids::{SessionId, TenantId};
use crate::metrics::OpenSession;

/// Read buffer of a WebSocket. It stays as long as the socket, so it is much of what an idle one
/// costs; the library's own default of 128 KiB would be nearly all of it (measured).
const READ_BUFFER: usize = 2 * 1024;

/// Written bytes that are gathered before they are given to the system without a flush.
const WRITE_BUFFER: usize = 4 * 1024;

/// Bytes that are handed to the socket without waiting for a quiet moment.
const EAGER: usize = 16 * 1024;

/// How often a session with running commands or unread messages looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// How long the news of another epoch may take to a process that has just been told of it.
const NEWS: Duration = Duration::from_secs(2);

/// How long a closed socket may take to say goodbye.
const LINGER: Duration = Duration::from_secs(2);

/// Most bytes that are read and thrown away so that a close frame arrives: a reset would destroy
/// it in the client's buffer.
const LINGER_BYTES: usize = 4 * 1024 * 1024;

type Asking = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What ended a conversation.
enum End {
    /// The client closed, or the connection broke.
    Gone,
    /// We close.
    Close(Close),
}

/// The client does not read what was written.
#[derive(Debug, Clone, Copy)]
struct Blocked {
    since: Instant,
    /// Whether the stream takes no more messages either. That it takes one is then progress.
    full: bool,
}

/// One WebSocket.
struct Socket<S, C: Commands> {
    client: Arc<Client<C>>,
    /// Counts the socket for as long as it lives.
    open: OpenSession,
    stream: WebSocketStream<S>,
    tenant: TenantId,
    session: Session,
    attachment: Attachment,
    out: Outbox,
    asks: Vec<Ask>,
    asked: Option<FuturesUnordered<Asking>>,
    /// Whether something was handed to the stream and not flushed.
    unflushed: bool,
    /// Whether that is a pong. The stream makes one of each ping and keeps all that the client
    /// does not read: nothing more is read until they are on their way.
    pong_owed: bool,
    /// When the client was last heard of.
    heard: Instant,
    blocked: Option<Blocked>,
    ticking: bool,
    timer: Pin<Box<Sleep>>,
}

/// Reads a page. That the epoch is over is told once this process has heard of the next one: there
/// the session goes on.
async fn page<C: Commands>(
    client: &Client<C>,
    tenant: &TenantId,
    wanted: Wanted,
) -> Result<Page, Unreadable> {
    let epoch = wanted.after.epoch.clone();
    let page = client.commands.read(wanted).await;
    if matches!(page, Err(Unreadable::Restarted)) {
        let until = Instant::now() + NEWS;
        while client.feed.head(tenant).epoch == epoch && Instant::now() < until {
            tokio::time::sleep(NEWS / 100).await;
        }
    }
    page
}

/// Holds one conversation until its end, on a stream whose opening handshake is done. `early` is
/// what came behind the handshake already.
pub async fn converse<S, C>(client: Arc<Client<C>>, stream: S, early: Vec<u8>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Commands,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(Some(client.settings.message_bytes))
        .max_frame_size(Some(client.settings.message_bytes));
    let stream =
        WebSocketStream::from_partially_read(stream, early, Role::Server, Some(config)).await;
    let shutdown = client.shutdown.clone();
    let mut socket = Socket::open(client, stream);
    let end = {
        let mut stopping = std::pin::pin!(shutdown.cancelled());
        let mut stops = None;
        std::future::poll_fn(|cx| {
            if stops.is_none() && stopping.as_mut().poll(cx).is_ready() {
                let wait = socket.client.drain_delay();
                stops = Some(Box::pin(tokio::time::sleep(wait)));
            }
            if let Some(stop) = &mut stops
                && stop.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(End::Close(Close::GoingAway));
            }
            let polled = socket.poll(cx);
            socket.open.waiting(socket.out.bytes());
            polled
        })
        .await
    };
    socket.finish(end).await;
}

impl<S, C> Socket<S, C>
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Commands,
{
    fn open(client: Arc<Client<C>>, stream: WebSocketStream<S>) -> Self {
        let tenant = TenantId::default();
        let id = SessionId::derive((client.nonce)());
        let attachment = client.feed.attach(&tenant, &id);
        let head = client.feed.head(&tenant);
        let session = Session::new(tenant.clone(), id, head, client.settings.limits());
        let heard = Instant::now();
        let timer = Box::pin(tokio::time::sleep(client.settings.ping_every));
        let open = client.metrics.opened();
        Self {
            client,
            open,
            stream,
            tenant,
            session,
            attachment,
            out: Outbox::default(),
            asks: Vec::new(),
            asked: None,
            unflushed: false,
            pong_owed: false,
            heard,
            blocked: None,
            ticking: false,
            timer,
        }
    }

    /// Works until nothing more can be done now, or the conversation is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.turn(cx) {
                Turned::Worked => {
                    if self.out.bytes() > self.client.settings.outbound_bytes {
                        return Poll::Ready(End::Close(Close::Slow));
                    }
                    if self.out.bytes() >= EAGER && self.hand_over(cx).is_err() {
                        return Poll::Ready(End::Gone);
                    }
                }
                Turned::Over(end) => return Poll::Ready(end),
                Turned::Quiet => {
                    let before = self.may_read();
                    match self.flush(cx) {
                        Err(_) => return Poll::Ready(End::Gone),
                        Ok(()) if !before && self.may_read() => continue,
                        Ok(()) => {}
                    }
                    match self.time(cx) {
                        Some(Turned::Over(end)) => return Poll::Ready(end),
                        Some(Turned::Worked | Turned::Quiet) => continue,
                        None => return Poll::Pending,
                    }
                }
            }
        }
    }

    /// Takes one thing that is ready.
    fn turn(&mut self, cx: &mut Context<'_>) -> Turned {
        if !self.asks.is_empty() {
            return self.ask(cx);
        }
        if let Some(asked) = &mut self.asked {
            match asked.poll_next_unpin(cx) {
                Poll::Ready(Some(answer)) => return self.answered(answer),
                Poll::Ready(None) => self.asked = None,
                Poll::Pending => {}
            }
        }
        if self.session.is_resuming() {
            // A page is read when the text of the one before has mostly been written.
            if self.is_read()
                && let Some(wanted) = self.session.next_page()
            {
                let client = Arc::clone(&self.client);
                let tenant = self.tenant.clone();
                let page = async move { Answer::Page(page(&client, &tenant, wanted).await) };
                return self.start(page.boxed(), cx);
            }
            return Turned::Quiet;
        }
        if let Poll::Ready(taken) = self.attachment.inbox().poll_take(cx) {
            match taken {
                Taken::Entry(epoch, entry) => {
                    self.with_turn(|session, turn| session.live(&epoch, &entry, turn));
                }
                Taken::Skipped(to) => {
                    if let Some(close) = self.session.skipped(*to) {
                        return Turned::Over(End::Close(close));
                    }
                }
                Taken::Overflowed => match self.session.overflowed() {
                    Loss::CatchUp => {}
                    Loss::Close => return Turned::Over(End::Close(Close::Slow)),
                },
            }
            return Turned::Worked;
        }
        if !self.may_read() {
            return Turned::Quiet;
        }
        match Pin::new(&mut self.stream).poll_next(cx) {
            Poll::Pending => Turned::Quiet,
            Poll::Ready(Some(Ok(message))) => self.message(message),
            Poll::Ready(Some(Err(error))) => Turned::Over(ended_by(&error)),
            Poll::Ready(None) => Turned::Over(End::Gone),
        }
    }

    /// A client that does not read its answers is not read either, and one whose requests wait for
    /// the store has to wait with the next ones.
    fn may_read(&self) -> bool {
        let under_way = self.asked.as_ref().map_or(0, FuturesUnordered::len);
        self.is_read() && under_way < self.client.settings.in_flight()
    }

    /// Whether the client reads what is written.
    fn is_read(&self) -> bool {
        !self.pong_owed && self.out.bytes() < self.client.settings.outbound_bytes / 4
    }

    fn message(&mut self, message: Message) -> Turned {
        self.heard = Instant::now();
        self.session.take_in(self.client.intake());
        match message {
            Message::Text(text) => {
                self.client.metrics.message();
                self.with_turn(|session, turn| session.frame(&text, turn));
            }
            // The old server did not look at the kind of a frame.
            Message::Binary(bytes) => {
                self.client.metrics.message();
                let text = std::str::from_utf8(&bytes).unwrap_or("\u{0}");
                self.with_turn(|session, turn| session.frame(text, turn));
            }
            Message::Close(_) => return Turned::Over(End::Gone),
            Message::Ping(_) => (self.unflushed, self.pong_owed) = (true, true),
            Message::Pong(_) | Message::Frame(_) => {}
        }
        Turned::Worked
    }

    fn with_turn(&mut self, work: impl FnOnce(&mut Session, &mut Turn<'_>)) {
        let mut turn = Turn {
            out: &mut self.out,
            asks: &mut self.asks,
            now: self.client.now(),
            nonce: &mut || (self.client.nonce)(),
            refused: &mut |method, kind| {
                self.client.metrics.refused_request(method, kind.row().word);
            },
        };
        work(&mut self.session, &mut turn);
    }

    fn answered(&mut self, answer: Answer) -> Turned {
        if let Answer::Page(Err(_)) = &answer {
            // It goes on from where the stream is by now.
            self.session.attached(self.client.feed.head(&self.tenant));
        }
        let mut close = None;
        self.with_turn(|session, turn| close = session.answer(answer, turn));
        match close {
            Some(close) => Turned::Over(End::Close(close)),
            None => Turned::Worked,
        }
    }

    /// Passes the session's questions on, in their order.
    fn ask(&mut self, cx: &mut Context<'_>) -> Turned {
        for ask in std::mem::take(&mut self.asks) {
            let client = Arc::clone(&self.client);
            let asking: Asking = match ask {
                Ask::Attach(id) => {
                    self.attachment = client.feed.attach(&self.tenant, &id);
                    self.session.attached(client.feed.head(&self.tenant));
                    continue;
                }
                Ask::Begin(ticket, begin) => {
                    async move { Answer::Begun(ticket, client.commands.begin(*begin).await) }
                        .boxed()
                }
                Ask::Get(ticket, key) => {
                    async move { Answer::Known(ticket, client.commands.get(key).await) }.boxed()
                }
                Ask::Cancel(ticket, key) => {
                    async move { Answer::Known(ticket, client.commands.cancel(key).await) }.boxed()
                }
                Ask::Replay(ticket, wanted) => {
                    async move { Answer::Replayed(ticket, client.commands.read(wanted).await) }
                        .boxed()
                }
            };
            if let over @ Turned::Over(_) = self.start(asking, cx) {
                return over;
            }
        }
        Turned::Worked
    }

    /// Polls a question once, so that questions begin in their order, and keeps it if it waits.
    fn start(&mut self, mut asking: Asking, cx: &mut Context<'_>) -> Turned {
        match asking.as_mut().poll(cx) {
            Poll::Ready(answer) => self.answered(answer),
            Poll::Pending => {
                self.asked.get_or_insert_default().push(asking);
                Turned::Worked
            }
        }
    }

    /// Gives the stream as many messages as it takes.
    fn hand_over(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while !self.out.is_empty() {
            if Pin::new(&mut self.stream).poll_ready(cx)?.is_pending() {
                self.block().full = true;
                return Ok(());
            }
            self.blocked = self.blocked.filter(|blocked| !blocked.full);
            let Some(message) = self.out.pop() else { break };
            self.unflushed = true;
            self.client.metrics.sent(message.len());
            Pin::new(&mut self.stream).start_send(Message::Text(text(message)))?;
        }
        Ok(())
    }

    fn block(&mut self) -> &mut Blocked {
        self.blocked.get_or_insert_with(|| Blocked { since: Instant::now(), full: false })
    }

    fn flush(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        self.hand_over(cx)?;
        if self.out.is_empty() && self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx)? {
                Poll::Ready(()) => {
                    (self.unflushed, self.pong_owed) = (false, false);
                    self.blocked = None;
                    self.out.rest();
                }
                Poll::Pending => {
                    self.block();
                }
            }
        }
        Ok(())
    }

    /// Looks at the clock if it is time. Something happened if it answers.
    fn time(&mut self, cx: &mut Context<'_>) -> Option<Turned> {
        if !self.ticking && (self.blocked.is_some() || self.session.has_running()) {
            self.ticking = true;
            self.timer.as_mut().reset(Instant::now() + TICK);
        }
        if self.timer.as_mut().poll(cx).is_pending() {
            return None;
        }
        let now = Instant::now();
        let settings = &self.client.settings;
        let stuck = self.blocked.map(|blocked| now.duration_since(blocked.since));
        if stuck.is_some_and(|stuck| stuck >= SEND_TIMEOUT) {
            return Some(Turned::Over(End::Close(Close::Slow)));
        }
        let silent = now.duration_since(self.heard);
        if silent >= settings.idle_timeout && stuck.is_none() {
            return Some(Turned::Over(End::Close(Close::Silent)));
        }
        let mut wait = settings.ping_every.saturating_sub(silent);
        if wait.is_zero() {
            if Pin::new(&mut self.stream).poll_ready(cx).is_ready()
                && Pin::new(&mut self.stream).start_send(Message::Ping(Bytes::new())).is_ok()
            {
                self.unflushed = true;
            }
            wait = settings.ping_every;
        }
        wait = wait.min(settings.idle_timeout.saturating_sub(silent)).max(Duration::from_millis(1));
        self.ticking = stuck.is_some() || self.session.has_running();
        if self.ticking {
            wait = wait.min(TICK);
            self.with_turn(Session::overdue);
        }
        self.timer.as_mut().reset(now + wait);
        Some(Turned::Worked)
    }

    /// Says goodbye, if there is somebody to say it to.
    async fn finish(&mut self, end: End) {
        let close = match end {
            End::Gone => {
                self.open.closing("gone");
                // Answers the client's close frame, if it sent one.
                let _ = tokio::time::timeout(LINGER, self.stream.close(None)).await;
                return;
            }
            End::Close(close) => close,
        };
        self.open.closing(close.label());
        tracing::debug!(code = close.row().code, reason = close.row().word, "closing a session");
        // What is complete is written; what a slow reader would not take is not. It resumes.
        if close == Close::Slow {
            self.out.clear();
        }
        let _ = tokio::time::timeout(LINGER, self.say_goodbye(close)).await;
    }

    async fn say_goodbye(&mut self, close: Close) -> Result<(), Error> {
        std::future::poll_fn(|cx| {
            self.hand_over(cx)?;
            if self.out.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
        .or_else(|error: Error| match error {
            // A malformed or too long frame leaves the way out open.
            Error::Capacity(_) | Error::Protocol(_) => Ok(()),
            other => Err(other),
        })?;
        let row = close.row();
        let frame = CloseFrame { code: CloseCode::from(row.code), reason: row.word.into() };
        self.stream.close(Some(frame)).await?;
        // Beneath the WebSocket: its reader may be in the middle of a frame that is too long.
        let stream = self.stream.get_mut();
        stream.shutdown().await?;
        let mut thrown = 0;
        let mut buffer = [0; 1024];
        while thrown < LINGER_BYTES {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => thrown += read,
            }
        }
        Ok(())
    }
}

/// What a turn came to.
enum Turned {
    /// Something was taken; there may be more.
    Worked,
    /// Nothing is ready.
    Quiet,
    /// The conversation is over.
    Over(End),
}

fn ended_by(error: &Error) -> End {
    match error {
        Error::Capacity(_) => End::Close(Close::MessageTooLong),
        // A client that was cut off has broken no rule.
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        Error::Utf8(_) | Error::Protocol(_) => End::Close(Close::Protocol),
        _ => End::Gone,
    }
}

/// Everything that is written is UTF-8: our own words, checked ids, and text of clients that came
/// as text. Should that ever fail, an empty message is better than a dead socket.
fn text(message: Bytes) -> Utf8Bytes {
    Utf8Bytes::try_from(message).unwrap_or_default()
}
