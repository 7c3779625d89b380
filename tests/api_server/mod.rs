//! A real API server of Kubernetes and its etcd, on free loopback ports, for tests.
//!
//! Their programs, and `kubectl`, stand where `.ci/install kubernetes` built them, or in the folder
//! that `KUBERNETES_BIN` names. Where they are missing, [`is_here`] says so by name and the test
//! returns.
//!
//! There are no controllers: nothing collects garbage, makes pods, or ends a namespace. Access is
//! decided as in any cluster (RBAC).
#![allow(
    dead_code,
    missing_docs,
    unused_imports,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary uses a part of it"
)]

pub mod authority;
pub mod keeper;
pub mod programs;
mod rights;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use authority::Authority;
use keeper::Keeper;
pub use programs::{is_here, program};

/// On a busy machine it starts ten times as slowly as on an idle one.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Where services have their addresses; nothing answers there.
const SERVICES: &str = "10.96.0.0/16";

/// A running API server with its etcd. Dropped, both are killed, and what they stored is gone.
pub struct ApiServer {
    folder: TempDir,
    etcd: Etcd,
    port: u16,
    server: Mutex<Option<(Child, Keeper)>>,
}

impl ApiServer {
    /// The one that all tests of a target share while there are any; each in a namespace of its own.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());
        // A test that could not start it spoils nothing for the next.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// One of its own, for a test that stops it.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Authority::made().write(folder.path());
        let etcd = Etcd::start(folder.path());
        // Between finding a port and taking it somebody else may, so there are several tries.
        for _ in 0..5 {
            let port = free_port();
            write_kubeconfig(folder.path(), port);
            if let Some(running) = run(folder.path(), port, &etcd) {
                let server = Mutex::new(Some(running));
                return Self { folder, etcd, port, server };
            }
        }
        panic!("kube-apiserver does not start: {}", log(folder.path(), "kube-apiserver"));
    }

    pub fn url(&self) -> String {
        url(self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority that signed its certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// How one who may do everything reaches it.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        log(self.folder.path(), "kube-apiserver")
    }

    /// Runs `kubectl` as one who may do everything.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_command(arguments).output().unwrap()
    }

    /// The same, with something on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.kubectl_command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What `kubectl` answers, when it succeeds.
    pub fn kubectl_said(&self, arguments: &[&str]) -> String {
        said(arguments, &self.kubectl(arguments))
    }

    /// Creates or changes what the manifest says.
    pub fn apply(&self, manifest: &str) {
        let arguments = ["apply", "-f", "-"];
        said(&arguments, &self.kubectl_with(&arguments, manifest));
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("kubectl"));
        command.arg("--kubeconfig").arg(self.admin_kubeconfig());
        // What it learns of the server it writes down, by the server's address.
        command.arg("--cache-dir").arg(self.folder.path().join("kubectl"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Makes a namespace whose name begins like this, and says how it is called.
    pub fn namespace(&self, name: &str) -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}-{}", MADE.fetch_add(1, Ordering::Relaxed));
        self.kubectl_said(&["create", "namespace", &name]);
        name
    }

    /// A token of this service account, as a pod gets it; it lasts an hour.
    pub fn token(&self, namespace: &str, service_account: &str) -> String {
        self.token_for(namespace, service_account, Duration::from_secs(3600))
    }

    /// One that lasts as long; the API server gives none for less than ten minutes.
    pub fn token_for(&self, namespace: &str, service_account: &str, lasting: Duration) -> String {
        let lasting = format!("--duration={}s", lasting.as_secs());
        let arguments = ["-n", namespace, "create", "token", service_account, &lasting];
        self.kubectl_said(&arguments).trim().to_owned()
    }

    /// What a pod of this service account finds in `/var/run/secrets/kubernetes.io/serviceaccount`:
    /// a folder with `token`, `ca.crt` and `namespace`.
    pub fn service_account_dir(&self, namespace: &str, service_account: &str) -> PathBuf {
        let folder = self.folder.path().join("pods").join(namespace).join(service_account);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), self.token(namespace, service_account)).unwrap();
        std::fs::copy(self.ca_file(), folder.join("ca.crt")).unwrap();
        std::fs::write(folder.join("namespace"), namespace).unwrap();
        folder
    }

    /// It stands still: connections are taken, nothing is answered.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    pub fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let server = self.server.lock().unwrap();
        let (child, _) = server.as_ref().expect("it runs");
        let pid = child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Kills it: connections are refused. What it stored stays.
    pub fn stop(&self) {
        end(self.server.lock().unwrap().take());
    }

    /// Starts it again where it was, with what it had stored.
    pub fn start_again(&self) {
        self.stop();
        let again = run(self.folder.path(), self.port, &self.etcd);
        let again = again.expect("it starts again on the port that it had");
        *self.server.lock().unwrap() = Some(again);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // Whoever panicked with it in hand left it as it was.
        end(self.server.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// The database of an API server. Dropped, it is killed.
struct Etcd {
    port: u16,
    running: Option<(Child, Keeper)>,
}

impl Etcd {
    fn start(folder: &Path) -> Self {
        for _ in 0..5 {
            let (port, peers) = (free_port(), free_port());
            let (clients, peers) = (address(port), address(peers));
            let mut command = Command::new(program("etcd"));
            command.arg("--data-dir").arg(folder.join("etcd")).args([
                &format!("--listen-client-urls={clients}"),
                &format!("--advertise-client-urls={clients}"),
                &format!("--listen-peer-urls={peers}"),
                &format!("--initial-advertise-peer-urls={peers}"),
                &format!("--initial-cluster=default={peers}"),
                // It outlives a killed API server, which is all that tests ask of it.
                "--unsafe-no-fsync",
                "--log-level=warn",
            ]);
            let mut running = spawn(command, folder, "etcd");
            let serves = || get(port, "/health").is_some_and(|told| told.contains("\"true\""));
            if becomes(&mut running.0, "etcd serves", folder, serves) {
                return Self { port, running: Some(running) };
            }
            end(Some(running));
        }
        panic!("etcd does not start: {}", log(folder, "etcd"));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        end(self.running.take());
    }
}

/// `None`: it ended, as it does where the port is taken.
fn run(folder: &Path, port: u16, etcd: &Etcd) -> Option<(Child, Keeper)> {
    let mut command = Command::new(program("kube-apiserver"));
    for (option, file) in [
        ("tls-cert-file", "api.crt"),
        ("tls-private-key-file", "api.key"),
        ("client-ca-file", "ca.crt"),
        ("service-account-key-file", "accounts.pub"),
        ("service-account-signing-key-file", "accounts.key"),
    ] {
        command.arg(format!("--{option}={}", folder.join(file).display()));
    }
    command.args([
        &format!("--etcd-servers={}", address(etcd.port)),
        &format!("--secure-port={port}"),
        &format!("--service-cluster-ip-range={SERVICES}"),
        "--bind-address=127.0.0.1",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
    ]);
    let mut running = spawn(command, folder, "kube-apiserver");
    let ready = || {
        let mut kubectl = Command::new(program("kubectl"));
        kubectl.arg("--kubeconfig").arg(folder.join("admin.kubeconfig"));
        kubectl.args(["get", "--raw=/readyz", "--request-timeout=5s"]).stdin(Stdio::null());
        kubectl.output().unwrap().stdout == b"ok"
    };
    if becomes(&mut running.0, "kube-apiserver is ready", folder, ready) {
        return Some(running);
    }
    end(Some(running));
    None
}

/// Starts a program whose output goes to a file of its name.
fn spawn(mut command: Command, folder: &Path, name: &str) -> (Child, Keeper) {
    let log = folder.join(format!("{name}.log"));
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let child = command.spawn().unwrap();
    let keeper = Keeper::of(child.id());
    (child, keeper)
}

fn end(running: Option<(Child, Keeper)>) {
    if let Some((mut child, keeper)) = running {
        keeper.dismiss();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Whether it comes to that, and does not end before.
fn becomes(child: &mut Child, what: &str, folder: &Path, mut is: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        // What answers may be another's, on the port that ours did not get.
        if is() && child.try_wait().unwrap().is_none() {
            return true;
        }
        // Asking is not cheap: `kubectl` is started for it.
        std::thread::sleep(Duration::from_millis(200));
    }
    let _ = child.kill();
    let name = what.split(' ').next().unwrap();
    panic!("waited {DEADLINE:?} until {what}: {}", log(folder, name));
}

/// The body of what it answers, over plain HTTP.
fn get(port: u16, path: &str) -> Option<String> {
    let mut line = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    line.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    line.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    line.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn said(arguments: &[&str], output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {}: {errors}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn write_kubeconfig(folder: &Path, port: u16) {
    let config = format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: '{}', certificate-authority: ca.crt}}}}]
users: [{{name: admin, user: {{client-certificate: admin.crt, client-key: admin.key}}}}]
contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]
current-context: test
",
        url(port)
    );
    std::fs::write(folder.join("admin.kubeconfig"), config).unwrap();
}

fn url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn address(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn log(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default()
}

/// A free port that no connection gets by itself: those are from 32768 on (ip(7)).
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id().wrapping_mul(211).wrapping_add(taken) % 16_000;
        let port = 16_000 + u16::try_from(spread).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}
