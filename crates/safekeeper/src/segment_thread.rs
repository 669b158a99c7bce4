//! The thread that prepares segments before they are needed and removes those that no longer are, off the commit path.

use crate::error::SafekeeperError;
use crate::prepared::Prepared;
use crate::segment_folder::SegmentFolder;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Gives work to the thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct SegmentThread {
    work: Sender<Work>,
}

#[derive(Debug)]
enum Work {
    Prepare {
        folder: SegmentFolder,
        segment: u64,
        prepared: Arc<Prepared>,
    },
    Remove(SegmentFolder, u64),
    #[cfg(test)]
    Report(Sender<()>),
    #[cfg(test)]
    Hold(std::sync::mpsc::Receiver<()>),
    #[cfg(test)]
    FailAfter(Option<u32>),
}

impl SegmentThread {
    /// Starts the thread.
    pub fn start() -> Result<SegmentThread, SafekeeperError> {
        let (work, queue) = channel();
        let serve = move || queue.into_iter().for_each(carry_out);
        let started = thread::Builder::new().name("segments".into()).spawn(serve);
        started.map(|_| SegmentThread { work }).map_err(|_| SafekeeperError::Thread("segments"))
    }

    /// Wants a segment to be ready soon, which `prepared` tells. Should that fail, the thread that needs it finds out
    /// by himself.
    pub fn prepare(&self, folder: SegmentFolder, segment: u64, prepared: Arc<Prepared>) {
        let _ = self.work.send(Work::Prepare { folder, segment, prepared });
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

    /// Does nothing from now on until something is sent, or the sender is gone.
    #[cfg(test)]
    pub fn hold(&self) -> Sender<()> {
        let (release, held) = channel();
        self.work.send(Work::Hold(held)).expect("the thread lives as long as this handle");
        release
    }

    /// Has the thread's steps fail, as [`quire_files::fault::fail_after`] does for the caller's.
    #[cfg(test)]
    pub fn fail_after(&self, steps: Option<u32>) {
        self.work.send(Work::FailAfter(steps)).expect("the thread lives as long as this handle");
    }
}

fn carry_out(work: Work) {
    quire_crash::plant("safekeeper.segments");
    let result = match &work {
        Work::Prepare { folder, segment, .. } if folder.file(*segment).exists() => Ok(()),
        Work::Prepare { folder, segment, prepared } => prepared.prepare(folder, *segment),
        Work::Remove(folder, segment) => remove_before(folder, *segment),
        #[cfg(test)]
        Work::Report(done) => {
            let _ = done.send(());
            Ok(())
        }
        #[cfg(test)]
        Work::Hold(held) => {
            let _ = held.recv();
            Ok(())
        }
        #[cfg(test)]
        Work::FailAfter(steps) => {
            quire_files::fault::fail_after(*steps);
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
