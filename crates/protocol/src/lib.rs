//! The messages between Quire's roles, byte for byte as `docs/protocol.md` has them.
//!
//! A connection carries [`frame`]s. What a frame's payload means is fixed by the port: [`quorum`] on a safekeeper's,
//! [`page`] on a pageserver's. Messages are plain values; encoding them does no I/O.

#![forbid(unsafe_code)]

pub mod chain_file;
pub mod frame;
pub mod page;
pub mod page_version;
pub mod quorum;

pub use frame::{Frame, FrameError, Split};
