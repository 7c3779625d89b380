//! The dashboard is one that a person can read: nothing overlaps, everything is explained, and all
//! that is measured is on it.

use std::collections::BTreeSet;

use crate::dashboard::{Panel, json, panels, variables};
use crate::expression::{kept, labels, selectors};
use crate::metrics;

/// The units in use, by Grafana's names.
const UNITS: [&str; 10] =
    ["short", "s", "bytes", "Bps", "percentunit", "cps", "eps", "mps", "reqps", "none"];

fn graphs() -> Vec<Panel> {
    panels().into_iter().filter(|panel| panel.kind != "row").collect()
}

#[test]
fn panels_fill_the_grid_and_do_not_overlap() {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let panels = panels();
    for Panel { title, place, json, .. } in &panels {
        assert!(ids.insert(json["id"].as_u64().unwrap()), "{title}: its id is another's too");
        assert!(place.w > 0 && place.h > 0 && place.x + place.w <= 24, "{title}: {place:?}");
        for x in place.x..place.x + place.w {
            for y in place.y..place.y + place.h {
                assert!(taken.insert((x, y)), "{title} lies on another panel at {x}, {y}");
            }
        }
    }
    let height = panels.iter().map(|panel| panel.place.y + panel.place.h).max().unwrap();
    for y in 0..height {
        let gap = (0..24).find(|x| !taken.contains(&(*x, y)));
        assert_eq!(gap, None, "nothing stands in line {y}");
    }
}

#[test]
fn rows_come_in_the_order_in_which_one_looks() {
    let rows: Vec<_> =
        panels().into_iter().filter(|panel| panel.kind == "row").map(|row| row.title).collect();
    let expected = [
        "Overview",
        "Clients",
        "Commands",
        "Outcomes",
        "Latencies",
        "Stacks",
        "Events",
        "Leader",
        "Redis",
        "Saturation",
        "Traces",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn every_panel_is_explained_and_has_a_unit() {
    for Panel { title, kind, json, queries, .. } in graphs() {
        let description = json["description"].as_str().unwrap();
        assert!(description.ends_with('.') && description.len() > 25, "{title}: {description}");
        assert!(!queries.is_empty(), "{title} asks nothing");
        let defaults = &json["fieldConfig"]["defaults"];
        let unit = defaults["unit"].as_str().or(json["options"]["yAxis"]["unit"].as_str());
        match kind.as_str() {
            "stat" | "timeseries" | "heatmap" => {
                let unit = unit.unwrap_or_else(|| panic!("{title} has no unit"));
                assert!(UNITS.contains(&unit), "{title}: {unit}");
            }
            "state-timeline" => assert!(!defaults["mappings"].as_array().unwrap().is_empty()),
            "table" => {}
            other => panic!("{title}: {other}"),
        }
        if let Some(thresholds) = defaults["thresholds"]["steps"].as_array() {
            let values: Vec<_> = thresholds.iter().map(|step| step["value"].as_f64()).collect();
            assert_eq!(values[0], None, "{title}: the first threshold begins at the bottom");
            assert!(values.is_sorted(), "{title}: {values:?}");
            let style = defaults["custom"]["thresholdsStyle"]["mode"].as_str().unwrap_or("off");
            assert!(
                kind != "timeseries" || (values.len() > 1) == (style != "off"),
                "{title}: thresholds that nobody sees, or none to be seen"
            );
        }
    }
}

#[test]
fn the_data_source_and_what_is_looked_at_can_be_chosen() {
    for Panel { title, json, queries, .. } in graphs() {
        assert_eq!(json["datasource"]["uid"], "${datasource}", "{title}");
        for target in json["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
        for query in queries {
            for asked in selectors(&query.expr) {
                let by = |name: &str| asked.matchers.contains(&format!("{name}=~\"${name}\""));
                for variable in ["namespace", "job", "pod"] {
                    let alerts = asked.metric == "ALERTS" && variable != "namespace";
                    assert!(alerts || by(variable), "{title}: {asked} is not chosen by {variable}");
                }
                let of_stack = metrics().iter().any(|(name, labels)| {
                    *name == asked.metric.trim_end_matches("_bucket")
                        && labels.contains(&"stack".to_owned())
                });
                assert_eq!(of_stack, by("stack"), "{title}: {asked}");
            }
        }
    }
    let named: Vec<_> = variables().into_iter().map(|(name, _, _)| name).collect();
    assert_eq!(named, ["namespace", "job", "pod", "stack"]);
    assert!(json()["uid"] == "callplane" && json()["schemaVersion"].as_u64() >= Some(39));
}

#[test]
fn legends_name_labels_that_are_left() {
    for Panel { title, kind, queries, .. } in graphs() {
        for query in queries {
            let left = kept(&query.expr);
            for label in query.legend.split("{{").skip(1) {
                let label = label.split("}}").next().unwrap();
                assert!(left.iter().any(|kept| kept == label), "{title}: no {label} in {left:?}");
            }
            if kind == "timeseries" || kind == "state-timeline" {
                let told = |label: &&String| query.legend.contains(&format!("{{{{{label}}}}}"));
                let untold: Vec<_> = left.iter().filter(|label| !told(label)).collect();
                let one_of =
                    |label: &&&String| ["le", "namespace", "job"].contains(&label.as_str());
                assert!(
                    untold.iter().all(|label| one_of(&label)),
                    "{title}: {untold:?} look alike"
                );
            }
        }
    }
}

#[test]
fn all_that_is_measured_is_on_the_dashboard_and_nothing_else() {
    let metrics = metrics();
    let given =
        ["namespace", "job", "pod", "instance", "le", "alertname", "alertstate", "severity"];
    let mut shown = BTreeSet::new();
    for Panel { title, queries, .. } in graphs() {
        for query in queries {
            for selector in selectors(&query.expr) {
                let name = selector.metric.trim_end_matches("_bucket").to_owned();
                if name.starts_with("callplane_") {
                    let there = metrics.iter().any(|(known, _)| *known == name);
                    assert!(there, "{title}: there is no {name}");
                }
                shown.insert(name);
            }
            for label in labels(&query.expr) {
                let known = metrics.iter().any(|(_, labels)| labels.contains(&label));
                assert!(known || given.contains(&label.as_str()), "{title}: no label {label}");
            }
        }
    }
    let hidden: Vec<_> = metrics.iter().filter(|(name, _)| !shown.contains(name)).collect();
    assert!(hidden.is_empty(), "no panel shows {hidden:#?}");
}
