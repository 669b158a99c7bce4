//! What becomes of a panic.
//!
//! A panic is a bug, and what it has left in memory is not known. So it ends the process, as `kill -9` does, which
//! every role survives at any moment, and the role's supervisor starts it again. Before that the panic hook writes a
//! note of what the thread was working on, durably, into the role's directory: a bug that is in the way of every start
//! can then be worked around.
//!
//! ```text
//! pageserver opens          notes::read(data_dir)  -> a page whose redo panicked twice is not redone again
//! pageserver redoes a page  let _working = work::begin(Work::page(..)); work::at_record(lsn) ...
//! redo panics               hook: one line on stderr, panics/1790550000000-4711.json, abort
//! ```
//!
//! Invariants:
//! - a note exists whole or not at all, and there are at most [`notes::NOTES_MAX`] of them;
//! - the hook never waits for anything but the disk.

#![forbid(unsafe_code)]

pub mod hook;
pub mod notes;
pub mod plant;
pub mod work;

pub use notes::Note;
pub use plant::{plant, plant_for};
pub use work::Work;
