//! What pods cost.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::site::{NAMESPACE, Site};

/// What pods had cost, and when.
pub struct Before {
    at: Instant,
    cpu: BTreeMap<String, Duration>,
}

const ALL: &str = "app.kubernetes.io/name=callplane";

pub fn of(site: &Site<'_>) -> Before {
    let pods = site.node.pods(NAMESPACE, ALL);
    let cpu = pods.iter().map(|pod| (pod.container.clone(), pod.costs().1)).collect();
    Before { at: Instant::now(), cpu }
}

/// Memory, and processor time since then, or since a younger pod began.
pub fn table(site: &Site<'_>, before: &Before) -> String {
    let mut table = format!("{:<44} {:>8} {:>8} {:>8}\n", "pod", "RSS MB", "CPU s", "ready s");
    for pod in site.node.pods(NAMESPACE, ALL) {
        let (resident, cpu) = pod.costs();
        let cpu = cpu.saturating_sub(before.cpu.get(&pod.container).copied().unwrap_or_default());
        let megabytes = resident / 1_000_000;
        let seconds = cpu.as_secs_f32();
        let ready = site.node.seconds_to_ready(NAMESPACE, &pod.name).unwrap_or_default();
        writeln!(table, "{:<44} {megabytes:>8} {seconds:>8.1} {ready:>8}", pod.name).unwrap();
    }
    write!(table, "over {:.0} s of load", before.at.elapsed().as_secs_f32()).unwrap();
    table
}
