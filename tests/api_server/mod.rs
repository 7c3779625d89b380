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
    unused_imports,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code; every test binary uses a part of it"
)]

pub mod authority;
pub mod programs;
mod rights;
pub mod running;

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tempfile::TempDir;

use authority::Authority;
pub use programs::{is_here, program};
use running::Running;

/// Where services have their addresses; nothing answers there.
const SERVICES: &str = "10.96.0.0/16";

/// A running API server with its etcd. Dropped, both are killed, and what they stored is gone.
pub struct ApiServer {
    setup: Setup,
    port: u16,
    server: Mutex<Option<Running>>,
    etcd: Etcd,
    folder: TempDir,
}

/// How one is started.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Where it listens.
    pub address: Ipv4Addr,
    /// Further options.
    pub options: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, options: Vec::new() }
    }
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
        Self::start_as(|_| Setup::default())
    }

    /// One whose setup may name files of its folder; keys and certificates are there by then.
    pub fn start_as(setup: impl FnOnce(&Path) -> Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let setup = setup(folder.path());
        Authority::made().write(folder.path(), setup.address);
        let etcd = Etcd::start(folder.path());
        // Between finding a port and taking it somebody else may, so there are several tries.
        for _ in 0..5 {
            let port = free_port();
            write_kubeconfig(folder.path(), &url(setup.address, port));
            if let Some(server) = run(folder.path(), &setup, port, &etcd) {
                let server = Mutex::new(Some(server));
                return Self { setup, port, server, etcd, folder };
            }
        }
        panic!("kube-apiserver does not start: {}", log(folder.path(), "kube-apiserver"));
    }

    pub fn url(&self) -> String {
        url(self.setup.address, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are: certificates and keys of [`Authority::write`], logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
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
        log(self.folder(), "kube-apiserver")
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
        self.server.lock().unwrap().as_ref().expect("it runs").pause();
    }

    pub fn go_on(&self) {
        self.server.lock().unwrap().as_ref().expect("it runs").signal("-CONT");
    }

    /// Kills it: connections are refused. What it stored stays.
    pub fn stop(&self) {
        drop(self.server.lock().unwrap().take());
    }

    /// Starts it again where it was, with what it had stored.
    pub fn start_again(&self) {
        self.stop();
        let again = run(self.folder.path(), &self.setup, self.port, &self.etcd);
        *self.server.lock().unwrap() =
            Some(again.expect("it starts again on the port that it had"));
    }
}

/// The database of an API server.
struct Etcd {
    port: u16,
    _running: Running,
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
            let mut running = Running::start(command, folder, "etcd");
            let serves = || get(port, "/health").is_some_and(|told| told.contains("\"true\""));
            if running.comes_to("etcd serves", serves) {
                return Self { port, _running: running };
            }
        }
        panic!("etcd does not start: {}", log(folder, "etcd"));
    }
}

/// `None`: it ended, as it does where the port is taken.
fn run(folder: &Path, setup: &Setup, port: u16, etcd: &Etcd) -> Option<Running> {
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
        &format!("--bind-address={}", setup.address),
        &format!("--secure-port={port}"),
        &format!("--service-cluster-ip-range={SERVICES}"),
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
    ]);
    command.args(&setup.options);
    let mut running = Running::start(command, folder, "kube-apiserver");
    let ready = || {
        let mut kubectl = Command::new(program("kubectl"));
        kubectl.arg("--kubeconfig").arg(folder.join("admin.kubeconfig"));
        kubectl.args(["get", "--raw=/readyz", "--request-timeout=5s"]).stdin(Stdio::null());
        kubectl.output().unwrap().stdout == b"ok"
    };
    running.comes_to("kube-apiserver is ready", ready).then_some(running)
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

fn write_kubeconfig(folder: &Path, url: &str) {
    let config = format!(
        "apiVersion: v1
kind: Config
clusters: [{{name: test, cluster: {{server: '{url}', certificate-authority: ca.crt}}}}]
users: [{{name: admin, user: {{client-certificate: admin.crt, client-key: admin.key}}}}]
contexts: [{{name: test, context: {{cluster: test, user: admin}}}}]
current-context: test
"
    );
    std::fs::write(folder.join("admin.kubeconfig"), config).unwrap();
}

fn url(address: Ipv4Addr, port: u16) -> String {
    format!("https://{address}:{port}")
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
