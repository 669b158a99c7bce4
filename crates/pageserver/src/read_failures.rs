//! What cannot be read, said once in a while and not for each read that fails of it.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often the same is said.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long after the last read that failed of something it is still believed to be so.
const FRESH: Duration = Duration::from_secs(10);
/// Reasons that are remembered; what comes beyond is not said.
const COUNT_MAX: usize = 64;

/// Reasons for which reads failed lately.
#[derive(Debug, Default)]
pub struct ReadFailures {
    noted: Mutex<HashMap<String, Noted>>,
}

#[derive(Clone, Copy, Debug)]
struct Noted {
    said: Instant,
    seen: Instant,
}

impl ReadFailures {
    /// Notes that a read failed; says whether it is time to say so.
    pub fn note(&self, reason: String, now: Instant) -> bool {
        let mut noted = self.lock();
        noted.retain(|_, entry| now.duration_since(entry.seen) < INTERVAL);
        if noted.len() >= COUNT_MAX && !noted.contains_key(&reason) {
            return false;
        }
        let mut is_due = false;
        let entry = noted.entry(reason).or_insert_with(|| {
            is_due = true;
            Noted { said: now, seen: now }
        });
        is_due |= now.duration_since(entry.said) >= INTERVAL;
        *entry = Noted { said: if is_due { now } else { entry.said }, seen: now };
        is_due
    }

    /// What failed last, if that was just now.
    pub fn latest(&self, now: Instant) -> Option<String> {
        let noted = self.lock();
        let latest = noted.iter().max_by_key(|(_, entry)| entry.seen)?;
        (now.duration_since(latest.1.seen) < FRESH).then(|| latest.0.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Noted>> {
        self.noted.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute_and_forgotten_when_it_has_passed() {
        let (read_failures, begun) = (ReadFailures::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let said: Vec<u64> = (0..150).step_by(5).filter(|second| read_failures.note("a".into(), at(*second))).collect();
        assert_eq!(said, [0, 60, 120]);
        assert!(read_failures.note("b".into(), at(150)));
        assert_eq!(read_failures.latest(at(155)), Some("b".into()));
        assert_eq!(read_failures.latest(at(161)), None);
    }

    #[test]
    fn ever_new_reasons_take_no_memory_without_bound() {
        let (read_failures, now) = (ReadFailures::default(), Instant::now());
        let said = (0..1000).filter(|number| read_failures.note(number.to_string(), now)).count();
        assert_eq!((said, read_failures.lock().len()), (COUNT_MAX, COUNT_MAX));
    }
}
