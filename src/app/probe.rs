//! `check-config --live`: does the Redis answer, does each stack, and do its events arrive?

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::backing::NoBacking;
use super::server::StartError;
use super::{settings, stacks};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Stack};
use crate::core::ids::StackId;
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
    /// The Redis; nothing of one that does not answer.
    Redis(Option<About>, Vec<String>),
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
            Self::Redis(about, _) => about.is_some(),
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
            Self::Redis(None, warnings) => {
                write!(f, "redis: it does not answer")?;
                warnings
            }
            Self::Redis(Some(about), warnings) => {
                write!(f, "redis: release {}, {} replicas", about.version, about.replicas)?;
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
            Ok(Answered { release, script }) => {
                let grade = if script.is_some() { "reference" } else { "stock" };
                match release {
                    Some((major, minor)) => write!(f, "OpenSIPS {major}.{minor}, {grade} script")?,
                    None => write!(f, "{grade} script")?,
                }
            }
        }
        match &self.events {
            Some(Ok(took)) => write!(f, "; an event arrived after {} ms", took.as_millis())?,
            Some(Err(why)) => write!(f, "; events: {why}")?,
            None => {}
        }
        Ok(())
    }
}

/// Probes the Redis and every configured stack, one after the other.
///
/// # Errors
/// [`StartError`] when a file can't be used, or a socket can't be opened.
pub async fn probe(config: &Config) -> Result<Vec<Finding>, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new();
    let mut findings = Vec::new();
    if let Some(redis) = settings::redis(&config.redis) {
        let store = RedisStore::start(redis, config.install.clone(), settings::store(config))
            .map_err(NoBacking::Redis)?;
        let about = store.about().await.ok();
        let concerns = about.as_ref().map(|about| about.concerns(config.redis.replicas));
        findings.push(Finding::Redis(about, concerns.unwrap_or_default()));
    }
    for stack in &config.stacks {
        let connector = stacks::open(config, stack, &clock, &metrics).await?;
        let stack_id = connector.id().clone();
        let Ok(connected) = connector.connect().await else {
            let warnings = Vec::new();
            let found =
                StackFinding { stack: stack_id, management: Err(()), events: None, warnings };
            findings.push(Finding::Stack(found));
            continue;
        };
        let sink = stacks::sink_of(&connector).await?;
        let events = Some(keeper::try_events(&connector, sink).await);
        let warnings = warnings(stack, &connector, &connected);
        let answered = Answered { release: connected.release, script: connected.script };
        let management = Ok(answered);
        findings.push(Finding::Stack(StackFinding {
            stack: stack_id,
            management,
            events,
            warnings,
        }));
    }
    Ok(findings)
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
