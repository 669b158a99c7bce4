//! The processes of a directory, found by its path in their command lines and working directories.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

/// Pids of every process that has to do with `folder`, this one excepted.
pub fn of_folder(folder: &Path) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    pids.filter(|pid| *pid != own && belongs(*pid, folder) && !is_zombie(*pid)).collect()
}

/// Pids of the children of a process.
pub fn children(parent: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    children.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Sends a signal to each; those that are gone do not matter.
pub fn signal_all(pids: &[i32], signal: Signal) {
    for pid in pids {
        let _ = kill(Pid::from_raw(*pid), signal);
    }
}

/// Whether the process exists and has not ended.
pub fn is_alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid)
}

fn belongs(pid: i32, folder: &Path) -> bool {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let named = String::from_utf8_lossy(&command_line).contains(&folder.display().to_string());
    let works_there = || fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default().starts_with(folder);
    named || works_there()
}

fn is_zombie(pid: i32) -> bool {
    state(Path::new(&format!("/proc/{pid}"))) == Some('Z')
}

/// Whether every thread of the process stands still. A signal to stop is obeyed only when a thread next runs, and until
/// then the others continue.
pub fn is_stopped(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().all(|thread| state(&thread.path()) == Some('T'))
}

/// The letter that the kernel gives to what a process or thread does.
fn state(folder: &Path) -> Option<char> {
    let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
}

/// Whom PostgreSQL runs as, as user and group, if this process is root, which PostgreSQL refuses.
pub fn server_user() -> Option<(u32, u32)> {
    let find = |name| User::from_name(name).ok().flatten();
    let user = || find("postgres").or_else(|| find("nobody")).expect("a user for PostgreSQL");
    geteuid().is_root().then(user).map(|user| (user.uid.as_raw(), user.gid.as_raw()))
}

/// Makes PostgreSQL the owner of a file or directory.
pub fn give_to_server(path: &Path) {
    if let Some((user, group)) = server_user() {
        chown(path, Some(user), Some(group)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// A program of the workspace or of PostgreSQL.
pub fn postgres_program(name: &str) -> PathBuf {
    let folder = std::env::var_os("QUIRE_PG_BIN").unwrap_or_else(|| "/usr/lib/postgresql/15/bin".into());
    PathBuf::from(folder).join(name)
}
