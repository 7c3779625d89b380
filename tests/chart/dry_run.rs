//! A real API server judges what is rendered: every field of every object, and the pods.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::crds;
use crate::helm::{self, SMALL, are_here};

const PROGRAMS: [&str; 4] = ["helm", "etcd", "kube-apiserver", "kubectl"];

/// Values that change what is rendered, beside those of `examples`.
const MATRIX: [&[&str]; 14] = [
    &["replicas=1"],
    &["config.leadership=redis"],
    &["events.reach=perPodService"],
    &["events.reach=perPodService", "events.transport=tcp", "autoscaling.enabled=true"],
    &[
        "events.reach=perPodService",
        "events.perPodService.type=NodePort",
        "events.perPodService.nodePorts={30061,30062,30063}",
        "events.advertise=udp:$(HOST_IP):3006$(POD_INDEX)",
    ],
    &["events.perPodService.clusterIPs={10.96.7.1,10.96.7.2}", "replicas=2"],
    &["service.type=LoadBalancer", "service.loadBalancerSourceRanges={10.0.0.0/8}"],
    &["service.type=NodePort", "service.nodePort=30059", "service.port=80"],
    &["ipFamilies={IPv4}", "ipFamilyPolicy=SingleStack"],
    &["networkPolicy.enabled=true", "config.kubernetes.per_stack=true"],
    &["keda.enabled=true", "keda.prometheus=http://prometheus:9090"],
    &["serviceMonitor.enabled=true", "prometheusRule.enabled=true", "dashboard.enabled=true"],
    &["strategy.type=Recreate", "minReadySeconds=0", "pdb.maxUnavailable=30%"],
    &[
        "redis.existingSecret=redis",
        "redis.tls.existingSecret=redis-tls",
        "redis.tls.certKey=tls.crt",
        "redis.tls.keyKey=tls.key",
        "extraEnv[0].name=TZ",
        "extraEnv[0].value=UTC",
        "commonLabels.team=calls",
    ],
];

/// Trials have no address of Redis in `config`.
const TRIALS: [&[&str]; 2] = [
    &["redis.embedded.persistence.enabled=true", "redis.existingSecret=redis"],
    &["networkPolicy.enabled=true", "redis.embedded.maxmemory=1gb"],
];

/// Every rendering, with what it was rendered from.
pub fn renderings() -> &'static [(String, String)] {
    static RENDERED: LazyLock<Vec<(String, String)>> = LazyLock::new(render);
    &RENDERED
}

fn render() -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = MATRIX
        .iter()
        .map(|sets| (format!("{sets:?}"), helm::text_with(&[&SMALL, *sets].concat(), &[])))
        .collect();
    for sets in TRIALS {
        let trial = ["redis.embedded.enabled=true", "simulatedStack.enabled=true"];
        found.push((format!("{sets:?}"), helm::text_with(&[&trial, sets].concat(), &[])));
    }
    for example in helm::examples() {
        let path = example.to_str().unwrap();
        found.push((path.to_owned(), helm::text_with(&[], &["--values", path])));
    }
    found
}

/// Has the server judge objects without keeping them.
pub fn judge(server: &ApiServer, namespace: &str, objects: &str) -> Result<(), String> {
    let arguments = ["-n", namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-"];
    let output = server.kubectl_with(&arguments, objects);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// A Pod as the controllers make one of a template.
pub fn pods_of(objects: &[Value]) -> Vec<Value> {
    let templates = objects.iter().filter_map(|object| {
        let template = object["spec"].get("template")?;
        Some((object["metadata"]["name"].as_str()?, template))
    });
    templates
        .map(|(name, template)| {
            let mut pod = template.clone();
            pod["apiVersion"] = json!("v1");
            pod["kind"] = json!("Pod");
            pod["metadata"]["name"] = json!(format!("{name}-pod"));
            // A StatefulSet adds those of its claims.
            let claims = objects.iter().filter(|object| object["metadata"]["name"] == name);
            for claim in claims.filter_map(|object| object["spec"].get("volumeClaimTemplates")) {
                let name = claim[0]["metadata"]["name"].clone();
                let volume = json!({"name": name, "emptyDir": {}});
                pod["spec"]["volumes"].as_array_mut().unwrap().push(volume);
            }
            pod
        })
        .collect()
}

/// What a Pod needs that a cluster has: its service account, and the example's PriorityClass.
fn prepare(server: &ApiServer, namespace: &str) {
    server.kubectl_said(&["-n", namespace, "create", "serviceaccount", "callplane"]);
    server.apply(
        "{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: production}, value: 1000}",
    );
}

#[test]
fn a_real_api_server_takes_every_object_and_the_restricted_standard_every_pod() {
    let test = "a_real_api_server_takes_every_object_and_the_restricted_standard_every_pod";
    if !are_here(test, &PROGRAMS) || !crds::are_here(test) {
        return;
    }
    let server = crds::server();
    let namespace = crds::namespace(&server, "restricted");
    prepare(&server, &namespace);
    for (from, text) in renderings() {
        let pods = pods_of(&helm::parsed(text));
        assert!(!pods.is_empty(), "{from}");
        let (beside, own): (Vec<Value>, Vec<Value>) =
            pods.into_iter().partition(|pod| pod["spec"]["hostNetwork"] == true);
        let own: String = own.iter().map(|pod| format!("---\n{pod}\n")).collect();
        judge(&server, &namespace, &format!("{text}\n{own}"))
            .unwrap_or_else(|said| panic!("{from}: {said}"));
        for pod in beside {
            let said = judge(&server, &namespace, &pod.to_string())
                .expect_err("`restricted` takes a pod in the node's network");
            assert!(said.contains("violates PodSecurity"), "{from}: {said}");
        }
    }
}

/// The namespace that `examples/host-network.yaml` asks for.
#[test]
fn pods_in_the_nodes_network_are_taken_where_they_are_allowed() {
    let test = "pods_in_the_nodes_network_are_taken_where_they_are_allowed";
    if !are_here(test, &PROGRAMS) || !crds::are_here(test) {
        return;
    }
    let server = crds::server();
    let namespace = crds::namespace(&server, "privileged");
    prepare(&server, &namespace);
    for pod in pods_of(&helm::objects(&["events.reach=hostNetwork"])) {
        judge(&server, &namespace, &pod.to_string()).unwrap();
    }
}

/// The judge is one: what is misspelt is refused.
#[test]
fn a_misspelt_field_is_refused() {
    let test = "a_misspelt_field_is_refused";
    if !are_here(test, &PROGRAMS) || !crds::are_here(test) {
        return;
    }
    let server = crds::server();
    let namespace = crds::namespace(&server, "restricted");
    let good = helm::text_with(&[&SMALL[..], &["serviceMonitor.enabled=true"]].concat(), &[]);
    for (right, wrong) in
        [("enableServiceLinks:", "enableServiceLink:"), ("endpoints:", "endpoint:")]
    {
        assert!(good.contains(right));
        let said = judge(&server, &namespace, &good.replace(right, wrong)).unwrap_err();
        assert!(said.contains(wrong.trim_end_matches(':')), "{said}");
    }
}
