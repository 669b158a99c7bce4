//! The memory and the messages that the shim and the compute agent share.
//!
//! A compute's directory ([`layout::ComputeDir`]) holds PostgreSQL's data directory, which is a lazily filled cache,
//! and three things of Quire's own beside it:
//!
//! - `control.shm` ([`control`]): atomics and two futexes, through which a WAL flush is asked for and
//!   granted;
//! - `meta/` ([`meta`]): for every relation or SLRU segment file that storage had when the compute started, which of
//!   its blocks are in the local file ([`protocol`] says who may change what, and when);
//! - `agent.sock` ([`request`]): how a PostgreSQL process asks the agent to fetch what is not there.
//!
//! The shim runs inside PostgreSQL, before `main`, between `fork` and `exec`, and in signal handlers. So whatever it
//! uses of this crate neither allocates, nor spawns, nor locks, nor opens a file by itself: it hands in descriptors.
//! What opens files by path is for the agent.
//!
//! PostgreSQL trusts this memory as it trusts its shared buffers. Sizes are checked when a file is mapped; a process
//! that scribbles over a mapping breaks this compute, and never storage.

pub mod control;
pub mod error;
pub mod file_area;
pub mod file_id;
pub mod flush;
pub mod futex;
pub mod layout;
pub mod mapping;
pub mod meta;
pub mod protocol;
pub mod request;

pub use control::{AgentState, Control, ControlMap, ControlSettings};
pub use error::CacheError;
pub use file_area::FileArea;
pub use file_id::FileId;
pub use flush::{FlushOutcome, FlushRequest, FlushTicket};
pub use layout::ComputeDir;
pub use meta::{Meta, MetaSpec};
pub use protocol::{BlockState, Blocks};
pub use request::{Answer, Hello, Request};

/// Changes whenever the source of anything the two sides share changes, so that a shim and an agent that were not built
/// from the same source refuse each other instead of misreading each other's memory.
pub const BUILD_ID: u64 = {
    let mut hash = FNV_OFFSET;
    hash = fnv1a(hash, include_bytes!("control.rs"));
    hash = fnv1a(hash, include_bytes!("file_area.rs"));
    hash = fnv1a(hash, include_bytes!("file_id.rs"));
    hash = fnv1a(hash, include_bytes!("flush.rs"));
    hash = fnv1a(hash, include_bytes!("layout.rs"));
    hash = fnv1a(hash, include_bytes!("meta.rs"));
    hash = fnv1a(hash, include_bytes!("meta/format.rs"));
    hash = fnv1a(hash, include_bytes!("protocol.rs"));
    fnv1a(hash, include_bytes!("request.rs"))
};

const FNV_OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01B3;

/// The FNV-1a hash, continued from `hash`.
const fn fnv1a(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(FNV_PRIME);
        at += 1;
    }
    hash
}
