//! The scripts that Redis runs for us.

use redis::{Cmd, Pipeline, Value};

use super::reach::Live;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Writes a command's next state.
    Commit,
    /// Finds running commands by an index.
    Find,
    /// Reads a stream.
    Read,
    /// Begins an epoch.
    OpenEpoch,
    /// Tells that a process lives.
    Beat,
    /// Draws a term.
    Lead,
    /// Fences older terms in a partition.
    Raise,
    /// Takes or keeps a lease.
    Lease,
    /// Gives a lease back.
    Resign,
    /// Tells the highest term.
    Newest,
}

impl Script {
    const ALL: [Self; 10] = [
        Self::Commit,
        Self::Find,
        Self::Read,
        Self::OpenEpoch,
        Self::Beat,
        Self::Lead,
        Self::Raise,
        Self::Lease,
        Self::Resign,
        Self::Newest,
    ];

    fn source(self) -> &'static str {
        match self {
            Self::Commit => include_str!("commit.lua"),
            Self::Find => include_str!("find.lua"),
            Self::Read => include_str!("read.lua"),
            Self::OpenEpoch => include_str!("open_epoch.lua"),
            Self::Beat => include_str!("beat.lua"),
            Self::Lead => include_str!("lead.lua"),
            Self::Raise => include_str!("raise.lua"),
            Self::Lease => include_str!("lease.lua"),
            Self::Resign => include_str!("resign.lua"),
            Self::Newest => include_str!("newest.lua"),
        }
    }

    /// The beginning of a call, over a connection that began with [`Script::load_all`].
    pub(super) fn over(self, live: &Live) -> Cmd {
        let hash = match live.opened.get(self.place()) {
            Some(Value::BulkString(hash)) => hash.as_slice(),
            Some(_) | None => &[],
        };
        let mut command = redis::cmd("EVALSHA");
        command.arg(hash);
        command
    }

    /// Where its hash is in the answer to [`Script::load_all`].
    fn place(self) -> usize {
        match self {
            Self::Commit => 0,
            Self::Find => 1,
            Self::Read => 2,
            Self::OpenEpoch => 3,
            Self::Beat => 4,
            Self::Lead => 5,
            Self::Raise => 6,
            Self::Lease => 7,
            Self::Resign => 8,
            Self::Newest => 9,
        }
    }

    /// Makes all of them known to the server, which answers with their hashes.
    pub(super) fn load_all() -> Pipeline {
        let mut pipeline = redis::pipe();
        for script in Self::ALL {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(script.source());
        }
        pipeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_where_they_are_looked_for() {
        for (place, script) in Script::ALL.into_iter().enumerate() {
            assert_eq!(script.place(), place);
        }
    }
}
