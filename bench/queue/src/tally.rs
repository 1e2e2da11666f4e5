//! What is counted and timed: every message once, from the first one handled to the last one acknowledged.

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::{clock, message};

/// What one run of a peer prints, as one line of JSON.
#[derive(Debug, Serialize)]
pub struct Report {
    pub count: u64,
    pub secs: f64,
    pub per_s: f64,
    pub cpu_s: f64,
    pub missing: u64,
    pub repeated: u64,
    pub latency: Option<Spread>,
    pub peak_rss_mib: Option<f64>,
}

/// Exact percentiles, in microseconds.
#[derive(Debug, Serialize)]
pub struct Spread {
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

impl Report {
    pub fn print(&self) -> Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}

/// A stretch of time, and the CPU time of this process in it.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    began_ns: u64,
    cpu_ns: u64,
}

impl Stretch {
    #[expect(clippy::new_without_default, reason = "a clock that starts is no default value")]
    pub fn new() -> Self {
        Self { began_ns: clock::now_ns(), cpu_ns: clock::cpu_ns() }
    }

    /// Ends it: `count` things were done in it.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run and counts fit 53 bits")]
    pub fn report(self, count: u64, latencies: Vec<u64>) -> Report {
        let cpu_s = (clock::cpu_ns() - self.cpu_ns) as f64 / 1e9;
        let secs = ((clock::now_ns() - self.began_ns) as f64 / 1e9).max(1e-9);
        Report {
            count,
            secs,
            per_s: count as f64 / secs,
            cpu_s,
            missing: 0,
            repeated: 0,
            latency: spread(latencies),
            peak_rss_mib: peak_rss_mib(),
        }
    }
}

/// The most memory this process ever had resident.
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    field.split_whitespace().next()?.parse().ok().map(|kib: f64| kib / 1024.0)
}

/// The smallest value that so many hundredths do not exceed.
#[expect(clippy::cast_precision_loss, reason = "latencies fit 53 bits")]
fn spread(mut latencies: Vec<u64>) -> Option<Spread> {
    latencies.sort_unstable();
    let last = latencies.len().checked_sub(1)?;
    let at = |hundredths: usize| latencies[(latencies.len() * hundredths).div_ceil(100).clamp(1, last + 1) - 1] as f64 / 1e3;
    Some(Spread { p50_us: at(50), p99_us: at(99), max_us: at(100) })
}

/// Which messages were handled.
#[derive(Debug)]
pub struct Tally {
    seen: Vec<bool>,
    handled: u64,
    repeated: u64,
    latencies: Vec<u64>,
    began: Option<Stretch>,
}

impl Tally {
    /// Messages number 0 to `count` - 1 are expected.
    pub fn new(count: u64) -> Result<Self> {
        ensure!(count > 0 && count < 1 << 32, "between one message and four billions");
        Ok(Self { seen: vec![false; usize::try_from(count)?], handled: 0, repeated: 0, latencies: Vec::new(), began: None })
    }

    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// What every handler does with a message.
    pub fn note(&mut self, entry: &[u8]) -> Result<()> {
        self.began.get_or_insert_with(Stretch::new);
        let stamp = message::read(entry)?;
        if stamp.published_ns > 0 {
            self.latencies.push(clock::now_ns().saturating_sub(stamp.published_ns));
        }
        self.handled += 1;
        let seen = usize::try_from(stamp.number).ok().and_then(|number| self.seen.get_mut(number));
        match seen {
            Some(seen) if !*seen => *seen = true,
            _ => self.repeated += 1,
        }
        Ok(())
    }

    /// To be called when the last acknowledgement was answered.
    pub fn report(self) -> Report {
        let missing = self.seen.iter().filter(|seen| !**seen).count() as u64;
        let report = self.began.unwrap_or_else(Stretch::new).report(self.handled, self.latencies);
        Report { missing, repeated: self.repeated, ..report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Stamp, bytes};

    #[test]
    fn percentiles_are_the_smallest_value_that_suffices() {
        let spread = spread((1..=100).rev().map(|us| us * 1000).collect()).unwrap();
        assert_eq!((spread.p50_us, spread.p99_us, spread.max_us), (50.0, 99.0, 100.0));
    }

    #[test]
    fn counts_what_is_missing_and_what_came_twice() {
        let mut tally = Tally::new(4).unwrap();
        for number in [0, 1, 1, 9] {
            tally.note(&bytes(Stamp { number, published_ns: 0 })).unwrap();
        }
        let report = tally.report();
        assert_eq!((report.count, report.missing, report.repeated), (4, 2, 2));
    }
}
