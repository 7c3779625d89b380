//! A node of Kubernetes, made of this machine for a test: real pods, probes, Services and names.
//!
//! All of it runs in namespaces of its own ([`inside`]): whatever becomes of the test, no process, no
//! mount and no rule of the network outlives it. It takes root, the programs of `.ci/install node`,
//! and no image but those that a test makes ([`image`]).
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "test code; every test binary uses a part of it"
)]

pub mod image;
pub mod inside;
pub mod network;
pub mod pods;
mod programs;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::api_server::running::{DEADLINE, Running};
use super::api_server::{ApiServer, Setup, program, programs::are_here};
use inside::state;

/// The node's address; an API server, names and stacks of a test are there.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 245, 0, 1);

/// What has to be there beside Kubernetes' programs.
const SYSTEM: [&str; 9] =
    ["setpriv", "unshare", "ip", "mount", "iptables", "conntrack", "ethtool", "containerd", "runc"];

/// Whether a node can be made; says that a test has one, or that it is skipped, and why.
pub fn is_here(test: &str) -> bool {
    let trial = Command::new(of_repository(".ci/can-make-node")).output().unwrap();
    if !trial.status.success() {
        let reason = String::from_utf8_lossy(&trial.stdout);
        println!("skipped: {test} (this machine can't be a node: {})", reason.trim());
        return false;
    }
    for name in SYSTEM {
        let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
        if !found.unwrap().status.success() {
            println!("skipped: {test} ({name} is not installed: .ci/install node)");
            return false;
        }
    }
    if !Path::new(network::PLUGINS).join("ptp").is_file() {
        println!("skipped: {test} (no CNI plugins in {}: .ci/install node)", network::PLUGINS);
        return false;
    }
    let own = [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
        "coredns",
        "kubectl",
        "helm",
    ];
    are_here(test, &own)
}

/// A ready node.
pub struct Node {
    pub api: ApiServer,
    _programs: Vec<Running>,
}

impl Node {
    /// Only [`inside`] its namespaces.
    pub fn start() -> Self {
        let began = Instant::now();
        network::prepare();
        let containerd = programs::containerd();
        let api = ApiServer::start_as(|folder| Setup {
            address: ADDRESS,
            options: vec![
                format!("--advertise-address={ADDRESS}"),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
                format!("--kubelet-client-certificate={}", folder.join("admin.crt").display()),
                format!("--kubelet-client-key={}", folder.join("admin.key").display()),
            ],
        });
        image::pause().import();
        let mut programs = vec![containerd];
        programs.extend(programs::of_the_cluster(&api));
        let node = Self { api, _programs: programs };
        wait_until("the node is ready", DEADLINE, || {
            let ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
            node.api.kubectl(&["get", "nodes", "-o", ready]).stdout == b"True"
        });
        println!("a ready node after {:.1} s", began.elapsed().as_secs_f32());
        node
    }

    /// Runs `helm`, and says what it said when it succeeds.
    pub fn helm(&self, arguments: &[&str]) -> String {
        let output = self.helm_output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        let arguments = arguments.join(" ");
        assert!(output.status.success(), "helm {arguments}: {errors}\n{}", self.story());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn helm_output(&self, arguments: &[&str]) -> Output {
        let mut helm = Command::new(program("helm"));
        helm.arg("--kubeconfig").arg(self.api.admin_kubeconfig()).args(arguments);
        for kind in ["CACHE", "CONFIG", "DATA"] {
            helm.env(format!("HELM_{kind}_HOME"), state("helm"));
        }
        helm.stdin(Stdio::null()).output().unwrap()
    }

    /// What happened to pods lately, for the message of a test that failed.
    pub fn story(&self) -> String {
        let asked = [
            vec!["get", "pods", "-A", "-o", "wide"],
            vec!["get", "events", "-A", "--sort-by=.lastTimestamp"],
        ];
        let told = asked.map(|asked| {
            let told = self.api.kubectl(&asked);
            let lines = String::from_utf8_lossy(&told.stdout).into_owned();
            let skipped = lines.lines().count().saturating_sub(40);
            lines.lines().skip(skipped).collect::<Vec<_>>().join("\n")
        });
        format!("{}\n{}", told.join("\n"), self.said_by_unready())
    }

    /// The last lines of containers that are not ready.
    fn said_by_unready(&self) -> String {
        let every = "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} \
             {.status.containerStatuses[0].ready}\n{end}";
        let told = self.api.kubectl(&["get", "pods", "-A", "-o", every]);
        let mut said = String::new();
        for line in String::from_utf8_lossy(&told.stdout).lines() {
            let [namespace, pod, "false"] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                continue;
            };
            let log = self.api.kubectl(&["-n", namespace, "logs", pod, "--tail=10"]);
            said.push_str(&format!("{pod}:\n{}", String::from_utf8_lossy(&log.stdout)));
        }
        said
    }
}

/// Waits until that is so.
pub fn wait_until(what: &str, deadline: Duration, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + deadline;
    while !is() {
        assert!(Instant::now() < until, "waited {deadline:?} until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Runs a program that has to succeed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder of the repository.
pub fn of_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
