//! Carries a [`Follow`] over WebSocket connections until the command has ended.

use std::io;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::{IntoClientRequest as _, uri_mode};
use tokio_tungstenite::tungstenite::error::UrlError;
use tokio_tungstenite::tungstenite::stream::Mode;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::follow::{Asked, Follow};
use super::show::{self, Form};
use crate::cli::exit::Exit;
use crate::cli::signals::Signals;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long the server may take to let us in, and to answer a request.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a lost server may stay away.
const AWAY: Duration = Duration::from_secs(30);

/// How long a command of a server that states no deadline may take.
const UNSTATED: Duration = Duration::from_secs(300);

/// Between two tries to reach it again.
const RETRY: Duration = Duration::from_millis(500);

/// What may be added to the server's deadline by connections and processes coming back.
const GRACE: Duration = Duration::from_secs(30);

/// Asks `server` for the command and shows its events until it has ended.
pub async fn follow(server: &str, asked: Asked, form: Form) -> Exit {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("signals can't be received: {error}");
            return Exit::Failed;
        }
    };
    let mut socket = match connect(server).await {
        Ok(socket) => socket,
        Err(NoWay { reason, exit }) => {
            eprintln!("{server}: {reason}");
            return exit;
        }
    };
    let mut command = Running::new(asked, form);
    let mut cancelled = false;
    loop {
        let lost = tokio::select! {
            way = command.talk(&mut socket) => match way {
                Ok(exit) => return exit,
                Err(lost) => lost,
            },
            signal = signals.next() => {
                if cancelled || !command.follow.is_sent() {
                    return signal;
                }
                cancelled = true;
                eprintln!("cancelling; once more to leave");
                // `talk` was dropped between two messages; the same socket goes on.
                if socket.send(Message::text(command.follow.cancel())).await.is_ok() {
                    continue;
                }
                Lost("connection lost".to_owned())
            }
        };
        eprintln!("{server}: {}", lost.0);
        tokio::select! {
            again = command.connect_again(server) => match again {
                Ok(again) => socket = again,
                Err(exit) => return exit,
            },
            signal = signals.next() => return signal,
        }
    }
}

/// Why a connection can't be used any more.
struct Lost(String);

struct Running {
    follow: Follow,
    form: Form,
    asked_at: Instant,
    greeted: Option<Instant>,
    started: Option<Instant>,
}

impl Running {
    fn new(asked: Asked, form: Form) -> Running {
        Running {
            follow: Follow::new(asked),
            form,
            asked_at: Instant::now(),
            greeted: None,
            started: None,
        }
    }

    /// How long to wait for the next word of the server.
    fn until(&self) -> Instant {
        match (self.started, self.follow.deadline(), self.greeted) {
            (Some(started), Some(deadline), _) => started + deadline + GRACE,
            (Some(started), None, _) => started + UNSTATED,
            (None, _, Some(greeted)) => greeted + ANSWER,
            (None, _, None) => self.asked_at + ANSWER,
        }
    }

    /// Talks until the command has ended or the connection is lost. May be dropped at any await
    /// and called again.
    async fn talk(&mut self, socket: &mut Socket) -> Result<Exit, Lost> {
        if self.greeted.is_none() {
            let Ok(first) = self.follow.connected() else { return Ok(self.unknown()) };
            self.greeted = Some(Instant::now());
            send(socket, first).await?;
        }
        loop {
            let left = self.until().saturating_duration_since(Instant::now());
            let text = match tokio::time::timeout(left, socket.next()).await {
                Err(_) => {
                    eprintln!("the server does not say how the command went");
                    return Ok(self.unknown());
                }
                Ok(None) => return Err(Lost("connection closed".to_owned())),
                Ok(Some(Err(error))) => return Err(Lost(reason(&error))),
                Ok(Some(Ok(Message::Text(text)))) => text,
                Ok(Some(Ok(Message::Close(frame)))) => {
                    let why =
                        frame.map(|frame| format!("{} {}", u16::from(frame.code), frame.reason));
                    return Err(Lost(format!("closed by the server: {}", why.unwrap_or_default())));
                }
                Ok(Some(Ok(
                    Message::Ping(_) | Message::Pong(_) | Message::Binary(_) | Message::Frame(_),
                ))) => continue,
            };
            let next = self.follow.message(&text);
            if self.follow.is_started() {
                self.started.get_or_insert_with(Instant::now);
            }
            for told in &next.told {
                let shown = show::show(
                    self.form,
                    told,
                    self.asked_at.elapsed(),
                    &mut io::stdout().lock(),
                    &mut io::stderr().lock(),
                );
                // Nobody reads any more (`| head`): the command goes on, its outcome is our code.
                drop(shown);
            }
            if let Some(exit) = next.exit {
                return Ok(exit);
            }
            for message in next.send {
                send(socket, message).await?;
            }
        }
    }

    /// Tries to reach the server again, as long as that makes sense.
    async fn connect_again(&mut self, server: &str) -> Result<Socket, Exit> {
        if self.follow.connected().is_err() {
            return Err(self.unknown());
        }
        self.greeted = None;
        eprintln!("{server}: trying for {} s to reach it again", AWAY.as_secs());
        let since = Instant::now();
        while since.elapsed() < AWAY {
            if let Ok(socket) = connect(server).await {
                return Ok(socket);
            }
            tokio::time::sleep(RETRY).await;
        }
        eprintln!("{server}: not back within {} s", AWAY.as_secs());
        Err(if self.follow.is_sent() { self.unknown() } else { Exit::NotConnected })
    }

    fn unknown(&self) -> Exit {
        match self.follow.again() {
            Some(again) => eprintln!(
                "the command may be under way; what becomes of it is told by the same words with {again}"
            ),
            None => {
                eprintln!("the command may be under way; this server can't tell how it goes on")
            }
        }
        Exit::Unknown
    }
}

async fn send(socket: &mut Socket, text: String) -> Result<(), Lost> {
    socket.send(Message::text(text)).await.map_err(|error| Lost(reason(&error)))
}

/// Why there is no connection, and what that is to the shell.
struct NoWay {
    reason: String,
    exit: Exit,
}

async fn connect(server: &str) -> Result<Socket, NoWay> {
    let (reason, exit) = match tokio::time::timeout(ANSWER, open(server)).await {
        Ok(Ok(socket)) => return Ok(socket),
        Ok(Err(error)) if can_be_no_server(&error) => (reason(&error), Exit::Usage),
        Ok(Err(error @ tungstenite::Error::Io(_))) => {
            let hint = "`--server` or CALLPLANE_SERVER names another one";
            (format!("{}; {hint}", reason(&error)), Exit::NotConnected)
        }
        Ok(Err(error)) => (reason(&error), Exit::NotConnected),
        Err(_) => (format!("no answer within {} s", ANSWER.as_secs()), Exit::NotConnected),
    };
    Err(NoWay { reason, exit })
}

async fn open(server: &str) -> Result<Socket, tungstenite::Error> {
    let request = server.into_client_request()?;
    // Known before anybody is connected to, so that the answer is the same with nobody there.
    match uri_mode(request.uri())? {
        Mode::Plain => {}
        Mode::Tls => return Err(UrlError::TlsFeatureNotEnabled.into()),
    }
    connect_async(request).await.map(|(socket, _response)| socket)
}

/// Whether it is the URL that is wrong: no server could mend that.
fn can_be_no_server(error: &tungstenite::Error) -> bool {
    match error {
        tungstenite::Error::Url(UrlError::UnableToConnect(_)) => false,
        tungstenite::Error::Url(_) | tungstenite::Error::HttpFormat(_) => true,
        _ => false,
    }
}

/// One clear line.
fn reason(error: &tungstenite::Error) -> String {
    match error {
        tungstenite::Error::Url(_) | tungstenite::Error::HttpFormat(_) => {
            "can't be used as a server: write ws://HOST:PORT/PATH (wss:// is not supported here)"
                .to_owned()
        }
        tungstenite::Error::Io(error) => format!("can't connect: {error}"),
        tungstenite::Error::Http(response) => {
            format!("is there, but answers {} instead of opening a WebSocket", response.status())
        }
        other => format!("connection lost: {other}"),
    }
}
