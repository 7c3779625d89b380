//! Processor time of a process.

use std::time::Duration;

/// Ticks a second in `/proc/PID/stat`; the kernel has always shown it so (proc_pid_stat(5)).
const TICKS: f64 = 100.0;

/// User and system time so far. `who`: a process id, or `self`.
pub fn spent(who: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{who}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).map(|f| f.parse::<f64>().unwrap()).sum();
    Duration::from_secs_f64(ticks / TICKS)
}
