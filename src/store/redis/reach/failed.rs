//! What came of an attempt that did not succeed.

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why there is no answer to an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store::redis) enum Failed {
    /// No answer in time: done or not.
    Silent,
    /// The connection broke, or the server is none that takes writes: done or not.
    Broken(String),
    /// The server does not know (any more) what it was told at the opening.
    Forgotten,
    /// The server refused, and would refuse again.
    Refused(String),
}

/// What another server may answer otherwise: another one may be the master by now.
const OF_THIS_SERVER: [&str; 3] = ["READONLY", "MASTERDOWN", "LOADING"];

impl Failed {
    pub(super) fn of(error: &RedisError) -> Self {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Self::Forgotten,
            ErrorKind::Io => Self::Broken(error.to_string()),
            _ if error.is_unrecoverable_error() => Self::Broken(error.to_string()),
            _ if OF_THIS_SERVER.contains(&code(error)) => Self::Broken(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// What a server calls its error. Redis 6.2 wraps what a script ran into: `ERR Error running script
/// (call to ..): @user_script:1: @user_script: 1: -READONLY You can't write ..`.
fn code(error: &RedisError) -> &str {
    let code = error.code().unwrap_or_default();
    if code != "ERR" {
        return code;
    }
    let inner = error.detail().and_then(|detail| detail.split_once(": -"));
    inner.and_then(|(_, inner)| inner.split(' ').next()).unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Failed {
        let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        let redis::Value::ServerError(error) = value else { panic!("{value:?}") };
        Failed::of(&error.into())
    }

    #[test]
    fn a_server_that_is_no_master_is_left_and_others_that_refuse_are_not() {
        let wrapped =
            "ERR Error running script (call to f_0123): @user_script:3: @user_script: 3: ";
        for (text, left) in [
            ("READONLY You can't write against a read only replica.", true),
            ("MASTERDOWN Link with MASTER is down", true),
            ("LOADING Redis is loading the dataset in memory", true),
            (&format!("{wrapped}-READONLY You can't write against a read only replica."), true),
            ("OOM command not allowed when used memory > 'maxmemory'.", false),
            (&format!("{wrapped}-OOM command not allowed when used memory > 'maxmemory'."), false),
            (&format!("{wrapped}-NOREPLICAS Not enough good replicas to write."), false),
            ("NOPERM this user has no permissions", false),
            ("ERR a script that says: READONLY", false),
        ] {
            let failed = said(text);
            assert_eq!(matches!(failed, Failed::Broken(_)), left, "{text}: {failed:?}");
            assert_eq!(matches!(failed, Failed::Refused(_)), !left, "{text}: {failed:?}");
        }
        assert_eq!(said("NOSCRIPT No matching script."), Failed::Forgotten);
    }
}
