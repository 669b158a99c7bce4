//! Lets a test fail the Nth step of publishing on its thread. Without the feature `faults` a step costs nothing.
//!
//! Publishing a file has three steps: its content gets onto the disk, the file gets its name, the name gets onto the
//! disk (left out with [`Durability::Process`](crate::Durability::Process)). Removing a file is one, and so are
//! [`sync_content`](crate::sync_content) and [`sync_folder_of`](crate::sync_folder_of).

use std::io;

#[cfg(not(any(test, feature = "faults")))]
pub(crate) fn point() -> io::Result<()> {
    Ok(())
}

#[cfg(any(test, feature = "faults"))]
thread_local! {
    static STEPS_LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
}

#[cfg(any(test, feature = "faults"))]
pub(crate) fn point() -> io::Result<()> {
    match STEPS_LEFT.get() {
        None => Ok(()),
        Some(0) => Err(io::Error::other("injected fault")),
        Some(left) => {
            STEPS_LEFT.set(Some(left - 1));
            Ok(())
        }
    }
}

/// Every step after `steps` good ones fails, until this is called with `None`.
#[cfg(any(test, feature = "faults"))]
pub fn fail_after(steps: Option<u32>) {
    STEPS_LEFT.set(steps);
}

#[cfg(not(any(test, feature = "faults")))]
pub(crate) fn pause() {}

#[cfg(any(test, feature = "faults"))]
static PAUSE_MS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[cfg(any(test, feature = "faults"))]
pub(crate) fn pause() {
    let pause_ms = PAUSE_MS.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::sleep(std::time::Duration::from_millis(pause_ms));
}

/// From now on the sync of a directory begins only after so many milliseconds, on all threads, so that a test can look
/// at the disk before.
#[cfg(any(test, feature = "faults"))]
pub fn delay_folder_syncs(pause_ms: u64) {
    PAUSE_MS.store(pause_ms, std::sync::atomic::Ordering::Relaxed);
}
