//! Clients wait until the agent lets them in.
//!
//! PostgreSQL listens as soon as it is up, and only then can the agent see whether this is the server it wanted, over
//! the right directory and the right log. So a process that the postmaster forks for a client does nothing, not even
//! read the client's first message, while the agent's state is [`AgentState::Starting`]. The agent's own connections,
//! by which it looks, are let in at once.

use crate::shim::{self, Shim};
use crate::{agent, process, real};
use libc::{c_int, c_void, socklen_t};
use quire_cache::AgentState;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// How long a client is kept waiting before it has to connect again: clients that wait use up the postmaster's places,
/// and the agent needs one.
const PATIENCE_NS: u64 = 30_000_000_000;

const PAUSE_US: i64 = 2_000;

/// The connection that was accepted since the last `fork`, or -1.
static ACCEPTED: AtomicI32 = AtomicI32::new(-1);

/// The connection that the process being forked is for, or -1.
static FORKED_FOR: AtomicI32 = AtomicI32::new(-1);

/// Whether clients were let in already when a process was forked.
static OPEN: AtomicBool = AtomicBool::new(false);

/// Notes that a connection was accepted. The next process that is forked is for it.
pub fn accepted(fd: c_int) {
    if fd >= 0 {
        ACCEPTED.store(fd, Ordering::Relaxed);
    }
}

/// Before a `fork`.
pub fn before_fork() {
    if shim::current().is_some_and(|shim| shim.control().state() == AgentState::Running) {
        OPEN.store(true, Ordering::Relaxed);
    }
    FORKED_FOR.store(ACCEPTED.swap(-1, Ordering::Relaxed), Ordering::Relaxed);
}

/// In the process that was forked: returns when its client may be served, and ends the process if it may not.
pub fn admit() {
    let fd = FORKED_FOR.swap(-1, Ordering::Relaxed);
    if let Some(shim) = shim::current().filter(|_| fd >= 0) {
        wait_until_open(shim, fd);
    }
}

fn wait_until_open(shim: &Shim, fd: c_int) {
    let begun = real::monotonic_ns();
    loop {
        match shim.control().state() {
            AgentState::Running => return,
            // The server tells its client that it is shutting down.
            AgentState::Stopping if OPEN.load(Ordering::Relaxed) => return,
            AgentState::Starting | AgentState::Stopping if is_agent(shim, fd) => return,
            AgentState::Starting if real::monotonic_ns().saturating_sub(begun) < PATIENCE_NS => {}
            _ => end(),
        }
        agent::die_without(shim);
        process::die_without_parent();
        real::nap(PAUSE_US);
    }
}

/// Whether the agent is at the other end, which the kernel knows of a Unix socket.
fn is_agent(shim: &Shim, fd: c_int) -> bool {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of::<libc::ucred>() as socklen_t;
    let value: *mut c_void = (&raw mut peer).cast();
    // SAFETY: `peer` is valid for writing as many bytes as it has.
    let known = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut bytes) } == 0;
    known && u32::try_from(peer.pid) == Ok(shim.control().agent_pid())
}

/// Ends a process that has not begun to be a backend, as one does that has refused its client.
fn end() -> ! {
    // SAFETY: ends the process; nothing of it needs to be tidied up.
    unsafe { libc::_exit(1) }
}
