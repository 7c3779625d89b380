//! The other two ways for a stack's events to reach a pod: over the node's network, and at an address of
//! each pod's own.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::node::inside::state;
use super::node::{Node, wait_until};
use super::site::{RELEASE, SERVERS, Site, chart, values};

/// A trial event goes out with each refresh of the subscription.
const ARRIVING: Duration = Duration::from_secs(60);

/// The ports of the node, one for each pod.
const PORTS: [u16; 3] = [30060, 30061, 30062];

/// One of the two.
struct Reach {
    namespace: &'static str,
    replicas: usize,
    events: Value,
}

/// Installs each, sees events arrive at every pod, calls, lets another pod lead, and calls again.
pub fn try_each(site: &Site<'_>) {
    let on_the_node = Reach {
        namespace: "host-network",
        // There is one node, and one pod fits it.
        replicas: 1,
        events: json!({"reach": "hostNetwork"}),
    };
    let of_its_own = Reach {
        namespace: "per-pod-service",
        replicas: PORTS.len(),
        events: json!({
            "reach": "perPodService",
            "advertise": "udp:$(HOST_IP):3006$(POD_INDEX)",
            "perPodService": {"type": "NodePort", "nodePorts": PORTS},
        }),
    };
    for reach in [on_the_node, of_its_own] {
        reach.try_it(site);
    }
}

impl Reach {
    fn try_it(&self, site: &Site<'_>) {
        let (node, began) = (site.node, Instant::now());
        let mut values = values(&site.stacks[..1]);
        values["replicas"] = self.replicas.into();
        values["events"] = self.events.clone();
        let file = state(self.namespace).with_extension("json");
        std::fs::write(&file, values.to_string()).unwrap();
        let file = file.display().to_string();
        node.api.kubectl_said(&["create", "namespace", self.namespace]);
        self.helm(node, &["install", RELEASE, &chart(), "-f", &file, "--wait"]);
        self.events_arrive(node);
        self.helm(node, &["test", RELEASE, "--logs"]);

        let [first, ..] = &node.pods(self.namespace, SERVERS)[..] else { panic!("no pod") };
        node.api.kubectl_said(&["-n", self.namespace, "delete", "pod", &first.name]);
        self.events_arrive(node);
        self.helm(node, &["test", RELEASE, "--logs"]);
        self.helm(node, &["uninstall", RELEASE, "--wait"]);
        println!("{}: tried in {:.1} s", self.namespace, began.elapsed().as_secs_f32());
    }

    fn helm(&self, node: &Node, what: &[&str]) {
        node.helm(&[&["-n", self.namespace, "--timeout", "2m"][..], what].concat());
    }

    /// Waits until all pods say that what the stack sends them comes to them.
    fn events_arrive(&self, node: &Node) {
        for pod in node.ready_pods(self.namespace, SERVERS, self.replicas) {
            let what = format!("{}: the stack's events reach {}", self.namespace, pod.name);
            wait_until(&what, ARRIVING, || {
                let arriving = "callplane_event_probe_arriving_state{stack=\"stack0\"} 1";
                pod.metrics().lines().any(|line| line == arriving)
            });
        }
    }
}
