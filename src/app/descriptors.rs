//! How many connections of clients the process's descriptors allow.
//!
//! Without descriptors to spare nobody can be accepted any more, probes included: a flood of
//! clients would have the process killed from outside, and its commands with it.

use crate::client;

/// Descriptors that clients do not get: the stacks' sockets and lists, probes, the log.
const OURS: usize = 128;

/// Takes as many descriptors as the system lets this process have. The soft limit, 1,024 on most
/// systems, is for programs that use `select`.
pub fn raise() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "the soft limit of descriptors (ulimit -n) stays as it is");
    }
}

/// How many descriptors the process may have; nothing where the system does not tell.
pub fn most() -> Option<usize> {
    soft_limit(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// The settings, with no more connections than so many descriptors allow.
pub fn within(settings: client::Settings, descriptors: usize) -> client::Settings {
    // Never less than a few: a tiny limit must not look like a server that is not there.
    let spare = descriptors.saturating_sub(OURS).max(16);
    let requests = settings.requests.min(spare / 5);
    let connections = settings.connections.min(spare - spare / 5);
    if connections < settings.connections {
        tracing::info!(
            descriptors,
            wanted = settings.connections,
            connections,
            "fewer sessions than `limits.sessions` fit the process's descriptors (ulimit -n)"
        );
    }
    client::Settings { connections, requests, ..settings }
}

/// `Max open files            1024                 524288               files`
fn soft_limit(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    // `unlimited` is no number, and no limit.
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::settings;
    use crate::config::Config;

    #[test]
    fn the_soft_limit_is_read() {
        let limits = |soft: &str| {
            format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax open files   {soft}   4096   files\n"
            )
        };
        assert_eq!(soft_limit(&limits("1024")), Some(1024));
        assert_eq!(soft_limit(&limits("unlimited")), None);
        assert_eq!(soft_limit("nonsense"), None);
    }

    #[test]
    fn clients_never_get_the_last_descriptors() {
        let wanted = settings::client(&Config::default());
        for descriptors in [1, 130, 256, 1024, 20_000, 1_000_000] {
            let got = within(wanted.clone(), descriptors);
            assert!(got.connections > 0 && got.requests > 0, "{descriptors}");
            let left = descriptors.saturating_sub(got.connections + got.requests);
            assert!(left >= OURS || descriptors < OURS + 16, "{descriptors}: {left}");
        }
        let plenty = within(wanted.clone(), 1_000_000);
        assert_eq!(plenty.connections, wanted.connections);
    }
}
