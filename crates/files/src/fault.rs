//! Lets a test fail the Nth step of publishing on its thread. Without the feature `faults` a step costs nothing.
//!
//! Publishing a file has three steps: its content gets onto the disk, the file gets its name, the name gets onto the disk (left out
//! with [`Durability::Process`](crate::Durability::Process)). Removing a file is one,
//! and so is [`sync_folder_of`](crate::sync_folder_of).

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
