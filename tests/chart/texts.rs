//! What a value says stays a text, whatever it says.

use serde_json::Value;

use crate::{helm, kept};

/// Values that are names of something, and the release is one, too.
const NAMES: [&str; 13] = [
    "fullnameOverride",
    "nameOverride",
    "priorityClassName",
    "runtimeClassName",
    "serviceAccount.name",
    "ingress.className",
    "service.loadBalancerClass",
    "redis.existingSecret",
    "redis.passwordKey",
    "redis.tls.existingSecret",
    "redis.tls.caKey",
    "config.kubernetes.lease",
    "config.kubernetes.namespace",
];

/// What is rendered besides with so much of it that all of them stand somewhere.
const ALL: [&str; 7] = [
    "ingress.enabled=true",
    "ingress.hosts={calls.example.org}",
    "service.type=LoadBalancer",
    "serviceMonitor.enabled=true",
    "dashboard.enabled=true",
    "networkPolicy.enabled=true",
    "autoscaling.enabled=true",
];

fn objects(name: &str) -> Vec<Value> {
    let chart = kept::chart();
    let mut arguments = vec!["template".to_owned(), name.to_owned(), chart.display().to_string()];
    for set in helm::SMALL.into_iter().chain(ALL) {
        arguments.extend(["--set".to_owned(), set.to_owned()]);
    }
    for key in NAMES {
        arguments.extend(["--set-string".to_owned(), format!("{key}={name}")]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = helm::helm(&arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    let mut objects = helm::parsed(&String::from_utf8(output.stdout).unwrap());
    objects.iter_mut().for_each(open);
    objects
}

/// Opens the text that is one of objects again, and drops the sum of it, which each name changes.
fn open(object: &mut Value) {
    if let Some(config) = object.pointer_mut("/data/callplane.yml") {
        *config = serde_saphyr::from_str(config.as_str().unwrap()).unwrap();
    }
    if let Some(annotations) = object.pointer_mut("/spec/template/metadata/annotations") {
        annotations.as_object_mut().unwrap().retain(|key, _| !key.starts_with("checksum/"));
    }
}

#[test]
fn a_name_that_could_be_a_number_or_a_word_of_yaml_is_a_name() {
    let test = "a_name_that_could_be_a_number_or_a_word_of_yaml_is_a_name";
    if !helm::are_here(test, &["helm"]) {
        return;
    }
    let usual = serde_json::to_string(&objects("zebra")).unwrap();
    assert!(usual.matches("\"zebra\"").count() > NAMES.len(), "{usual}");
    for name in ["123", "1e5", "0x1f", "true", "null"] {
        let expected: Vec<Value> = serde_json::from_str(&usual.replace("zebra", name)).unwrap();
        for (object, expected) in objects(name).iter().zip(&expected) {
            assert_eq!(object, expected, "{name}");
        }
    }
}

#[test]
fn a_value_of_several_lines_adds_nothing_to_a_pod() {
    if !helm::are_here("a_value_of_several_lines_adds_nothing_to_a_pod", &["helm"]) {
        return;
    }
    for key in ["priorityClassName", "runtimeClassName", "image.repository", "image.tag"] {
        let given = format!("{key}=\"some\\n  hostPID: true\\n  containers: #\"");
        let more = ["--set", "test.caller=sip:a@b,test.callee=sip:c@d", "--set-json", &given];
        let objects = helm::objects_with(&helm::SMALL, &more);
        let pods = objects.iter().filter_map(|object| match object["kind"].as_str()? {
            "Deployment" => Some(&object["spec"]["template"]["spec"]),
            "Pod" => Some(&object["spec"]),
            _ => None,
        });
        let pods: Vec<&Value> = pods.collect();
        assert_eq!(pods.len(), 3, "{key}");
        for pod in &pods {
            assert_eq!((pod.get("hostPID"), pod["containers"].is_array()), (None, true), "{key}");
        }
        let said = serde_json::to_string(&pods).unwrap();
        assert!(said.contains("some\\n  hostPID: true"), "{key}: {said}");
    }
}
