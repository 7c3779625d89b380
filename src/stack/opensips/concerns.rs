//! Where the configuration and what a stack says of itself do not go together.

use std::time::Duration;

use super::script::Script;
use super::settings::StackSettings;
use crate::core::plan::{HoldBy, ReferBy};
use crate::core::script::Grade;

/// The oldest release that is known to work.
const OLDEST: (u32, u32) = (3, 1);

/// The first release that outlives a `call_hold` to a silent phone.
const HOLDS_SAFELY: (u32, u32) = (4, 0);

/// What the operator should know of this stack; a sentence each.
///
/// The reference script tells its timers, and those count. A time in the configuration that
/// differs is an error of somebody; one that nobody has written is none.
#[must_use]
pub fn concerns(
    settings: &StackSettings,
    release: Option<(u32, u32)>,
    script: Option<&Script>,
) -> Vec<String> {
    let mut found = Vec::new();
    match script {
        Some(script) => of_script(settings, script, &mut found),
        None if settings.grade == Grade::Reference => found.push(
            "the stack does not run the reference script, though `grade` says so: treated as stock"
                .to_owned(),
        ),
        None => {}
    }
    if let Some((major, minor)) = release.filter(|release| *release < OLDEST) {
        found.push(format!("this release of OpenSIPS ({major}.{minor}) is older than 3.1"));
    }
    if settings.hold == HoldBy::Stack && release.is_some_and(|release| release < HOLDS_SAFELY) {
        found.push(
            "call_hold ends this release of OpenSIPS when a phone does not answer; \
             `hold: reinvite` does not"
                .to_owned(),
        );
    }
    found
}

fn of_script(settings: &StackSettings, script: &Script, found: &mut Vec<String>) {
    for (name, ours, theirs) in [
        ("fr_timeout", settings.fr_timeout, script.fr_timeout),
        ("fr_inv_timeout", settings.fr_inv_timeout, script.fr_inv_timeout),
    ] {
        if let Some(ours) = ours.filter(|ours| *ours != theirs) {
            found.push(format!(
                "`{name}` is {} in the configuration and {} s in the script, which counts",
                text(ours),
                theirs.as_secs()
            ));
        }
    }
    if settings.ring_timeout >= script.fr_inv_timeout {
        found.push(format!(
            "the script lets phones ring for {} s (`fr_inv_timeout`), no longer than \
             `commands.ring_timeout` ({}): the stack gives up before callplane does",
            script.fr_inv_timeout.as_secs(),
            text(settings.ring_timeout)
        ));
    }
    if settings.refer == ReferBy::Stack {
        found.push(
            "the reference script needs no call_transfer, which sends no token: REFERs are sent by \
             `sequential`"
                .to_owned(),
        );
    }
}

fn text(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{} s", time.as_secs()),
        _ => format!("{} ms", time.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::StackId;

    fn of(change: impl FnOnce(&mut StackSettings)) -> Vec<String> {
        let mut settings = StackSettings::new(StackId::new("s"), "127.0.0.1:1");
        change(&mut settings);
        let script = Script::parse("1 udp:127.0.0.1:5066 5 60").unwrap();
        concerns(&settings, Some((3, 6)), Some(&script))
    }

    #[test]
    fn timers_that_nobody_has_written_disagree_with_nothing() {
        assert_eq!(of(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn a_written_timer_that_differs_is_told() {
        let found = of(|s| s.fr_timeout = Some(Duration::from_secs(30)));
        let [only] = &*found else { panic!("{found:?}") };
        assert!(only.contains("`fr_timeout` is 30 s in the configuration and 5 s in the script"));
        let found = of(|s| s.fr_inv_timeout = Some(Duration::from_millis(60_500)));
        let [only] = &*found else { panic!("{found:?}") };
        assert!(only.contains("60500 ms"), "{only}");
        assert_eq!(of(|s| s.fr_timeout = Some(Duration::from_secs(5))), Vec::<String>::new());
    }

    #[test]
    fn a_script_that_gives_up_before_callplane_is_told() {
        let found = of(|s| s.ring_timeout = Duration::from_secs(60));
        let [only] = &*found else { panic!("{found:?}") };
        assert!(only.contains("no longer than `commands.ring_timeout` (60 s)"), "{only}");
    }

    #[test]
    fn what_the_stack_is_not_is_told() {
        let mut settings = StackSettings::new(StackId::new("s"), "127.0.0.1:1");
        settings.grade = Grade::Reference;
        settings.hold = HoldBy::Stack;
        let found = concerns(&settings, Some((3, 0)), None);
        let [grade, release, hold] = &*found else { panic!("{found:?}") };
        assert!(grade.contains("treated as stock") && release.contains("(3.0)"), "{found:?}");
        assert!(hold.contains("`hold: reinvite`"), "{hold}");
        assert_eq!(concerns(&settings, Some((4, 0)), None).len(), 1);
    }
}
