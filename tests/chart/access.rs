//! What the chart's service account may do at the API server: lead by the one Lease, and tell of it.

use crate::api_server::ApiServer;
use crate::helm::{self, SMALL, are_here};

/// Asks the server whether the service account may.
fn may(server: &ApiServer, namespace: &str, question: &[&str]) -> bool {
    let who = format!("--as=system:serviceaccount:{namespace}:callplane");
    let arguments = [&["-n", namespace, "auth", "can-i", "-q", &who][..], question].concat();
    server.kubectl(&arguments).status.success()
}

fn with_release(namespace: &str, server: &ApiServer, sets: &[&str]) {
    let sets = [&SMALL, sets].concat();
    let text = helm::text_with(&sets, &["--namespace", namespace, "--no-hooks"]);
    let arguments = ["-n", namespace, "apply", "-f", "-"];
    let output = server.kubectl_with(&arguments, &text);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_service_account_leads_and_does_nothing_else() {
    let test = "the_service_account_leads_and_does_nothing_else";
    if !are_here(test, &["helm", "etcd", "kube-apiserver", "kubectl"]) {
        return;
    }
    let server = ApiServer::shared();
    let namespace = server.namespace("access");
    with_release(&namespace, &server, &[]);
    for verb in ["get", "update", "create", "watch", "list"] {
        assert!(
            may(&server, &namespace, &[verb, "leases.coordination.k8s.io/callplane"]),
            "{verb}"
        );
        assert!(!may(&server, &namespace, &[verb, "leases.coordination.k8s.io/other"]), "{verb}");
        assert!(!may(&server, &namespace, &[verb, "leases.coordination.k8s.io"]), "{verb} all");
    }
    for verb in ["delete", "patch", "deletecollection"] {
        assert!(
            !may(&server, &namespace, &[verb, "leases.coordination.k8s.io/callplane"]),
            "{verb}"
        );
    }
    assert!(may(&server, &namespace, &["create", "events.events.k8s.io"]));
    for what in ["secrets", "configmaps", "pods", "services", "serviceaccounts/token", "events"] {
        for verb in ["get", "list", "create", "delete"] {
            assert!(!may(&server, &namespace, &[verb, what]), "{verb} {what}");
        }
    }
    assert!(!may(&server, &namespace, &["*", "*", "--all-namespaces"]));
}

#[test]
fn a_lease_for_each_stack_means_a_right_for_each() {
    let test = "a_lease_for_each_stack_means_a_right_for_each";
    if !are_here(test, &["helm", "etcd", "kube-apiserver", "kubectl"]) {
        return;
    }
    let server = ApiServer::shared();
    let namespace = server.namespace("access");
    let sets = ["config.kubernetes.per_stack=true", "config.stacks[0].name=main"];
    with_release(&namespace, &server, &sets);
    assert!(may(&server, &namespace, &["update", "leases.coordination.k8s.io/callplane-main"]));
    assert!(!may(&server, &namespace, &["update", "leases.coordination.k8s.io/callplane"]));
}
