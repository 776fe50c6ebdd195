use std::time::Duration;

use serde::Serialize;

/// One turn.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Sorted.
    latencies: Vec<Duration>,
    /// Operations per second.
    pub(crate) rate: f64,
}

/// Medians of several turns.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    /// Operations per second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of the latency in microseconds.
    pub(crate) p99_us: f64,
}

impl Sample {
    pub(crate) fn new(mut latencies: Vec<Duration>, elapsed: Duration) -> Self {
        latencies.sort_unstable();
        let count = u32::try_from(latencies.len()).unwrap_or(u32::MAX);
        let rate = f64::from(count) / elapsed.as_secs_f64();
        Self { latencies, rate }
    }

    /// A percentile in microseconds.
    fn percentile(&self, percent: usize) -> f64 {
        let index =
            (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

impl Figures {
    pub(crate) fn of<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> Self {
        Self {
            rate: median(samples.clone().map(|sample| sample.rate)),
            p50_us: median(samples.clone().map(|sample| sample.percentile(50))),
            p99_us: median(samples.map(|sample| sample.percentile(99))),
        }
    }
}

/// The middle one; of an even number, the upper of the two. 0 when there are none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians() {
        let sample = |ms: &[u64], elapsed: u64| {
            let latencies = ms.iter().map(|&ms| Duration::from_millis(ms)).collect();
            Sample::new(latencies, Duration::from_secs(elapsed))
        };
        let samples = [sample(&[3, 1, 2], 1), sample(&[9, 9, 9, 9], 1), sample(&[5], 1)];
        let figures = Figures::of(samples.iter());
        assert!((figures.rate - 3.0).abs() < 1e-9);
        assert!((figures.p50_us - 5000.0).abs() < 1e-6);
        assert!((figures.p99_us - 5000.0).abs() < 1e-6);
        assert!(median(std::iter::empty()).abs() < 1e-9);
    }
}
