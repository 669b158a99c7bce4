//! The one way in which files come into being: written aside, synced, renamed, and the directory synced.
//!
//! ```
//! # use quire_files::{Durability, publish};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("state");
//! publish(&path, b"the state before", Durability::Machine)?;
//! publish(&path, b"the state now", Durability::Machine)?;
//! assert_eq!(std::fs::read(&path)?, b"the state now");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//!
//! - A name holds a whole file or none at any moment, for readers and after a crash of the process. With
//!   [`Durability::Machine`] that is so after a crash of the machine too, and once publishing has returned, the name
//!   holds the new file.
//! - An error says which of the two the name holds ([`PublishError`]): the old one, or that it is not known.
//! - What a crash leaves behind ends in [`ASIDE_SUFFIX`]. Who owns a directory removes it when he opens the directory.
//!
//! Two who publish under one name at the same time need a name aside each: [`Staged::create_distinct`].

#![forbid(unsafe_code)]

mod error;
pub mod fault;
mod folder;
mod staged;

pub use error::PublishError;
pub use folder::{ASIDE_SUFFIX, create_folder, publish_folder, remove, remove_leftovers, sync_content, sync_folder_of};
pub use staged::{Durability, Staged, publish};
