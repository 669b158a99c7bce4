//! The thread that turns PostgreSQL's flush requests into appends.
//!
//! It sleeps on the request futex of `control.shm`. While the process that asked waits, holding PostgreSQL's
//! `WALWriteLock`, the bytes up to the request do not change, so they are read from the segment file, cut at the last
//! whole record, and handed to the proposer, which sends them to all acceptors before this thread lets go of the lock.
//! Then this thread takes the answers itself, until the flush is granted: handing that over to another would cost a
//! switch of threads for every commit.
//!
//! **Where the whole records end.** PostgreSQL waits for the insertion of all records that it wants flushed, but the
//! last page it writes may hold more: records that other processes are just copying in. Those come out as incomplete,
//! as zeroes, or with a wrong checksum, and are the end of what is shipped; a later flush writes the page again. What a
//! process wants flushed ends in the last page it writes, so where the records end in an earlier page, at zeroes or at
//! something else, the file is damaged, and the compute fails. Only a record that continues behind the last page is no
//! damage.
//!
//! **A request is more than a position**: PostgreSQL writes WAL in whole pages, so a second commit on the same page
//! leaves the end of what is written where it was. Each request carries a ticket (see [`quire_cache::flush`]), taken
//! before the file is read.

use super::local_wal::LocalWal;
use super::status::CommitPathError;
use super::{Shared, event_loop};
use crate::Error;
use crate::as_written::partial::PartialPages;
use crate::throttle::Throttle;
use bytes::{Buf, BytesMut};
use quire_cache::{AgentState, ControlMap, FlushRequest};
use quire_types::Lsn;
use quire_wal::WalStream;
use std::sync::Arc;
use std::time::Duration;

/// How often the thread looks whether it should end.
const IDLE_WAIT: Duration = Duration::from_millis(500);
/// How much WAL is read, and at most replicated in one piece, at once.
const PIECE_BYTES: u64 = 512 << 10;
const WAL_PAGE_BYTES: u64 = 8192;
/// How much of an incomplete record is read anew for each flush.
const REREAD_BYTES_MAX: usize = 1 << 20;

/// What shipping takes, beside the quorum.
#[derive(Debug)]
pub struct Source {
    /// The WAL that PostgreSQL writes.
    pub wal: LocalWal,
    /// Holds commits back while storage lags.
    pub throttle: Arc<Throttle>,
    /// Told of every record before its flush is granted.
    pub partial: Arc<PartialPages>,
}

/// Where shipping stands.
#[derive(Debug)]
pub struct Shipper {
    source: Source,
    stream: WalStream,
    /// The bytes from `shipped` to the stream's position.
    pending: BytesMut,
    /// The end of the last record that was handed to the proposer.
    shipped: Lsn,
}

impl Shipper {
    /// Continues where `stream` stands, the end of the log.
    pub fn new(source: Source, stream: WalStream) -> Shipper {
        let shipped = stream.boundary();
        Shipper { source, stream, pending: BytesMut::new(), shipped }
    }

    /// Serves requests until the quorum is shut down or this compute may not write any more.
    pub fn run(mut self, shared: &Arc<Shared>, control: &ControlMap) {
        while !shared.is_stopping() && control.state().serves() && !shared.with_core(|core| core.has_failed()) {
            quire_crash::plant("compute.quorum-shipper");
            let Some(request) = control.next_request(IDLE_WAIT) else { continue };
            self.source.throttle.wait(self.shipped, || shared.is_stopping() || control.state() != AgentState::Running);
            match self.ship(shared, request) {
                Ok(()) => event_loop::wait_granted(shared, IDLE_WAIT),
                Err(error) => shared.with_core(|core| core.fail(CommitPathError::Shipper(Arc::new(error)))),
            }
        }
    }

    fn ship(&mut self, shared: &Shared, request: FlushRequest) -> Result<(), Error> {
        if shared.with_core(|core| core.has_pending_flush()) {
            return Ok(());
        }
        self.ship_records(shared, request.written)?;
        let boundary = self.shipped;
        shared.with_core(|core| core.grant_when_committed(boundary, request));
        Ok(())
    }

    fn ship_records(&mut self, shared: &Shared, written: Lsn) -> Result<(), Error> {
        while self.stream.position() < written {
            let end = written.min(self.stream.position().add(PIECE_BYTES));
            self.take_in(shared, end, written)?;
            self.ship_whole_records(shared)?;
            if self.stream.position() < written {
                // What was acknowledged meanwhile makes room for more.
                event_loop::take_answers(shared);
            }
        }
        // A page that is not full is written again, longer, so what was read behind the last record was not the end of
        // it. Only in the midst of a very long record, whose pages are full, is it worth not to read them again.
        if self.pending.len() <= REREAD_BYTES_MAX {
            self.rewind();
        }
        Ok(())
    }

    fn take_in(&mut self, shared: &Shared, end: Lsn, written: Lsn) -> Result<(), Error> {
        let mut bytes = Vec::new();
        self.source.wal.read_patiently(self.stream.position(), end, &mut bytes, || shared.is_stopping())?;
        self.stream.feed(&bytes);
        self.pending.extend_from_slice(&bytes);
        self.find_boundary(written)
    }

    /// Advances over all whole records. One that cannot be decoded is the end of them, if it is in the last page, and
    /// so are zeroes.
    fn find_boundary(&mut self, written: Lsn) -> Result<(), Error> {
        loop {
            match self.stream.next_record() {
                Ok(Some(record)) => self.source.partial.note(&record),
                Ok(None) if self.stream.has_ended() && !self.is_in_last_page(written) => {
                    return Err(Error::WalEnds { at: self.stream.boundary(), written });
                }
                Ok(None) => return Ok(()),
                Err(_) if self.is_in_last_page(written) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the whole records end in the last page that was written.
    fn is_in_last_page(&self, written: Lsn) -> bool {
        written.bytes_since(self.stream.boundary()) <= WAL_PAGE_BYTES
    }

    fn ship_whole_records(&mut self, shared: &Shared) -> Result<(), Error> {
        let begin = self.shipped;
        let count = usize::try_from(self.stream.boundary().bytes_since(begin)).expect("what was read fits memory");
        if count == 0 {
            return Ok(());
        }
        let wal = self.pending.split_to(count).freeze();
        shared.with_core(|core| core.extend(begin, wal))?;
        self.shipped = self.stream.boundary();
        Ok(())
    }

    fn rewind(&mut self) {
        self.stream.rewind_to_boundary();
        let kept = self.stream.position().bytes_since(self.shipped);
        self.pending.truncate(usize::try_from(kept).expect("what was read fits memory"));
        debug_assert_eq!(self.pending.remaining() as u64, kept);
    }
}
