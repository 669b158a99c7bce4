//! Processes of a directory, recognised by their command lines and working directories.
//!
//! A pid alone proves nothing: it may have been given to another process since. So a process is ended only if `/proc`
//! says, just before, that it is a role of this directory or a server in one of its computes.

use crate::home::Home;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a process that was told to end is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What a process is to the directory; they are ended in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A compute agent.
    Agent,
    /// A process of a PostgreSQL server, left over once its agent is gone.
    Server,
    /// A pageserver.
    Pageserver,
    /// A safekeeper.
    Safekeeper,
}

/// A live process of the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// What it is.
    pub kind: Kind,
}

/// All processes of this directory but the supervisor; `compute_dirs` are where its servers work.
pub fn of_folder(home: &Home, compute_dirs: &[PathBuf]) -> Vec<Process> {
    let run = home.root().join("run");
    let identify = |pid: i32| Some(Process { pid, kind: kind_of(pid, &run, compute_dirs)? });
    let mut found: Vec<Process> = pids().filter_map(identify).collect();
    found.sort_by_key(|process| process.kind);
    found
}

/// Ends all processes of this directory: asks first, and insists after `patience` for each kind. True if there were
/// any.
pub fn end_all(home: &Home, compute_dirs: &[PathBuf], patience: Duration) -> bool {
    let mut any = false;
    for kind in [Kind::Agent, Kind::Server, Kind::Pageserver, Kind::Safekeeper] {
        let left = || of_folder(home, compute_dirs).into_iter().filter(|process| process.kind == kind);
        any |= end(left, patience);
    }
    any
}

fn end<I: Iterator<Item = Process>>(left: impl Fn() -> I, patience: Duration) -> bool {
    let (start, mut any) = (Instant::now(), false);
    let mut signal = Signal::SIGTERM;
    let mut told: Vec<Process> = Vec::new();
    loop {
        let processes: Vec<Process> = left().collect();
        if processes.is_empty() {
            return any;
        }
        any = true;
        if start.elapsed() > patience && signal == Signal::SIGTERM {
            (signal, told) = (Signal::SIGKILL, Vec::new());
        }
        for process in processes.iter().filter(|process| !told.contains(process)) {
            // Its end in the meantime is what is wanted, so a failure says nothing.
            let _ = kill(Pid::from_raw(process.pid), signal);
        }
        told = processes;
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Whether the process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the command, which is in parentheses and may itself contain anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn kind_of(pid: i32, run: &Path, compute_dirs: &[PathBuf]) -> Option<Kind> {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    role_kind(&command_line, run).or_else(|| works_in(pid, compute_dirs).then_some(Kind::Server))
}

/// The role in a command line such as `quire compute run --config FOLDER/run/compute-main.json`.
fn role_kind(command_line: &[u8], run: &Path) -> Option<Kind> {
    let arguments: Vec<&[u8]> = command_line.split(|byte| *byte == 0).collect();
    let config = arguments.iter().position(|argument| *argument == b"--config")?;
    let path = Path::new(OsStr::from_bytes(arguments.get(config + 1)?));
    if path.parent() != Some(run) {
        return None;
    }
    match *arguments.get(1)? {
        b"compute" => Some(Kind::Agent),
        b"pageserver" => Some(Kind::Pageserver),
        b"safekeeper" => Some(Kind::Safekeeper),
        _ => None,
    }
}

/// Servers change their command lines to titles, but all work in their data directory.
fn works_in(pid: i32, compute_dirs: &[PathBuf]) -> bool {
    let Ok(folder) = fs::read_link(format!("/proc/{pid}/cwd")) else {
        return false;
    };
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let is_server = program.file_name().is_some_and(|name| name.as_bytes().starts_with(b"postgres"));
    is_server && compute_dirs.iter().any(|dir| folder.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_recognised_only_in_their_own_folder() {
        let line = b"/x/quire\0compute\0run\0--config\0/a/run/compute-main.json\0";
        assert_eq!(role_kind(line, Path::new("/a/run")), Some(Kind::Agent));
        assert_eq!(role_kind(line, Path::new("/b/run")), None);
        assert_eq!(role_kind(b"/x/quire\0status\0", Path::new("/a/run")), None);
        assert_eq!(role_kind(b"vi\0--config\0/a/run/x.json\0", Path::new("/a/run")), None);
    }

    #[test]
    fn a_process_is_alive_until_it_is_waited_for_or_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("spawned");
        assert!(is_alive(child.id()));
        child.kill().expect("killed");
        let deadline = Instant::now() + Duration::from_secs(5);
        while is_alive(child.id()) && Instant::now() < deadline {
            std::thread::sleep(POLL_INTERVAL);
        }
        assert!(!is_alive(child.id()));
        child.wait().expect("waited");
    }
}
