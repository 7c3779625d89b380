//! Asks a running server at its operations and control ports.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::config::HostPort;

/// The longest answer that is read: the metrics of a server with many stacks.
const LONGEST: usize = 16 << 20;

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body, without the end of its last line.
    pub text: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Silent {
    /// The port is chosen anew at each start.
    #[error("port 0 is any free port: it is in the server's log, nobody else knows it")]
    AnyPort,
    /// Nobody accepts there.
    #[error("no server answers: {0}")]
    Away(#[from] io::Error),
    /// Whoever accepts there is no server of ours, or ended meanwhile.
    #[error("the answer broke off: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs())]
    Slow(Duration),
}

impl Silent {
    /// Whether nobody listens there any more. Other failures, such as too many open files, are our own.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Away(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            Self::AnyPort | Self::Broken(_) | Self::Slow(_) => false,
        }
    }
}

/// One request.
///
/// # Errors
/// [`Silent`] when there is no answer within this time.
pub async fn ask(
    method: Method,
    at: &HostPort,
    path: &str,
    within: Duration,
) -> Result<Answer, Silent> {
    let asked = tokio::time::timeout(within, exchange(method, at, path)).await;
    asked.unwrap_or(Err(Silent::Slow(within)))
}

async fn exchange(method: Method, at: &HostPort, path: &str) -> Result<Answer, Silent> {
    let stream = connect(at).await?;
    let broken = |error: hyper::Error| Silent::Broken(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", at.to_string());
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| Silent::Broken(e.into()))?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let body = body.map_err(Silent::Broken)?.to_bytes();
    Ok(Answer { status, text: String::from_utf8_lossy(&body).trim_end().to_owned() })
}

/// A connection to who listens there.
///
/// # Errors
/// [`Silent::AnyPort`], or [`Silent::Away`] with what the system says of the last try.
pub async fn connect(at: &HostPort) -> Result<TcpStream, Silent> {
    if at.port() == 0 {
        return Err(Silent::AnyPort);
    }
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for host in hosts(at) {
        match TcpStream::connect((host, at.port())).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(Silent::Away(last))
}

/// Who listens at all addresses is asked on loopback: first of the kind that is written, then IPv4,
/// which a listener at `[::]` has too where the machine has no IPv6.
fn hosts(at: &HostPort) -> Vec<&str> {
    match (at.is_any(), at.host().contains(':')) {
        (true, true) => vec!["::1", "127.0.0.1"],
        (true, false) => vec!["127.0.0.1"],
        (false, _) => vec![at.host()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admin(listen: &str) -> HostPort {
        let text = format!("admin: {{listen: \"{listen}\"}}");
        crate::config::parse(&text, None, []).unwrap().config.admin.listen
    }

    #[test]
    fn who_listens_everywhere_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9090", &["127.0.0.1"][..]),
            ("[::]:9090", &["::1", "127.0.0.1"]),
            ("[::1]:9090", &["::1"]),
            ("10.1.2.3:9090", &["10.1.2.3"]),
            ("localhost:9090", &["127.0.0.1"]),
            ("pod.example:9090", &["pod.example"]),
        ] {
            assert_eq!(hosts(&admin(listen)), asked, "{listen}");
        }
    }

    #[test]
    fn only_who_refuses_is_gone() {
        let away = |kind: io::ErrorKind| Silent::Away(kind.into()).is_gone();
        assert!(away(io::ErrorKind::ConnectionRefused));
        assert!(!away(io::ErrorKind::AddrNotAvailable) && !away(io::ErrorKind::TimedOut));
        // Descriptors are used up.
        assert!(!Silent::Away(io::Error::from_raw_os_error(24)).is_gone());
        assert!(!Silent::AnyPort.is_gone() && !Silent::Slow(Duration::ZERO).is_gone());
    }

    #[tokio::test]
    async fn a_port_that_changes_with_each_start_can_not_be_asked() {
        let asked = ask(Method::GET, &admin("127.0.0.1:0"), "/livez", Duration::from_secs(2)).await;
        assert!(matches!(asked, Err(Silent::AnyPort)), "{asked:?}");
    }

    #[tokio::test]
    async fn who_accepts_and_says_nothing_is_slow_and_who_says_nonsense_is_broken() {
        use tokio::io::AsyncWriteExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = HostPort::loopback(listener.local_addr().unwrap().port());
        let within = Duration::from_millis(100);
        let asked = ask(Method::GET, &at, "/livez", within).await;
        assert!(matches!(asked, Err(Silent::Slow(_))), "{asked:?}");
        drop(listener.accept().await);
        let nonsense = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        };
        let within = Duration::from_secs(20);
        let (asked, ()) = tokio::join!(ask(Method::GET, &at, "/livez", within), nonsense);
        assert!(matches!(asked, Err(Silent::Broken(_))), "{asked:?}");
    }
}
