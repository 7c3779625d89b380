//! How Redis is reached: what an operator says about it.

use std::fmt;
use std::path::PathBuf;

use super::access::BadFile;

/// How a store and a bus reach their Redis.
///
/// It holds no secret, only the names of the files that do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the server is.
    pub servers: Servers,
    /// The database's number.
    pub database: u32,
    /// How the servers are spoken to.
    pub access: Access,
    /// How the Sentinels are spoken to. `None`: as the servers.
    pub sentinel_access: Option<Access>,
    /// How many replicas must have a commit that is to outlive the server. 0: none is waited for.
    pub replicas: usize,
}

impl Settings {
    /// One server without TLS and password.
    #[must_use]
    pub fn of(server: Address) -> Self {
        Self {
            servers: Servers::One(server),
            database: 0,
            access: Access::default(),
            sentinel_access: None,
            replicas: 0,
        }
    }

    /// Whether they can be used as they are now: files may change later.
    ///
    /// # Errors
    /// [`BadSettings`] says what can't be used. It shows no content of a file.
    pub fn check(&self) -> Result<(), BadSettings> {
        if let Servers::Sentinels { of, master } = &self.servers {
            if of.is_empty() {
                return Err(BadSettings::NoSentinel);
            }
            if master.is_empty() || master.contains(char::is_whitespace) {
                return Err(BadSettings::MasterName);
            }
        }
        for access in [Some(&self.access), self.sentinel_access.as_ref()].into_iter().flatten() {
            let user = access.user.as_deref();
            if user.is_some_and(|user| user != "default") && access.password.is_none() {
                return Err(BadSettings::NoPassword);
            }
            access.read()?;
        }
        Ok(())
    }

    /// How the Sentinels are spoken to.
    pub(super) fn access_of_sentinels(&self) -> &Access {
        self.sentinel_access.as_ref().unwrap_or(&self.access)
    }
}

/// Where the server is that takes the writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// Always there.
    One(Address),
    /// Sentinels say where it is.
    Sentinels {
        /// All of them: the word of most of them counts.
        of: Vec<Address>,
        /// What they call the group of servers.
        master: String,
    },
}

/// How servers are spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The name of the ACL user. `None`: `default`, who is the only one that may have no password.
    pub user: Option<String>,
    /// The file with the password; it is read again for each connection. The end of its line is no
    /// part of the password.
    pub password: Option<PathBuf>,
    /// `None`: without TLS.
    pub tls: Option<Tls>,
}

/// TLS; all files are PEM, and are read again for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The file with the certificates that may vouch for a server. No other one may.
    pub ca: PathBuf,
    /// Who we are. `None`: a server that asks is told nothing.
    pub identity: Option<Identity>,
}

/// A client's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The file with the certificate, its intermediate ones behind it.
    pub certificate: PathBuf,
    /// The file with its private key.
    pub key: PathBuf,
}

/// Why settings can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// There is nobody to ask where the master is.
    #[error("no Sentinel is named")]
    NoSentinel,
    /// The name can't be one.
    #[error("the master's name must be a word")]
    MasterName,
    /// A user without a password.
    #[error("a user needs a file with a password")]
    NoPassword,
    /// A file can't be used.
    #[error(transparent)]
    File(#[from] BadFile),
}

/// A server's place in the net.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// A name, or an IP address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// Why a text is no address of a server. It does not show the text, which may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// There is no host in it.
    #[error("expected host or host:port")]
    NoHost,
    /// What stands behind the host is no port.
    #[error("the port is no number from 1 to 65535")]
    Port,
    /// It is a URL with more than an address in it.
    #[error(
        "expected host or host:port; user, password file, database and TLS have keys of their own"
    )]
    MoreThanAddress,
}

impl Address {
    /// Where Redis listens unless told otherwise.
    const SERVER: u16 = 6379;

    /// Where Sentinel does.
    const SENTINEL: u16 = 26379;

    /// Takes `host`, `host:port`, or either behind `redis://`; an IPv6 address in brackets.
    ///
    /// # Errors
    /// [`BadAddress`] says what is wrong with it.
    pub fn of_server(text: &str) -> Result<Self, BadAddress> {
        Self::parse(text, Self::SERVER)
    }

    /// The same, where the port is Sentinel's unless it is said.
    ///
    /// # Errors
    /// [`BadAddress`] says what is wrong with it.
    pub fn of_sentinel(text: &str) -> Result<Self, BadAddress> {
        Self::parse(text, Self::SENTINEL)
    }

    fn parse(text: &str, default_port: u16) -> Result<Self, BadAddress> {
        let text = text.strip_prefix("redis://").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.contains(['/', '@', '?', '#']) || text.contains(char::is_whitespace) {
            return Err(BadAddress::MoreThanAddress);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, behind) = rest.split_once(']').ok_or(BadAddress::NoHost)?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(BadAddress::NoHost);
                }
                match behind.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if behind.is_empty() => (host, None),
                    None => return Err(BadAddress::Port),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        if host.is_empty() {
            return Err(BadAddress::NoHost);
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(BadAddress::Port)?,
            None => default_port,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port_and_nothing_else() {
        for (text, shown) in [
            ("redis", "redis:6379"),
            ("redis:7000", "redis:7000"),
            ("redis://redis.example.org:7000/", "redis.example.org:7000"),
            ("10.0.0.1", "10.0.0.1:6379"),
            ("[::1]", "[::1]:6379"),
            ("[::1]:7000", "[::1]:7000"),
        ] {
            assert_eq!(Address::of_server(text).unwrap().to_string(), shown);
        }
        assert_eq!(Address::of_sentinel("s").unwrap().to_string(), "s:26379");
        for (text, why) in [
            ("", BadAddress::NoHost),
            (":7000", BadAddress::NoHost),
            ("redis:", BadAddress::Port),
            ("redis:0", BadAddress::Port),
            ("redis:65536", BadAddress::Port),
            ("::1", BadAddress::NoHost),
            ("1::1", BadAddress::Port),
            ("[::1", BadAddress::NoHost),
            ("[redis]:1", BadAddress::NoHost),
            ("[::1]7000", BadAddress::Port),
            ("rediss://redis", BadAddress::MoreThanAddress),
            ("redis://user:hush@redis", BadAddress::MoreThanAddress),
            ("redis://redis/3", BadAddress::MoreThanAddress),
            ("two words", BadAddress::MoreThanAddress),
        ] {
            let refused = Address::of_server(text).unwrap_err();
            assert_eq!(refused, why, "{text}");
            assert!(!refused.to_string().contains("hush"));
        }
    }

    #[test]
    fn settings_that_can_not_work_are_refused() {
        let address = Address::of_server("redis").unwrap();
        let plain = Settings::of(address.clone());
        assert_eq!(plain.check(), Ok(()));
        let sentinels = |of: Vec<Address>, master: &str| Settings {
            servers: Servers::Sentinels { of, master: master.to_owned() },
            ..plain.clone()
        };
        assert_eq!(sentinels(Vec::new(), "calls").check(), Err(BadSettings::NoSentinel));
        assert_eq!(sentinels(vec![address.clone()], "").check(), Err(BadSettings::MasterName));
        assert_eq!(sentinels(vec![address.clone()], "a b").check(), Err(BadSettings::MasterName));
        assert_eq!(sentinels(vec![address], "calls").check(), Ok(()));
        let user = Access { user: Some("callplane".to_owned()), ..Access::default() };
        let settings = Settings { sentinel_access: Some(user.clone()), ..plain.clone() };
        assert_eq!(settings.check(), Err(BadSettings::NoPassword));
        assert_eq!(
            Settings { access: user, ..plain.clone() }.check(),
            Err(BadSettings::NoPassword)
        );
        let anybody = Access { user: Some("default".to_owned()), ..Access::default() };
        assert_eq!(Settings { access: anybody, ..plain }.check(), Ok(()));
    }
}
