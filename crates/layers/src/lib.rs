//! The storage engine of one shard of a branch: every version of every key, and what a read makes of them.
//!
//! Changes of keys come in as [`value::Version`]s and are kept by the [`store`]: in a [`memtable`], then in [`layer`]s
//! that the [`manifest`] names. A read gathers a page's [`chain`], which is replayed. For each page it is known how
//! long that would take ([`accounts`]), and whether an image is due ([`image_policy`]). A shard begins with an
//! [`import`]. What PostgreSQL keeps outside WAL is kept whole, file by file ([`small_files`]).
//!
//! Everything is kept as [`objects`], by default files of a directory. There are no threads or tasks here: who calls
//! decides when to flush, to merge and to make images.

#![forbid(unsafe_code)]

pub mod accounts;
pub mod chain;
pub mod change;
pub mod error;
pub mod guard;
pub mod image_policy;
pub mod import;
pub mod layer;
pub mod manifest;
pub mod memtable;
pub mod objects;
pub mod small_files;
pub mod source;
pub mod store;
pub mod value;

pub use change::Change;
pub use value::Value;
