//! What is done to pods, one after the other.

use std::time::{Duration, Instant};

use super::history::Fault;
use super::load::Load;
use super::node::{network, wait_until};
use super::site::{NAMESPACE, PODS, RELEASE, SERVERS, Site};

/// The Lease is free after 4 s without a renewal; then somebody takes it.
const ELECTION: Duration = Duration::from_secs(15);

/// Between two faults all is well for this long, so that commands begin and end in between.
const CALM: Duration = Duration::from_secs(3);

type Step = fn(&Site<'_>, &Load);

const STEPS: [(&str, Step); 8] = [
    ("the leader's pod is deleted", delete),
    ("the leader is killed", kill),
    ("the leader stands still", freeze),
    ("the leader is cut off from the API server", cut_off),
    ("the API server is away", without_api_server),
    ("all pods are replaced", replace),
    ("two more pods, and two less", scale),
    ("the node is drained", drain),
];

pub fn play(site: &Site<'_>, load: &Load) {
    std::thread::sleep(CALM);
    for (name, step) in STEPS {
        let began = Instant::now();
        step(site, load);
        site.ready_pods(PODS);
        site.leader();
        println!("{name}: all well after {:.1} s", began.elapsed().as_secs_f32());
        std::thread::sleep(CALM);
    }
}

/// It may finish what it has; then the next one leads.
fn delete(site: &Site<'_>, _: &Load) {
    let leader = site.leader();
    site.node.api.kubectl_said(&["-n", NAMESPACE, "delete", "pod", &leader.name, "--wait=false"]);
    site.led_by_another(&leader.name, ELECTION);
    wait_until("the deleted pod is gone", Duration::from_secs(40), || {
        site.node
            .api
            .kubectl_said(&["-n", NAMESPACE, "get", "pods", "-o", "name"])
            .lines()
            .all(|name| !name.ends_with(&leader.name))
    });
}

/// Its container starts again in the same pod, and may lead again.
fn kill(site: &Site<'_>, load: &Load) {
    let leader = site.leader();
    let at = load.recorder.now();
    leader.signal("-KILL");
    wait_until("the killed container runs again", Duration::from_secs(60), || {
        site.pods()
            .iter()
            .any(|pod| pod.name == leader.name && pod.restarts > leader.restarts && pod.ready)
    });
    load.was(Fault::Crash, at);
}

/// Longer than its Lease: another one leads, and it has to notice when it wakes.
fn freeze(site: &Site<'_>, load: &Load) {
    let leader = site.leader();
    let at = load.recorder.now();
    leader.signal("-STOP");
    site.led_by_another(&leader.name, ELECTION);
    leader.signal("-CONT");
    load.was(Fault::Pause, at);
}

/// It serves on, and does not lead any more.
fn cut_off(site: &Site<'_>, load: &Load) {
    let leader = site.leader();
    let at = load.recorder.now();
    let port = site.node.api.port();
    network::cut(&leader.address, port, true);
    site.led_by_another(&leader.name, ELECTION);
    let ready = site.pods().iter().any(|pod| pod.name == leader.name && pod.ready);
    assert!(ready, "{} serves no more, only since it can't lead", leader.name);
    network::cut(&leader.address, port, false);
    load.was(Fault::Lease, at);
}

/// Nobody can lead for sure; everybody serves on, and the leader leads by the word of Redis.
fn without_api_server(site: &Site<'_>, load: &Load) {
    let leader = site.leader();
    let at = load.recorder.now();
    site.node.api.pause();
    wait_until("the leader leads by the word of Redis alone", Duration::from_secs(8), || {
        let alone = "callplane_leader_unconfirmed_state 1";
        leader.metrics().lines().any(|line| line == alone)
    });
    std::thread::sleep(CALM);
    site.node.api.go_on();
    load.was(Fault::Lease, at);
}

fn replace(site: &Site<'_>, _: &Load) {
    let before: Vec<String> = site.pods().into_iter().map(|pod| pod.name).collect();
    site.upgrade(&["podAnnotations.replaced=yes"]);
    gone(site, &before);
}

fn scale(site: &Site<'_>, _: &Load) {
    site.upgrade(&["podAnnotations.replaced=yes", "replicas=5"]);
    site.ready_pods(5);
    site.upgrade(&["podAnnotations.replaced=yes"]);
}

/// The budget lets one pod go, and no other before there is a new one, which this one node has no
/// place for.
fn drain(site: &Site<'_>, _: &Load) {
    let labels = format!("--pod-selector={SERVERS}");
    let asked = ["drain", "node", &labels, "--delete-emptydir-data", "--timeout=20s"];
    let drained = site.node.api.kubectl(&asked);
    let said = String::from_utf8_lossy(&drained.stderr).into_owned();
    let left = site.pods();
    site.node.api.kubectl_said(&["uncordon", "node"]);
    assert!(!drained.status.success(), "all pods were let go: {said}");
    assert!(said.contains("disruption budget"), "not for the budget: {said}");
    assert_eq!(left.iter().filter(|pod| pod.ready).count(), PODS - 1, "{left:#?}");
    let budget = ["-n", NAMESPACE, "get", "poddisruptionbudget", RELEASE];
    site.node.api.kubectl_said(&budget);
}

fn gone(site: &Site<'_>, names: &[String]) {
    wait_until("the old pods are gone", Duration::from_secs(60), || {
        let pods = site.node.api.kubectl_said(&["-n", NAMESPACE, "get", "pods", "-o", "name"]);
        pods.lines().all(|pod| !names.iter().any(|name| pod.ends_with(name)))
    });
}
