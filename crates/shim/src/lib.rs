//! The library that stands between PostgreSQL and libc.
//!
//! PostgreSQL trusts its disk for two things: that `fdatasync` on WAL returns once the WAL is durable, and that
//! `pread` on a relation's file gives the page as last written. Loaded into a stock `postgres` by `LD_PRELOAD`, the
//! shim keeps the first promise with the safekeepers (through [`quire_cache::flush`]) and the second with the
//! pageserver (through [`quire_cache::protocol`] and [`quire_cache::request`]); the agent does all the work, the shim
//! asks and waits. What PostgreSQL flushes and does not log, such as replication slots, the agent has storage keep
//! ([`hooks::sync`]). Everything else in the data directory is an ordinary local file that may be lost, so that `fsync`
//! there does nothing.
//!
//! An example: a backend reads block 7 of `base/5/1259`. It opened the file before ([`hooks::open`]), when the shim
//! found `meta/base/5/1259` and noted both in its table of descriptors ([`fds`]). Its `pread` ([`hooks::data`]) looks
//! the descriptor up, finds block 7 absent, sends the agent a `Fill` ([`agent`]), waits for the answer, and only then
//! reads the file.
//!
//! # What holds here
//! - Without `QUIRE_COMPUTE_DIR` in the environment, every function passes straight through.
//! - The shim calls libc's own functions ([`real`]), never `std::fs`: that would come back to the shim. Names are bound
//!   lazily, because other libraries' constructors call in before this one's has run.
//! - No threads, no locks, no allocation after the constructor; PostgreSQL calls `write` and `close` in signal
//!   handlers.
//! - `errno` is what the real call left, unless the shim itself refuses ([`errno`]).
//! - What is copied over `fork` stays valid: mappings are shared, the agent's connection is dropped ([`process`]).
//! - Nothing here panics on any input. If it did, the process would abort: these are `extern "C"` functions.

pub mod agent;
pub mod clients;
pub mod create;
pub mod database;
pub mod errno;
pub mod fds;
pub mod hooks;
pub mod locations;
pub mod names;
pub mod process;
pub mod real;
pub mod shim;
pub mod tracked;
pub mod undescribed;
pub mod wal;
pub mod withheld;
