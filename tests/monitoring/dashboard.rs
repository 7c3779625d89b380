//! The dashboard as it is written.

use serde_json::Value;

use crate::text_of;

pub const DASHBOARD: &str = "charts/callplane/dashboards/callplane.json";

/// Where a panel stands: 24 columns, and as many rows as it takes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub x: u64,
    pub y: u64,
    pub w: u64,
    pub h: u64,
}

/// A panel, or the heading of a row.
#[derive(Debug)]
pub struct Panel {
    pub title: String,
    pub kind: String,
    pub place: Place,
    pub json: Value,
    pub queries: Vec<Query>,
}

#[derive(Debug)]
pub struct Query {
    pub expr: String,
    pub legend: String,
}

pub fn json() -> Value {
    serde_json::from_str(&text_of(DASHBOARD)).unwrap()
}

fn text(json: &Value) -> String {
    json.as_str().unwrap_or_else(|| panic!("{json} is no text")).to_owned()
}

/// All panels, headings too, in order.
pub fn panels() -> Vec<Panel> {
    let json = json();
    let panels = json["panels"].as_array().unwrap().iter().map(|panel| {
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let queries = panel["targets"].as_array().into_iter().flatten().map(|target| Query {
            expr: text(&target["expr"]),
            legend: text(&target["legendFormat"]),
        });
        Panel {
            title: text(&panel["title"]),
            kind: text(&panel["type"]),
            place: Place { x: at("x"), y: at("y"), w: at("w"), h: at("h") },
            queries: queries.collect(),
            json: panel.clone(),
        }
    });
    panels.collect()
}

/// The queries that mark moments in all panels.
pub fn annotations() -> Vec<String> {
    let json = json();
    let list = json["annotations"]["list"].as_array().unwrap();
    list.iter().filter_map(|mark| Some(mark["expr"].as_str()?.to_owned())).collect()
}

/// A variable that is chosen from values of a label: its name, the metric, and the label.
pub fn variables() -> Vec<(String, String, String)> {
    let json = json();
    let list = json["templating"]["list"].as_array().unwrap().iter();
    let chosen = list.filter(|variable| variable["type"] == "query").map(|variable| {
        let query = text(&variable["query"]["query"]);
        assert_eq!(query, text(&variable["definition"]));
        let inside = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
        let (metric, label) = inside.rsplit_once(", ").unwrap();
        (text(&variable["name"]), metric.to_owned(), label.to_owned())
    });
    chosen.collect()
}
