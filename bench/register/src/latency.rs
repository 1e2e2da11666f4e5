//! Exact percentiles: every sample is kept, since a run is bounded and a histogram's error would be ours to explain.

use std::time::Duration;

use serde::Serialize;

/// Times in microseconds, in the order they were taken.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Adds one sample; longer than 71 minutes counts as that.
    pub fn add(&mut self, time: Duration) {
        self.0.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// How many samples there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Sorts the samples and reads the percentiles off; none if there is no sample.
    pub fn summary(mut self) -> Option<Summary> {
        self.0.sort_unstable();
        let max_us = *self.0.last()?;
        let at = |per_mille: usize| self.0[(self.0.len() * per_mille).div_ceil(1000).max(1) - 1];
        Some(Summary { count: self.0.len(), p50_us: at(500), p90_us: at(900), p99_us: at(990), p999_us: at(999), max_us })
    }
}

/// The percentiles of a run, by the nearest-rank definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub count: usize,
    pub p50_us: u32,
    pub p90_us: u32,
    pub p99_us: u32,
    pub p999_us: u32,
    pub max_us: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_at_the_nearest_rank() {
        let mut latencies = Latencies::default();
        for us in (1..=1000).rev() {
            latencies.add(Duration::from_micros(us));
        }
        let summary = latencies.summary().unwrap();
        assert_eq!(summary, Summary { count: 1000, p50_us: 500, p90_us: 900, p99_us: 990, p999_us: 999, max_us: 1000 });
    }

    #[test]
    fn one_sample_is_every_percentile_and_none_is_no_summary() {
        let mut latencies = Latencies::default();
        assert!(latencies.clone().summary().is_none());
        latencies.add(Duration::from_micros(7));
        let summary = latencies.summary().unwrap();
        assert_eq!((summary.p50_us, summary.p99_us, summary.max_us), (7, 7, 7));
    }
}
