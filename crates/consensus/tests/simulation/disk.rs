//! A disk that forgets.
//!
//! What must be survived: after a crash, each write that was not flushed may be there, not there, or there in part,
//! whatever became of the others. What does not happen: state is replaced all or nothing, a truncation is done when it
//! returns, and nothing that was flushed changes.

use crate::random::Random;
use crate::record;
use bytes::Bytes;
use quire_consensus::AcceptorState;
use quire_types::Lsn;

#[derive(Clone, Debug)]
pub struct Disk {
    start: Lsn,
    pub state: AcceptorState,
    /// The log as the running acceptor sees it.
    image: Vec<u8>,
    /// The log as it is after a crash at best and at worst.
    durable: Vec<u8>,
    unflushed: Vec<(usize, Bytes)>,
}

impl Disk {
    pub fn new(state: AcceptorState) -> Disk {
        Disk { start: state.identity.start, state, image: Vec::new(), durable: Vec::new(), unflushed: Vec::new() }
    }

    fn offset(&self, lsn: Lsn) -> usize {
        lsn.bytes_since(self.start) as usize
    }

    pub fn write(&mut self, begin: Lsn, wal: &Bytes) {
        let offset = self.offset(begin);
        put(&mut self.image, offset, wal);
        self.unflushed.push((offset, wal.clone()));
    }

    pub fn flush(&mut self) {
        for (offset, wal) in self.unflushed.drain(..) {
            put(&mut self.durable, offset, &wal);
        }
    }

    pub fn truncate(&mut self, to: Lsn) {
        self.flush();
        let length = self.offset(to);
        self.image.truncate(length);
        self.durable.truncate(length);
    }

    /// Loses what a crash loses, and gives the end of what is left, found as a safekeeper finds it.
    pub fn crash(&mut self, random: &mut Random) -> Lsn {
        for (offset, wal) in std::mem::take(&mut self.unflushed) {
            let survives = match random.below(3) {
                0 => 0,
                1 => wal.len(),
                _ => random.below(wal.len() + 1),
            };
            put(&mut self.durable, offset, &wal[..survives]);
        }
        let from = self.offset(self.state.commit).min(self.durable.len());
        let complete = record::complete(self.start.0 + from as u64, &self.durable[from..]);
        self.durable.truncate(from + complete);
        self.image.clone_from(&self.durable);
        self.start.add(self.image.len() as u64)
    }

    /// The log before `end`, as the running acceptor sees it; less if there is less.
    pub fn log(&self, end: Lsn) -> &[u8] {
        &self.image[..self.offset(end).min(self.image.len())]
    }

    /// The log that certainly survives a crash.
    pub fn durable(&self) -> &[u8] {
        &self.durable
    }
}

fn put(log: &mut Vec<u8>, offset: usize, wal: &[u8]) {
    if log.len() < offset + wal.len() {
        log.resize(offset + wal.len(), 0);
    }
    log[offset..offset + wal.len()].copy_from_slice(wal);
}
