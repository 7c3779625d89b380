//! The way to the API server, as a pod finds it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::{Client, Config};

/// Where the account of a pod is found.
pub const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

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

    /// A client with what the files hold now. Its token is read again each minute; the certificates
    /// are not.
    ///
    /// # Errors
    /// [`NoAccess`].
    pub fn client(&self, namespace: &str) -> Result<Client, NoAccess> {
        let address = self.server.parse().map_err(|_| NoAccess::Address(self.server.clone()))?;
        let (token, ca) = (self.account.join("token"), self.account.join("ca.crt"));
        read(&token)?;
        read(&ca)?;
        let unusable = |why: String| NoAccess::Unusable { account: self.account.clone(), why };
        let mut config = Config::new(address);
        namespace.clone_into(&mut config.default_namespace);
        config.root_cert_file = Some(ca);
        config.auth_info.token_file = Some(token.to_string_lossy().into_owned());
        config.connect_timeout = Some(CONNECT);
        // The election has its own rules for when to ask again.
        config.default_retry = false;
        Client::try_from(config).map_err(|why| unusable(why.to_string()))
    }
}

fn read(path: &Path) -> Result<String, NoAccess> {
    std::fs::read_to_string(path).map_err(|why| NoAccess::Account { path: path.to_owned(), why })
}
