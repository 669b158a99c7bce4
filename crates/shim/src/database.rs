//! Database directories, which exist from the start but are filled with (sparse) files when these are first asked for.

use crate::errno::{self, Errno};
use crate::shim::Shim;
use crate::{agent, process};
use quire_cache::{Answer, Request};
use quire_types::data_file_name::DatabaseFolder;
use std::sync::atomic::{AtomicU64, Ordering};

/// A database's directory in one tablespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Database {
    /// The tablespace.
    pub tablespace: u32,
    /// The database.
    pub oid: u32,
}

impl Database {
    /// Whose directory it is; none for the one that all databases share.
    pub fn of(folder: DatabaseFolder<'_>) -> Option<Database> {
        let database = Database { tablespace: folder.tablespace(), oid: folder.database() };
        (folder != DatabaseFolder::Global).then_some(database)
    }

    /// Makes sure that whatever storage has of a relation is there. `errno` stays as it is.
    pub fn materialise_relation(self, shim: &Shim, relation: u32) -> Result<(), Errno> {
        let Database { tablespace, oid: database } = self;
        self.ask(shim, &Request::MaterialiseRelation { tablespace, database, relation })
    }

    /// Makes sure that a listing of the directory is complete.
    ///
    /// The postmaster is let off: at start it looks through all databases for temporary files that a crash left, which
    /// are local, and must not visit each for it.
    pub fn materialise_for_listing(self, shim: &Shim) -> Result<(), Errno> {
        if process::is_first() {
            return Ok(());
        }
        let Database { tablespace, oid: database } = self;
        self.ask(shim, &Request::MaterialiseDatabase { tablespace, database })
    }

    /// Asks, unless the directory is known to be complete.
    fn ask(self, shim: &Shim, request: &Request) -> Result<(), Errno> {
        if KNOWN.contains(self.code()) {
            return Ok(());
        }
        shim.control().counters().materialisations.fetch_add(1, Ordering::Relaxed);
        match errno::preserved(|| agent::call(shim, request))? {
            Answer::Ok => Ok(()),
            Answer::Complete | Answer::NotFound => {
                KNOWN.insert(self.code());
                Ok(())
            }
            _ => Err(Errno(libc::EIO)),
        }
    }

    fn code(self) -> u64 {
        u64::from(self.tablespace) << 32 | u64::from(self.oid)
    }
}

/// Directories this process knows to be complete; a child knows what its parent knew. Full or crowded, it forgets.
struct Known([AtomicU64; 256]);

static KNOWN: Known = Known([const { AtomicU64::new(0) }; 256]);

impl Known {
    fn slot(&self, code: u64) -> Option<&AtomicU64> {
        let mixed = code.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
        usize::try_from(mixed).ok().and_then(|index| self.0.get(index))
    }

    fn contains(&self, code: u64) -> bool {
        self.slot(code).is_some_and(|slot| slot.load(Ordering::Relaxed) == code)
    }

    fn insert(&self, code: u64) {
        if let Some(slot) = self.slot(code) {
            slot.store(code, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_slot_forgets_and_never_lies() {
        let known = Known([const { AtomicU64::new(0) }; 256]);
        (1..2000).for_each(|code| known.insert(code));
        assert!(known.contains(1999));
        assert!(!known.contains(2000));
        assert!((1..2000).filter(|code| known.contains(*code)).count() <= 256);
    }
}
