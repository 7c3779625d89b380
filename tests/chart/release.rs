//! A release's life before a real API server: installed, upgraded, rolled back, removed.

use std::process::Output;

use serde_json::Value;

use crate::api_server::ApiServer;
use crate::helm::{self, SMALL, are_here};
use crate::kept;

struct Release<'a> {
    server: &'a ApiServer,
    namespace: String,
}

impl Release<'_> {
    fn helm(&self, arguments: &[&str], sets: &[&str]) -> Output {
        let config = self.server.admin_kubeconfig();
        let mut all = arguments.to_vec();
        all.extend(["--namespace", &self.namespace, "--kubeconfig", config.to_str().unwrap()]);
        for set in sets {
            all.extend(["--set", set]);
        }
        helm::helm(&all)
    }

    fn done(&self, arguments: &[&str], sets: &[&str]) -> String {
        let output = self.helm(arguments, sets);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?} {sets:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn object(&self, kind: &str, name: &str) -> Value {
        let said =
            self.server.kubectl_said(&["-n", &self.namespace, "get", kind, name, "-o", "json"]);
        serde_json::from_str(&said).unwrap()
    }

    /// The names of all that carries the release's label.
    fn names(&self) -> Vec<String> {
        const KINDS: &str = "deployments,statefulsets,services,configmaps,serviceaccounts,roles,rolebindings,\
                             poddisruptionbudgets,networkpolicies";
        let label = "app.kubernetes.io/instance=callplane";
        let arguments = ["-n", &self.namespace, "get", KINDS, "-l", label, "-o", "name"];
        self.server.kubectl_said(&arguments).lines().map(str::to_owned).collect()
    }
}

fn level(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["metadata"]["annotations"]["checksum/callplane"]
}

#[test]
fn a_release_is_installed_upgraded_rolled_back_and_removed() {
    let test = "a_release_is_installed_upgraded_rolled_back_and_removed";
    if !are_here(test, &["helm", "etcd", "kube-apiserver", "kubectl"]) {
        return;
    }
    let server = ApiServer::shared();
    let release = Release { server: &server, namespace: server.namespace("release") };
    let chart = kept::chart();
    let chart = chart.to_str().unwrap();

    let notes = release.done(&["install", "callplane", chart], &SMALL);
    assert!(notes.contains("helm -n "), "no next step: {notes}");
    let first = release.object("deployment", "callplane");
    assert_eq!(first["spec"]["replicas"], 3);

    let changed = [&SMALL[..], &["config.log.level=debug", "replicas=5"]].concat();
    release.done(&["upgrade", "callplane", chart], &changed);
    let second = release.object("deployment", "callplane");
    assert_eq!(second["spec"]["replicas"], 5);
    assert_ne!(level(&first), level(&second), "the pods would not start again");

    // What is refused changes nothing.
    let wrong = [&changed[..], &["config.log.levle=trace"]].concat();
    let refused = release.helm(&["upgrade", "callplane", chart], &wrong);
    assert!(!refused.status.success(), "unknown keys are taken");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("levle"));
    assert_eq!(level(&second), level(&release.object("deployment", "callplane")));

    release.done(&["rollback", "callplane", "1"], &[]);
    let third = release.object("deployment", "callplane");
    assert_eq!(third["spec"]["replicas"], 3);
    assert_eq!(level(&first), level(&third));

    // Another way for events is another kind of workload under the same name.
    let per_pod = [&SMALL[..], &["events.reach=perPodService"]].concat();
    release.done(&["upgrade", "callplane", chart], &per_pod);
    let names = release.names();
    assert!(names.contains(&"statefulset.apps/callplane".to_owned()), "{names:?}");
    assert!(names.contains(&"service/callplane-2".to_owned()), "{names:?}");
    assert!(!names.contains(&"deployment.apps/callplane".to_owned()), "{names:?}");

    release.done(&["uninstall", "callplane"], &[]);
    assert_eq!(release.names(), Vec::<String>::new(), "something is left");
}

/// Two in one namespace have nothing in common, the Lease included.
#[test]
fn two_releases_stand_beside_each_other() {
    let test = "two_releases_stand_beside_each_other";
    if !are_here(test, &["helm", "etcd", "kube-apiserver", "kubectl"]) {
        return;
    }
    let server = ApiServer::shared();
    let release = Release { server: &server, namespace: server.namespace("release") };
    let chart = kept::chart();
    let trial = ["redis.embedded.enabled=true", "simulatedStack.enabled=true"];
    for name in ["callplane", "second"] {
        release.done(&["install", name, chart.to_str().unwrap()], &trial);
    }
    let lease = |name: &str| {
        let role = release.object("role", name);
        role["rules"][0]["resourceNames"][0].as_str().unwrap().to_owned()
    };
    assert_eq!(lease("callplane"), "callplane");
    assert_eq!(lease("second-callplane"), "second-callplane");
    let config = release.object("configmap", "second-callplane");
    let config = config["data"]["callplane.yml"].as_str().unwrap();
    assert!(config.contains("lease: second-callplane\n"), "{config}");
    assert!(config.contains("address: second-callplane-redis:6379\n"), "{config}");
}
