//! The definitions of the custom resources that the chart can make.

use std::path::PathBuf;
use std::sync::Arc;

use crate::api_server::{ApiServer, program};

/// Where `.ci/crds` puts them.
const FOLDER: &str = "crds-1";

/// Beside the programs of Kubernetes.
fn folder() -> PathBuf {
    program("helm").ancestors().nth(2).unwrap().join(FOLDER)
}

/// Whether they are here; says that a test is skipped.
pub fn are_here(test: &str) -> bool {
    let here = folder().is_dir();
    if !here {
        println!("skipped: {test} ({} is not here: .ci/crds)", folder().display());
    }
    here
}

/// The shared API server, that knows them.
pub fn server() -> Arc<ApiServer> {
    let server = ApiServer::shared();
    let folder = folder();
    let folder = folder.to_str().unwrap();
    // Their words are too long for what `apply` notes down of its own accord.
    server.kubectl_said(&["apply", "--server-side", "-f", folder]);
    server.kubectl_said(&["wait", "--for=condition=Established", "--timeout=60s", "-f", folder]);
    server
}

/// A namespace that takes only pods of this Pod Security Standard.
pub fn namespace(server: &ApiServer, standard: &str) -> String {
    let name = server.namespace("chart");
    let label = format!("pod-security.kubernetes.io/enforce={standard}");
    server.kubectl_said(&["label", "namespace", &name, &label]);
    // No controller makes it.
    server.kubectl_said(&["-n", &name, "create", "serviceaccount", "default"]);
    name
}
