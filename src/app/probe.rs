//! `check-config --live`: does each stack answer, and do its events arrive?

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::stacks::{self, StackError};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Stack};
use crate::core::ids::StackId;
use crate::metrics::Metrics;
use crate::stack::opensips::concerns::concerns;
use crate::stack::opensips::keeper::{self, NoEvents};
use crate::stack::opensips::script::Script;
use crate::stack::opensips::{Connected, RealOpenSips};

/// What was found of one stack.
#[derive(Debug)]
pub struct Finding {
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
        self.management.is_ok() && matches!(self.events, Some(Ok(_)))
    }
}

impl fmt::Display for Finding {
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
        for warning in &self.warnings {
            write!(f, "\n  warning: {warning}")?;
        }
        Ok(())
    }
}

/// Probes every configured stack, one after the other.
///
/// # Errors
/// [`StackError`] when a socket can't be opened.
pub async fn probe(config: &Config) -> Result<Vec<Finding>, StackError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new();
    let mut findings = Vec::new();
    for stack in &config.stacks {
        let connector = stacks::open(config, stack, &clock, &metrics).await?;
        let stack_id = connector.id().clone();
        let Ok(connected) = connector.connect().await else {
            let warnings = Vec::new();
            findings.push(Finding { stack: stack_id, management: Err(()), events: None, warnings });
            continue;
        };
        let sink = stacks::sink_of(&connector).await?;
        let events = Some(keeper::try_events(&connector, sink).await);
        let warnings = warnings(stack, &connector, &connected);
        let answered = Answered { release: connected.release, script: connected.script };
        findings.push(Finding { stack: stack_id, management: Ok(answered), events, warnings });
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
