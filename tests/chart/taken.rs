//! What the chart renders is what callplane reads: the program itself checks it.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::dry_run::renderings;
use crate::helm::{self, are_here};
use crate::rendered::config;

/// The variables of callplane's container, with the pod's own in them as the kubelet puts them there.
fn variables(objects: &[Value]) -> Vec<(String, String)> {
    let of_servers = |object: &&Value| {
        matches!(object["kind"].as_str(), Some("Deployment" | "StatefulSet"))
            && object["metadata"]["name"] == "callplane"
    };
    let workload = objects.iter().find(of_servers).expect("pods that serve");
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    let pod = [
        ("$(POD_NAME)", "callplane-0"),
        ("$(POD_NAMESPACE)", "calls"),
        ("$(POD_IP)", "10.244.0.7"),
        ("$(HOST_IP)", "10.20.0.7"),
        ("$(POD_INDEX)", "0"),
    ];
    let written = container["env"].as_array().unwrap().iter().filter_map(|variable| {
        let name = variable["name"].as_str()?;
        let value = variable["value"].as_str()?;
        let value =
            pod.iter().fold(value.to_owned(), |value, (mark, told)| value.replace(mark, told));
        assert!(!value.contains("$("), "{name}: nobody knows {value}");
        (name != "CALLPLANE_CONFIG").then(|| (name.to_owned(), value))
    });
    written.collect()
}

#[test]
fn callplane_takes_every_configuration_that_is_rendered() {
    let test = "callplane_takes_every_configuration_that_is_rendered";
    if !are_here(test, &["helm"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("callplane.yml");
    for (from, text) in renderings() {
        let objects = helm::parsed(text);
        std::fs::write(&file, config(&objects)).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_callplane"))
            .args(["check-config", "--config"])
            .arg(&file)
            .envs(variables(&objects))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{from}: {said}\n{}", config(&objects));
    }
}
