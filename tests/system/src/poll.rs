//! Waiting for what is to happen soon.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Repeats `attempt` until it succeeds.
///
/// # Panics
/// With its last error when it has not succeeded within `limit`, or too late.
pub async fn within<T, E: Display>(
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        let outcome = attempt().await;
        let elapsed = start.elapsed();
        match outcome {
            Ok(value) => {
                assert!(elapsed <= limit, "it took {elapsed:?} and not {limit:?}");
                return value;
            }
            Err(error) => assert!(elapsed <= limit, "not within {limit:?}: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
