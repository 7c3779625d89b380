//! `check-config --live` and `doctor`: does the Redis answer, does each stack, and do its events
//! arrive?

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backing::NoBacking;
use super::server::StartError;
use super::{settings, stacks};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Leadership, Stack};
use crate::core::ids::{PodId, StackId};
use crate::leadership::kubernetes::{self, NoAccess};
use crate::metrics::Metrics;
use crate::stack::opensips::concerns::concerns;
use crate::stack::opensips::keeper::{self, NoEvents};
use crate::stack::opensips::script::Script;
use crate::stack::opensips::{Connected, RealOpenSips};
use crate::store::redis::{About, RedisStore};

/// What was found of one thing that is configured.
#[derive(Debug)]
pub enum Finding {
    /// A stack.
    Stack(StackFinding),
    /// The Redis, or why it does not answer.
    Redis(Result<About, String>, Vec<String>),
}

/// What was found of one stack.
#[derive(Debug)]
pub struct StackFinding {
    stack: StackId,
    management: Result<Answered, ()>,
    events: Option<Result<Duration, NoEvents>>,
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Answered {
    release: Option<(u32, u32)>,
    script: Option<Script>,
}

impl Finding {
    /// Whether commands will work and events will be seen.
    #[must_use]
    pub fn is_good(&self) -> bool {
        match self {
            Self::Stack(found) => found.management.is_ok() && matches!(found.events, Some(Ok(_))),
            Self::Redis(about, _) => about.is_ok(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warnings = match self {
            Self::Stack(found) => {
                write!(f, "{found}")?;
                &found.warnings
            }
            Self::Redis(Err(why), warnings) => {
                write!(f, "redis: {why}")?;
                warnings
            }
            Self::Redis(Ok(about), warnings) => {
                write!(f, "redis: {about}")?;
                warnings
            }
        };
        for warning in warnings {
            write!(f, "\n  warning: {warning}")?;
        }
        Ok(())
    }
}

impl fmt::Display for StackFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stack {}: ", self.stack)?;
        match &self.management {
            Err(()) => return write!(f, "the management interface does not answer"),
            Ok(answered) => write!(f, "{answered}")?,
        }
        match &self.events {
            Some(Ok(took)) => write!(f, "; an event arrived after {} ms", took.as_millis())?,
            Some(Err(why)) => write!(f, "; events: {why}")?,
            None => {}
        }
        Ok(())
    }
}

/// Something that does not work, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub what: String,
    /// What to do.
    pub advice: &'static str,
}

impl Finding {
    /// What it is about: `redis`, `stack main`.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Redis(..) => "redis".to_owned(),
            Self::Stack(found) => format!("stack {}", found.stack),
        }
    }

    /// What was found, in one line without its subject and without what is wrong.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        match self {
            Self::Redis(about, _) => about.as_ref().ok().map(About::to_string),
            Self::Stack(found) => {
                let answered = found.management.as_ref().ok()?;
                let arrived = match found.events {
                    Some(Ok(took)) => format!("; an event arrived after {} ms", took.as_millis()),
                    Some(Err(_)) | None => String::new(),
                };
                Some(format!("{answered}{arrived}"))
            }
        }
    }

    /// What does not work.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        let (what, advice) = match self {
            Self::Redis(Ok(_), _) => return None,
            Self::Redis(Err(why), _) => (
                why.clone(),
                "is it there (redis-cli -h HOST -p PORT ping), does a firewall or NetworkPolicy let us \
                 out to it, are user, password file and TLS files those it wants?",
            ),
            Self::Stack(found) => match (&found.management, found.events) {
                (Err(()), _) => (
                    "the management interface does not answer".to_owned(),
                    "does OpenSIPS run there with mi_datagram at that address, and does a firewall or \
                     NetworkPolicy let UDP pass both ways? Its commands are refused meanwhile",
                ),
                (Ok(_), Some(Err(why))) => (format!("events: {why}"), advice_on(why)),
                (Ok(_), Some(Ok(_)) | None) => return None,
            },
        };
        Some(Trouble { what, advice })
    }

    /// Whether it is only that a trial's event did not arrive.
    #[must_use]
    pub fn is_lost_event(&self) -> bool {
        match self {
            Self::Redis(..) => false,
            Self::Stack(found) => found.events == Some(Err(NoEvents::Lost)),
        }
    }

    /// What may become trouble.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        match self {
            Self::Redis(_, warnings) => warnings,
            Self::Stack(found) => &found.warnings,
        }
    }
}

fn advice_on(why: NoEvents) -> &'static str {
    match why {
        NoEvents::Away => "it answered before: ask again",
        NoEvents::Refused => {
            "load event_datagram (for tcp: event_stream) in opensips.cfg: docs/opensips.md"
        }
        NoEvents::Lost => {
            "the stack must reach our address: let its UDP in (firewall, NetworkPolicy), or say in \
             stacks[].events and stacks[].advertise where it does"
        }
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = if self.script.is_some() { "reference" } else { "stock" };
        match self.release {
            Some((major, minor)) => write!(f, "OpenSIPS {major}.{minor}, {grade} script"),
            None => write!(f, "{grade} script"),
        }
    }
}

/// Probes the Redis and every configured stack, one after the other.
///
/// # Errors
/// [`StartError`] when a file can't be used, or a socket can't be opened.
pub async fn probe(config: &Config) -> Result<Vec<Finding>, StartError> {
    let mut findings = Vec::new();
    findings.extend(probe_redis(config).await?);
    for stack in &config.stacks {
        findings.push(probe_stack(config, stack).await?);
    }
    Ok(findings)
}

/// Probes the Redis, where one is configured.
///
/// # Errors
/// [`StartError`] when a file can't be used.
pub async fn probe_redis(config: &Config) -> Result<Option<Finding>, StartError> {
    let Some(redis) = settings::redis(&config.redis) else { return Ok(None) };
    let store = RedisStore::start(redis, config.install.clone(), settings::store(config))
        .map_err(NoBacking::Redis)?;
    let silent = |_| store.trouble().unwrap_or_else(|| "it does not answer".to_owned());
    let about = store.about().await.map_err(silent);
    let concerns = about.as_ref().ok().map(|about| about.concerns(config.redis.replicas));
    Ok(Some(Finding::Redis(about, concerns.unwrap_or_default())))
}

/// Looks at the Leases, where they elect.
///
/// # Errors
/// [`NoAccess`] when the API server can't be asked at all.
pub async fn look_at_leases(config: &Config) -> Result<Vec<kubernetes::Look>, NoAccess> {
    if config.leadership != Some(Leadership::Kubernetes) {
        return Ok(Vec::new());
    }
    // Nobody contends by this name.
    let settings = settings::kubernetes(&config.kubernetes, &PodId::new("looks"), 0);
    let names = config.stacks.iter().map(|stack| StackId::new(stack.name.as_str()));
    kubernetes::look(&settings, &names.collect::<Vec<_>>()).await
}

/// Probes one stack.
///
/// # Errors
/// [`StartError`] when a socket can't be opened.
pub async fn probe_stack(config: &Config, stack: &Stack) -> Result<Finding, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let connector = stacks::open(config, stack, &clock, &Metrics::new()).await?;
    let stack_id = connector.id().clone();
    let Ok(connected) = connector.connect().await else {
        let warnings = Vec::new();
        let found = StackFinding { stack: stack_id, management: Err(()), events: None, warnings };
        return Ok(Finding::Stack(found));
    };
    let sink = stacks::sink_of(&connector).await?;
    let events = Some(keeper::try_events(&connector, sink).await);
    let warnings = warnings(stack, &connector, &connected);
    let answered = Answered { release: connected.release, script: connected.script };
    Ok(Finding::Stack(StackFinding { stack: stack_id, management: Ok(answered), events, warnings }))
}

fn warnings(stack: &Stack, connector: &RealOpenSips, connected: &Connected) -> Vec<String> {
    let mut warnings = Vec::new();
    if stack.mi_http.is_none() {
        warnings.push(
            "without mi_http a list of more than about 65 calls can't be read, and an unknown \
             call can't be told from an ended one"
                .to_owned(),
        );
    }
    let settings = connector.settings();
    warnings.extend(concerns(settings, connected.release, connected.script.as_ref()));
    warnings
}
