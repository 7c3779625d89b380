//! The programs that make a node.

use std::process::Command;

use serde_json::json;

use super::super::api_server::running::Running;
use super::super::api_server::{ApiServer, program};
use super::ADDRESS;
use super::image::PAUSE;
use super::inside::{group, state};
use super::network::{PLUGINS, PODS};

/// Where containerd is asked.
pub const CONTAINERD: &str = "/run/containerd.sock";

const CLUSTER_DOMAIN: &str = "cluster.local";

fn start(command: Command, name: &str) -> Running {
    let logs = state("logs");
    std::fs::create_dir_all(&logs).unwrap();
    Running::start(command, &logs, name)
}

/// What runs containers.
pub fn containerd() -> Running {
    let config = format!(
        "version = 2
root = '{root}'
state = '/run/containerd'
[grpc]
address = '{CONTAINERD}'
[plugins.'io.containerd.grpc.v1.cri']
sandbox_image = '{PAUSE}'
# Not every root may say that others are to be killed for want of memory before itself.
restrict_oom_score_adj = true
[plugins.'io.containerd.grpc.v1.cri'.cni]
bin_dir = '{PLUGINS}'
conf_dir = '{networks}'
",
        root = state("containerd").display(),
        networks = state("cni").display(),
    );
    std::fs::write(state("containerd.toml"), config).unwrap();
    let mut command = Command::new("containerd");
    command.arg("--config").arg(state("containerd.toml"));
    let mut running = start(command, "containerd");
    let answers = || {
        let asked = Command::new("ctr").args(["--address", CONTAINERD, "version"]).output();
        asked.unwrap().status.success()
    };
    assert!(running.comes_to("containerd answers", answers), "containerd: {}", running.said());
    running
}

/// Everything beside containerd and the API server.
pub fn of_the_cluster(api: &ApiServer) -> Vec<Running> {
    vec![controllers(api), scheduler(api), kubelet(api), proxy(api), names(api)]
}

fn controllers(api: &ApiServer) -> Running {
    let mut command = of_kubernetes(api, "kube-controller-manager");
    command.args(["--leader-elect=false", "--use-service-account-credentials=true"]);
    let key = api.folder().join("accounts.key");
    command.arg(format!("--service-account-private-key-file={}", key.display()));
    command.arg(format!("--root-ca-file={}", api.ca_file().display()));
    start(command, "kube-controller-manager")
}

fn scheduler(api: &ApiServer) -> Running {
    let mut command = of_kubernetes(api, "kube-scheduler");
    command.arg("--leader-elect=false");
    start(command, "kube-scheduler")
}

fn kubelet(api: &ApiServer) -> Running {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "address": ADDRESS,
        "clusterDNS": [ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "",
        "podLogsDir": state("pods"),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": api.ca_file()},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": api.folder().join("api.crt"),
        "tlsPrivateKeyFile": api.folder().join("api.key"),
        // Machines that build software have what they have.
        "failCgroupV1": false,
        "failSwapOn": false,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "cgroupRoot": format!("/{}", group()),
        "enforceNodeAllocatable": [],
        "evictionHard": {
            "memory.available": "0%", "nodefs.available": "0%",
            "nodefs.inodesFree": "0%", "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "makeIPTablesUtilChains": false,
    });
    std::fs::write(state("kubelet.json"), config.to_string()).unwrap();
    let mut command = of_kubernetes(api, "kubelet");
    command.arg(format!("--config={}", state("kubelet.json").display()));
    command.arg(format!("--root-dir={}", state("kubelet").display()));
    command.arg(format!("--node-ip={ADDRESS}")).arg("--hostname-override=node");
    start(command, "kubelet")
}

fn proxy(api: &ApiServer) -> Running {
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "bindAddress": ADDRESS,
        "hostnameOverride": "node",
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": api.admin_kubeconfig()},
        "iptables": {"localhostNodePorts": false},
        "conntrack": {"maxPerCore": 0},
    });
    std::fs::write(state("kube-proxy.json"), config.to_string()).unwrap();
    let mut command = Command::new(program("kube-proxy"));
    command.arg(format!("--config={}", state("kube-proxy.json").display()));
    start(command, "kube-proxy")
}

fn names(api: &ApiServer) -> Running {
    let config = format!(
        ".:53 {{\n  bind {ADDRESS}\n  kubernetes {CLUSTER_DOMAIN} {{\n    kubeconfig {}\n  }}\n}}\n",
        api.admin_kubeconfig().display()
    );
    std::fs::write(state("Corefile"), config).unwrap();
    let mut command = Command::new(program("coredns"));
    command.arg("-conf").arg(state("Corefile"));
    start(command, "coredns")
}

fn of_kubernetes(api: &ApiServer, name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.arg(format!("--kubeconfig={}", api.admin_kubeconfig().display()));
    command
}
