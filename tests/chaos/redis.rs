//! The Redis of a site: one server, or two that Sentinels guard.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use callplane::store::redis::{Servers, Settings};

use super::redis_server::RedisServer;
use super::redis_server::sentinels::Guarded;

const DEADLINE: Duration = Duration::from_secs(30);

pub enum Redis {
    One(Box<Mutex<RedisServer>>),
    Guarded(Box<Guarded>),
}

/// How a master is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    Killed,
    Paused,
    Ordered,
}

impl Redis {
    pub fn one() -> Self {
        Self::One(Box::new(Mutex::new(RedisServer::start())))
    }

    pub fn guarded() -> Self {
        let redis = Self::Guarded(Box::new(Guarded::start()));
        (0..2).for_each(|number| redis.let_in(number));
        redis
    }

    /// The configuration names one user for servers and Sentinels.
    fn let_in(&self, number: usize) {
        let Self::Guarded(servers) = self else { return };
        let (user, file) = self.access();
        let password = format!(">{}", std::fs::read_to_string(file).unwrap().trim());
        let words = ["ACL", "SETUSER", &user, "on", &password, "~*", "&*", "+@all"];
        assert_eq!(servers.server(number).ask(&words), "+OK");
    }

    fn access(&self) -> (String, PathBuf) {
        let access = self.settings().sentinel_access.unwrap();
        (access.user.unwrap(), access.password.unwrap())
    }

    /// How it is reached past all links.
    pub fn settings(&self) -> Settings {
        match self {
            Self::One(server) => server.lock().unwrap().settings(),
            Self::Guarded(servers) => servers.settings(),
        }
    }

    /// The port of the one server.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::One(server) => Some(server.lock().unwrap().port()),
            Self::Guarded(_) => None,
        }
    }

    /// The part of a process's configuration, by way of a link to the one server.
    pub fn config(&self, link: Option<u16>) -> String {
        let mut config = "redis:\n".to_owned();
        match (self.settings().servers, link) {
            (Servers::One(_), link) => {
                writeln!(config, "  address: 127.0.0.1:{}", link.unwrap()).unwrap();
            }
            (Servers::Sentinels { of, master }, _) => {
                let (user, file) = self.access();
                let of: Vec<_> = of.iter().map(ToString::to_string).collect();
                let (of, file) = (of.join(", "), file.display());
                write!(
                    config,
                    "  sentinels: [{of}]\n  master: {master}\n  username: {user}\n  \
                     password_file: {file}\n  replicas: 1\n"
                )
                .unwrap();
            }
        }
        config
    }

    pub fn kill(&self) {
        if let Self::One(server) = self {
            server.lock().unwrap().kill();
        }
    }

    pub fn restart(&self) {
        if let Self::One(server) = self {
            server.lock().unwrap().restart();
        }
    }

    pub fn flush(&self) {
        if let Self::One(server) = self {
            assert_eq!(server.lock().unwrap().ask(&["FLUSHALL"]), "+OK");
        }
    }

    /// Which server Sentinels name as the master, where there are any. They change it of themselves as
    /// well, where the machine has no time for one.
    pub fn named(&self) -> Option<usize> {
        match self {
            Self::One(_) => None,
            Self::Guarded(servers) => Some(servers.named()),
        }
    }

    /// The master is lost, and the Sentinels name the other. Says which was lost.
    pub fn lose_master(&self, how: Failover) -> usize {
        let Self::Guarded(servers) = self else { return 0 };
        let old = servers.named();
        match how {
            Failover::Killed => servers.server(old).kill(),
            Failover::Paused => servers.server(old).pause(),
            Failover::Ordered => servers.fail_over(),
        }
        servers.until_named(1 - old);
        old
    }

    /// The lost one is back, and one follows the other.
    pub fn mend(&self, how: Failover, lost: usize) {
        let Self::Guarded(servers) = self else { return };
        match how {
            Failover::Killed => {
                servers.server(lost).restart();
                self.let_in(lost);
            }
            Failover::Paused => servers.server(lost).go_on(),
            Failover::Ordered => {}
        }
        let deadline = Instant::now() + DEADLINE;
        while !servers
            .server(servers.named())
            .ask_all(&["INFO", "replication"])
            .contains("state=online")
        {
            assert!(Instant::now() < deadline, "no server follows the other");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
