//! Waiting for conditions, never for time.

use std::time::{Duration, Instant};

/// Waits until `condition` gives something; fails the test after `seconds`, naming what was waited for.
pub async fn wait_for<T>(what: &str, seconds: u64, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
