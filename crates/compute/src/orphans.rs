//! Backends that outlived their postmaster.
//!
//! When a postmaster is killed, its children notice only when they next wait for something. Until then they hold files
//! of a data directory that is about to be discarded, and the server's port. They are known by their working directory,
//! which for every process of a PostgreSQL server is its data directory.

use crate::Error;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// Kills every `postgres` process whose working directory is `pgdata`, and waits until they are gone.
pub fn kill_all(pgdata: &Path) -> Result<(), Error> {
    let Ok(directory) = fs::metadata(pgdata) else { return Ok(()) };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = processes_in(directory.dev(), directory.ino()).map_err(Error::file("list", "/proc"))?;
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::StaleProcesses { pids: found.into_iter().map(Pid::as_raw).collect() });
        }
        for pid in found {
            // One that has ended in the meantime is what is wanted.
            let _ = kill(pid, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn processes_in(device: u64, inode: u64) -> std::io::Result<Vec<Pid>> {
    let processes = fs::read_dir("/proc")?.filter_map(Result::ok);
    let numbered =
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(|pid| (pid, entry.path())));
    Ok(numbered.filter(|(_, path)| is_postgres_in(path, device, inode)).map(|(pid, _)| Pid::from_raw(pid)).collect())
}

/// A process that ends while it is looked at, or belongs to another user, is not one of ours.
fn is_postgres_in(process: &Path, device: u64, inode: u64) -> bool {
    let in_directory = fs::metadata(process.join("cwd")).is_ok_and(|cwd| cwd.dev() == device && cwd.ino() == inode);
    in_directory
        && fs::read_link(process.join("exe")).is_ok_and(|exe| exe.file_name().is_some_and(|name| name == "postgres"))
}
