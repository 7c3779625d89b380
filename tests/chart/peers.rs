//! The values that people copy leave nothing open that they could name.

use serde_json::Value;

use crate::{helm, kept};

#[test]
fn what_is_copied_names_where_names_are_looked_up() {
    let overlay = kept::root().join("k8s/overlays/production/values.yaml");
    let mut policies = 0;
    for file in helm::examples().into_iter().chain([overlay]) {
        let text = std::fs::read_to_string(&file).unwrap();
        let values: Value = serde_saphyr::from_str(&text).unwrap();
        let policy = &values["networkPolicy"];
        if policy["enabled"] != true {
            continue;
        }
        policies += 1;
        let dns = policy["dns"].as_array().map_or(0, Vec::len);
        assert!(dns > 0, "{}: egress to port 53 of everybody", file.display());
        assert!(text.contains("get endpointslices kubernetes"), "{}", file.display());
    }
    assert_eq!(policies, 2);
}
