//! How long to wait before a role that died is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// A life as long as this makes the failures before it forgotten.
const HEALTHY_LIFE: Duration = Duration::from_secs(30);

/// Doubles with each short life.
#[derive(Default, Debug)]
pub struct Backoff {
    short_lives: u32,
}

impl Backoff {
    /// The wait after a process that lived for `life`.
    pub fn after(&mut self, life: Duration) -> Duration {
        if life >= HEALTHY_LIFE {
            self.short_lives = 0;
        }
        let wait = FIRST.saturating_mul(1 << self.short_lives.min(10));
        self.short_lives += 1;
        wait.min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_over_after_a_healthy_life() {
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..12).map(|_| backoff.after(Duration::ZERO)).collect();
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[11], LONGEST);
        assert_eq!(backoff.after(HEALTHY_LIFE), FIRST);
    }
}
