//! The connection to the agent: one per process, opened when first needed, never shared over `fork`.
//!
//! Calls block, as a disk does. A broken connection is opened again for as long as the agent lives; requests may be
//! repeated, since all of them say what should be so, not what should be done. Without an agent there is no compute:
//! the process ends.

use crate::errno::Errno;
use crate::shim::{Shim, say};
use crate::{process, real};
use libc::{c_int, c_void};
use quire_cache::request::ANSWER_BYTES;
use quire_cache::{Answer, Hello, Request};
use std::sync::atomic::{AtomicI32, Ordering};

/// The connection's descriptor, or -1.
static CONNECTION: AtomicI32 = AtomicI32::new(-1);

/// How often a call is tried before it is an I/O error, and how long to wait between.
const ATTEMPTS: u32 = 100;
const ATTEMPT_PAUSE_US: i64 = 20_000;

/// Descriptors below this are PostgreSQL's, which counts how many it may use, from the lowest.
const DESCRIPTOR_CEILING: libc::rlim_t = 4096;

/// Why there is no answer.
enum Trouble {
    /// The connection is gone or cannot be had.
    Broken,
    /// The agent does not speak to this shim.
    Refused,
}

/// Whether the agent is still there.
pub fn lives(shim: &Shim) -> bool {
    let Ok(pid) = libc::pid_t::try_from(shim.control().agent_pid()) else { return false };
    // SAFETY: signal 0 only asks.
    let asked = unsafe { libc::kill(pid, 0) };
    asked == 0 || Errno::last() != Errno(libc::ESRCH)
}

/// Ends this process if the agent is gone.
pub fn die_without(shim: &Shim) {
    if !lives(shim) {
        say(format_args!("the compute agent is gone, and so is this compute"));
        process::die();
    }
}

/// Asks, and waits for the answer.
pub fn call(shim: &Shim, request: &Request) -> Result<Answer, Errno> {
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            die_without(shim);
            real::nap(ATTEMPT_PAUSE_US);
        }
        match exchange(shim, request) {
            Ok(answer) => return Ok(answer),
            Err(Trouble::Broken) => disconnect(),
            Err(Trouble::Refused) => {
                disconnect();
                say(format_args!("the compute agent is of another build than the shim; restart the compute"));
                return Err(Errno(libc::EIO));
            }
        }
    }
    say(format_args!("the compute agent does not answer"));
    Err(Errno(libc::EIO))
}

/// Asks for something that has no answer. If that would have to wait, it is not asked.
pub fn notify(shim: &Shim, request: &Request) {
    let message = request.encode();
    let Ok(fd) = connection(shim) else { return };
    // SAFETY: the bytes are valid for reading. A message this small is sent whole or not at all.
    let sent = unsafe {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        libc::send(fd, message.as_ptr().cast(), message.len(), flags)
    };
    let would_wait = sent < 0 && matches!(Errno::last(), Errno(libc::EAGAIN | libc::EINTR));
    if !would_wait && usize::try_from(sent) != Ok(message.len()) {
        disconnect();
    }
}

/// Closes the connection, if there is one; in a child, this leaves the parent's alone.
pub fn disconnect() {
    let fd = CONNECTION.swap(-1, Ordering::Relaxed);
    if fd >= 0 {
        // SAFETY: the swap made the descriptor ours alone.
        unsafe { real::close(fd) };
    }
}

fn exchange(shim: &Shim, request: &Request) -> Result<Answer, Trouble> {
    let fd = connection(shim)?;
    send(fd, &request.encode())?;
    receive(fd)
}

fn connection(shim: &Shim) -> Result<c_int, Trouble> {
    match CONNECTION.load(Ordering::Relaxed) {
        fd if fd >= 0 => Ok(fd),
        _ => connect(shim),
    }
}

fn connect(shim: &Shim) -> Result<c_int, Trouble> {
    let fd = raise(connected_socket(shim.socket())?);
    CONNECTION.store(fd, Ordering::Relaxed);
    send(fd, &Hello::new(process::pid()).encode())?;
    match receive(fd)? {
        Answer::Ok => Ok(fd),
        _ => Err(Trouble::Refused),
    }
}

fn connected_socket(path: &[u8]) -> Result<c_int, Trouble> {
    // SAFETY: an all-zero address is valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    if path.len() >= address.sun_path.len() {
        return Err(Trouble::Broken);
    }
    for (slot, byte) in address.sun_path.iter_mut().zip(path) {
        *slot = *byte as libc::c_char;
    }
    // SAFETY: the address is valid for its size; the descriptor is ours.
    unsafe {
        let fd = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(Trouble::Broken);
        }
        let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        if libc::connect(fd, (&raw const address).cast(), length) != 0 {
            real::close(fd);
            return Err(Trouble::Broken);
        }
        Ok(fd)
    }
}

/// Moves a descriptor up, out of PostgreSQL's way; it stays where it is if there is no room.
fn raise(fd: c_int) -> c_int {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing; the descriptors are ours.
    unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let lowest = limit.rlim_cur.min(DESCRIPTOR_CEILING).saturating_sub(16);
        let high = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, c_int::try_from(lowest).unwrap_or(0));
        if high < 0 {
            return fd;
        }
        real::close(fd);
        high
    }
}

fn send(fd: c_int, mut message: &[u8]) -> Result<(), Trouble> {
    while !message.is_empty() {
        // SAFETY: the bytes are valid for reading.
        let sent = unsafe { libc::send(fd, message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL) };
        let count = progress(sent)?;
        message = message.get(count..).unwrap_or_default();
    }
    Ok(())
}

fn receive(fd: c_int) -> Result<Answer, Trouble> {
    let mut raw = [0; ANSWER_BYTES];
    let mut got = 0;
    while let Some(room @ [_, ..]) = raw.get_mut(got..) {
        // SAFETY: `room` is valid for writing.
        let received = unsafe { libc::recv(fd, room.as_mut_ptr().cast::<c_void>(), room.len(), 0) };
        if received == 0 {
            return Err(Trouble::Broken);
        }
        got += progress(received)?;
    }
    match Answer::decode(&raw) {
        Ok(Answer::WrongBuild) => Err(Trouble::Refused),
        Ok(answer) => Ok(answer),
        Err(_) => Err(Trouble::Broken),
    }
}

/// How far a transfer got; an interruption by a signal is no trouble.
fn progress(transferred: isize) -> Result<usize, Trouble> {
    match usize::try_from(transferred) {
        Ok(count) => Ok(count),
        Err(_) if Errno::last() == Errno(libc::EINTR) => Ok(0),
        Err(_) => Err(Trouble::Broken),
    }
}
