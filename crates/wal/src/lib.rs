//! PostgreSQL's on-disk formats: WAL pages and records, `pg_control`, checkpoints, page headers, file names.
//!
//! Pure: bytes in, values out. Nothing here does I/O, and no input makes it panic: what does not fit the format is a
//! typed error. What differs by major version is in [`postgres_version`].
//!
//! A WAL reader goes through three steps: [`WalStream`] cuts the bytes into [`RawRecord`]s and checks page headers,
//! CRCs and the chain of `xl_prev`; [`Record::decode`] finds the block references, images and data inside one record;
//! [`rmgr`] names what the record's resource manager and `info` bits mean.

pub mod checkpoint;
pub mod control_file;
mod crc;
pub mod effects;
pub mod page;
pub mod path;
pub mod pglz;
pub mod postgres_version;
pub mod record;
pub mod replication_slot;
pub mod rmgr;
mod server_version;
pub mod stream;
pub mod wal_page;
pub mod writer;

pub use checkpoint::CheckpointState;
pub use control_file::{ControlFile, ControlFileError, DataLayout, DatabaseState};
pub use path::DataPath;
pub use record::{Block, BlockImage, BlockView, ImageCompression, ImageUse, Record, RecordView, WalError};
pub use server_version::{NoVersion, ServerVersion};
pub use stream::{RawRecord, RecordRef, RecordRun, WalStream};
pub use writer::WalWriter;
