//! Pods as their node sees them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use jiff::Timestamp;

use super::programs::CONTAINERD;
use super::{Node, run, wait_until};

/// A running pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub address: String,
    /// How often its container was started again.
    pub restarts: u32,
    pub ready: bool,
    /// Its container at containerd.
    pub container: String,
}

impl Node {
    /// The pods with these labels that are not being ended.
    pub fn pods(&self, namespace: &str, labels: &str) -> Vec<Pod> {
        let of_each = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP} \
             {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready} \
             {.status.containerStatuses[0].containerID} {.metadata.deletionTimestamp}\n{end}";
        let told =
            self.api.kubectl_said(&["-n", namespace, "get", "pods", "-l", labels, "-o", of_each]);
        let pods = told.lines().filter_map(|line| {
            let parts: Vec<&str> = line.split_whitespace().collect();
            let [name, address, restarts, ready, container] = parts[..] else { return None };
            Some(Pod {
                name: name.to_owned(),
                address: address.to_owned(),
                restarts: restarts.parse().ok()?,
                ready: ready == "true",
                container: container.strip_prefix("containerd://")?.to_owned(),
            })
        });
        pods.collect()
    }

    /// Waits until there are exactly so many, and all are ready.
    pub fn ready_pods(&self, namespace: &str, labels: &str, count: usize) -> Vec<Pod> {
        let mut pods = Vec::new();
        let what = format!("{count} pods of {labels} are ready");
        let is = || {
            pods = self.pods(namespace, labels);
            pods.len() == count && pods.iter().all(|pod| pod.ready)
        };
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(&what, Duration::from_secs(90), is);
        }));
        assert!(waited.is_ok(), "waited until {what}, {pods:#?}\n{}", self.story());
        pods
    }

    /// How long this pod took from being made to being ready, in whole seconds as the API server has it.
    pub fn seconds_to_ready(&self, namespace: &str, pod: &str) -> Option<i64> {
        let times = "jsonpath={.metadata.creationTimestamp} \
             {.status.conditions[?(@.type=='Ready')].lastTransitionTime}";
        let told = self.api.kubectl(&["-n", namespace, "get", "pod", pod, "-o", times]).stdout;
        let told = String::from_utf8_lossy(&told).into_owned();
        let (made, ready) = told.split_once(' ')?;
        let (made, ready): (Timestamp, Timestamp) = (made.parse().ok()?, ready.parse().ok()?);
        Some(ready.as_second() - made.as_second())
    }

    /// What its container said.
    pub fn log(&self, namespace: &str, pod: &str) -> String {
        let told = self.api.kubectl(&["-n", namespace, "logs", pod]);
        String::from_utf8_lossy(&told.stdout).into_owned()
    }
}

impl Pod {
    /// The process of its container, as this machine knows it.
    pub fn pid(&self) -> u32 {
        let tasks = run("ctr", &["--address", CONTAINERD, "-n", "k8s.io", "tasks", "ls"]);
        let task = tasks.lines().find(|line| line.starts_with(&self.container));
        let pid = task.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        pid.unwrap_or_else(|| panic!("{} has no process in {tasks}", self.name))
    }

    /// What it says at its port for operations, asked from the node.
    pub fn metrics(&self) -> String {
        let mut asked = TcpStream::connect((&*self.address, 9090)).unwrap();
        asked
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: pod\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut said = String::new();
        asked.read_to_string(&mut said).unwrap();
        said
    }

    pub fn signal(&self, signal: &str) {
        run("kill", &[signal, &self.pid().to_string()]);
    }

    /// Its resident bytes and the processor time that it spent.
    pub fn costs(&self) -> (u64, Duration) {
        let pid = self.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let resident: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // utime and stime (proc(5)), in hundredths of a second.
        let ticks: u64 = fields[11..=12].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        (resident * 1024, Duration::from_millis(ticks * 10))
    }
}
