//! What goes wrong at an API server: of what kind, and what is to be said of it, once.

use std::collections::BTreeMap;

use kube::Error;

use crate::core::shown::in_line;

/// So many failures in a row are said to whoever has to put them right.
pub(super) const FAILED: u32 = 5;

/// What an API server is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Get,
    Put,
    Watch,
}

impl Verb {
    /// A label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Watch => "watch",
        }
    }
}

/// Why it did not do it.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: Kind,
    /// In its own words, where it has some.
    pub why: String,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Absent,
    Lost,
    Expired,
    Unauthorized,
    Forbidden,
    Throttled,
    Refused,
    Broken,
    Unreachable,
    Late,
}

impl Failure {
    pub fn of(error: &Error) -> Self {
        Self { kind: Kind::of(error), why: cause(error) }
    }
}

impl Kind {
    /// A label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Lost => "conflict",
            Self::Expired => "expired",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Throttled => "throttled",
            Self::Refused => "refused",
            Self::Broken => "server_error",
            Self::Unreachable => "unreachable",
            Self::Late => "timeout",
        }
    }

    /// What an operator has to put right, if it goes on.
    fn advice(self) -> Option<&'static str> {
        match self {
            Self::Absent | Self::Lost | Self::Expired => None,
            Self::Unauthorized | Self::Forbidden => {
                Some("refuses: may this service account get, create, update and watch the Lease?")
            }
            Self::Refused => {
                Some("does not take the Lease: is there such a namespace, does a policy forbid it?")
            }
            Self::Throttled | Self::Broken | Self::Unreachable | Self::Late => Some(
                "does not answer: nobody new can lead until it does (NetworkPolicy, firewall, \
                 `kubernetes.server`)",
            ),
        }
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::Api(status) => match status.code {
                401 => Self::Unauthorized,
                403 => Self::Forbidden,
                404 => Self::Absent,
                // 422 where it was made by somebody else meanwhile, or is gone (measured, Kubernetes 1.36).
                409 | 422 => Self::Lost,
                410 => Self::Expired,
                429 => Self::Throttled,
                code if code < 500 => Self::Refused,
                _ => Self::Broken,
            },
            _ => Self::Unreachable,
        }
    }
}

/// What is at the bottom of it: those above say only that something was.
fn cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    in_line(&cause.to_string())
}

/// What has gone wrong for so long that it is said. One thing at a time: where nothing answers, all does.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// How often in a row.
    failed: BTreeMap<Verb, u32>,
    said: Option<(Verb, String)>,
}

impl Troubles {
    /// It worked, or will.
    pub fn over(&mut self, verb: Verb) {
        self.failed.remove(&verb);
        self.said.take_if(|(said, _)| *said == verb);
    }

    /// It did not. Tells what is to be said of it now, if anything is.
    pub fn add(&mut self, verb: Verb, failure: &Failure) -> Option<&'static str> {
        let Some(advice) = failure.kind.advice() else {
            self.over(verb);
            return None;
        };
        let failed = self.failed.entry(verb).or_default();
        *failed = failed.saturating_add(1);
        // One that has only just started does not know the roles yet.
        if *failed < FAILED || self.said.as_ref().is_some_and(|(said, _)| *said != verb) {
            return None;
        }
        let (verb_said, kind) = (verb.as_str(), failure.kind.as_str());
        let words = format!("{verb_said}, {kind}: {}", failure.why);
        self.said.replace((verb, words)).is_none().then_some(advice)
    }

    /// What was said and goes on: of which kind, in the API server's own words.
    pub fn said(&self) -> Option<&str> {
        self.said.as_ref().map(|(_, words)| words.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: Kind) -> Failure {
        Failure { kind, why: "no".to_owned() }
    }

    #[test]
    fn what_goes_wrong_is_told_with_its_cause_and_what_is_usual_is_not() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = Error::ReadEvents(std::io::Error::other(refused));
        assert_eq!(cause(&error), "connection refused");
        let advice = Kind::of(&error).advice().unwrap();
        assert!(advice.contains("does not answer"), "{advice}");
        assert!(Kind::Forbidden.advice().unwrap().contains("refuses"));
        assert_eq!([Kind::Absent, Kind::Lost, Kind::Expired].map(Kind::advice), [None; 3]);
    }

    #[test]
    fn one_trouble_is_said_once_until_it_is_over() {
        let mut troubles = Troubles::default();
        let add = |troubles: &mut Troubles, verb, times| {
            let said = (0..times).filter_map(|_| troubles.add(verb, &failure(Kind::Late)));
            said.count()
        };
        assert_eq!(add(&mut troubles, Verb::Put, FAILED - 1), 0);
        // That it can be read does not mean that it can be written.
        troubles.over(Verb::Get);
        assert_eq!(troubles.said(), None);
        assert_eq!(add(&mut troubles, Verb::Put, FAILED), 1);
        assert_eq!(troubles.said(), Some("put, timeout: no"));
        assert_eq!(add(&mut troubles, Verb::Get, 2 * FAILED), 0, "nothing answers: that is known");
        troubles.over(Verb::Put);
        assert_eq!(troubles.said(), None);
        assert_eq!(add(&mut troubles, Verb::Get, 1), 1);
        assert_eq!(troubles.add(Verb::Get, &failure(Kind::Lost)), None);
        assert_eq!(troubles.said(), None, "it answers");
    }
}
