//! What the machine, or the container, gives the process.

use std::path::PathBuf;

use super::groups::Group;
use super::report::Report;
use crate::config::{Config, Transport};

/// Where the system tells of itself; another folder in tests.
pub struct Platform {
    root: PathBuf,
}

/// What bounds receive buffers.
pub const RMEM_MAX: &str = "net.core.rmem_max";

/// Descriptors that are kept for other things than clients.
const OURS: usize = 128;

impl Platform {
    /// This machine.
    pub fn here() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// Tells of it. Without a configuration nothing is judged.
    pub fn tell(&self, config: Option<&Config>, report: &mut Report) {
        report.begin("platform");
        report.note("kernel", self.read("proc/sys/kernel/osrelease").unwrap_or_default());
        self.processors(report);
        self.memory(report);
        self.descriptors(config, report);
        self.receive_buffer(config, report);
    }

    fn processors(&self, report: &mut Report) {
        let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let group = self.group();
        let limit = group
            .processors()
            .map_or_else(|| "no limit".to_owned(), |processors| format!("limit {processors:.2}"));
        let throttled =
            group.held_back().map(|share| format!(", held back in {share}% of its time slices"));
        let text = format!("{count}, {limit}{}", throttled.unwrap_or_default());
        report.note("processors", text);
    }

    fn memory(&self, report: &mut Report) {
        let all = self.read("proc/meminfo").and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        });
        let all = all.map_or_else(|| "unknown".to_owned(), |kib| mib(kib * 1024));
        let group = self.group();
        let limit = group
            .most_memory()
            .map_or_else(|| "no limit".to_owned(), |max| format!("limit {}", mib(max)));
        let used = group.memory().map(|now| format!(", {} used", mib(now)));
        let text = format!("{all}, {limit}{}", used.unwrap_or_default());
        match group.killed() {
            0 => report.note("memory", text),
            times => report.bad(
                "memory",
                format!("{text}; {times} processes were killed for want of it"),
                "raise the memory limit; docs/scaling.md says what sessions and commands take",
            ),
        }
    }

    fn descriptors(&self, config: Option<&Config>, report: &mut Report) {
        let limits = self.read("proc/self/limits").unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        let mut words = line.unwrap_or_default().split_whitespace();
        let (soft, hard) = (words.next().unwrap_or("?"), words.next().unwrap_or("?"));
        let text = format!("{soft}, up to {hard}");
        // The server raises its own to the hard limit; four fifths of what is left are for sessions.
        let wanted = config.map_or(0, |config| config.limits.sessions);
        match hard.parse::<usize>() {
            Ok(most) if most.saturating_sub(OURS) / 5 * 4 < wanted => report.warn(
                "descriptors",
                format!("{text}: too few for limits.sessions, {wanted}"),
                "raise the hard limit (LimitNOFILE, --ulimit nofile), or lower limits.sessions: \
                 sessions beyond are refused",
            ),
            Ok(_) | Err(_) => report.note("descriptors", text),
        }
    }

    fn receive_buffer(&self, config: Option<&Config>, report: &mut Report) {
        let name = RMEM_MAX;
        let Some(given) = self.read("proc/sys/net/core/rmem_max") else {
            report.note(name, "not shown in this network namespace: the node's counts");
            return;
        };
        let by_udp = config.into_iter().flat_map(|config| &config.stacks).filter(|stack| {
            stack.events.as_ref().is_none_or(|socket| socket.transport == Transport::Udp)
        });
        let wanted = by_udp.map(|stack| stack.receive_buffer.bytes()).max().unwrap_or_default();
        match given.parse::<usize>() {
            Ok(most) if most < wanted => report.warn(
                name,
                format!("{most}, stacks[].receive_buffer wants {wanted}"),
                &format!("on the node: sysctl -w net.core.rmem_max={wanted}; bursts of events may be lost otherwise"),
            ),
            Ok(_) | Err(_) => report.note(name, given),
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn group(&self) -> Group<'_> {
        Group::of(&self.root)
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(files: &[(&str, &str)], config: &str) -> Report {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let config = crate::config::parse(config, None, []).unwrap().config;
        let mut report = Report::default();
        Platform { root: root.path().to_owned() }.tell(Some(&config), &mut report);
        report
    }

    const LIMITS: &str = "Limit  Soft  Hard  Units\nMax open files  1024  524288  files\n";

    #[test]
    fn a_container_with_limits_is_told() {
        let group = "sys/fs/cgroup/kubepods/pod";
        let report = told(
            &[
                ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
                ("proc/self/cgroup", "0::/kubepods/pod/abc\n"),
                ("proc/meminfo", "MemTotal:       24576000 kB\nMemFree: 1 kB\n"),
                (&format!("{group}/abc/memory.max"), "max\n"),
                (&format!("{group}/abc/memory.current"), "31457280\n"),
                (&format!("{group}/memory.max"), "268435456\n"),
                (&format!("{group}/abc/cpu.max"), "150000 100000\n"),
                (
                    &format!("{group}/abc/cpu.stat"),
                    "usage_usec 1\nnr_periods 200\nnr_throttled 50\n",
                ),
                ("proc/self/limits", LIMITS),
                ("proc/sys/net/core/rmem_max", "8388608\n"),
            ],
            "",
        );
        let page = report.page();
        for text in [
            "6.1.0-18-amd64",
            "limit 1.50, held back in 25% of its time slices",
            "24000 MiB, limit 256 MiB, 30 MiB used",
            "1024, up to 524288",
            "8388608",
            "problems: 0",
        ] {
            assert!(page.contains(text), "{text}:\n{page}");
        }
        assert!(!page.contains("warnings"), "{page}");
    }

    /// As a container has it: the groups of the node are named, and its own is the root.
    #[test]
    fn a_node_with_control_groups_of_version_1_is_told_too() {
        let all = "9223372036854771712\n";
        let own = [
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "31457280\n"),
            ("sys/fs/cgroup/memory/memory.oom_control", "under_oom 0\noom_kill 3\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/cpu.stat", "nr_periods 10\nnr_throttled 1\nthrottled_time 9\n"),
            ("proc/meminfo", "MemTotal:       24576000 kB\n"),
        ];
        let groups = "9:memory:/kubepods/pod/abc\n4:cpu,cpuacct:/kubepods/pod/abc\n1:name=systemd:/x\n0::/y\n";
        let inside = [&own[..], &[("proc/self/cgroup", groups)]].concat();
        let page = told(&inside, "").page();
        for text in [
            "limit 0.50, held back in 10% of its time slices",
            "24000 MiB, limit 256 MiB, 30 MiB used; 3 processes were killed",
        ] {
            assert!(page.contains(text), "{text}:\n{page}");
        }
        let nothing = [
            ("proc/self/cgroup", "9:memory:/a\n4:cpu,cpuacct:/a\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", all),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", all),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(told(&nothing, "").page().matches("no limit").count(), 2);
    }

    #[test]
    fn too_little_of_something_is_told_with_advice() {
        let report = told(
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.events", "low 0\noom 2\noom_kill 2\n"),
                ("proc/self/limits", LIMITS),
                ("proc/sys/net/core/rmem_max", "212992"),
            ],
            "limits: {sessions: 500000}",
        );
        let page = report.page();
        for text in [
            "2 processes were killed for want of it",
            "too few for limits.sessions, 500000",
            "sysctl -w net.core.rmem_max=8388608",
            "warnings: 2",
            "problems: 1",
        ] {
            assert!(page.contains(text), "{text}:\n{page}");
        }
        let by_tcp = "stacks: [{events: \"tcp:127.0.0.1:5065\"}]";
        let page = told(&[("proc/sys/net/core/rmem_max", "212992")], by_tcp).page();
        assert!(!page.contains("sysctl"), "{page}");
    }
}
