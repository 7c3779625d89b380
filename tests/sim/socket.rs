//! A client's connection, as a process serves it: the real session, driven as the product's socket
//! drives it, with a queue of frames in place of a WebSocket.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use callplane::client::close::Close;
use callplane::client::commands::Commands;
use callplane::client::feed::{Attachment, Feed, Taken};
use callplane::client::outbox::Outbox;
use callplane::client::session::{Answer, Ask, Limits, Loss, Session, Turn};
use callplane::clock::Nonces;
use callplane::core::ids::{SessionId, TenantId};

use super::executor::{Executor, Nap};

/// How often a session with running commands looks at the clock.
const TICK: Duration = Duration::from_secs(1);

/// What lies between a client and its process.
#[derive(Default)]
pub struct Wire {
    state: Mutex<Lying>,
}

#[derive(Default)]
struct Lying {
    frames: VecDeque<String>,
    gone: bool,
    waker: Option<Waker>,
}

impl Wire {
    pub fn frame(&self, text: String) {
        self.change(|lying| lying.frames.push_back(text));
    }

    pub fn hang_up(&self) {
        self.change(|lying| lying.gone = true);
    }

    fn change(&self, change: impl FnOnce(&mut Lying)) {
        let mut lying = self.state.lock().unwrap();
        change(&mut lying);
        let waker = lying.waker.take();
        drop(lying);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn take(&self, context: &Context<'_>) -> Came {
        let mut lying = self.state.lock().unwrap();
        if let Some(frame) = lying.frames.pop_front() {
            return Came::Frame(frame);
        }
        if lying.gone {
            return Came::End;
        }
        lying.waker = Some(context.waker().clone());
        Came::Nothing
    }
}

enum Came {
    Frame(String),
    End,
    Nothing,
}

type Asking = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What a process has at hand for a connection.
pub struct Served<C> {
    pub executor: Executor,
    pub commands: Arc<C>,
    pub feed: Arc<Feed>,
    pub nonces: Arc<dyn Nonces>,
    pub tenant: TenantId,
    pub wire: Arc<Wire>,
    /// Takes what is written, in order.
    pub write: Box<dyn Fn(Bytes) + Send>,
}

/// One connection.
pub struct Socket<C> {
    served: Served<C>,
    session: Session,
    attachment: Attachment,
    out: Outbox,
    asks: Vec<Ask>,
    asked: Vec<Asking>,
    tick: Option<Nap>,
}

enum Turned {
    Worked,
    Quiet,
    Over(Option<Close>),
}

impl<C: Commands> Socket<C> {
    pub fn open(served: Served<C>, id: SessionId) -> Self {
        let attachment = served.feed.attach(&served.tenant, &id);
        let head = served.feed.head(&served.tenant);
        let limits = Limits { batch: 16, commands: 64 };
        let session = Session::new(served.tenant.clone(), id, head, limits);
        let (out, asks, asked) = (Outbox::default(), Vec::new(), Vec::new());
        Self { served, session, attachment, out, asks, asked, tick: None }
    }

    /// Works until the end; a reason to close may come out.
    pub async fn converse(mut self) -> Option<Close> {
        std::future::poll_fn(move |context| {
            loop {
                let turned = self.turn(context);
                while let Some(message) = self.out.pop() {
                    (self.served.write)(message);
                }
                match turned {
                    Turned::Worked => {}
                    Turned::Over(close) => return Poll::Ready(close),
                    Turned::Quiet if self.time(context) => {}
                    Turned::Quiet => return Poll::Pending,
                }
            }
        })
        .await
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Turned {
        if !self.asks.is_empty() {
            return self.ask(context);
        }
        for at in 0..self.asked.len() {
            if let Poll::Ready(answer) = self.asked[at].as_mut().poll(context) {
                drop(self.asked.remove(at));
                return self.answered(answer);
            }
        }
        if self.session.is_resuming() {
            if let Some(wanted) = self.session.next_page() {
                let commands = Arc::clone(&self.served.commands);
                let page = async move { Answer::Page(commands.read(wanted).await) };
                return self.start(Box::pin(page), context);
            }
            // The socket of a resuming session must still notice that nobody is there.
            let gone = self.served.wire.state.lock().unwrap().gone;
            return if gone { Turned::Over(None) } else { Turned::Quiet };
        }
        if let Poll::Ready(taken) = self.attachment.inbox().poll_take(context) {
            match taken {
                Taken::Entry(epoch, entry) => {
                    self.with_turn(|session, turn| session.live(&epoch, &entry, turn));
                }
                Taken::Skipped(to) => {
                    if let Some(close) = self.session.skipped(*to) {
                        return Turned::Over(Some(close));
                    }
                }
                Taken::Overflowed => match self.session.overflowed() {
                    Loss::CatchUp => {}
                    Loss::Close => return Turned::Over(Some(Close::Slow)),
                },
            }
            return Turned::Worked;
        }
        match self.served.wire.take(context) {
            Came::Frame(text) => {
                self.with_turn(|session, turn| session.frame(&text, turn));
                Turned::Worked
            }
            Came::End => Turned::Over(None),
            Came::Nothing => Turned::Quiet,
        }
    }

    fn with_turn(&mut self, work: impl FnOnce(&mut Session, &mut Turn<'_>)) {
        let nonces = Arc::clone(&self.served.nonces);
        let mut turn = Turn {
            out: &mut self.out,
            asks: &mut self.asks,
            now: u64::try_from(self.served.executor.now().as_millis()).unwrap(),
            nonce: &mut || nonces.nonce(),
            refused: &mut |_, _| {},
        };
        work(&mut self.session, &mut turn);
    }

    fn answered(&mut self, answer: Answer) -> Turned {
        let mut close = None;
        self.with_turn(|session, turn| close = session.answer(answer, turn));
        match close {
            Some(close) => Turned::Over(Some(close)),
            None => Turned::Worked,
        }
    }

    fn ask(&mut self, context: &mut Context<'_>) -> Turned {
        for ask in std::mem::take(&mut self.asks) {
            let commands = Arc::clone(&self.served.commands);
            let asking: Asking = match ask {
                Ask::Attach(id) => {
                    self.attachment = self.served.feed.attach(&self.served.tenant, &id);
                    self.session.attached(self.served.feed.head(&self.served.tenant));
                    continue;
                }
                Ask::Begin(ticket, begin) => {
                    Box::pin(async move { Answer::Begun(ticket, commands.begin(*begin).await) })
                }
                Ask::Get(ticket, key) => {
                    Box::pin(async move { Answer::Known(ticket, commands.get(key).await) })
                }
                Ask::Cancel(ticket, key) => {
                    Box::pin(async move { Answer::Known(ticket, commands.cancel(key).await) })
                }
                Ask::Replay(ticket, wanted) => {
                    Box::pin(async move { Answer::Replayed(ticket, commands.read(wanted).await) })
                }
            };
            if let over @ Turned::Over(_) = self.start(asking, context) {
                return over;
            }
        }
        Turned::Worked
    }

    fn start(&mut self, mut asking: Asking, context: &mut Context<'_>) -> Turned {
        match asking.as_mut().poll(context) {
            Poll::Ready(answer) => self.answered(answer),
            Poll::Pending => {
                self.asked.push(asking);
                Turned::Worked
            }
        }
    }

    /// Looks at the clock while commands run. True: something may have come of it.
    fn time(&mut self, context: &mut Context<'_>) -> bool {
        if !self.session.has_running() {
            self.tick = None;
            return false;
        }
        let executor = self.served.executor;
        let tick = self.tick.get_or_insert_with(|| executor.sleep(TICK));
        if Pin::new(tick).poll(context).is_pending() {
            return false;
        }
        self.tick = None;
        self.with_turn(Session::overdue);
        true
    }
}
