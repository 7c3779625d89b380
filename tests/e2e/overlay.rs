//! The demo without Helm, as its own file says it is tried.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::api_server::program;
use super::api_server::running::Running;
use super::node::inside::state;
use super::node::{Node, of_repository, wait_until};

const NAMESPACE: &str = "callplane-dev";

/// Where it is reached on the node.
const PORT: u16 = 5059;

/// Applies it, and starts a call through it.
pub fn try_it(node: &Node) {
    let overlay = of_repository("k8s/overlays/dev").display().to_string();
    node.api.kubectl_said(&["apply", "-k", &overlay]);
    let rollout = ["rollout", "status", "deployment/callplane", "--timeout=2m"];
    let rollout = node.api.kubectl(&[&["-n", NAMESPACE][..], &rollout].concat());
    assert!(rollout.status.success(), "the demo does not come up\n{}", node.story());

    let holder = "jsonpath={.items[*].spec.holderIdentity}";
    let holders = ["-n", NAMESPACE, "get", "leases", "-o", holder];
    wait_until("a pod of the demo leads", Duration::from_secs(30), || {
        node.api.kubectl_said(&holders).starts_with("callplane-")
    });

    let mut forward = Command::new(program("kubectl"));
    forward.arg("--kubeconfig").arg(node.api.admin_kubeconfig());
    forward.args(["-n", NAMESPACE, "port-forward", "service/callplane", &PORT.to_string()]);
    let mut forward = Running::start(forward, &state("logs"), "port-forward");
    let reached = || TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).is_ok();
    assert!(forward.comes_to("the demo is reached", reached), "{}", forward.said());

    let mut call = Command::new(env!("CARGO_BIN_EXE_callplane"));
    call.args(["call", "start", "sip:alice@127.0.0.1:5060", "sip:bob@127.0.0.1:5060"]);
    let began = Instant::now();
    let called = call.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&called.stdout);
    let errors = String::from_utf8_lossy(&called.stderr);
    assert!(called.status.success(), "no call through the demo: {said}{errors}\n{}", node.story());
    println!("a call through the demo:\n{said}");
    // By what was told, not by asking after it again and again.
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
}
