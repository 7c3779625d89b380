//! A master with a replica, and three Sentinels that watch them.

use std::fmt::Write as _;
use std::process::Child;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use callplane::store::redis::{Access, Address, Servers, Settings};
use tempfile::TempDir;

use super::certificates::Certificates;
use super::{DEADLINE, RedisServer, Setup, USER, ask_of, free_port, run};

/// What the Sentinels call the servers.
pub const MASTER: &str = "calls";

/// The Sentinels' own user for us, and its password.
const WATCHER: (&str, &str) = ("watcher", "watchers-secret");

/// What it needs there, and not more.
pub const RIGHTS: &str = "resetchannels &+switch-master &+promoted-slave +@connection +subscribe \
                          +sentinel|get-master-addr-by-name +sentinel|master";

/// The user that the Sentinels are to each other, and that tests are.
const KEEPER: (&str, &str) = ("keeper", "keepers-secret");

/// Two servers and three Sentinels. Dropped, all are killed.
pub struct Guarded {
    servers: [Mutex<RedisServer>; 2],
    sentinels: Vec<Sentinel>,
    folder: TempDir,
}

impl Guarded {
    /// The first server is the master. Sentinels want to be given a password, and take a server for
    /// dead that is silent for a second.
    pub fn start() -> Self {
        Self::start_with(Duration::from_secs(1))
    }

    /// The same, with Sentinels of another patience.
    pub fn start_with(patience: Duration) -> Self {
        let master = RedisServer::start();
        let replica = RedisServer::start_as(Setup { replica_of: Some(master.port) });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("password"), format!("{}\n", WATCHER.1)).unwrap();
        let sentinels = sentinels(&folder, patience, master.port, replica.port);
        let servers = [Mutex::new(master), Mutex::new(replica)];
        let guarded = Self { servers, sentinels, folder };
        guarded.until("the replica to follow", |guarded| {
            let told = guarded.server(0).ask_all(&["INFO", "replication"]);
            told.contains("state=online")
        });
        guarded.until("the Sentinels to know each other", |guarded| {
            guarded.sentinels.iter().all(|sentinel| {
                let told = sentinel.ask(&["SENTINEL", "MASTER", MASTER]);
                ["num-other-sentinels\r\n$1\r\n2\r\n", "num-slaves\r\n$1\r\n1\r\n"]
                    .iter()
                    .all(|known| told.contains(known))
                    && told.contains("flags\r\n$6\r\nmaster\r\n")
                    && sentinel.ask(&["SENTINEL", "CKQUORUM", MASTER]).starts_with("+OK 3")
                    && sentinel.knows_the_replica()
            })
        });
        guarded
    }

    /// How they are reached.
    pub fn settings(&self) -> Settings {
        let local = |port| Address { host: "127.0.0.1".to_owned(), port };
        let of = self.sentinels.iter().map(|sentinel| local(sentinel.port)).collect();
        Settings {
            servers: Servers::Sentinels { of, master: MASTER.to_owned() },
            sentinel_access: Some(Access {
                user: Some(WATCHER.0.to_owned()),
                password: Some(self.folder.path().join("password")),
                tls: None,
            }),
            ..self.server(0).settings()
        }
    }

    /// One of the two.
    pub fn server(&self, number: usize) -> MutexGuard<'_, RedisServer> {
        self.servers[number].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Has the masters changed, with the old one alive; as soon as a Sentinel finds the other fit.
    pub fn fail_over(&self) {
        self.until("a Sentinel to change the masters", |guarded| {
            guarded.sentinels[0].ask(&["SENTINEL", "FAILOVER", MASTER]).starts_with("+OK")
        });
    }

    /// Which one is the master, by the first Sentinel's word.
    pub fn named(&self) -> usize {
        let told = self.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        usize::from(told.contains(&self.server(1).port.to_string()))
    }

    /// Until all Sentinels name this server.
    pub fn until_named(&self, number: usize) {
        let port = self.server(number).port.to_string();
        self.until("the Sentinels to name the other server", |guarded| {
            guarded.sentinels.iter().all(|sentinel| {
                sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).contains(&port)
            })
        });
    }

    /// Has the first server watched by another name as well.
    pub fn watch(&self, name: &str) {
        let port = self.server(0).port.to_string();
        for sentinel in &self.sentinels {
            let told = sentinel.ask(&["SENTINEL", "MONITOR", name, "127.0.0.1", &port, "2"]);
            assert!(told.starts_with("+OK"), "{told}");
        }
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < DEADLINE, "waited for {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A Sentinel that runs.
pub struct Sentinel {
    child: Child,
    port: u16,
}

/// One that watches a server started by [`RedisServer::start_encrypted`], and is spoken to as that is.
pub fn encrypted(certificates: &Certificates, server: u16) -> (Sentinel, Address) {
    let folder = certificates.folder();
    for _ in 0..20 {
        let (port, tls_port) = (free_port(), free_port());
        let (user, password) = USER;
        let mut file = format!(
            "bind 127.0.0.1\nport {port}\ntls-replication yes\n\
             user {user} on >{password} {RIGHTS}\n\
             sentinel monitor {MASTER} 127.0.0.1 {server} 1\n\
             sentinel auth-user {MASTER} {user}\nsentinel auth-pass {MASTER} {password}\n"
        );
        for argument in certificates.arguments(tls_port) {
            match argument.strip_prefix("--") {
                Some(option) => write!(file, "{option} ").unwrap(),
                None => writeln!(file, "{argument}").unwrap(),
            }
        }
        let path = folder.join("sentinel.conf");
        std::fs::write(&path, file).unwrap();
        let arguments = [path.display().to_string(), "--sentinel".to_owned()];
        if let Some(child) = run(folder, port, None, &arguments) {
            let address = Address { host: "127.0.0.1".to_owned(), port: tls_port };
            return (Sentinel { child, port }, address);
        }
    }
    panic!("no Sentinel starts");
}

impl Sentinel {
    fn ask(&self, words: &[&str]) -> String {
        ask_of(self.port, Some(KEEPER), words).unwrap_or_default()
    }

    fn knows_the_replica(&self) -> bool {
        let told = self.ask(&["SENTINEL", "REPLICAS", MASTER]);
        told.contains("master-link-status\r\n$2\r\nok\r\n")
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// They are told of each other at once: to find it out takes seconds.
fn sentinels(folder: &TempDir, patience: Duration, master: u16, replica: u16) -> Vec<Sentinel> {
    let patience = patience.as_millis();
    let ids = ['a', 'b', 'c'].map(|letter| letter.to_string().repeat(40));
    for _ in 0..20 {
        let ports = [free_port(), free_port(), free_port()];
        let started: Vec<_> = (0..ports.len())
            .filter_map(|who| {
                let ((user, password), (keeper, secret)) = (WATCHER, KEEPER);
                let mut file = format!(
                    "bind 127.0.0.1\nport {}\nsentinel myid {}\n\
                     user default off\nuser {user} on >{password} {RIGHTS}\n\
                     user {keeper} on >{secret} allchannels +@all\n\
                     sentinel sentinel-user {keeper}\nsentinel sentinel-pass {secret}\n\
                     sentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
                     sentinel down-after-milliseconds {MASTER} {patience}\n\
                     sentinel failover-timeout {MASTER} 5000\n\
                     sentinel known-replica {MASTER} 127.0.0.1 {replica}\n",
                    ports[who], ids[who]
                );
                for other in (0..ports.len()).filter(|other| *other != who) {
                    let (port, id) = (ports[other], &ids[other]);
                    writeln!(file, "sentinel known-sentinel {MASTER} 127.0.0.1 {port} {id}")
                        .unwrap();
                }
                let place = folder.path().join(who.to_string());
                std::fs::create_dir_all(&place).unwrap();
                let path = place.join("sentinel.conf");
                std::fs::write(&path, file).unwrap();
                let arguments = [path.display().to_string(), "--sentinel".to_owned()];
                let child = run(&place, ports[who], Some(KEEPER), &arguments)?;
                Some(Sentinel { child, port: ports[who] })
            })
            .collect();
        if started.len() == ports.len() {
            return started;
        }
    }
    panic!("no Sentinels start");
}
