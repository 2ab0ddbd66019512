//! What a load came to, in words, and what of it is a fault.

use super::{Report, quantile};

/// Memory may grow by so much after the warm-up: what allocators keep in hand.
const SLACK: u64 = 16 << 20;
/// Part of a core that a server without requests may use.
const IDLE: f64 = 0.01;

impl Report {
    /// For people.
    pub fn text(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let q = |times, p| quantile(times, p);
        let outcomes: Vec<String> = self.outcomes.iter().map(|(what, n)| format!("{what}: {n}")).collect();
        format!(
            "{} requests in {:.1} s: {}\n/health: {} times, p50 {:.1} ms, p99 {:.1} ms\nfirst token p50 {:.0} ms, p99 {:.0} ms; between tokens p50 {:.1} ms, p99 {:.1} ms\nmemory {:.1} MiB after the warm-up, {:.1} MiB at the end; descriptors {} before, {} after; KV blocks held {}\nidle: {:.2} % of a core",
            self.outcomes.values().sum::<usize>(),
            self.took.as_secs_f64(),
            outcomes.join(", "),
            self.health.len(),
            q(&self.health, 0.5),
            q(&self.health, 0.99),
            q(&self.first_token, 0.5),
            q(&self.first_token, 0.99),
            q(&self.gaps, 0.5),
            q(&self.gaps, 0.99),
            mib(self.memory.0),
            mib(self.memory.1),
            self.descriptors.0,
            self.descriptors.1,
            self.blocks_used,
            self.idle * 100.0
        )
    }

    /// Everything that is not as it should be, but for speeds.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        let mut check = |holds: bool, what: &str| faults.extend((!holds).then(|| what.to_owned()));
        check(self.blocks_used == 0.0, "KV blocks are held after the last request");
        check(self.descriptors.1 <= self.descriptors.0, "descriptors are open after the last request");
        check(self.memory.1 <= self.memory.0 + SLACK, "memory has grown since the warm-up");
        check(self.idle < IDLE, "the idle server works");
        faults
    }
}
