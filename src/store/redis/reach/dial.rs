//! One physical connection to one server: looked up, connected, encrypted, introduced.
//!
//! Not the crate's own: that looks up the system's certificates even where others are to be used,
//! and begins a lookup at each attempt, however many still hang.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use std::{fmt, io};

use redis::aio::{AsyncPushSender, MultiplexedConnection};
use redis::{AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError};
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::access::{BadFile, Credentials};
use super::settings::{Access, Address};

/// Makes connections, one after the other.
#[derive(Default)]
pub(super) struct Dialer {
    /// A lookup that is not answered. It can't be withdrawn, so the next attempt waits for it, too.
    lookup: Option<(Address, AbortOnDropHandle<io::Result<Vec<SocketAddr>>>)>,
}

/// A connection to a server that let us in.
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    /// Ends with it: else a server that says nothing would keep it.
    _driver: AbortOnDropHandle<()>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoConnection {
    /// The Sentinels' word is not known yet, or they know no master.
    #[error("{0}")]
    NoMaster(String),
    #[error(transparent)]
    File(#[from] BadFile),
    #[error("{address} can't be looked up: {error}")]
    Lookup { address: Address, error: io::Error },
    #[error("{address} can't be reached: {error}")]
    Unreached { address: Address, error: io::Error },
    #[error("no TLS with {address}: {error}")]
    Tls { address: Address, error: io::Error },
    #[error("{address} does not let us in: {error}")]
    Refused { address: Address, error: RedisError },
    #[error("{address} broke off: {error}")]
    Broken { address: Address, error: RedisError },
    #[error("{0} is not the master")]
    NotTheMaster(Address),
    #[error("{address} does not answer within {} ms", within.as_millis())]
    TooSlow { address: Address, within: Duration },
}

impl NoConnection {
    /// The kind of it: the same trouble need not be told twice.
    pub(super) fn kind(&self) -> std::mem::Discriminant<Self> {
        std::mem::discriminant(self)
    }

    pub(super) fn said(address: &Address, error: RedisError) -> Self {
        let address = address.clone();
        match error.kind() {
            ErrorKind::Io => Self::Broken { address, error },
            _ => Self::Refused { address, error },
        }
    }
}

impl Dialer {
    /// Connects to a server and introduces us.
    pub(super) async fn dial(
        &mut self,
        address: &Address,
        access: &Access,
        database: u32,
        pushes: impl AsyncPushSender,
        until: Instant,
    ) -> Result<Line, NoConnection> {
        let credentials = read(access).await?;
        let Credentials { user, password, tls } = credentials;
        let mut hello = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_db(database.into())
            // It would need a right of its own, and Sentinels of Redis 6 do not know it.
            .set_skip_set_lib_name();
        if let Some(user) = user {
            hello = hello.set_username(user);
        }
        if let Some(password) = password {
            hello = hello.set_password(password);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(pushes);
        let stream = self.connect(address, until).await?;
        match tls {
            None => introduce(address, &hello, stream, config).await,
            Some(tls) => {
                let failed = |error| NoConnection::Tls { address: address.clone(), error };
                let name = ServerName::try_from(address.host.clone());
                let name = name.map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
                let stream = in_time(until, tls.connect(name, stream)).await.map_err(failed)?;
                introduce(address, &hello, stream, config).await
            }
        }
    }

    async fn connect(
        &mut self,
        address: &Address,
        until: Instant,
    ) -> Result<TcpStream, NoConnection> {
        let failed = |error| NoConnection::Unreached { address: address.clone(), error };
        let looked_up = self.look_up(address).await;
        let found =
            looked_up.map_err(|error| NoConnection::Lookup { address: address.clone(), error })?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut left = u32::try_from(found.len()).unwrap_or(u32::MAX);
        for place in found {
            // One that does not answer leaves time for the others.
            let share = until.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            match in_time(Instant::now() + share, TcpStream::connect(place)).await {
                Ok(stream) => {
                    stream.set_nodelay(true).map_err(failed)?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    async fn look_up(&mut self, address: &Address) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = address.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, address.port)]);
        }
        let (_, lookup) = match &mut self.lookup {
            Some((of, lookup)) if of == address => (of, lookup),
            other => {
                let (host, port) = (address.host.clone(), address.port);
                let lookup =
                    tokio::spawn(
                        async move { lookup_host((host, port)).await.map(Iterator::collect) },
                    );
                let (of, lookup) = other.insert((address.clone(), AbortOnDropHandle::new(lookup)));
                (of, lookup)
            }
        };
        let found = lookup.await;
        self.lookup = None;
        found.unwrap_or_else(|gone| Err(io::Error::other(gone)))
    }
}

/// What is not there by then has failed, and it is known what.
async fn in_time<T>(until: Instant, does: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout_at(until, does).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Reads the files where it may take as long as it likes.
async fn read(access: &Access) -> Result<Credentials, NoConnection> {
    let access = access.clone();
    let read = tokio::task::spawn_blocking(move || access.read()).await;
    match read {
        Ok(read) => Ok(read?),
        Err(gone) => Err(NoConnection::NoMaster(gone.to_string())),
    }
}

async fn introduce<S>(
    address: &Address,
    hello: &RedisConnectionInfo,
    stream: S,
    config: AsyncConnectionConfig,
) -> Result<Line, NoConnection>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let introduced = MultiplexedConnection::new_with_config(hello, stream, config).await;
    let (connection, driver) = introduced.map_err(|error| NoConnection::said(address, error))?;
    Ok(Line { connection, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Line")
    }
}
