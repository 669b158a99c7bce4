//! The checkpoint that a start begins at.

use quire_types::Lsn;
use quire_wal::CheckpointState;

/// The shutdown checkpoint that the log ends with.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LastCheckpoint {
    /// Start of its record.
    pub record: Lsn,
    /// What it says.
    pub state: CheckpointState,
}
