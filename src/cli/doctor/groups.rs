//! What the process's control group gives it, in version 2 and in version 1.
//!
//! A limit may stand at any group above. In a container of version 1 the groups that are named are the
//! node's, and its own is the root.

use std::path::Path;

/// Version 1 writes "no limit" as the most pages that there can be.
const UNLIMITED: u64 = 1 << 62;

/// The control group of this process.
pub struct Group<'a> {
    root: &'a Path,
    groups: String,
}

impl<'a> Group<'a> {
    /// As the system tells it below `root`.
    pub fn of(root: &'a Path) -> Self {
        let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        Self { root, groups }
    }

    /// How many processors it may use, if not all.
    pub fn processors(&self) -> Option<f64> {
        let quota = |quota: &str, period: &str| {
            let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
            // Version 1 writes "no limit" as -1, version 2 as a word.
            (quota > 0.0 && period > 0.0).then_some(quota / period)
        };
        self.newer(|folder| {
            let text = read(folder, "cpu.max")?;
            let (most, period) = text.split_once(' ')?;
            quota(most, period)
        })
        .or_else(|| {
            self.older("cpu", |folder| {
                quota(&read(folder, "cpu.cfs_quota_us")?, &read(folder, "cpu.cfs_period_us")?)
            })
        })
    }

    /// In how many of a hundred time slices it was held back, if in any.
    pub fn held_back(&self) -> Option<u64> {
        let look = |folder: &Path| read(folder, "cpu.stat");
        let text = self.newer(look).or_else(|| self.older("cpu", look))?;
        let (periods, held) = (field(&text, "nr_periods")?, field(&text, "nr_throttled")?);
        (periods > 0 && held > 0).then(|| held * 100 / periods)
    }

    /// The bytes it may use, if there is a limit.
    pub fn most_memory(&self) -> Option<u64> {
        let most = |file: &'static str| {
            move |folder: &Path| number(folder, file).filter(|&bytes| bytes < UNLIMITED)
        };
        self.newer(most("memory.max"))
            .or_else(|| self.older("memory", most("memory.limit_in_bytes")))
    }

    /// The bytes it uses.
    pub fn memory(&self) -> Option<u64> {
        self.newer(|folder| number(folder, "memory.current"))
            .or_else(|| self.older("memory", |folder| number(folder, "memory.usage_in_bytes")))
    }

    /// How many of its processes were killed for want of memory.
    pub fn killed(&self) -> u64 {
        let of = |file: &'static str| {
            move |folder: &Path| read(folder, file).and_then(|text| field(&text, "oom_kill"))
        };
        let killed = self.newer(of("memory.events"));
        killed.or_else(|| self.older("memory", of("memory.oom_control"))).unwrap_or_default()
    }

    /// What the nearest group of version 2 says.
    fn newer<T>(&self, look: impl Fn(&Path) -> Option<T>) -> Option<T> {
        let group = self.groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        nearest(&self.root.join("sys/fs/cgroup"), group, look)
    }

    /// What the nearest group of version 1 says that this controller has.
    fn older<T>(&self, controller: &str, look: impl Fn(&Path) -> Option<T>) -> Option<T> {
        let group = self.groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, group) = rest.split_once(':')?;
            controllers.split(',').any(|one| one == controller).then_some(group)
        })?;
        nearest(&self.root.join("sys/fs/cgroup").join(controller), group, look)
    }
}

/// Looks at the group, and at those above it until one says something.
fn nearest<T>(root: &Path, group: &str, look: impl Fn(&Path) -> Option<T>) -> Option<T> {
    Path::new(group.trim_start_matches('/')).ancestors().find_map(|group| look(&root.join(group)))
}

fn read(folder: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(file)).ok().map(|text| text.trim().to_owned())
}

fn number(folder: &Path, file: &str) -> Option<u64> {
    read(folder, file)?.parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    rest.trim().parse().ok()
}
