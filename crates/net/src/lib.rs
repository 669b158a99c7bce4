//! Frames over connections.
//!
//! What travels is `quire_protocol`'s; here it is read from sockets, by threads that block and by tasks that wait. Both
//! go by the one rule where a frame ends, `Frame::split`.

#![forbid(unsafe_code)]

pub mod frames;
pub mod quorum_client;

pub use frames::FrameReader;
