//! What a server says of itself, and what is to be said of that.

use std::fmt;

use redis::{Pipeline, RedisError, Value};

/// What matters of a server's `INFO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its release: Redis', or the Redis release that a Valkey stands for.
    pub version: String,
    /// What it throws away when it is full (`maxmemory-policy`).
    pub policy: String,
    /// It writes down each change (`appendonly`).
    pub appends: bool,
    /// Replicas that follow it now.
    pub replicas: usize,
}

impl About {
    pub(in crate::store::redis) fn of(info: &str) -> Self {
        let text = |name| line(info, name).unwrap_or_default().to_owned();
        Self {
            version: text("redis_version:"),
            policy: text("maxmemory_policy:"),
            appends: line(info, "aof_enabled:") == Some("1"),
            replicas: text("connected_slaves:").parse().unwrap_or_default(),
        }
    }

    /// What an operator should know, when so many replicas are waited for.
    #[must_use]
    pub fn concerns(&self, wanted: usize) -> Vec<String> {
        let mut concerns = Vec::new();
        if release(&self.version).is_none_or(|release| release < (6, 2)) {
            concerns.push(format!("release {} is older than 6.2 and not tested", self.version));
        }
        if self.policy != "noeviction" {
            let policy = &self.policy;
            concerns.push(format!(
                "maxmemory-policy is {policy}: commands may be thrown away; set noeviction"
            ));
        }
        if !self.appends {
            concerns.push(
                "appendonly is off: a restart of Redis forgets what ran, which ends `unknown`"
                    .to_owned(),
            );
        }
        let has = self.replicas;
        if has < wanted {
            concerns.push(format!(
                "{has} replicas follow, and `redis.replicas` waits for {wanted}: transfers, holds \
                 and starts on stock scripts will not be sent"
            ));
        }
        concerns
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "release {}, {} replicas", self.version, self.replicas)
    }
}

fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What says whether it is to be spoken to.
pub(super) struct Server {
    pub(super) is_master: bool,
    pub(super) run_id: String,
}

impl Server {
    pub(super) fn asked() -> Pipeline {
        let mut ask = redis::pipe();
        ask.cmd("INFO").arg("server").cmd("INFO").arg("replication");
        ask
    }

    pub(super) fn told(values: Vec<Value>) -> Result<Self, RedisError> {
        let (server, replication): (String, String) =
            redis::from_redis_value(Value::Array(values))?;
        let Some(run_id) = line(&server, "run_id:").map(str::to_owned) else {
            let missing = (redis::ErrorKind::UnexpectedReturnType, "INFO has no run_id");
            return Err(missing.into());
        };
        Ok(Self { is_master: line(&replication, "role:") == Some("master"), run_id })
    }
}

fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_set_up_well_raises_no_concern() {
        let info = "# Server\r\nredis_version:7.0.15\r\n# Memory\r\nmaxmemory_policy:noeviction\r\n\
                    # Persistence\r\naof_enabled:1\r\n# Replication\r\nconnected_slaves:2\r\n";
        let about = About::of(info);
        assert_eq!(about.concerns(2), Vec::<String>::new());
        assert_eq!(about.concerns(3).len(), 1);
    }

    #[test]
    fn each_concern_is_told() {
        let info = "redis_version:6.0.9\r\nmaxmemory_policy:allkeys-lru\r\naof_enabled:0\r\n\
                    connected_slaves:0\r\n";
        let concerns = About::of(info).concerns(1);
        let words = ["6.2", "noeviction", "appendonly", "`redis.replicas` waits for 1"];
        assert_eq!(concerns.len(), words.len(), "{concerns:?}");
        for (concern, word) in concerns.iter().zip(words) {
            assert!(concern.contains(word), "{concern}");
        }
        assert_eq!(About::of("").concerns(0).len(), 3, "what is not told is no comfort");
    }
}
