//! A safekeeper: an acceptor of the WAL quorum with a disk and a socket.
//!
//! # What a user sees
//!
//! A COMMIT returns when two of three safekeepers have its WAL on disk. A safekeeper may be killed at any time, with
//! `kill -9` or by the machine, and comes back with everything it ever said to have.
//!
//! # The path of a commit
//!
//! The compute's proposer sends `Append` on its connection. The connection's thread takes all messages that have
//! arrived, hands them to the branch, which asks the [`quire_consensus::Acceptor`] what to do, writes the WAL into its
//! segment file, calls fdatasync once for all, and only then sends the answers. Segment files are zeroed ahead of time
//! by another thread, so that this fdatasync has no metadata to write. When a later message tells that the WAL is
//! committed, the threads that serve followers wake up and send it on.
//!
//! # What is on the disk
//!
//! `docs/format-safekeeper.md` has it byte for byte: per branch a state file, replaced as a whole, and WAL segments as
//! PostgreSQL writes them, which `pg_waldump` reads.
//!
//! # Invariants
//!
//! - What is said is on disk before: the acceptor's actions are carried out in order, answers last.
//! - The commit position in the state file is never past what was flushed when it was written. So the end found after a
//!   crash cannot be before it; if it is, WAL was lost, and the branch refuses to open.
//! - After any failed write or flush a branch takes no request until its log was opened again, as after a restart,
//!   which is tried a second later at the earliest: memory may be ahead of the disk, and a flush that failed once may
//!   falsely succeed when tried again.
//! - Committed WAL is never changed, so followers read it from the files without a lock. WAL that is not committed may
//!   be cut while it is read; its reader asks after reading whether it was still allowed to.
//!
//! # Lock order
//!
//! The list of branches, then a branch's log, then what the branch publishes. The last is held for moments only.

#![forbid(unsafe_code)]

mod branch_log;
mod branch_logs;
mod connection;
mod error;
mod flush_mark;
mod follower;
mod http;
mod log;
mod metrics;
mod prepared;
mod published;
mod recover;
mod safekeeper;
mod segment_folder;
mod segment_thread;
mod segments;
mod shared;
mod state_file;

pub use error::{BranchLogError, SafekeeperError, StateError};
pub use safekeeper::{Config, Safekeeper};
pub use state_file::StateFile;
