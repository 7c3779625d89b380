//! What is printed.

use std::time::Duration;

/// What came of a load.
#[derive(Default)]
pub struct Figures {
    /// Commands that ended.
    pub commands: u64,
    /// Messages that came.
    pub messages: u64,
    /// Commands that ended in anything but success.
    pub failed: u64,
    /// The first word of why.
    pub complaint: Option<String>,
    /// How long it took.
    pub took: Duration,
    /// Processor time of the server meanwhile.
    pub cpu: Duration,
    /// From asking to `Ended`, each.
    pub latencies: Vec<Duration>,
}

impl Figures {
    /// Commands a second.
    pub fn rate(&self) -> f64 {
        self.commands as f64 / self.took.as_secs_f64()
    }

    /// Processor time of the server for each command, in microseconds.
    pub fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.commands as f64
    }

    /// One line.
    pub fn print(&mut self, name: &str) {
        let [p50, p99] = [0.5, 0.99].map(|share| percentile(&mut self.latencies, share));
        println!(
            "{name}: {:.0} commands/s, {:.1} messages each, {} failed, {:.1} us of processor each; \
             p50 {p50:.3} ms, p99 {p99:.3} ms",
            self.rate(),
            self.messages as f64 / self.commands as f64,
            self.failed,
            self.cpu_each(),
        );
        if let Some(complaint) = &self.complaint {
            println!("    the first that failed: {complaint}");
        }
    }
}

/// The latency that this share of the commands did not exceed, in milliseconds.
pub fn percentile(latencies: &mut [Duration], share: f64) -> f64 {
    latencies.sort_unstable();
    let at = ((latencies.len() as f64 * share) as usize).min(latencies.len() - 1);
    latencies[at].as_secs_f64() * 1e3
}

/// The middle one.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
