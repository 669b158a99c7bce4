//! What happens to the process the library is loaded into, and to its children.
//!
//! PostgreSQL must not outlive its agent, nor a backend its postmaster: they would wait for, or serve, a compute that
//! may have been replaced. The kernel sees to it (`PR_SET_PDEATHSIG`). The postmaster gets a SIGKILL when its agent
//! ends. A child of the postmaster gets a SIGQUIT when that ends, on which all of PostgreSQL's processes exit at once
//! but the one that collects log lines, which ignores it and may finish its work; once it has opened something in the
//! data directory, it gets a SIGKILL.
//!
//! Programs that PostgreSQL starts (`archive_command`, `COPY ... PROGRAM`) get an environment without this library.

use crate::{agent, clients, real, shim};
use libc::{c_char, c_int};
use quire_cache::layout::COMPUTE_DIR_VARIABLE;
use shim::Shim;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// This process, so that the kernel need not be asked.
static PID: AtomicU32 = AtomicU32::new(0);

/// The process that loaded the library: the postmaster.
static FIRST_PID: AtomicU32 = AtomicU32::new(0);

/// The process that called `fork` for this one.
static PARENT_PID: AtomicU32 = AtomicU32::new(0);

/// Whether nothing but this process's death can follow its parent's.
static BOUND: AtomicBool = AtomicBool::new(true);

/// This process's id.
pub fn pid() -> u32 {
    PID.load(Ordering::Relaxed)
}

/// Whether this is the process that loaded the library, not one forked from it.
pub fn is_first() -> bool {
    pid() == FIRST_PID.load(Ordering::Relaxed)
}

fn ask_pid() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::getpid() }.cast_unsigned()
}

fn parent_pid() -> u32 {
    // SAFETY: always succeeds.
    unsafe { libc::getppid() }.cast_unsigned()
}

/// Ends this process as an agent's death does.
pub fn die() -> ! {
    loop {
        // SAFETY: a signal to ourselves that nothing can catch.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        real::nap(1000);
    }
}

/// Binds this process's life to its parent's for good, once.
#[inline]
pub fn bind_to_parent() {
    if !BOUND.load(Ordering::Relaxed) {
        BOUND.store(true, Ordering::Relaxed);
        bind_to(PARENT_PID.load(Ordering::Relaxed), libc::SIGKILL);
    }
}

/// Has the kernel send `signal` when the parent, which was `parent`, has died.
fn bind_to(parent: u32, signal: c_int) {
    // SAFETY: a plain request to the kernel about this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
    // It may have died before the kernel knew.
    if parent_pid() != parent {
        die();
    }
}

/// Ends this process if the one that forked it has died: signals that say so may be blocked.
pub fn die_without_parent() {
    if parent_pid() != PARENT_PID.load(Ordering::Relaxed) {
        die();
    }
}

/// The library's constructor: runs in the process that was started with it, before `main`.
extern "C" fn loaded() {
    // SAFETY: nothing else runs yet; the string is copied at once, since PostgreSQL later overwrites its environment.
    let root = unsafe {
        let value = libc::getenv(environment_name(COMPUTE_DIR_VARIABLE).as_ptr());
        if value.is_null() {
            return;
        }
        CStr::from_ptr(value).to_owned()
    };
    real::bind_all();
    PID.store(ask_pid(), Ordering::Relaxed);
    FIRST_PID.store(ask_pid(), Ordering::Relaxed);
    leave_environment();
    // SAFETY: the handlers are functions of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(before_fork), None, Some(in_child)) };
    if let Err(error) = Shim::start(root.as_bytes()) {
        refuse(&error);
    }
    follow_agent();
}

#[used]
#[cfg_attr(not(test), unsafe(link_section = ".init_array"))]
static LOADED: extern "C" fn() = loaded;

fn refuse(error: &shim::StartError) -> ! {
    shim::say(format_args!("cannot serve this compute: {error}"));
    // SAFETY: ends the process before its `main`.
    unsafe { libc::_exit(1) }
}

/// Dies with the agent if it is the parent; if something else started this process, only waiting finds the agent gone.
fn follow_agent() {
    let Some(shim) = shim::current() else { return };
    agent::die_without(shim);
    let agent = shim.control().agent_pid();
    if parent_pid() == agent {
        bind_to(agent, libc::SIGKILL);
    }
}

extern "C" fn before_fork() {
    PARENT_PID.store(ask_pid(), Ordering::Relaxed);
    clients::before_fork();
}

extern "C" fn in_child() {
    PID.store(ask_pid(), Ordering::Relaxed);
    BOUND.store(false, Ordering::Relaxed);
    let parent = PARENT_PID.load(Ordering::Relaxed);
    // What a backend forks is going to be a program of a user's function, which may outlive the backend, as on stock.
    if parent == FIRST_PID.load(Ordering::Relaxed) {
        bind_to(parent, libc::SIGQUIT);
    }
    agent::disconnect();
    clients::admit();
}

fn environment_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

/// Takes this library out of `LD_PRELOAD`, and the compute's directory out of the environment.
fn leave_environment() {
    let preload = environment_name("LD_PRELOAD");
    // SAFETY: before `main` no other thread uses the environment; the value is copied before it is changed.
    unsafe {
        libc::unsetenv(environment_name(COMPUTE_DIR_VARIABLE).as_ptr());
        let value = libc::getenv(preload.as_ptr());
        if value.is_null() {
            return;
        }
        let others = without(CStr::from_ptr(value).to_bytes(), &own_file_name());
        match CString::new(others) {
            Ok(others) if !others.is_empty() => libc::setenv(preload.as_ptr(), others.as_ptr(), 1),
            _ => libc::unsetenv(preload.as_ptr()),
        };
    }
}

/// The entries of a list as in `LD_PRELOAD` whose file name is another.
fn without(list: &[u8], file_name: &[u8]) -> Vec<u8> {
    let entries = list.split(|byte| matches!(byte, b':' | b' '));
    let others = entries.filter(|entry| !entry.is_empty() && base_name(entry) != file_name);
    others.collect::<Vec<_>>().join(&b':')
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// The file this library was loaded from.
fn own_file_name() -> Vec<u8> {
    let address: *const c_char = (loaded as *const ()).cast();
    // SAFETY: an all-zero `Dl_info` is valid; a name that was filled in is a C string that lives with the library.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address.cast(), &raw mut info) == 0 || info.dli_fname.is_null() {
            return Vec::new();
        }
        base_name(CStr::from_ptr(info.dli_fname).to_bytes()).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shim_leaves_the_preload_list() {
        let name = b"libquire_shim.so";
        assert_eq!(without(b"/a/libquire_shim.so", name), b"");
        assert_eq!(without(b"libx.so:/a/libquire_shim.so liby.so", name), b"libx.so:liby.so");
        assert_eq!(without(b"/libquire_shim.so/libz.so", name), b"/libquire_shim.so/libz.so");
    }
}
