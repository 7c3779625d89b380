//! The pods' grace is the sum of all that stopping may take.

use crate::helm;

/// The grace in seconds with these settings of `drain`.
fn grace(sets: &[&str]) -> u64 {
    let objects = helm::objects(sets);
    let pod = &helm::get(&objects, "Deployment", "callplane")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1], "drain");
    pod["terminationGracePeriodSeconds"].as_u64().unwrap()
}

/// `drain.delay` + `drain.timeout` + 2 s bounds the stop (docs/operations.md, Stopping); beside it there
/// is `graceMargin`.
#[test]
fn the_grace_is_the_sum_of_what_stopping_may_take() {
    let test = "the_grace_is_the_sum_of_what_stopping_may_take";
    if !helm::are_here(test, &["helm"]) {
        return;
    }
    assert_eq!(grace(&[]), 5 + 20 + 2 + 3, "by default");
    for (delay, timeout, margin, sum) in [
        ("0", "1s", "0s", 3),
        ("0s", "90s", "3s", 95),
        ("500ms", "20s", "3s", 26),
        ("1m", "10m", "1s", 663),
        ("1500ms", "60500ms", "500ms", 65),
        ("10m", "600s", "1m", 1262),
    ] {
        let sets = [
            format!("config.drain.delay={delay}"),
            format!("config.drain.timeout={timeout}"),
            format!("graceMargin={margin}"),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        assert_eq!(grace(&sets), sum, "{delay} + {timeout} + 2s + {margin}");
    }
}

/// What callplane would not read is not added up by the chart either.
#[test]
fn durations_of_other_forms_are_refused() {
    if !helm::are_here("durations_of_other_forms_are_refused", &["helm"]) {
        return;
    }
    for bad in ["1m30s", "20", "1.5s", "5 s", "-5s", "20 seconds"] {
        for key in ["delay", "timeout"] {
            let set = format!("config.drain.{key}={bad}");
            let output = helm::template(&[&helm::SMALL[..], &[set.as_str()]].concat(), &[]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "`{set}` is taken");
            assert!(said.contains(&format!("/config/drain/{key}")), "{set}: {said}");
        }
    }
}
