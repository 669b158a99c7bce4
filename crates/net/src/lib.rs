//! Connections between roles, and frames over them.
//!
//! All roles dial and accept here, so that what a connection is made of is known in one place. There are three kinds,
//! for the three ways in which roles work: [`Connection`] for tasks that wait, [`blocking::Connection`] for threads
//! that block, [`polled::Connection`] for a thread that polls many.
//!
//! What travels is `quire_protocol`'s; where a frame ends is known to its `Frame::split` alone.

#![forbid(unsafe_code)]

pub mod acceptor;
pub mod blocking;
pub mod connection;
pub mod dial;
pub mod frames;
pub mod polled;
pub mod quorum_client;

pub use acceptor::{Acceptor, ListenError};
pub use connection::Connection;
pub use dial::DialError;
pub use frames::FrameReader;
