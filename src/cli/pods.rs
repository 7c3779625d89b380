//! A demo of several processes: a Redis, a simulated stack, and servers that share both, all on one
//! port. Kill one of them, and calls go on.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::arguments::Demo;
use super::exit::Exit;
use super::start::DemoStack;
use crate::admin::Readiness;

/// How long until it is asked again whether the Redis listens.
const AGAIN: Duration = Duration::from_millis(20);

/// How often a server looks how many clients it has.
pub const LOOK: Duration = Duration::from_millis(200);

/// How long a server that ended stays away.
const AWAY: Duration = Duration::from_secs(5);

/// What a server of the demo is told to share: the Redis, and the stack's management interface.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The port of the Redis.
    pub redis: u16,
    /// The port of the management interface.
    pub mi: u16,
}

impl std::str::FromStr for Shared {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ports = text.split_once(',').and_then(|(redis, mi)| {
            Some(Self { redis: redis.parse().ok()?, mi: mi.parse().ok()? })
        });
        ports.ok_or_else(|| "two ports are wanted".to_owned())
    }
}

/// Runs them until `readiness` is told to drain.
///
/// # Errors
/// One clear line: no redis-server, a busy port, a server that ended before it served.
pub async fn demo(arguments: Demo, readiness: Readiness) -> Result<Exit, String> {
    let stack = DemoStack::bind().await?;
    let port = match arguments.port {
        0 => free_port().map_err(|error| error.to_string())?,
        port => port,
    };
    let mut redis = Redis::start()?;
    let shared = format!("{},{}", redis.port, stack.mi().port());
    tokio::select! {
        () = reachable(redis.port) => {}
        why = redis.gone() => return Err(why),
        () = readiness.drained() => return Ok(Exit::Success),
    }
    let count = arguments.pods.get();
    let mut pods = Vec::new();
    for number in 1..=count {
        pods.push(Pod::start(number, port, &shared)?);
    }
    // Who reads an address may use it at once.
    for pod in &mut pods {
        tokio::select! {
            serves = pod.serves() => serves?,
            why = redis.gone() => return Err(why),
            () = readiness.drained() => return Ok(Exit::Success),
        }
    }
    super::say(&format!("console       http://127.0.0.1:{port}/"));
    super::say(&format!("clients       ws://127.0.0.1:{port}/call-api"));
    stack.say();
    for pod in &pods {
        super::say(&format!("server {}      pid {}", pod.number, pod.pid()));
    }
    super::say(
        "Kill the one that has the client (kill -9 PID) while a call is set up, and watch it go on. \
         This machine only, without authentication. Ctrl-C ends.",
    );
    let watched = pods.into_iter().map(|pod| pod.keep(port, &shared));
    let all = futures_util::future::join_all(watched);
    let mut without = None;
    let until = async {
        tokio::select! {
            () = readiness.drained() => {}
            _ = all => {}
            why = redis.gone() => without = Some(why),
        }
    };
    stack.run(until).await;
    without.map_or(Ok(Exit::Success), Err)
}

/// One server, in a process of its own.
struct Pod {
    number: u8,
    child: Child,
    /// What it says on its standard output.
    said: Option<Lines<BufReader<ChildStdout>>>,
    /// Kept open: it ends when this does, and to wait for it would close it.
    _life: Option<ChildStdin>,
}

impl Pod {
    fn start(number: u8, port: u16, shared: &str) -> Result<Self, String> {
        let child = std::env::current_exe().and_then(|program| {
            let mut command = Command::new(program);
            command.args(["demo", "--port", &port.to_string(), "--shared", shared]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()
        });
        let mut child =
            child.map_err(|error| format!("server {number} does not start: {error}"))?;
        let said = child.stdout.take().map(|said| BufReader::new(said).lines());
        Ok(Self { number, _life: child.stdin.take(), child, said })
    }

    /// The next line that it says. `None`: it has ended.
    async fn says(&mut self) -> Option<String> {
        self.said.as_mut()?.next_line().await.ok().flatten()
    }

    /// Waits for the one line that it says when it serves.
    async fn serves(&mut self) -> Result<(), String> {
        match self.says().await {
            Some(_) => Ok(()),
            None => Err(format!("server {} ended before it served", self.number)),
        }
    }

    fn pid(&self) -> String {
        self.child.id().map_or_else(|| "-".to_owned(), |pid| pid.to_string())
    }

    /// Tells of its clients, and starts it again whenever it has ended.
    async fn keep(mut self, port: u16, shared: &str) {
        loop {
            let (number, pid) = (self.number, self.pid());
            while let Some(clients) = self.says().await {
                let word = if clients == "1" { "client" } else { "clients" };
                super::say(&format!("server {number}      pid {pid} has {clients} {word}"));
            }
            let _ = self.child.wait().await;
            super::say(&format!("server {number} is gone; it comes again in 5 s"));
            tokio::time::sleep(AWAY).await;
            match Self::start(number, port, shared) {
                Ok(again) => self = again,
                Err(why) => super::say(&why),
            }
            super::say(&format!("server {number}      pid {}", self.pid()));
            let _ = self.serves().await;
        }
    }
}

/// The Redis that they share. What it keeps goes with it.
struct Redis {
    server: Child,
    port: u16,
    folder: PathBuf,
}

impl Redis {
    fn start() -> Result<Self, String> {
        let port = free_port().map_err(|error| error.to_string())?;
        let folder = std::env::temp_dir().join(format!("callplane-demo-{}", std::process::id()));
        std::fs::create_dir_all(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--dir"]).arg(&folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        let server = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => "several servers share a Redis, and there is no \
                 `redis-server` here (Debian: apt-get install redis-server)"
                .to_owned(),
            _ => format!("redis-server does not start: {error}"),
        })?;
        Ok(Self { server, port, folder })
    }

    /// Waits until it has ended: its port was only free a moment before, or somebody ended it.
    async fn gone(&mut self) -> String {
        let how = self.server.wait().await;
        let how = how.map_or_else(|error| error.to_string(), |how| how.to_string());
        let port = self.port;
        format!("the redis-server on port {port} has ended ({how}), and without it no server works")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // What can't be removed is in the folder for what is temporary.
        let _ = self.server.start_kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until somebody listens there.
async fn reachable(port: u16) {
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        tokio::time::sleep(AGAIN).await;
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
