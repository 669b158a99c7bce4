//! The thread that prepares segments before they are needed and removes those that no longer are, off the commit path.

use crate::error::SafekeeperError;
use crate::segments::SegmentFolder;
use std::fs;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Gives work to the thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct Helper {
    work: Sender<Work>,
}

#[derive(Debug)]
enum Work {
    Prepare(SegmentFolder, u64),
    Remove(SegmentFolder, u64),
    #[cfg(test)]
    Report(Sender<()>),
}

impl Helper {
    /// Starts the thread.
    pub fn start() -> Result<Helper, SafekeeperError> {
        let (work, queue) = channel();
        let serve = move || queue.into_iter().for_each(carry_out);
        let started = thread::Builder::new().name("segments".into()).spawn(serve);
        started.map(|_| Helper { work }).map_err(|_| SafekeeperError::Thread("segments"))
    }

    /// Wants a segment to exist soon. Should that fail, whoever needs it finds out by himself.
    pub fn prepare(&self, folder: SegmentFolder, segment: u64) {
        let _ = self.work.send(Work::Prepare(folder, segment));
    }

    /// Wants segments before this one removed.
    pub fn remove_before(&self, folder: SegmentFolder, segment: u64) {
        let _ = self.work.send(Work::Remove(folder, segment));
    }

    /// Waits until all that was asked for so far is done.
    #[cfg(test)]
    pub fn wait_idle(&self) {
        let (done, wait) = channel();
        self.work.send(Work::Report(done)).expect("the thread lives as long as this handle");
        wait.recv().expect("the thread answers");
    }
}

fn carry_out(work: Work) {
    let result = match &work {
        Work::Prepare(folder, segment) if folder.file(*segment).exists() => Ok(()),
        Work::Prepare(folder, segment) => folder.create(*segment),
        Work::Remove(folder, segment) => remove_before(folder, *segment),
        #[cfg(test)]
        Work::Report(done) => {
            let _ = done.send(());
            Ok(())
        }
    };
    if let Err(error) = result {
        tracing::warn!(?work, %error, "WAL segments could not be prepared or removed");
    }
}

fn remove_before(folder: &SegmentFolder, segment: u64) -> io::Result<()> {
    let mut old = folder.list()?.into_iter().take_while(|number| *number < segment);
    old.try_for_each(|number| fs::remove_file(folder.file(number)))
}
