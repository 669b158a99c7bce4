//! Waiting on a word of shared memory, across processes.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps until another thread wakes `word`, `timeout` is over, or a signal arrives; returns at once if `word` is not
/// `seen`.
///
/// The caller looks at its condition again in any case. The word is in a `MAP_SHARED` mapping, hence no `PRIVATE`
/// flag.
pub fn wait(word: &AtomicU32, seen: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(timeout.subsec_nanos().cast_signed()),
    };
    // SAFETY: the word is valid for the call, and the kernel only reads it and the timeout.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &raw const timeout) };
}

/// Wakes everybody who waits on `word`.
pub fn wake_all(word: &AtomicU32) {
    // SAFETY: the kernel uses only the address of the word.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    #[test]
    fn a_changed_word_is_not_waited_for() {
        let begun = Instant::now();
        wait(&AtomicU32::new(1), 0, Duration::from_secs(20));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_wake_ends_the_wait() {
        let word = AtomicU32::new(0);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while word.load(Ordering::SeqCst) == 0 {
                    wait(&word, 0, Duration::from_secs(20));
                }
            });
            word.store(1, Ordering::SeqCst);
            wake_all(&word);
        });
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
