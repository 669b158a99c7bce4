//! Which WAL the safekeepers have to keep although storage has ingested it: replication slots read it from the log.
//!
//! A slot needs WAL from the position on that its state in storage says. A slot that is just coming into being starts
//! no earlier than the redo position of the last checkpoint, but is in storage only a moment later. So WAL is also kept
//! from the redo position of the checkpoint *before* the last one on: two checkpoints do not fit into that moment.

use quire_types::Lsn;
use quire_wal::ControlFile;
use std::fs;
use std::path::PathBuf;

/// Follows the checkpoints of one session.
#[derive(Debug)]
pub struct Retention {
    control_file: PathBuf,
    before: Lsn,
    last: Lsn,
}

impl Retention {
    /// For a PostgreSQL that starts from a checkpoint with this redo position.
    pub fn new(control_file: PathBuf, redo: Lsn) -> Retention {
        Retention { control_file, before: redo, last: redo }
    }

    /// WAL before this is needed by storage alone, if the slots that storage has need it from `by_slots` on.
    pub fn horizon(&mut self, by_slots: Option<Lsn>) -> Lsn {
        self.look();
        by_slots.map_or(self.before, |needed| needed.min(self.before))
    }

    /// A file that is just being written is looked at the next time.
    fn look(&mut self) {
        let Ok(raw) = fs::read(&self.control_file) else { return };
        let Ok(control) = ControlFile::parse(&raw) else { return };
        let redo = control.checkpoint_copy.redo;
        if redo > self.last {
            (self.before, self.last) = (self.last, redo);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quire_wal::postgres_version::PG15;
    use quire_wal::{CheckpointState, DataLayout, DatabaseState};
    use std::path::Path;

    fn write_control_file(path: &Path, redo: Lsn) {
        let control = ControlFile {
            version: &PG15,
            system_identifier: 7,
            catalog_version: 202_209_061,
            state: DatabaseState::InProduction,
            time: 0,
            checkpoint: redo,
            checkpoint_copy: CheckpointState { redo, ..CheckpointState::default() },
            unlogged_lsn: Lsn(1000),
            min_recovery_point: Lsn::INVALID,
            min_recovery_timeline: 0,
            backup_start: Lsn::INVALID,
            backup_end: Lsn::INVALID,
            backup_end_required: false,
            layout: DataLayout::default(),
            mock_authentication_nonce: [0; 32],
        };
        fs::write(path, control.to_bytes()).expect("written");
    }

    #[test]
    fn wal_is_kept_from_the_checkpoint_before_the_last_or_from_where_a_slot_needs_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let control = folder.path().join("pg_control");
        let mut retention = Retention::new(control.clone(), Lsn(100));
        assert_eq!(retention.horizon(None), Lsn(100), "there is no control file yet");
        write_control_file(&control, Lsn(200));
        assert_eq!(retention.horizon(None), Lsn(100));
        write_control_file(&control, Lsn(300));
        assert_eq!(retention.horizon(None), Lsn(200));
        assert_eq!(retention.horizon(None), Lsn(200), "it is the same checkpoint as before");
        assert_eq!(retention.horizon(Some(Lsn(150))), Lsn(150));
        assert_eq!(retention.horizon(Some(Lsn(900))), Lsn(200));
        fs::write(&control, b"half a page").expect("written");
        assert_eq!(retention.horizon(None), Lsn(200));
    }
}
