//! The manifests in `k8s`: rendered from the chart, and built by kustomize they are what the chart
//! renders.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::helm::{self, are_here, program};
use crate::kept;

fn folder(name: &str) -> PathBuf {
    kept::root().join("k8s").join(name)
}

/// What the chart renders with the values of a folder, without Helm's tests.
fn rendered(name: &str) -> Vec<Value> {
    helm::parsed(&text(name))
}

fn text(name: &str) -> String {
    let values = folder(name).join("values.yaml");
    let more = ["--values", values.to_str().unwrap(), "--namespace", "default", "--no-hooks"];
    helm::text_with(&[], &more)
}

/// The documents that a folder's file holds, without what is Helm's.
fn file(name: &str, wanted: impl Fn(&str) -> bool) -> String {
    let text = text(name);
    let mut said =
        String::from("# Rendered from charts/callplane: UPDATE_CHART=1 cargo test --test chart\n");
    for document in text.split("---\n").filter(|document| !document.trim().is_empty()) {
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: ")).unwrap();
        let name = document.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap();
        if !wanted(&format!("{kind}/{}", name.trim_matches('"'))) {
            continue;
        }
        said.push_str("---\n");
        for line in document.lines().filter(|line| !is_helms(line)) {
            said.push_str(line);
            said.push('\n');
        }
    }
    said
}

/// Helm's own marks; and the checksum, since a generated ConfigMap's name does the same.
fn is_helms(line: &str) -> bool {
    let line = line.trim();
    ["# Source: ", "helm.sh/chart: ", "app.kubernetes.io/managed-by: ", "checksum/callplane: "]
        .iter()
        .any(|mark| line.starts_with(mark))
}

const CONFIG: &str = "ConfigMap/callplane";

fn config(name: &str) -> String {
    let objects = rendered(name);
    crate::rendered::config(&objects).to_owned()
}

#[test]
fn the_manifests_follow_from_the_chart() {
    if !are_here("the_manifests_follow_from_the_chart", &["helm"]) {
        return;
    }
    for name in ["base", "overlays/dev", "overlays/production"] {
        kept::must_say(&folder(name).join("callplane.yml"), &config(name));
    }
    let base: Vec<String> = rendered("base").iter().map(name_of).collect();
    kept::must_say(&folder("base/callplane.yaml"), &file("base", |name| name != CONFIG));
    let trial = file("overlays/dev", |name| !base.iter().any(|known| known == name));
    kept::must_say(&folder("overlays/dev/trial.yaml"), &trial);
    let policy = file("overlays/production", |name| !base.iter().any(|known| known == name));
    kept::must_say(&folder("overlays/production/policy.yaml"), &policy);
    let deployment = file("overlays/production", |name| name == "Deployment/callplane");
    kept::must_say(&folder("overlays/production/deployment.yaml"), &deployment);
}

fn name_of(object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap();
    format!("{}/{name}", object["kind"].as_str().unwrap())
}

/// What `kubectl kustomize` makes of a folder.
fn built(name: &str) -> String {
    let mut command = Command::new(program("kubectl"));
    let output = command.arg("kustomize").arg(folder(name)).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Objects by their names, without what differs between Helm and kustomize on purpose.
fn plain(objects: Vec<Value>) -> BTreeMap<String, Value> {
    // The ConfigMap's name ends with a sum of what it says.
    let generated: Option<String> = objects.iter().find_map(|object| {
        let name = object["metadata"]["name"].as_str()?;
        let is_generated =
            object["kind"] == "ConfigMap" && object["data"].get("callplane.yml").is_some();
        is_generated.then(|| name.to_owned())
    });
    let generated = generated.expect("a ConfigMap with callplane.yml");
    let mut found = BTreeMap::new();
    for object in objects {
        let text = object.to_string().replace(&format!("\"{generated}\""), "\"callplane\"");
        let mut object: Value = serde_json::from_str(&text).unwrap();
        if object["kind"] == "ConfigMap" {
            // A generated one has no labels.
            object["metadata"] = json!({"name": object["metadata"]["name"]});
        }
        if object["kind"] == "RoleBinding" {
            object["subjects"][0].as_object_mut().unwrap().remove("namespace");
        }
        without_marks(&mut object);
        found.insert(name_of(&object), object);
    }
    found
}

fn without_marks(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for mark in ["helm.sh/chart", "app.kubernetes.io/managed-by", "checksum/callplane"] {
                object.remove(mark);
            }
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("namespace");
            }
            object.values_mut().for_each(without_marks);
        }
        Value::Array(items) => items.iter_mut().for_each(without_marks),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn kustomize_builds_what_the_chart_renders() {
    if !are_here("kustomize_builds_what_the_chart_renders", &["helm", "kubectl"]) {
        return;
    }
    for (name, own) in [
        ("base", &[][..]),
        ("overlays/dev", &["Namespace/callplane-dev"][..]),
        ("overlays/production", &["Namespace/callplane", "PriorityClass/callplane"][..]),
    ] {
        let mut built = plain(helm::parsed(&built(name)));
        for own in own {
            assert!(built.remove(*own).is_some(), "{name}: no {own}");
        }
        let rendered = plain(rendered(name));
        assert_eq!(
            built.keys().collect::<Vec<_>>(),
            rendered.keys().collect::<Vec<_>>(),
            "{name}: other objects"
        );
        for (object, wanted) in rendered {
            assert_eq!(built[&object], wanted, "{name}: {object}");
        }
    }
}

/// The rights are the pods' where they are, whatever the overlay calls its namespace.
#[test]
fn the_rights_follow_into_the_overlays_namespace() {
    let test = "the_rights_follow_into_the_overlays_namespace";
    if !are_here(test, &["kubectl"]) {
        return;
    }
    for (name, namespace) in
        [("overlays/dev", "callplane-dev"), ("overlays/production", "callplane")]
    {
        let objects = helm::parsed(&built(name));
        let binding = helm::get(&objects, "RoleBinding", "callplane");
        assert_eq!(binding["subjects"][0]["namespace"], namespace, "{name}");
        for object in objects.iter().filter(|object| object["kind"] != "PriorityClass") {
            let placed = &object["metadata"]["namespace"];
            assert!(object["kind"] == "Namespace" || placed == namespace, "{}", name_of(object));
        }
    }
}

/// kustomize changes names that it takes for the generated ConfigMap's, and those of a Role are among them.
#[test]
fn the_role_is_for_the_configured_lease() {
    if !are_here("the_role_is_for_the_configured_lease", &["kubectl"]) {
        return;
    }
    for name in ["base", "overlays/dev", "overlays/production"] {
        let objects = helm::parsed(&built(name));
        let is_config = |object: &&Value| object["data"].get("callplane.yml").is_some();
        let config = objects.iter().find(is_config).unwrap()["data"]["callplane.yml"].as_str();
        let lease = config.unwrap().lines().find_map(|line| line.strip_prefix("  lease: "));
        let rules = helm::get(&objects, "Role", "callplane")["rules"].as_array().unwrap();
        let leases = rules.iter().find(|rule| rule["resources"] == json!(["leases"])).unwrap();
        assert_eq!(leases["resourceNames"], json!([lease.unwrap()]), "{name}");
    }
}

/// `kubectl apply -k`, as far as an API server without a node goes.
#[test]
fn a_real_api_server_takes_the_overlays() {
    let test = "a_real_api_server_takes_the_overlays";
    if !are_here(test, &["helm", "etcd", "kube-apiserver", "kubectl"]) {
        return;
    }
    let server = ApiServer::shared();
    for name in ["overlays/dev", "overlays/production"] {
        let overlay = folder(name);
        let overlay = overlay.to_str().unwrap();
        let arguments = ["apply", "--validate=strict", "-k", overlay];
        let output = server.kubectl(&arguments);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        // (kubectl sends the selector of a PodDisruptionBudget each time.)
        let again = server.kubectl_said(&arguments);
        let changed = |line: &&str| line.ends_with(" configured") && !line.contains("budget");
        assert_eq!(again.lines().find(changed), None, "{name}: a second time changes something");
        // The same pods are what the namespace's standard takes.
        let objects = helm::parsed(&built(name));
        let placed = objects.iter().find_map(|object| object["metadata"]["namespace"].as_str());
        let namespace = placed.unwrap();
        // No controller makes it.
        server.kubectl_said(&["-n", namespace, "create", "serviceaccount", "default"]);
        for pod in crate::dry_run::pods_of(&objects) {
            crate::dry_run::judge(&server, namespace, &pod.to_string())
                .unwrap_or_else(|said| panic!("{name}: {said}"));
        }
    }
}
