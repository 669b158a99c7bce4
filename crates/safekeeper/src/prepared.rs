//! The segment that the helper's thread makes ready for a writer.
//!
//! A segment has its name a moment before the name is durable, and the name may stay without that for ever if the sync
//! of the directory fails. WAL in such a segment is gone after a power cut, however often the file itself was flushed.
//! So a writer uses a prepared segment only when this says that its name is durable; else it makes it so itself.
//!
//! Lock order: `given_up`, then `ready`. The writer takes only `ready` in the path of a commit, so it never waits for
//! the helper there.

use crate::segment_folder::SegmentFolder;
use parking_lot::Mutex;
use std::io;

/// What a writer and the helper's thread share, until segments are removed: then the writer continues with another one.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Whether nothing is wanted any more. Held while a segment gets its name.
    given_up: Mutex<bool>,
    /// The segment that was prepared last, if it was not used yet.
    ready: Mutex<Option<u64>>,
}

impl Prepared {
    /// Makes a segment, unless it was given up meanwhile, and remembers it once its name is durable.
    pub fn prepare(&self, folder: &SegmentFolder, segment: u64) -> io::Result<()> {
        let staged = folder.stage(segment)?;
        let given_up = self.given_up.lock();
        if !*given_up {
            folder.place(staged)?;
            *self.ready.lock() = Some(segment);
        }
        Ok(())
    }

    /// Whether the segment is there under a name that is durable. It says so once: a writer remembers what it uses.
    pub fn take(&self, segment: u64) -> bool {
        self.ready.lock().take_if(|ready| *ready == segment).is_some()
    }

    /// Segments are about to be removed: what was asked for and is not there yet never comes into being.
    pub fn give_up(&self) {
        *self.given_up.lock() = true;
    }
}
