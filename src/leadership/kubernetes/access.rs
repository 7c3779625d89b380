//! The way to the API server, as a pod finds it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::Limited;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, ServiceExt as _};

/// Where the account of a pod is found.
pub const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How long a connection may take, with TLS.
const CONNECT: Duration = Duration::from_secs(3);

/// A connection is dead when what was sent over it has not even reached the other machine for this long:
/// a slow API server's machine says that much at once. Short enough for a holder to renew in time over
/// another one: the kernel notices up to half a second later (measured).
#[cfg(target_os = "linux")]
const DEAD: Duration = Duration::from_secs(1);

/// A connection over which nothing comes is tried after this, and so often.
const TRIED: Duration = Duration::from_secs(5);
const TRIED_AGAIN: Duration = Duration::from_secs(1);

/// The longest answer, in bytes: the longest is a watch, of one Lease that is written each second.
pub(super) const LONGEST: usize = 8 << 20;

/// How the API server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Its address, `https://host:port`.
    pub server: String,
    /// The folder of `token` and `ca.crt`.
    pub account: PathBuf,
}

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub enum NoAccess {
    /// The variables that every pod has are missing.
    #[error(
        "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod. Name the API server in `kubernetes.server`"
    )]
    NoPod,
    /// A file of the account can't be read.
    #[error(
        "cannot read {}: {why}. Is a service account mounted (automountServiceAccountToken)?",
        path.display()
    )]
    Account {
        /// Which.
        path: PathBuf,
        /// The system's words.
        why: std::io::Error,
    },
    /// Its address is none.
    #[error("`{0}` is no address of an API server")]
    Address(String),
    /// What its files hold is of no use.
    #[error("the account in {} is of no use: {why}", account.display())]
    Unusable {
        /// Where.
        account: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Access {
    /// What a pod's variables say.
    ///
    /// # Errors
    /// [`NoAccess::NoPod`].
    pub fn of_pod(account: PathBuf) -> Result<Self, NoAccess> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (host, port) = variable("KUBERNETES_SERVICE_HOST")
            .zip(variable("KUBERNETES_SERVICE_PORT"))
            .ok_or(NoAccess::NoPod)?;
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        Ok(Self { server: format!("https://{host}:{port}"), account })
    }

    /// The account's own namespace.
    ///
    /// # Errors
    /// [`NoAccess::Account`].
    pub fn namespace(&self) -> Result<String, NoAccess> {
        Ok(read(&self.account.join("namespace"))?.trim().to_owned())
    }

    /// A client with what the files hold now; it reads them again each minute. A connection that was not used for `idle` is used no more: it may lead nowhere by now.
    ///
    /// # Errors
    /// [`NoAccess`].
    pub fn client(&self, namespace: &str, idle: Duration) -> Result<Client, NoAccess> {
        let address = self.server.parse().map_err(|_| NoAccess::Address(self.server.clone()))?;
        let (token, ca) = (self.account.join("token"), self.account.join("ca.crt"));
        read(&token)?;
        read(&ca)?;
        let mut config = Config::new(address);
        config.root_cert_file = Some(ca);
        config.auth_info.token_file = Some(token.to_string_lossy().into_owned());
        client(&config, namespace, idle).map_err(|why| {
            let why = why.to_string();
            NoAccess::Unusable { account: self.account.clone(), why }
        })
    }
}

/// kube's own does not say how connections are kept. Nothing is asked again by itself: the election has
/// its own rules for that.
fn client(config: &Config, namespace: &str, idle: Duration) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(TRIED));
    tcp.set_keepalive_interval(Some(TRIED_AGAIN));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(DEAD));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT));
    let http: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .build(connector);
    let http = http.map_err(BoxError::from);
    let http = http.map_response(|answer| answer.map(|body| Limited::new(body, LONGEST)));
    let builder = ClientBuilder::new(http, namespace);
    Ok(match config.auth_layer()? {
        Some(auth) => builder.with_layer(&auth).with_layer(&config.base_uri_layer()).build(),
        None => builder.with_layer(&config.base_uri_layer()).build(),
    })
}

fn read(path: &Path) -> Result<String, NoAccess> {
    std::fs::read_to_string(path).map_err(|why| NoAccess::Account { path: path.to_owned(), why })
}
