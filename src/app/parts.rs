//! How the parts of a running server stand, for `/readyz?verbose`.

use std::sync::Arc;
use std::time::Duration;

use super::backing::AnyLeadership;
use super::stacks::{Answers, ConfiguredStacks};
use crate::admin::{Part, Parts, Readiness, Ready};
use crate::config::Config;
use crate::core::ids::StackId;
use crate::leadership::{Leader, Leadership as _};
use crate::metrics::Metrics;
use crate::stack::Stacks as _;

/// The store. It is waited for at start; later it may be away.
pub fn of_store(parts: &Parts, metrics: &Metrics, readiness: &Readiness, is_shared: bool) {
    let (store, readiness) = (metrics.store.clone(), readiness.clone());
    parts.look_with(move || {
        let part = match (is_shared, store.is_up(), readiness.now()) {
            (false, _, _) => Part::well("store", "in memory, this process is alone"),
            (true, true, _) => {
                Part::well("store", format!("redis answers, {} processes live", store.alive_now()))
            }
            (true, false, Ready::Starting) => Part::ill("store", "redis is waited for").needed(),
            (true, false, Ready::Yes | Ready::Draining) => Part::ill(
                "store",
                "redis does not answer: new commands are refused with store_unavailable",
            ),
        };
        vec![part]
    });
}

/// Each stack: its management interface, its events, and who leads them.
pub fn of_stacks(
    parts: &Parts,
    metrics: &Metrics,
    config: &Config,
    stacks: &Arc<ConfiguredStacks>,
    leadership: &Arc<AnyLeadership>,
) {
    for stack in &config.stacks {
        let lasts = stack.subscription;
        let (name, mi) = (StackId::new(stack.name.as_str()), stack.mi.to_string());
        let (metrics, stacks) = (metrics.clone(), Arc::clone(stacks));
        let leadership = Arc::clone(leadership);
        parts.look_with(move || {
            let answers = stacks.get(&name).map_or(Answers::NotYet, |stack| stack.answers());
            let age = metrics.subscription_age(name.as_str());
            vec![
                interface(&name, &mi, answers),
                events(&name, age, lasts, metrics.events_arrive(name.as_str())),
                leader(&name, &leadership.leader(&name), leadership.trouble(&name)),
            ]
        });
    }
}

fn interface(stack: &StackId, mi: &str, answers: Answers) -> Part {
    let name = format!("stack {stack} management interface");
    match answers {
        Answers::Yes => Part::well(name, "answers"),
        Answers::NotYet => Part::ill(name, format!("{mi} has never answered")),
        Answers::NoMore => Part::ill(
            name,
            format!("{mi} does not answer: commands are refused with stack_unreachable"),
        ),
    }
}

fn events(stack: &StackId, age: Option<Duration>, lasts: Duration, arrive: Option<bool>) -> Part {
    let name = format!("stack {stack} events");
    let lasts_seconds = lasts.as_secs();
    match (age, arrive) {
        (None, _) => Part::ill(name, "never subscribed"),
        (Some(age), _) if age > lasts => Part::ill(
            name,
            format!("subscription lasts {lasts_seconds} s, confirmed {} s ago", age.as_secs()),
        ),
        (Some(_), Some(false)) => Part::ill(name, "subscribed, and trial events do not arrive"),
        (Some(age), Some(true) | None) => {
            Part::well(name, format!("subscription confirmed {} s ago", age.as_secs()))
        }
    }
}

fn leader(stack: &StackId, leader: &Leader, trouble: Option<String>) -> Part {
    let name = format!("stack {stack} leader");
    let why = trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default();
    match leader {
        Leader::This(term) => Part::well(name, format!("this process, in term {}", term.0)),
        Leader::Unconfirmed(term) => Part::ill(
            name,
            format!(
                "this process, in term {}, by the word of Redis alone: the API server does not renew \
                 the Lease{why}",
                term.0
            ),
        ),
        Leader::Another(Some(holder)) => Part::well(name, format!("another process, {holder}")),
        Leader::Another(None) => Part::well(name, "another process"),
        Leader::Unknown => Part::ill(name, format!("nobody is known to lead{why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::Term;

    #[test]
    fn a_subscription_that_has_run_out_or_brings_nothing_is_told() {
        let (name, lasts) = (StackId::new("main"), Duration::from_secs(60));
        let part =
            |age: Option<u64>, arrive| events(&name, age.map(Duration::from_secs), lasts, arrive);
        let yes = Some(true);
        let told =
            [part(None, yes), part(Some(60), yes), part(Some(61), yes), part(Some(1), Some(false))];
        let well = told.iter().map(|part| part.is_well).collect::<Vec<_>>();
        assert_eq!(well, [false, true, false, false], "{told:?}");
        assert_eq!(told[2].text, "subscription lasts 60 s, confirmed 61 s ago");
    }

    #[test]
    fn only_where_nobody_leads_there_is_something_to_look_at() {
        let name = StackId::new("main");
        let known =
            [Leader::This(Term(3)), Leader::Another(None), Leader::Another(Some("b".into()))];
        assert!(known.iter().all(|known| leader(&name, known, None).is_well));
        let nobody = leader(&name, &Leader::Unknown, None);
        assert!(!nobody.is_well && !nobody.is_needed, "{nobody:?}");
    }

    #[test]
    fn what_keeps_the_lease_from_being_written_stands_where_one_looks_for_the_leader() {
        let name = StackId::new("main");
        let told = |known| leader(&name, &known, Some("put, refused: no namespace".to_owned()));
        let (nobody, alone) = (told(Leader::Unknown), told(Leader::Unconfirmed(Term(3))));
        assert_eq!(nobody.text, "nobody is known to lead (put, refused: no namespace)");
        assert!(!alone.is_well && !alone.is_needed, "{alone:?}");
        let [who, why] = ["this process, in term 3", "no namespace"];
        assert!(alone.text.contains(who) && alone.text.contains(why), "{alone:?}");
    }

    #[tokio::test]
    async fn redis_is_needed_to_start_and_not_later() {
        let (parts, readiness) = (Parts::default(), Readiness::starting());
        let metrics = Metrics::new();
        of_store(&parts, &metrics, &readiness, true);
        let store = || parts.now().pop().unwrap();
        assert!(store().is_needed && !store().is_well);
        readiness.listening();
        assert!(!store().is_needed && !store().is_well);
        metrics.store.beat(3);
        assert_eq!(store(), Part::well("store", "redis answers, 3 processes live"));
        metrics.store.away();
        assert!(!store().is_needed && !store().is_well);
    }
}
