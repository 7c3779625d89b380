//! The network of a node, and the places in the file system that its programs want.

use serde_json::json;

use super::inside::state;
use super::{ADDRESS, run};

/// Where Debian has the CNI plugins.
pub const PLUGINS: &str = "/usr/lib/cni";

/// Addresses of pods.
pub const PODS: &str = "10.244.0.0/24";

/// Addresses of Services: those of an API server of tests.
const SERVICES: &str = "10.96.0.0/16";

/// Hides what belongs to the machine, and makes the node's address.
pub fn prepare() {
    run("mount", &["--make-rshared", "/"]);
    for place in ["/run", "/var/lib", "/var/log"] {
        run("mount", &["-t", "tmpfs", "node", place]);
    }
    // Tools find namespaces of the network there.
    std::fs::create_dir_all("/run/netns").unwrap();
    run("ip", &["link", "set", "lo", "up"]);
    let address = ADDRESS.to_string();
    run("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"]);
    // kube-proxy sends it on; but a packet has to have a way before.
    run("ip", &["route", "add", SERVICES, "dev", "lo", "src", &address]);
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::create_dir_all(state("cni")).unwrap();
    // Each pod has a wire of its own to the node: what pods say to each other through a Service passes
    // the node's rules in both directions, as it has to.
    let config = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [
        {"type": "ptp", "mtu": 1500, "ipam": {
            "type": "host-local",
            "dataDir": state("addresses"),
            "ranges": [[{"subnet": PODS}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    std::fs::write(state("cni/pods.conflist"), config.to_string()).unwrap();
}

/// Whether packets of this address to this port of the node get lost.
pub fn cut(from: &str, port: u16, is_cut: bool) {
    let what = if is_cut { "--insert" } else { "--delete" };
    let port = port.to_string();
    let rule = ["INPUT", "-s", from, "-p", "tcp", "--dport", &port, "-j", "DROP"];
    run("iptables", &[&["-w", what][..], &rule].concat());
}
