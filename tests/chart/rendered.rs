//! What is rendered, for all values that change it.

use std::process::{Command, Stdio};

use callplane::config::DEFAULT_YAML;
use serde_json::Value;

use crate::helm;
use crate::kept;

#[test]
fn the_chart_passes_helms_own_checks() {
    if !helm::are_here("the_chart_passes_helms_own_checks", &["helm"]) {
        return;
    }
    let chart = kept::chart();
    let chart = chart.to_str().unwrap();
    let lint = |more: &[&str]| {
        let output = helm::helm(&[&["lint", "--strict", chart], more].concat());
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{more:?}: {said}");
    };
    lint(&[]);
    for example in helm::examples() {
        lint(&["--values", example.to_str().unwrap()]);
    }
}

#[test]
fn the_charts_own_suites_pass() {
    if !helm::are_here("the_charts_own_suites_pass", &["helm-unittest"]) {
        return;
    }
    let mut command = Command::new(helm::program("helm-unittest"));
    let output = command.arg(kept::chart()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("Test Suites: 0"), "no suite was found: {said}");
}

/// All defaults, written down, are what the schema takes, and mean the same.
#[test]
fn every_default_of_the_configuration_may_be_written_into_config() {
    let test = "every_default_of_the_configuration_may_be_written_into_config";
    if !helm::are_here(test, &["helm"]) {
        return;
    }
    let mut defaults: Value = serde_saphyr::from_str(DEFAULT_YAML).unwrap();
    // These are for one process on one machine.
    defaults["listen"]["address"] = "0.0.0.0:5059".into();
    defaults["admin"]["listen"] = "0.0.0.0:9090".into();
    let given = format!("config={defaults}");
    let objects = helm::objects_with(&["replicas=1"], &["--set-json", &given]);
    let rendered: Value = serde_saphyr::from_str(config(&objects)).unwrap();
    for section in ["limits", "store", "drain"] {
        assert_eq!(rendered[section], defaults[section], "{section}");
    }
    assert_eq!(rendered["stacks"][0]["events"], "udp:0.0.0.0:5065", "nothing is filled in");
}

pub fn config(objects: &[Value]) -> &str {
    helm::get(objects, "ConfigMap", "callplane")["data"]["callplane.yml"].as_str().unwrap()
}

/// A pod starts again when its configuration changes, and only then.
#[test]
fn the_checksum_follows_the_configuration() {
    if !helm::are_here("the_checksum_follows_the_configuration", &["helm"]) {
        return;
    }
    let checksum = |sets: &[&str]| {
        let objects = helm::objects(sets);
        let template = &helm::get(&objects, "Deployment", "callplane")["spec"]["template"];
        template["metadata"]["annotations"]["checksum/callplane"].as_str().unwrap().to_owned()
    };
    let plain = checksum(&[]);
    assert_eq!(plain, checksum(&["service.port=80"]));
    assert_ne!(plain, checksum(&["config.log.level=debug"]));
    assert_ne!(plain, checksum(&["redis.existingSecret=redis"]));
}

/// No numbers become floats, and none is cut, on the way through Helm.
#[test]
fn large_numbers_stay_whole() {
    if !helm::are_here("large_numbers_stay_whole", &["helm"]) {
        return;
    }
    let objects = helm::objects(&["config.limits.sessions=9999999", "replicas=1000"]);
    assert!(config(&objects).contains("sessions: 9999999\n"), "{}", config(&objects));
    assert_eq!(helm::get(&objects, "Deployment", "callplane")["spec"]["replicas"], 1000);
}

/// The versions that `kubeVersion` names, and none before them.
#[test]
fn every_kubernetes_that_is_promised_is_rendered_for() {
    if !helm::are_here("every_kubernetes_that_is_promised_is_rendered_for", &["helm"]) {
        return;
    }
    let render = |version: &str| {
        helm::template(
            &[&helm::SMALL[..], &["pdb.enabled=true"]].concat(),
            &["--kube-version", version],
        )
    };
    for version in ["1.28.0", "1.30.3", "1.33.1-gke.100", "1.36.3"] {
        let output = render(version);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{version}: {said}");
    }
    let said = String::from_utf8_lossy(&render("1.27.9").stderr).into_owned();
    assert!(said.contains("kubeVersion"), "1.27 is taken: {said}");
}

/// The values that docs/kubernetes.md shows can be copied.
#[test]
fn the_values_that_the_page_shows_are_taken() {
    if !helm::are_here("the_values_that_the_page_shows_are_taken", &["helm"]) {
        return;
    }
    let page = kept::read(&kept::root().join("docs/kubernetes.md"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    let mut taken = 0;
    for block in page.split("```yaml\n").skip(1) {
        let values = block.split("```").next().unwrap();
        // Those of prometheus-adapter are none of ours.
        if values.starts_with("rules:") {
            continue;
        }
        std::fs::write(&file, values).unwrap();
        let more = ["--values", file.to_str().unwrap()];
        let [redis, stack] = helm::SMALL;
        let mut sets = Vec::new();
        sets.extend((!values.contains("sentinels:")).then_some(redis));
        sets.extend((!values.contains("stacks:")).then_some(stack));
        helm::text_with(&sets, &more);
        taken += 1;
    }
    assert!(taken >= 5, "only {taken} blocks of values");
}
