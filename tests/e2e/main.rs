//! callplane as its chart runs it: in pods of a real node of Kubernetes, under load, while pods are
//! deleted, killed, frozen, cut off, replaced, scaled and moved. Then the history is judged.
//!
//! `make e2e` runs it, as root; elsewhere it says that it was skipped. `E2E_KEEP` names a folder that
//! keeps logs and histories.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it measured"
)]

#[path = "../api_server/mod.rs"]
mod api_server;
#[path = "../node/mod.rs"]
mod node;

use node::Node;

/// Starts what follows inside; a node takes two minutes of a whole machine.
#[test]
fn callplane_keeps_its_promises_in_pods() {
    let name = "callplane_keeps_its_promises_in_pods";
    if std::env::var_os("E2E").is_none() {
        println!("skipped: {name} (make e2e)");
        return;
    }
    if node::is_here(name) {
        node::inside::run("in_pods");
    }
}

#[test]
#[ignore = "is started by the other, inside"]
fn in_pods() {
    assert!(node::inside::is_inside(), "make e2e starts it");
    let node = Node::start();
    let pods = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: quiet}
spec:
  replicas: 3
  selector: {matchLabels: {app: quiet}}
  template:
    metadata: {labels: {app: quiet}}
    spec:
      containers: [{name: quiet, image: 'localhost/pause:test', imagePullPolicy: Never}]
";
    node.api.apply(pods);
    for pod in node.ready_pods("default", "app=quiet", 3) {
        println!("{pod:?} {:?}", pod.costs());
    }
}
